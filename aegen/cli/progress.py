"""The progress of a run as a person sees it: a bar on a terminal, a line an epoch everywhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aegen.cli.render import number, say
from aegen.cli.text_width import columns, fitted
from aegen.hooks import hookimpl
from aegen.untrusted import shown

_NUMBER = 8  # characters that most numbers take
_QUIET_SECONDS = 30  # in a log file, between two lines of an epoch that is long


def _short(value: float) -> str:
    """The number, in a column's width; of a count, which is whole, no decimals."""
    text = f"{value:,.0f}" if math.isfinite(value) and float(value).is_integer() else number(value)
    return text if len(text) <= _NUMBER else f"{value:.2e}"


def _row(first: str, cells: Mapping[str, str], names: Sequence[str]) -> str:
    """Cells below each other, flush right, as many as a line of stderr holds."""
    most, line = columns(sys.stderr), f"{first:>5}"
    for name in names:
        cell = f"  {cells.get(name, ''):>{max(len(name), _NUMBER)}}"
        if most is not None and len(line + cell) > most:
            break
        line += cell
    return line.rstrip()


class Display:
    """Progress of a run: a bar on a terminal, a line an epoch everywhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._total = 0
        self._epochs = 0
        self._latest: dict[str, float] = {}
        self._noticed: set[str] = set()
        self._columns: list[str] = []
        self._doing = ""
        self._spoke = time.monotonic()

    @hookimpl
    def aegen_run_start(self, config: Mapping[str, Any], total_steps: int, step: int) -> None:
        """Put the bar up."""
        self._total = total_steps
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task("training", total=total_steps, completed=step, text="")

    @hookimpl
    def aegen_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar; in a log file, speak now and then."""
        self._latest = dict(metrics)
        loss = f"loss {number(metrics['loss'])}  " if "loss" in metrics else ""  # its turn may not have been due
        text = f"{loss}{metrics['images_per_second']:,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text)
        elif time.monotonic() - self._spoke > _QUIET_SECONDS:
            self._line(f"step {step:,}/{self._total:,}  {text}")

    @hookimpl
    def aegen_epoch_end(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """One row: the loss in training and, on held-out images, the loss and its terms; the names stand above the first.

        A column stays where it is once it was shown. What a narrow terminal has no room for is in metrics.jsonl.
        """
        row = {"loss": _short(self._latest["loss"])} if "loss" in self._latest else {}
        said = {"validation": _short(metrics["loss"])}
        for name, value in metrics.items():
            # With beta = 1 the loss is the bound, and the penalty the KL: say each number once.
            if name not in ("loss", *said) and (name in self._columns or _short(value) not in said.values()):
                said[name] = _short(value)
        row |= said
        if not row.keys() <= set(self._columns):
            self._columns += [name for name in row if name not in self._columns]
            self._line(_row("epoch", {name: name for name in self._columns}, self._columns))
        self._line(_row(f"{epoch:,}", row, self._columns))

    @hookimpl
    def aegen_progress(self, text: str, done: int, total: int) -> None:
        """The bar, for what comes after training; in a log file a line when it begins, and now and then."""
        begins = text != self._doing
        self._doing = text
        if self._bar is not None:
            if begins:
                self._bar.remove_task(self._task)
                self._task = self._bar.add_task(text, total=total, completed=done, text="")
            self._bar.update(self._task, completed=done, total=total)
        elif begins or time.monotonic() - self._spoke > _QUIET_SECONDS:
            self._line(text if begins else f"{text}: {done:,}/{total:,}")

    @hookimpl
    def aegen_notice(self, text: str) -> None:
        """Once for each kind of trouble, or every epoch would repeat it."""
        kind = text.partition(":")[0]
        if kind not in self._noticed:
            self._noticed.add(kind)
            self._line(f"note: {text}")

    def _line(self, text: str) -> None:
        self._spoke = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(fitted(shown(text), sys.stderr), highlight=False, markup=False, soft_wrap=True)
        else:
            say(text)

    @hookimpl
    def aegen_run_end(self) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
