"""Metrics kept on the device and read at log points only, so that no step waits for the host."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aegen.nn.precision import at_least_float32
from aegen.training.distributed import World


class NotFinite(Exception):
    """A term, or a weight, became NaN or infinite; as text, half a sentence."""

    def __init__(self, what: str, *, weight: bool = False) -> None:
        super().__init__(what)
        self.weight = weight


class Recorder:
    """The metrics of one turn since the last log point. A step only hands its tensors over; they are averaged when read."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._parts: list[list[dict[str, Tensor]]] = []
        self.found: NotFinite | None = None

    def add(self, step: int, parts: list[dict[str, Tensor]]) -> None:
        """Keep a step's metrics, those of each micro-batch, each (B,) or ()."""
        self._steps.append(step)
        self._parts.append(parts)

    def read(self, world: World, *, tolerate: bool = False) -> dict[str, float]:
        """Means over the steps and the processes; this waits for the device.

        Args:
            tolerate: leave out the steps that are not finite, and keep what is wrong with the first of them in `found`.

        Raises:
            NotFinite: naming the first term and step that were not.
        """
        steps, parts = self._steps, self._parts
        self._steps, self._parts, self.found = [], [], None
        if not steps:
            return {}
        names = list(parts[0][0])
        columns = [
            at_least_float32(torch.stack([part[name] for step in parts for part in step]))
            .reshape(len(steps), -1)
            .mean(1)
            for name in names
        ]
        table = world.sum(torch.stack(columns, 1)) / world.size  # (steps, names)
        good = []
        for i, (step, row) in enumerate(zip(steps, table.tolist(), strict=True)):
            bad = {name: value for name, value in zip(names, row, strict=True) if not math.isfinite(value)}
            if bad:  # the sum is never finite when a term is not, but it is the term that tells
                term = next((name for name in bad if name.rpartition(".")[2] != "loss"), next(iter(bad)))
                self.found = self.found or NotFinite(f"the term {term!r} of the loss became {bad[term]} at step {step}")
                if not tolerate:
                    raise self.found
            else:
                good.append(i)
        if not good:
            return {}
        table = table if len(good) == len(steps) else table[good]
        return dict(zip(names, table.mean(0).tolist(), strict=True))
