"""Hooks in a run's life, called through pluggy; `RunHooks` is the list, `aegen_progress` for what comes after the last step among them.

A tracker is a component (`aegen.trackers`) whose methods, marked `@aegen.hookimpl`, have the names below and take
any of the arguments. Installing a package changes no run: a tracker works only when `--track NAME` asks for it, and
the run's configuration lists it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pluggy

from aegen import signals
from aegen.errors import PluginError
from aegen.tracebacks import defined, raised_at, said

hookspec = pluggy.HookspecMarker("aegen")
hookimpl = pluggy.HookimplMarker("aegen")


class RunHooks:
    """The hooks, in the order in which a run calls them; on rank 0 only."""

    @hookspec
    def aegen_run_start(self, run: Path, config: Mapping[str, Any], total_steps: int, step: int) -> None:
        """Training begins in folder `run`, at `step` (not 0 when it is resumed) of `total_steps`."""

    @hookspec
    def aegen_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics were read, which happens at log points only: means over the steps since the last one."""

    @hookspec
    def aegen_epoch_end(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """An epoch and its validation are over; `metrics` are those of the validation images."""

    @hookspec
    def aegen_notice(self, text: str, step: int) -> None:
        """Something that a person should know: the latents have collapsed, a file cannot be written, steps were skipped."""

    @hookspec
    def aegen_progress(self, text: str, done: int, total: int) -> None:
        """Something other than training takes time, as fitting a sampler does: `text` says what, and `done` of `total` is over."""

    @hookspec
    def aegen_checkpoint_saved(self, path: Path, step: int) -> None:
        """A checkpoint is whole and on disk."""

    @hookspec
    def aegen_images_logged(self, name: str, path: Path, step: int) -> None:
        """A picture was written: `samples` or `reconstructions`."""

    @hookspec
    def aegen_run_end(self, run: Path, step: int, error: BaseException | None) -> None:
        """Training is over; `error` says why if it did not end well."""


class Hooks:
    """The listeners of one run. One that raises is named in a warning and not called again; the run goes on."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("aegen")
        self._manager.add_hookspecs(RunHooks)

    def add(self, listener: object, name: str) -> None:
        """Register `listener`.

        Raises:
            PluginError: it marks no method, one that is no hook, or one with arguments that the hook does not have.
        """
        try:
            self._manager.register(listener, name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError(f"tracker {name!r}, {defined(listener)}, does not fit aegen's hooks ({error})") from error
        if not self._manager.get_hookcallers(listener):
            raise PluginError(
                f"tracker {name!r}, {defined(listener)}, hears nothing: none of its methods is marked with aegen.hookimpl"
            )

    def call(self, hook: str, **arguments: Any) -> None:
        """Call one hook of every listener, each on its own so that one failure does not silence the rest."""
        for name, listener in self._manager.list_name_plugin():
            if listener is None:
                continue
            others = [p for p in self._manager.get_plugins() if p is not listener]
            try:
                self._manager.subset_hook_caller(hook, others)(**arguments)
            except BaseException as error:  # SystemExit too: a tracker ends no run
                if isinstance(error, MemoryError) or (isinstance(error, KeyboardInterrupt) and signals.asked()):
                    raise
                self._manager.unregister(listener)
                what = f"{said(error)}{raised_at(error)}"
                warnings.warn(f"tracker {name!r} failed in {hook} and is switched off ({what})", stacklevel=2)
