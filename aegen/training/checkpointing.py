"""The checkpoints of a run as its loop sees them: begun, told of once they are over, the last good one known."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from aegen.hooks import Hooks
from aegen.rundir import disk_error, reason
from aegen.training.checkpoint_writer import Writer
from aegen.training.metrics import NotFinite


class Keeper:
    """Has checkpoints written beside the loop.

    Attributes:
        last_good: the last one that is whole, None before the first.
        stalled: seconds that the loop stood still for saving since that was last set to 0.
        may: asked when a checkpoint is about to get its name, and before anything else of the run is written; what it raises leaves what is
            there: the run may be another's by now.
    """

    def __init__(self, hooks: Hooks, notice: Callable[[str], None]) -> None:
        self.last_good: Path | None = None
        self.stalled = 0.0
        self.may: Callable[[], None] | None = None
        self._hooks, self._notice = hooks, notice
        self._writer = Writer()

    def save(
        self,
        path: Path | None,
        state: Callable[[], Mapping[str, Tensor]],
        header: Mapping[str, Any],
        step: int,
        *,
        final: bool,
    ) -> None:
        """Copy the state and have it written.

        Args:
            path: where to, None in a process that does not write.
            state: asked for in that process too: where a model is sharded, all of them gather it.
            final: wait until it is whole, since nothing comes after it.

        Raises:
            RunError: it cannot be written, and it is the final one or there is none before it.
            NotFinite: a weight is not.
        """
        begin = time.perf_counter()
        tensors = state()
        if path is None:
            return
        self.tell(wait=True)
        self._writer.begin(path, tensors, header, step, self.may)
        self.stalled += time.perf_counter() - begin
        if final:
            self.tell(wait=True, final=True)

    def check(self) -> None:
        """See that the run may be written.

        Raises:
            RunError: it is another's by now.
        """
        if self.may is not None:
            self.may()

    def tell(self, *, wait: bool = False, final: bool = False) -> None:
        """Tell of the last write, once it is over.

        Raises:
            RunError: it failed, and it is the final one or there is none before it.
            NotFinite: a weight is not, so that nothing was written.
        """
        write = self._writer.outcome(wait=wait)
        if write is None:
            return
        if write.weight is not None:
            text = f"the weight {write.weight.removeprefix('model.').removeprefix('objective.')} is no longer finite at step {write.step}"
            raise NotFinite(text, weight=True)
        if isinstance(write.error, OSError):
            if final or self.last_good is None:
                raise disk_error(write.error, write.path, last_good=self.last_good) from write.error
            good = f"training goes on, the last good checkpoint is {self.last_good}"
            self._notice(f"cannot write checkpoint: {write.path} ({reason(write.error)}); {good}")
        elif write.error is not None:
            raise write.error
        else:
            self.last_good = write.path
            self._hooks.call("aegen_checkpoint_saved", path=write.path, step=write.step)
