"""How much of what is generated looks real, and how much of what is real is generated.

Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models, 2019: a set is where the balls around
its points are that reach to the third nearest of the same set; precision is the share of generated images in the real set, recall
the share of real ones in the generated. Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, 2020: density is in how many
real balls (to the fifth nearest) a generated image lies, over five, which one real image far from others does not distort; coverage
is the share of real balls with a generated image in them. Balls shrink as images become more, so both sets have the same number,
that of the smaller one. There are no intervals: an image is counted by the balls of others, so the counts hang together, and what a mean of
as many independent ones would vary by covered the mean of other sets 69 to 93 times of a hundred (benchmarks/coverage.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from aegen import Metric, Range, Seen
from aegen_builtin.metrics.sets import parted, samples

_BLOCK = 1000  # points whose distances to all others are held at a time


class PrecisionRecall(Metric):
    """Precision, recall, density and coverage of generated images, in the features of the protocol.

    Options:
        k: neighbours of precision and recall.
        dense: neighbours of density and coverage.
    """

    needs = frozenset({"sampler", "features"})
    better: ClassVar[Mapping[str, str]] = dict.fromkeys(("precision", "recall", "density", "coverage"), "higher")
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "precision": (0.0, 1.0),
        "recall": (0.0, 1.0),
        "coverage": (0.0, 1.0),
    }
    resamples = 0

    def __init__(self, *, k: Annotated[int, Range(1)] = 3, dense: Annotated[int, Range(1)] = 5) -> None:
        self.k, self.dense = k, dense

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Features, (B, width)."""
        return samples(seen)

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """The four shares."""
        real, made = parted(rows, least=max(self.k, self.dense) + 1)
        count = min(len(real), len(made))
        by_image = neighbours(some(real, count), some(made, count), self.k, self.dense)
        return {name: float(values.mean()) for name, values in by_image.items()}

    def notes(self, rows: Mapping[str, Tensor]) -> list[str]:
        """Which images were left out."""
        real, made = parted(rows)
        count = min(len(real), len(made))
        if len(real) == len(made):
            return []
        return [
            f"precision, recall, density and coverage are of {count} images of each set; they depend on that number"
        ]


def some(points: Tensor, count: int) -> Tensor:
    """`count` of the points (N, d): all, or a draw, since files of a class often lie together."""
    if len(points) == count:
        return points
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:count]]


def neighbours(real: Tensor, made: Tensor, k: int, dense: int) -> dict[str, Tensor]:
    """What each number is the mean of: for each of the features (N, d) and (N, d), (N,) in float64."""
    middle = real.mean(0)  # squares of what lies near 0 lose least by rounding
    real, made = real - middle, made - middle
    near_real, near_made = radii(real, [k, dense]), radii(made, [k])
    within_real, within_made = [], []
    balls, covered = [], torch.zeros(len(real), dtype=torch.bool)
    for start in range(0, len(made), _BLOCK):
        part = slice(start, start + _BLOCK)
        square = distances(made[part], real)
        within_real.append((square <= near_real[k]).any(1))
        inside = square <= near_real[dense]
        balls.append(inside.sum(1) / dense)
        covered |= inside.any(0)
        within_made.append((square <= near_made[k][part, None]).any(0))
    return {
        "precision": torch.cat(within_real).double(),
        "recall": torch.stack(within_made).any(0).double(),
        "density": torch.cat(balls).double(),
        "coverage": covered.double(),
    }


def radii(points: Tensor, ks: list[int]) -> dict[int, Tensor]:
    """Squared distance of each point to its k-th nearest other one, (N,), by k."""
    found = []
    for start in range(0, len(points), _BLOCK):
        square = distances(points[start : start + _BLOCK], points)
        own = torch.arange(len(square))
        square[own, start + own] = -1.0  # each is its own nearest, whatever rounding says
        found.append(square.topk(max(ks) + 1, largest=False).values)
    nearest = torch.cat(found)
    return {k: nearest[:, k] for k in ks}


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of points (N, d) and (M, d), (N, M)."""
    square = torch.addmm(b.square().sum(1), a, b.T, alpha=-2)
    return square.add_(a.square().sum(1, keepdim=True)).clamp_(min=0)
