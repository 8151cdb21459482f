"""A von Mises-Fisher posterior on the unit sphere and a uniform prior.

Davidson et al., Hyperspherical Variational Auto-Encoders, 2018, section 3. The concentration is dim ·
softplus(feature), where the paper has 1 + softplus: at the start the cosine between a draw and its mean is about 0.5
in every dimension, and nothing keeps the charge from 0.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from aegen import Bottleneck, Latent, Range
from aegen_builtin.latents.von_mises_fisher import VonMisesFisher, log_area

_HIGHEST = 1e5  # of the concentration: beyond, float32 does not tell a draw from its mean


class Sphere(Bottleneck):
    """The hyperspherical bottleneck; charges KL(q(z|x) ‖ uniform). A feature map has a sphere at every position.

    Options:
        dim: coordinates of the sphere, one more than its dimensions; 2 is a circle.
    """

    offers = frozenset({"prior", "density", "penalty"})

    def __init__(self, *, dim: Annotated[int, Range(2, 65_536)] = 16) -> None:
        super().__init__()
        self.dim = dim
        self.fan_in = dim + 1

    def forward(self, features: Tensor) -> Latent:
        """(B, dim + 1, …), a direction of any length and a concentration → a draw z (B, dim, …) of length 1."""
        kappa = (self.dim * softplus(features[:, self.dim :])).clamp(max=_HIGHEST)
        posterior = VonMisesFisher(normalize(features[:, : self.dim], dim=1), kappa)
        watch = {} if self.training else {"concentration": kappa.flatten(1).mean(1)}
        return Latent(posterior.sample(), posterior.kl().flatten(1).sum(1), posterior, watch=watch)

    def nearest(self, z: Tensor) -> Tensor:
        """In the same direction, of length 1 at every position."""
        return normalize(z, dim=1)

    def prior(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Uniform on the sphere, (n, *shape)."""
        return normalize(torch.randn(n, *shape, generator=generator), dim=1)

    def log_prior(self, z: Tensor) -> Tensor:
        """Minus the log of the area, once a position, (B,) nats."""
        positions = z[0, 0].numel()
        return z.new_full((z.shape[0],), -log_area(self.dim) * positions)
