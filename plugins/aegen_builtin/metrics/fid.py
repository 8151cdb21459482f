"""Fréchet distance of two sets of images: of the normal distributions with the means and covariances of their features.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, 2017: |m₁ - m₂|² +
tr(C₁ + C₂ - 2 (C₁ C₂)^½), in float64; the trace of the root is the sum of the roots of the eigenvalues of C₁^½ C₂ C₁^½, which
is symmetric. It is called FID by custom, though the network is that of the protocol, and only numbers of one network can be compared.

The estimate is too high, by about as much as images are few for the width of the features (Bińkowski et al., 2018). What it is too
high by is near enough in inverse proportion to how many images there are (Chong & Forsyth, Effectively Unbiased FID and Inception Score
and where to find them, 2020), so half of them have twice of it: two halves tell it, it is said in a note, and the interval, which is of the
distance of the distributions and not of so many images, is as wide as it takes to hold both that and chance. Chance is from the derivative
of the distance by each image (the infinitesimal jackknife; with T the optimal map, that of one covariance is 1 - T), less what that finds
too much: of sets that are nearly one it sees twice the variance (Efron & Stein, The Jackknife Estimate of Variance, 1981). Where there are fewer
than two images for each feature, the halves tell too little of it, and there is no interval. Coverage is simulated in
benchmarks/coverage.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from aegen import Metric, Seen
from aegen_builtin.metrics.means import aware
from aegen_builtin.metrics.sets import parted, reconstructions, samples

_ENOUGH = 2  # images for each feature
_SPLITS = 4  # into halves


class FID(Metric):
    """Fréchet distance of generated images to the reference, in the features of the protocol."""

    number: ClassVar[str] = "fid"
    paired: ClassVar[bool] = False
    needs = frozenset({"sampler", "features"})
    better: ClassVar[Mapping[str, str]] = {"fid": "lower"}
    resamples = 0

    def __init__(self) -> None:
        self._known: tuple[Tensor, Tensor, tuple[float, float, float | None]] | None = None

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Features, (B, width)."""
        return samples(seen)

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """The distance and, where it can be told, how far it may be off, as a standard error."""
        value, bias, error = self._found(*parted(rows))
        return {self.number: value if error is None else (value, aware(bias, error))}

    def notes(self, rows: Mapping[str, Tensor]) -> list[str]:
        """How much of it comes from there being few images."""
        real, made = parted(rows)
        count, width = min(len(real), len(made)), real.shape[1]
        value, bias, error = self._found(real, made)
        if error is None:
            return [
                f"{self.number} of {count} images in {width} features is mostly bias and has no interval; read {_UNBIASED[self.number]}"
            ]
        return [
            f"{self.number} is about {bias:.2g} too high because {count} images are few for {width} features, and would be about "
            f"{max(value - bias, 0.0):.3g} of very many; its interval holds that, too, and {_UNBIASED[self.number]} has no such bias"
        ]

    def _found(self, real: Tensor, made: Tensor) -> tuple[float, float, float | None]:
        """The distance, what it is too high by, and its standard error, if there are images enough to tell."""
        if self._known is None or self._known[0] is not real or self._known[1] is not made:  # the notes are of the same
            self._known = (real, made, self._measure(real, made))
        return self._known[2]

    def _measure(self, real: Tensor, made: Tensor) -> tuple[float, float, float | None]:
        if few(real, made):
            return distance(real, made), 0.0, None
        value, variance = self._chance(real, made)
        # Files of a class often lie together.
        generator = torch.Generator().manual_seed(0)
        halves, variances = [], []
        for _ in range(_SPLITS):
            first = torch.randperm(len(real), generator=generator).tensor_split(2)
            second = first if self.paired else torch.randperm(len(made), generator=generator).tensor_split(2)
            for i, j in zip(first, second, strict=True):
                if few(real[i], made[j]):
                    halves.append(distance(real[i], made[j]))
                else:
                    half, known = self._chance(real[i], made[j])
                    halves.append(half)
                    variances.append(known)
        if variances:
            # a / n + 2 b / n² is what the jackknife gives where a / n + b / n² is true; halves tell how much of it is b.
            curved = max(sum(variances) / len(variances) - 2 * variance, 0.0) / 4
            variance = max(variance - curved * (1 - 1 / _SPLITS), variance / 4)  # what is divided is chance, too
        return value, max(sum(halves) / len(halves) - value, 0.0), variance**0.5

    def _chance(self, real: Tensor, made: Tensor) -> tuple[float, float]:
        """The distance, and its variance by the jackknife."""
        value, by_real, by_made = frechet(real, made)
        if self.paired:  # an image and its reconstruction are drawn together
            return value, float((by_real + by_made).var()) / len(real)
        return value, float(by_real.var()) / len(real) + float(by_made.var()) / len(made)


class RFID(FID):
    """Fréchet distance of reconstructions to held-out images, in the features of the protocol."""

    number = "rfid"
    paired = True
    needs = frozenset({"encoder", "features"})
    better: ClassVar[Mapping[str, str]] = {"rfid": "lower"}

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Features, (B, width)."""
        return reconstructions(seen)


_UNBIASED = {"fid": "kid", "rfid": "rkid"}


def few(real: Tensor, made: Tensor) -> bool:
    """Whether there are too few images for the width of the features."""
    return min(len(real), len(made)) < _ENOUGH * real.shape[1]


def frechet(real: Tensor, made: Tensor) -> tuple[float, Tensor, Tensor]:
    """Distance of features (N, d) and (M, d), and how it moves with the weight of each of them, (N,) and (M,)."""
    a, b, apart, ca, cb = _moments(real, made)
    half, inverse, axes = _root(ca)
    middle, turn = torch.linalg.eigh(half.T @ cb @ half)
    middle, undo = _roots(middle)
    # T = to toᵀ carries the first normal to the second, back backᵀ the second to the first.
    to = (axes * inverse) @ (turn * middle.sqrt())
    back = half @ (turn * undo.sqrt())
    by_a = a.square().sum(1) - (a @ to).square().sum(1) + 2 * a @ apart
    by_b = b.square().sum(1) - (b @ back).square().sum(1) - 2 * b @ apart
    return _sum(apart, ca, cb, middle), by_a, by_b


def distance(real: Tensor, made: Tensor) -> float:
    """Of features (N, d) and (M, d), alone."""
    if min(len(real), len(made)) <= real.shape[1]:
        return _of_few(real, made)
    _, _, apart, ca, cb = _moments(real, made)
    half, _, _ = _root(ca)
    middle, _ = _roots(torch.linalg.eigvalsh(half.T @ cb @ half))
    return _sum(apart, ca, cb, middle)


def _of_few(real: Tensor, made: Tensor) -> float:
    """The same where one set has no more images than features: with C₁ = AᵀA and C₂ = BᵀB the sum is that of the singular values of ABᵀ."""
    a, b = real.double(), made.double()
    apart = a.mean(0) - b.mean(0)
    a, b = (a - a.mean(0)) / (len(a) - 1) ** 0.5, (b - b.mean(0)) / (len(b) - 1) ** 0.5
    found = apart.square().sum() + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()
    return max(float(found), 0.0)


def _sum(apart: Tensor, ca: Tensor, cb: Tensor, middle: Tensor) -> float:
    return max(float(apart.square().sum() + ca.trace() + cb.trace() - 2 * middle.sum()), 0.0)


def _moments(real: Tensor, made: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Both sets less their means, in float64, the difference of the means, and both covariances."""
    a, b = real.double(), made.double()
    apart = a.mean(0) - b.mean(0)
    a, b = a - a.mean(0), b - b.mean(0)
    return a, b, apart, a.T @ a / (len(a) - 1), b.T @ b / (len(b) - 1)


def _root(covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A root whose product with its transpose is the covariance, the inverse roots of its eigenvalues, and its axes."""
    values, axes = torch.linalg.eigh(covariance)
    values, inverse = _roots(values)
    return axes * values, inverse, axes


def _roots(eigenvalues: Tensor) -> tuple[Tensor, Tensor]:
    """Roots and inverse roots of the eigenvalues of a covariance, 0 where only rounding is left."""
    noise = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.max().clamp(min=0)
    real = eigenvalues > noise
    roots = torch.where(real, eigenvalues, 0.0).sqrt()
    return roots, torch.where(real, 1 / roots, 0.0)
