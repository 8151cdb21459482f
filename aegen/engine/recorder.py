"""Metrics kept on the device and read at log points only, so that no step waits for the host."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aegen.engine.parallel import World
from aegen.model import lifted


class NotFinite(Exception):
    """A term became NaN or infinite."""

    def __init__(self, term: str, value: float, step: int) -> None:
        super().__init__(term)
        self.term, self.value, self.step = term, value, step


class Recorder:
    """The metrics of one turn since the last log point. A step only hands its tensors over; they are averaged when read."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._parts: list[list[dict[str, Tensor]]] = []

    def add(self, step: int, parts: list[dict[str, Tensor]]) -> None:
        """Keep a step's metrics, those of each micro-batch, each (B,) or ()."""
        self._steps.append(step)
        self._parts.append(parts)

    def read(self, world: World) -> dict[str, float]:
        """Means over the steps and the processes; this waits for the device.

        Raises:
            NotFinite: naming the first term and step that were not.
        """
        steps, parts = self._steps, self._parts
        self._steps, self._parts = [], []
        if not steps:
            return {}
        names = list(parts[0][0])
        columns = [
            lifted(torch.stack([part[name] for step in parts for part in step])).reshape(len(steps), -1).mean(1)
            for name in names
        ]
        table = world.sum(torch.stack(columns, 1)) / world.size  # (steps, names)
        for step, row in zip(steps, table.tolist(), strict=True):
            bad = {name: value for name, value in zip(names, row, strict=True) if not math.isfinite(value)}
            if bad:  # the sum is never finite when a term is not, but it is the term that tells
                term = next((name for name in bad if name.rpartition(".")[2] != "loss"), next(iter(bad)))
                raise NotFinite(term, bad[term], step)
        return dict(zip(names, table.mean(0).tolist(), strict=True))
