"""Fréchet distance of two sets of images: of the normal distributions with the means and covariances of their features.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, 2017: |m₁ - m₂|² +
tr(C₁ + C₂ - 2 (C₁ C₂)^½), in float64; the trace of the root is the sum of the roots of the eigenvalues of C₁^½ C₂ C₁^½, which
is symmetric. It is called FID by custom, though the network is that of the protocol, and only numbers of one network can be compared.

The estimate is too high, by about as much as images are few for the width of the features (Bińkowski et al., 2018). The
interval knows nothing of that: it is of chance alone, from the derivative of the distance by each image (the infinitesimal
jackknife; with T the optimal map, that of one covariance is 1 - T). Where images are too few, there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from aegen import Metric, Seen
from aegen_metrics.sets import parted, reconstructions, samples

_ENOUGH = 2  # images for each feature


class FID(Metric):
    """Fréchet distance of generated images to the reference, in the features of the protocol."""

    number: ClassVar[str] = "fid"
    paired: ClassVar[bool] = False
    needs = frozenset({"sampler", "features"})
    better: ClassVar[Mapping[str, str]] = {"fid": "lower"}
    resamples = 0

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Features, (B, width)."""
        return samples(seen)

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """The distance and its standard error."""
        real, made = parted(rows)
        value, by_real, by_made = frechet(real, made)
        if few(real, made):
            return {self.number: value}
        if self.paired:  # an image and its reconstruction are drawn together
            variance = (by_real + by_made).var() / len(real)
        else:
            variance = by_real.var() / len(real) + by_made.var() / len(made)
        return {self.number: (value, float(variance.sqrt()))}

    def notes(self, rows: Mapping[str, Tensor]) -> list[str]:
        """Whether there were too few images."""
        real, made = parted(rows)
        if not few(real, made):
            return []
        count, width = min(len(real), len(made)), real.shape[1]
        return [
            f"{self.number} of {count} images in {width} features is mostly bias and has no interval; read {_UNBIASED[self.number]}"
        ]


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
    a, b = real.double(), made.double()
    apart = a.mean(0) - b.mean(0)
    a, b = a - a.mean(0), b - b.mean(0)
    ca, cb = a.T @ a / (len(a) - 1), b.T @ b / (len(b) - 1)
    values, axes = torch.linalg.eigh(ca)
    values, inverse = _roots(values)
    half = axes * values
    middle, turn = torch.linalg.eigh(half.T @ cb @ half)
    middle, undo = _roots(middle)
    distance = apart.square().sum() + ca.trace() + cb.trace() - 2 * middle.sum()
    # T = to toᵀ carries the first normal to the second, back backᵀ the second to the first.
    to = (axes * inverse) @ (turn * middle.sqrt())
    back = half @ (turn * undo.sqrt())
    by_a = a.square().sum(1) - (a @ to).square().sum(1) + 2 * a @ apart
    by_b = b.square().sum(1) - (b @ back).square().sum(1) - 2 * b @ apart
    return max(float(distance), 0.0), by_a, by_b


def _roots(eigenvalues: Tensor) -> tuple[Tensor, Tensor]:
    """Roots and inverse roots of the eigenvalues of a covariance, 0 where only rounding is left."""
    noise = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.max().clamp(min=0)
    real = eigenvalues > noise
    roots = torch.where(real, eigenvalues, 0.0).sqrt()
    return roots, torch.where(real, 1 / roots, 0.0)
