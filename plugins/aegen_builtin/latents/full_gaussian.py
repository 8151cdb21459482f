"""A Gaussian posterior with a full covariance and a standard normal prior.

Kingma & Welling, An Introduction to Variational Autoencoders, 2019, section 2.5.1, eq. 2.38 to 2.44: z = mean + L noise, where L is
lower triangular with a positive diagonal, here exp(logvar / 2), so that with nothing below the diagonal it is the `gaussian` bottleneck.
A feature map has one covariance over the channels at each of its positions, which are independent of each other.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from aegen import Bottleneck, Latent, Posterior, Range, normal_like
from aegen.nn.densities import bounded, log_standard
from aegen_builtin.latents.gaussian import active_units


class CholeskyGaussian(Posterior):
    """q(z|x) = N(mean, L Lᵀ) at each position; mean (B, D, …), L (B, …, D, D), half = the logarithm of its diagonal (B, …, D)."""

    def __init__(self, mean: Tensor, half: Tensor, factor: Tensor) -> None:
        self.mean, self.half, self.factor = mean, half, factor

    def sample(self) -> Tensor:
        """mean + L noise, (B, D, …); gradients pass to both."""
        return self.draw()[0]

    def draw(self) -> tuple[Tensor, Tensor]:
        """A draw (B, D, …) and its log-density in nats, (B,); the noise is known, so that nothing need be solved."""
        noise = normal_like(self.half)
        # No matrix product: autocast would lower its precision.
        z = self.mean + (self.factor * noise.unsqueeze(-2)).sum(-1).movedim(-1, 1)
        return z, self._log_density(noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) in nats, (B,)."""
        apart = (z - self.mean).movedim(1, -1).unsqueeze(-1)
        return self._log_density(torch.linalg.solve_triangular(self.factor, apart, upper=False).squeeze(-1))

    def kl(self) -> Tensor:
        """KL to the standard normal in nats, (B,): ½ (|mean|² + |L|² - D) - log det L."""
        squares = self.mean.square().flatten(1).sum(1) + self.factor.square().flatten(1).sum(1)
        return 0.5 * (squares - self.half[0].numel()) - self.half.flatten(1).sum(1)

    def _log_density(self, noise: Tensor) -> Tensor:
        return -(0.5 * noise.square() + self.half + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)


class FullGaussian(Bottleneck):
    """A posterior whose latent dimensions may be correlated; charges KL(q(z|x) ‖ N(0, 1)) in closed form.

    Options:
        dim: latent dimensions, or channels of a spatial latent; the encoder emits dim · (dim + 3) / 2 numbers.
    """

    offers = frozenset({"prior", "density", "penalty"})

    def __init__(self, *, dim: Annotated[int, Range(1, 65_536)] = 16) -> None:
        super().__init__()
        self.dim = dim
        self.fan_in = dim + dim * (dim + 1) // 2
        # Where each entry of L stands among (0, its diagonal, what is below it row by row).
        where = torch.zeros(dim, dim, dtype=torch.long)
        where.diagonal().copy_(torch.arange(1, dim + 1))
        where[tuple(torch.tril_indices(dim, dim, -1))] = torch.arange(dim + 1, 1 + dim * (dim + 1) // 2)
        self.register_buffer("where", where.flatten(), persistent=False)

    def forward(self, features: Tensor) -> Latent:
        """(B, fan_in, …), mean, log-variance and what is below the diagonal → a draw z (B, dim, …)."""
        mean, logvar, below = features.tensor_split([self.dim, 2 * self.dim], 1)
        half = 0.5 * bounded(logvar).movedim(1, -1)
        entries = torch.cat([torch.zeros_like(half[..., :1]), half.exp(), below.movedim(1, -1)], -1)
        factor = entries.index_select(-1, self.get_buffer("where")).unflatten(-1, (self.dim, self.dim))
        posterior = CholeskyGaussian(mean, half, factor)
        active = active_units(mean, training=self.training)
        return Latent(posterior.sample(), posterior.kl(), posterior, statistics=active)

    def prior(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """N(0, 1), (n, *shape)."""
        return torch.randn(n, *shape, generator=generator)

    def log_prior(self, z: Tensor) -> Tensor:
        """log N(z; 0, 1) in nats, (B,)."""
        return log_standard(z)
