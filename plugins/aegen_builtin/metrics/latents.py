"""How many latent dimensions do something.

Active units: Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, 2016, section 5.1: dimensions whose
posterior mean varies over images by more than 0.01. Effective dimension: the participation ratio (tr C)² / tr C² of
the posterior means' covariance C, between 1 and their number; too low where images are few for it, by how much half of
them tell, and the interval holds that beside the error of the first order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from aegen import Metric, Seen, UsageError
from aegen_builtin.metrics.means import around

_ACTIVE = 0.01
MEAN, DRAW = "latent.mean", "latent.z"
_MOST = 4096  # dimensions whose covariance fits


class Latents(Metric):
    """Active units and effective dimension of the posterior means of held-out images."""

    resamples = 0
    better: ClassVar[Mapping[str, str]] = {}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "active_units": (0.0, math.inf),
        "effective_dimension": (1.0, math.inf),
    }

    def within(self, rows: Mapping[str, Tensor]) -> Mapping[str, tuple[float, float]]:
        """No more than the dimensions."""
        return {name: (least, float(rows[MEAN].shape[1])) for name, (least, _) in self.ranges.items()}

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Posterior means, (B, D)."""
        return {MEAN: flat(seen.latent.mean)} if seen.held_out else {}

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """Over all images."""
        apart, covariance = spread(rows[MEAN])
        total, squares = covariance.trace(), covariance.square().sum()
        if not squares > 0:
            raise UsageError("all images have the same latent")
        size, along = apart.square().sum(1), ((apart @ covariance) * apart).sum(1)
        value = float(total**2 / squares)
        pull = 2 * total / squares * size - 2 * (total / squares) ** 2 * along
        return {
            "active_units": float((covariance.diagonal() > _ACTIVE).sum()),
            "effective_dimension": around(value, pull, lambda some: _dimension(rows[MEAN][some])),
        }


def _dimension(codes: Tensor) -> float:
    """The participation ratio of (N, D)."""
    _, covariance = spread(codes)
    squares = float(covariance.square().sum())
    return float(covariance.trace()) ** 2 / squares if squares > 0 else 1.0


def flat(z: Tensor) -> Tensor:
    """Latents (B, *z) → (B, D).

    Raises:
        UsageError: D is too large to be compared dimension by dimension.
    """
    if z[0].numel() > _MOST:
        raise UsageError(f"latents have {z[0].numel()} dimensions, but at most {_MOST} are compared with each other")
    return z.flatten(1)


def spread(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, D) less their mean, and their covariance (D, D), in float64.

    Raises:
        UsageError: there is one image, or a latent is not finite.
    """
    if len(rows) < 2:
        raise UsageError("it takes two images")
    if not rows.isfinite().all():
        raise UsageError("a latent is not finite")
    apart = rows.double() - rows.double().mean(0)
    return apart, apart.T @ apart / (len(rows) - 1)
