"""The wrapped normal distribution on the Poincaré ball.

Mathieu et al., Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders, 2019; Nagano et al.,
A Wrapped Normal Distribution on Hyperbolic Space, 2019. A normal in the tangent space at the origin is laid on the
ball and moved to the mean by a Möbius translation, which is the same as the papers' transport and exponential map.
Spreads and distances are in the ball's own metric, so that a spread means the same everywhere; densities are to its
own volume.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aegen import Posterior, normal_like
from aegen_latents.precision import wide

_RIM = 1e-6  # of the radius: nearer to the rim float32 has no points


def length(v: Tensor) -> Tensor:
    """Euclidean, along dimension 1, (B, 1, …); its gradient at 0 is 0."""
    return v.square().sum(1, keepdim=True).clamp(min=1e-15).sqrt()


def log_sinhc(r: Tensor) -> Tensor:
    """log(sinh(r) / r), for r ≥ 0."""
    small = r < 0.3
    near, far = r.masked_fill(~small, 0).square(), r.masked_fill(small, 1)
    series = near * (1 / 6 - near * (1 / 180 - near * (1 / 2835 - near / 37800)))
    return torch.where(small, series, far + torch.log1p(-torch.exp(-2 * far)) - torch.log(2 * far))


class Ball:
    """The Poincaré ball of radius 1 / sqrt(curvature), where the curvature is given without its minus sign.

    Points are (B, D, …), their coordinates along dimension 1.
    """

    def __init__(self, curvature: float) -> None:
        self.curvature = curvature
        self.root = math.sqrt(curvature)

    def inside(self, x: Tensor) -> Tensor:
        """Points nearer to the rim than float32 can tell are moved inwards."""
        return x * ((1 - _RIM) / (self.root * length(x))).clamp(max=1)

    def out(self, v: Tensor) -> Tensor:
        """Exponential map at the origin: the point in direction v, at the distance |v|."""
        r = self.root * length(v)
        return self.inside(torch.tanh(r / 2) / r * v)

    def back(self, x: Tensor) -> Tensor:
        """Inverse of `out`."""
        r = self.root * length(x)
        return 2 * torch.atanh(r.clamp(max=1 - _RIM / 8)) / r * x

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Möbius addition: y, moved as x is moved from the origin."""
        c, xy = self.curvature, (x * y).sum(1, keepdim=True)
        xx, yy = x.square().sum(1, keepdim=True), y.square().sum(1, keepdim=True)
        share = (1 + 2 * c * xy + c * c * xx * yy).clamp(min=1e-10)  # as small in float64 only between opposite rims
        return self.inside(((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / share)

    def log_normal(self, v: Tensor, std: Tensor) -> Tensor:
        """log density, to the ball's volume, of where the tangent vector v ~ N(0, std²) leads, (B,) nats."""
        flat = (-0.5 * ((v / std).square() + math.log(2 * math.pi)) - std.log()).flatten(1).sum(1)
        return flat - (v.shape[1] - 1) * log_sinhc(self.root * length(v)).flatten(1).sum(1)


class WrappedNormal(Posterior):
    """q(z|x) with mean (B, D, …) in the ball, the centre of its symmetry, and std (B, D, …) in the ball's metric."""

    def __init__(self, ball: Ball, mean: Tensor, std: Tensor) -> None:
        self.ball, self.mean, self.std = ball, mean.to(std.dtype), std
        self._mean = wide(mean)  # near the rim a translation needs more digits

    def sample(self) -> Tensor:
        """(B, D, …) in the ball; gradients pass to mean and std."""
        return self.draw()[0]

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) in nats to the ball's volume, (B,)."""
        v = self.ball.back(self.ball.add(-self._mean, wide(z)))
        return self.ball.log_normal(v, self.std).to(z.dtype)

    def draw(self) -> tuple[Tensor, Tensor]:
        """A draw and its log q(z|x), (B,): exact, since the tangent vector is at hand."""
        v = self.std * normal_like(self.std)
        z = self.ball.add(self._mean, self.ball.out(wide(v)))
        return z.to(v.dtype), self.ball.log_normal(v, self.std)
