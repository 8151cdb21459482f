"""What metrics keep of the images, and the numbers with their intervals that become of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from aegen import threads
from aegen.contract import outputs
from aegen.errors import UsageError
from aegen.evaluation.batch import Seen
from aegen.protocols import Metric
from aegen.training.distributed import World

_COVERED = 0.95  # of an interval
_ANYTHING = (-math.inf, math.inf)
_NORMAL = 1.96  # standard errors to either side that cover as much


@dataclass(frozen=True)
class Number:
    """One number of one metric.

    Attributes:
        low, high: ends of a 95 % interval, by the bootstrap over images or as the metric knows them, where there is one; of one image none.
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
        self._parts: dict[str, list[tuple[int, Tensor]]] = {}
        self._source: dict[str, str] = {}
        self._names: dict[str, list[str]] = {}

    @torch.no_grad()
    def sweep(self, batches: Iterable[Seen], metrics: Mapping[str, Metric], skipped: dict[str, str]) -> None:
        """Show every batch to every metric; one that refuses is skipped with its reason."""
        for seen in batches:
            new: dict[str, Tensor] = {}
            for name, metric in metrics.items():
                if name in skipped:
                    continue
                torch.manual_seed(seen.seed)  # whatever the others drew
                try:
                    found = metric.collect(seen)
                    outputs.checked(metric, outputs.rows, found, len(seen.x))
                except UsageError as error:
                    skipped[name] = str(error)
                    continue
                names = self._names.setdefault(name, [])
                names += [key for key in found if key not in names]
                new |= {key: value for key, value in found.items() if key not in new}
            for key, value in new.items():
                self._parts.setdefault(key, []).append((seen.start, value.detach().cpu()))
                self._source[key] = seen.source

    def gather(self, here: World, skipped: dict[str, str]) -> None:
        """Bring together what the processes saw, in the order of the images, and what any of them skipped."""
        if here.size == 1:
            return
        told = here.gather((self._parts, self._source, self._names, skipped))
        self._parts, self._source, self._names = {}, {}, {}
        for parts, source, names, reasons in told:
            for key, some in parts.items():
                self._parts.setdefault(key, []).extend(some)
            for name, keys in names.items():
                own = self._names.setdefault(name, [])
                own += [key for key in keys if key not in own]
            self._source |= source
            skipped |= {name: reason for name, reason in reasons.items() if name not in skipped}

    def of(self, metric: str) -> dict[str, Tensor]:
        """The rows (N, …) that a metric collected."""
        return {key: self._whole(key) for key in self._names.get(metric, [])}

    def _whole(self, key: str) -> Tensor:
        if len(self._parts[key]) > 1:
            inorder = sorted(self._parts[key], key=lambda part: part[0])
            self._parts[key] = [(0, torch.cat([rows for _, rows in inorder]))]
        return self._parts[key][0][1]

    def numbers(self, name: str, metric: Metric, seed: int) -> list[Number]:
        """What a metric makes of its rows, with intervals by resampling the images of each source."""
        with threads.one_blas():
            return self._numbers(name, metric, seed)

    def _numbers(self, name: str, metric: Metric, seed: int) -> list[Number]:
        rows = self.of(name)
        found = metric.compute(rows)
        outputs.checked(metric, outputs.computed, found)
        values, known = _parted(found)
        least = min((len(value) for value in rows.values()), default=0)  # of the images of a source
        generator = torch.Generator().manual_seed(seed)
        drawn: dict[str, list[float]] = {key: [] for key in values}
        unknown = values.keys() - known.keys()
        for _ in range(metric.resamples if least > 1 and unknown else 0):  # one image says nothing of how images differ
            index: dict[str, Tensor] = {}
            for key, value in rows.items():
                if self._source[key] not in index:
                    index[self._source[key]] = torch.randint(len(value), (len(value),), generator=generator)
            again, _ = _parted(metric.compute({key: value[index[self._source[key]]] for key, value in rows.items()}))
            for key in values:
                drawn[key].append(again.get(key, math.nan))
        ranges = metric.within(rows)
        outputs.checked(metric, outputs.ranged, ranges)
        told = []
        for key, number in values.items():
            ends: tuple[float | None, float | None] = (None, None)
            if key in known and least > 1:
                ends = known[key]
            elif drawn[key]:
                ends = _percentiles(torch.tensor(drawn[key], dtype=torch.float64), least)
            low, high = ends
            if low is not None and high is not None:
                ends = clipped(float(number), low, high, ranges.get(key, ranges.get("*", _ANYTHING)))
            told.append(Number(name, key, float(number), *ends, metric.better.get(key, "")))
        return told


def clipped(value: float, low: float, high: float, within: tuple[float, float]) -> tuple[float, float]:
    """An interval without what is impossible, which holds no truth; never without the value, which may have left the range by chance."""
    least, most = within
    return max(low, min(least, value)), min(high, max(most, value))


def _percentiles(drawn: Tensor, images: int) -> tuple[float, float]:
    """Ends of an interval from what images drawn again gave, (R,).

    Further out than the share that is to be covered, since images drawn again differ less than new ones do, and by what is not known
    of how much they differ: the expanded percentile interval of Hesterberg, What Teachers Should Know about the Bootstrap, 2015.
    """
    from scipy.special import ndtr, stdtrit  # only where something is evaluated

    wider = math.sqrt(images / (images - 1)) * stdtrit(images - 1, (1 + _COVERED) / 2)
    # That share of new draws lies below the draw of this rank, counted from 0.
    rank = min(max(ndtr(-wider) * (len(drawn) + 1) - 1, 0.0), (len(drawn) - 1) / 2)
    outside = rank / max(len(drawn) - 1, 1)
    return drawn.quantile(outside).item(), drawn.quantile(1 - outside).item()


def _parted(found: Mapping[str, float | tuple[float, ...]]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """The numbers, and the ends of those whose metric knows them or a standard error."""
    values: dict[str, float] = {}
    known: dict[str, tuple[float, float]] = {}
    for key, one in found.items():
        match one:
            case (value, low, high):
                values[key], known[key] = value, (low, high)
            case (value, error):
                values[key], known[key] = value, (value - _NORMAL * error, value + _NORMAL * error)
            case (value,):
                values[key] = value
            case float() | int():
                values[key] = one
    return values, known
