"""A wrapped normal posterior and prior on the Poincaré ball, for data with a hierarchy.

Mathieu et al., Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders, 2019; the KL, which
has no closed form, is charged by the one draw. The decoder is any: the paper's layer of gyroplanes is not needed to
train.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import hardtanh

from aegen import Bottleneck, Latent, Range, UsageError
from aegen.nn.precision import float64_where_possible
from aegen_builtin.latents.wrapped_normal import Ball, WrappedNormal, length

_LOWEST, _HIGHEST = -30.0, 5.0  # of the log-variance: a spread of 12 is all of the ball that float32 can hold
_FARTHEST = 10.0  # of a mean from the origin, times the root of the curvature: draws go farther, and the rim is at 14


class Poincare(Bottleneck):
    """The hyperbolic bottleneck; charges log q(z|x) - log p(z) of its one draw, which is the KL on average.

    Options:
        dim: latent dimensions, or channels of a spatial latent, which has a ball at every position.
        curvature: how strongly the ball is curved; its radius is one over the square root.
    """

    offers = frozenset({"prior", "density", "penalty"})

    def __init__(
        self, *, dim: Annotated[int, Range(1, 65_536)] = 16, curvature: Annotated[float, Range(above=0)] = 1.0
    ) -> None:
        super().__init__()
        if curvature * dim > _FARTHEST**2:
            raise UsageError(
                f"with {dim} dimensions and a curvature of {curvature:g} the prior lies at the rim of the ball, "
                "where there are no numbers",
                hint=f"choose a curvature of at most {_FARTHEST**2 / dim:.2g}",
            )
        self.fan_in = 2 * dim
        self.ball = Ball(curvature)

    def forward(self, features: Tensor) -> Latent:
        """(B, 2·dim, …), a tangent vector at the origin and a log-variance → a draw z (B, dim, …) in the ball."""
        v, logvar = features.chunk(2, 1)
        v = float64_where_possible(v)
        r = self.ball.root * length(v)
        mean = self.ball.out(v * (_FARTHEST * torch.tanh(r / _FARTHEST) / r))
        posterior = WrappedNormal(self.ball, mean, torch.exp(0.5 * hardtanh(logvar, _LOWEST, _HIGHEST)))
        z, charge = posterior.charged()
        return Latent(self.ball.narrow(z, features.dtype), charge, posterior)

    def nearest(self, z: Tensor) -> Tensor:
        """What lies outside the ball is drawn to its rim."""
        return self.ball.narrow(z, z.dtype)

    def prior(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """The wrapped normal at the origin with a spread of 1, (n, *shape)."""
        return self.ball.out(torch.randn(n, *shape, generator=generator))

    def log_prior(self, z: Tensor) -> Tensor:
        """log p(z) in nats to the ball's volume, (B,); of float32, points farther than 14 from the origin are taken to be there."""
        return self.ball.log_standard(length(self.ball.back(float64_where_possible(z))), z.shape[1]).to(z.dtype)
