"""A diagonal Gaussian posterior and a standard normal prior.

Kingma & Welling, Auto-Encoding Variational Bayes, 2014, section 3 and appendix B.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

import torch
from torch import Tensor

from aegen import Bottleneck, Latent, Range, Statistic
from aegen.nn.densities import diagonal, log_standard

_ACTIVE = 0.01


class ActiveUnits(Statistic):
    """How many latent dimensions vary with the image: those whose posterior mean has a variance above 0.01 over all images.

    Burda et al., Importance Weighted Autoencoders, 2016, section 5.1. Variances of parts are merged as by Chan, Golub & LeVeque,
    Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979, eq. 2.1, in float64.
    """

    def __init__(self, mean: Tensor) -> None:
        self.rows: Tensor | None = mean.detach().flatten(1)
        self.moments: list[
            Any
        ] = []  # count, mean and sum of squares about it, made of the rows once they are asked for

    def merge(self, other: Self) -> None:
        """Take in other images."""
        (count, mean, squares), (more, there, spread) = self._moments(), other._moments()
        share, apart = more / (count + more), there - mean
        self.moments = [count + more, mean + share * apart, squares + spread + share * count * apart.square()]

    def value(self) -> float:
        """Between 0 and the number of latent dimensions; NaN for one image, which does not vary."""
        count, _, squares = self._moments()
        if count < 2:
            return math.nan
        return float((squares / count > _ACTIVE).sum())

    def _moments(self) -> list[Any]:
        if self.rows is not None:
            rows, self.rows = self.rows.cpu().double(), None
            mean = rows.mean(0)
            self.moments = [len(rows), mean, (rows - mean).square().sum(0)]
        return self.moments


def active_units(mean: Tensor, *, training: bool) -> dict[str, Statistic]:
    """What a bottleneck with posterior means (B, *z) says of them in evaluation."""
    return {} if training else {"active_units": ActiveUnits(mean)}


class Gaussian(Bottleneck):
    """The variational autoencoder's bottleneck; charges KL(q(z|x) ‖ N(0, 1)).

    Options:
        dim: latent dimensions, or channels of a spatial latent.
    """

    offers = frozenset({"prior", "density", "diagonal", "penalty", "charges"})

    def __init__(self, *, dim: Annotated[int, Range(1, 65_536)] = 16) -> None:
        super().__init__()
        self.fan_in = 2 * dim

    def forward(self, features: Tensor) -> Latent:
        """(B, 2·dim, …), mean and log-variance → a draw z (B, dim, …)."""
        posterior = diagonal(features)
        charges = posterior.kl()
        active = active_units(posterior.mean, training=self.training)
        return Latent(posterior.sample(), charges.flatten(1).sum(1), posterior, charges=charges, statistics=active)

    def prior(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """N(0, 1), (n, *shape)."""
        return torch.randn(n, *shape, generator=generator)

    def log_prior(self, z: Tensor) -> Tensor:
        """log N(z; 0, 1) in nats, (B,)."""
        return log_standard(z)
