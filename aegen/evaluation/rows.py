"""What metrics keep of the images, and the numbers with their intervals that become of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from aegen.errors import UsageError
from aegen.evaluation.seen import Seen
from aegen.protocols import Metric

_COVERED = 0.95  # of an interval


@dataclass(frozen=True)
class Number:
    """One number of one metric.

    Attributes:
        low, high: ends of a 95 % interval by the bootstrap over images, where there is one.
        better: `lower`, `higher`, or nothing.
    """

    metric: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None
    better: str = ""


class Rows:
    """A few numbers of every image, by name; a name is kept once, however many metrics look at it."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}
        self._source: dict[str, str] = {}
        self._names: dict[str, list[str]] = {}

    @torch.no_grad()
    def sweep(self, batches: Iterable[Seen], metrics: Mapping[str, Metric], skipped: dict[str, str]) -> None:
        """Show every batch to every metric; one that refuses is skipped with its reason."""
        for index, seen in enumerate(batches):
            new: dict[str, Tensor] = {}
            for name, metric in metrics.items():
                if name in skipped:
                    continue
                torch.manual_seed((seen.protocol.seed * 1_000_003 + index) % 2**63)  # whatever the others drew
                try:
                    found = metric.collect(seen)
                except UsageError as error:
                    skipped[name] = str(error)
                    continue
                names = self._names.setdefault(name, [])
                names += [key for key in found if key not in names]
                new |= {key: value for key, value in found.items() if key not in new}
            for key, value in new.items():
                assert len(value) == len(seen.x), f"row {key} has {len(value)} entries for {len(seen.x)} images"
                self._parts.setdefault(key, []).append(value.detach().cpu())
                self._source[key] = seen.source

    def of(self, metric: str) -> dict[str, Tensor]:
        """The rows (N, …) that a metric collected."""
        return {key: self._whole(key) for key in self._names.get(metric, [])}

    def _whole(self, key: str) -> Tensor:
        if len(self._parts[key]) > 1:
            self._parts[key] = [torch.cat(self._parts[key])]
        return self._parts[key][0]

    def numbers(self, name: str, metric: Metric, seed: int) -> list[Number]:
        """What a metric makes of its rows, with intervals by resampling the images of each source."""
        rows = self.of(name)
        values = metric.compute(rows)
        generator = torch.Generator().manual_seed(seed)
        drawn: dict[str, list[float]] = {key: [] for key in values}
        for _ in range(metric.resamples):
            index: dict[str, Tensor] = {}
            for key, value in rows.items():
                if self._source[key] not in index:
                    index[self._source[key]] = torch.randint(len(value), (len(value),), generator=generator)
            again = metric.compute({key: value[index[self._source[key]]] for key, value in rows.items()})
            for key in values:
                drawn[key].append(again.get(key, math.nan))
        found = []
        for key, number in values.items():
            ends: tuple[float | None, float | None] = (None, None)
            if drawn[key]:
                outside = (1 - _COVERED) / 2
                drawings = torch.tensor(drawn[key], dtype=torch.float64)
                ends = (drawings.quantile(outside).item(), drawings.quantile(1 - outside).item())
            found.append(Number(name, key, float(number), *ends, metric.better.get(key, "")))
        return found
