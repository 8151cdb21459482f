"""Grey pixels with one logit each: the Bernoulli's cross-entropy, made a density by its normaliser.

Loaiza-Ganem & Cunningham, The continuous Bernoulli: fixing a pervasive error in variational autoencoders, 2019. On [0, 1],
with logit l: p(t) = e^(l t) l / (e^l - 1). Here x = 2t - 1 and a = l / 2: p(x) = e^(a x) a / (2 sinh a), a density over
[-1, 1] as the Gaussian's and the Laplace's are; in nats of the density over [0, 1], log 2 less for each pixel value.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aegen import ImageShape, Likelihood, Pixels

_NEAR = 0.5  # of |a|: below, series, whose first term left out is under 1e-8 of the value
_MEAN = (1 / 3, -1 / 45, 2 / 945, -1 / 4725, 2 / 93555)  # coth a - 1/a is a times this in a²


def _series(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where |a| is small; a there, and 0 elsewhere; |a|, and `_NEAR` where it is small. No branch sees what it cannot bear."""
    size = a.abs()
    small = size < _NEAR
    return small, a.masked_fill(~small, 0), size.masked_fill(small, _NEAR)


def log_normaliser(a: Tensor) -> Tensor:
    """log of the integral of e^(a x) over [-1, 1], log(2 sinh(a) / a), of the shape of `a`."""
    small, near, far = _series(a)
    square = near.square()
    series = torch.zeros_like(a)
    for power, coefficient in reversed(list(enumerate(_MEAN, 1))):  # the integral of the mean
        series = (series + coefficient / (2 * power)) * square
    return torch.where(small, math.log(2) + series, far + torch.log1p(-torch.exp(-2 * far)) - far.log())


def mean_of(a: Tensor) -> Tensor:
    """coth(a) - 1 / a, in (-1, 1), of the shape of `a`."""
    small, near, far = _series(a)
    square = near.square()
    series = torch.zeros_like(a)
    for coefficient in reversed(_MEAN):
        series = series * square + coefficient
    return torch.where(small, series * near, (1 / far.tanh() - 1 / far) * a.sign())


class GreyCoins(Pixels):
    """Independent continuous Bernoulli pixels with logits (B, C, H, W)."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """Of the distribution, (B, C, H, W) in [-1, 1]; greyer than the logit's sigmoid."""
        return mean_of(self.logits / 2)

    def nll(self, x: Tensor) -> Tensor:
        """In nats of the density over [-1, 1], (B,)."""
        a = self.logits / 2
        return (log_normaliser(a) - a * x).flatten(1).sum(1)

    def sample(self) -> Tensor:
        """(B, C, H, W) in [-1, 1]; the inverse of the distribution function at uniform noise."""
        a = self.logits / 2
        size = a.abs().clamp(min=1e-6)
        draw = 1 + torch.log1p(torch.rand_like(a) * torch.expm1(-2 * size)) / size
        return torch.where(a < 0, -draw, draw).clamp(-1, 1)


class ContinuousBernoulli(Likelihood):
    """Grey pixels between black and white, with one parameter each and no scale."""

    def __init__(self, image: ImageShape) -> None:
        super().__init__()
        self.fan_out = image.channels

    def forward(self, parameters: Tensor) -> Pixels:
        """Logits (B, C, H, W)."""
        return GreyCoins(parameters)
