"""Metrics kept on the device and read at log points only, so that no step waits for the host."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aegen.engine.parallel import World


class NotFinite(Exception):
    """A term became NaN or infinite."""

    def __init__(self, term: str, value: float, step: int) -> None:
        super().__init__(term)
        self.term, self.value, self.step = term, value, step


class Recorder:
    """The metrics of one turn since the last log point."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._rows: list[Tensor] = []
        self._steps: list[int] = []

    def add(self, step: int, parts: list[dict[str, Tensor]]) -> None:
        """Keep a step's metrics, the mean over its micro-batches."""
        self._names = list(parts[0])
        rows = [torch.stack(list(part.values())) for part in parts]
        self._rows.append(rows[0] if len(rows) == 1 else torch.stack(rows).mean(0))
        self._steps.append(step)

    def read(self, world: World) -> dict[str, float]:
        """Means over the steps and the processes; this waits for the device.

        Raises:
            NotFinite: naming the first term and step that were not.
        """
        if not self._rows:
            return {}
        table = world.sum(torch.stack(self._rows)) / world.size  # (steps, names)
        values = table.tolist()
        steps, self._rows, self._steps = self._steps, [], []
        for step, row in zip(steps, values, strict=True):
            bad = [name for name, value in zip(self._names, row, strict=True) if not math.isfinite(value)]
            if bad:  # the sum is never finite when a term is not, but it is the term that tells
                term = next((name for name in bad if name.rpartition(".")[2] != "loss"), bad[0])
                raise NotFinite(term, row[self._names.index(term)], step)
        return {
            name: sum(column) / len(values) for name, column in zip(self._names, zip(*values, strict=True), strict=True)
        }
