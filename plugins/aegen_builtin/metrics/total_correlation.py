"""How much latent dimensions tell of each other, as far as a Gaussian can say.

Total correlation of the aggregate posterior as if it were Gaussian, ½ (Σ log C_dd - log det C) for the covariance C
of draws from it: 0 where dimensions are uncorrelated, which need not be independent. What a sample of N has too much
of it, were it Gaussian, is taken off: log det of a Wishart matrix is on average a sum of digamma functions (Anderson,
An Introduction to Multivariate Statistical Analysis, section 7.5). So it may fall below 0. The standard error is of
the first order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from aegen import Metric, Seen, UsageError
from aegen_builtin.metrics.latents import DRAW, flat, spread
from aegen_builtin.metrics.means import around

_TIED = 1e-10  # share of a dimension's variance that others leave; float32 rounds more off


class TotalCorrelation(Metric):
    """Total correlation, in nats, that the aggregate posterior would have if it were Gaussian."""

    resamples = 0
    better: ClassVar[Mapping[str, str]] = {"gaussian_total_correlation": "lower"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"gaussian_total_correlation": (0.0, math.inf)}

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Draws from the posteriors, (B, D)."""
        if {"codes", "labels"} & seen.model.bottleneck.offers:
            raise UsageError("the latents are codes, or hold the class, and no Gaussian comes near them")
        return {DRAW: flat(seen.latent.z)} if seen.held_out else {}

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """Of all images' draws together; dimensions that never move are independent of all others."""
        z = rows[DRAW]
        count, width = z.shape
        if count <= width + 1:
            raise UsageError(f"latents have {width} dimensions, so it takes {width + 2} images; there are {count}")
        apart, covariance = spread(z)
        moves = covariance.diagonal() > 0
        apart = apart[:, moves] / covariance.diagonal()[moves].sqrt()
        correlation = apart.T @ apart / (count - 1)
        width = len(correlation)
        halves = (count - 1 - torch.arange(width, dtype=torch.float64)) / 2
        surplus = 0.5 * (width * halves[:1].digamma().sum() - halves.digamma().sum())
        shares = torch.linalg.eigvalsh(correlation)
        if shares[0] < _TIED:
            raise UsageError("a latent dimension follows from the others, so total correlation is infinite")
        value = -0.5 * shares.log().sum() - surplus
        whole = (apart * torch.linalg.solve(correlation, apart.T).T).sum(1)
        pull = 0.5 * (apart.square().sum(1) - whole)
        return {"gaussian_total_correlation": around(float(value), pull)}
