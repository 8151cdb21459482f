"""A Gaussian and categorical latents side by side.

Dupont, Learning Disentangled Joint Continuous and Discrete Representations, 2018: the KL is the sum of the two. The
paper's capacities are the objective's: this charges both parts in full.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from aegen import Bottleneck, Latent, Posterior, Range
from aegen_builtin.latents.categorical import Categorical
from aegen_builtin.latents.gaussian import Gaussian


class Pair(Posterior):
    """q(z|x) of two independent parts, side by side along dimension 1; the first has `split` channels."""

    def __init__(self, first: Posterior, second: Posterior) -> None:
        self.parts = (first, second)
        self.mean = torch.cat([first.mean, second.mean], 1)
        self.split = first.mean.shape[1]

    def sample(self) -> Tensor:
        """(B, *z)."""
        return torch.cat([part.sample() for part in self.parts], 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """The sum of both, (B,); a density for the first part, a mass for the categories."""
        first, second = self.parts
        return first.log_prob(z[:, : self.split]) + second.log_prob(z[:, self.split :])


class Joint(Bottleneck):
    """Gaussian dimensions, then categorical variables; charges both KLs.

    Options:
        dim: Gaussian dimensions, or channels of a spatial latent.
        variables: number of categorical variables, at each position of a feature map.
        categories: values that each variable takes.
        temperature: of the categories' relaxation; draws are nearer to one-hot the lower it is.
    """

    offers = frozenset({"prior", "penalty"})

    def __init__(
        self,
        *,
        dim: Annotated[int, Range(1, 65_536)] = 10,
        variables: Annotated[int, Range(1, 65_536)] = 1,
        categories: Annotated[int, Range(2, 65_536)] = 10,
        temperature: Annotated[float, Range(above=0)] = 0.67,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.gaussian = Gaussian(dim=dim)
        self.categorical = Categorical(variables=variables, categories=categories, temperature=temperature)
        self.fan_in = self.gaussian.fan_in + self.categorical.fan_in

    def forward(self, features: Tensor) -> Latent:
        """Mean, log-variance and logits, (B, fan_in, …) → a draw z (B, dim + variables · categories, …)."""
        normal = self.gaussian(features[:, : 2 * self.dim])
        chosen = self.categorical(features[:, 2 * self.dim :])
        z = torch.cat([normal.z, chosen.z], 1)
        posterior = Pair(normal.posterior, chosen.posterior)
        return Latent(z, normal.penalty + chosen.penalty, posterior, statistics=normal.statistics)

    def nearest(self, z: Tensor) -> Tensor:
        """The same Gaussian part beside the strongest category of each variable."""
        return torch.cat([z[:, : self.dim], self.categorical.nearest(z[:, self.dim :])], 1)

    def prior(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """N(0, 1) beside one-hot draws, (n, *shape)."""
        normal = self.gaussian.prior(n, (self.dim, *shape[1:]), generator)
        return torch.cat([normal, self.categorical.prior(n, (shape[0] - self.dim, *shape[1:]), generator)], 1)
