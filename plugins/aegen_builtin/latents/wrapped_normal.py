"""The wrapped normal distribution on the Poincaré ball.

Mathieu et al., Continuous Hierarchical Representations with Poincaré Variational Auto-Encoders, 2019; Nagano et al.,
A Wrapped Normal Distribution on Hyperbolic Space, 2019. A normal in the tangent space at the origin is laid on the
ball and moved to the mean by a Möbius translation, which is the same as the papers' transport and exponential map.
Spreads and distances are in the ball's own metric, so that a spread means the same everywhere; densities are to its
own volume.

Coordinates lie: at a distance d from the origin, times the root of the curvature, a point is 2 exp(-d) of the radius from the rim, which
float32 cannot tell from the rim beyond 16, and float64 beyond 36. So a draw is made in float64, and how far it lies from the origin
is had from its mean's distance, its own from the mean and the angle between them, by the hyperbolic law of cosines.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aegen import Posterior, normal_like
from aegen.nn.precision import float64_where_possible

_RIM = {torch.float64: 1e-15}  # of the radius: nearer to the rim there are no points
_RIM32 = 1e-6
_LEAST = 1e-300  # of what a logarithm is taken


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

    def inside(self, x: Tensor, rim: float | None = None) -> Tensor:
        """Points nearer to the rim than `rim`, a share of the radius, are moved inwards; by default what x can just tell from it."""
        rim = _RIM.get(x.dtype, _RIM32) if rim is None else rim
        return x * ((1 - rim) / (self.root * length(x))).clamp(max=1)

    def narrow(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Points in the dtype that nets take, inside the ball there too."""
        return self.inside(x, _RIM32).to(dtype)

    def out(self, v: Tensor) -> Tensor:
        """Exponential map at the origin: the point in direction v, at the distance |v|."""
        r = self.root * length(v)
        return self.inside(torch.tanh(r / 2) / r * v)

    def back(self, x: Tensor) -> Tensor:
        """Inverse of `out`."""
        r = self.root * length(x)
        return 2 * torch.atanh(r.clamp(max=1 - _RIM.get(x.dtype, _RIM32) / 8)) / r * x

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Möbius addition: y, moved as x is moved from the origin."""
        c, xy = self.curvature, (x * y).sum(1, keepdim=True)
        xx, yy = x.square().sum(1, keepdim=True), y.square().sum(1, keepdim=True)
        # (1 - |x||y|)² + 2 |x||y| (1 + cosine): the usual form loses all digits between opposite rims.
        share = (1 + 2 * c * xy + c * c * xx * yy).clamp(min=_LEAST)
        return self.inside(((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / share)

    def reach(self, a: Tensor, b: Tensor) -> Tensor:
        """How far from the origin one comes by the tangent vector a, and from there by b as it would lead from the origin, (B, 1, …).

        The law of cosines for the halves of sides, so that nothing cancels: with f = 1 - exp(-side) and S = sinh²(d/2),
        4 S = exp(a + b) · [exp(-2 min) f(|a - b|)² + f(2a) f(2b) (1 + cosine) / 2].
        """
        first, second = length(a), length(b)
        half = (a / first + b / second).square().sum(1, keepdim=True) / 4  # (1 + cosine) / 2
        first, second = self.root * first, self.root * second
        apart, near = (first - second).abs(), torch.minimum(first, second)
        part = torch.exp(-2 * near) * torch.expm1(-apart).square()
        part = part + torch.expm1(-2 * first) * torch.expm1(-2 * second) * half
        log = (first + second) / 2 - math.log(2) + 0.5 * part.clamp(min=1e-30).log()  # of sinh(d / 2)
        large = log > 0
        far = log.masked_fill(~large, 0)
        far = far + torch.log1p(torch.sqrt(1 + torch.exp(-2 * far)))
        return 2 * torch.where(large, far, torch.asinh(log.masked_fill(large, 0).exp())) / self.root

    def log_standard(self, distance: Tensor, dim: int) -> Tensor:
        """log density, to the ball's volume, of the wrapped normal at the origin of spread 1, at a distance (B, 1, …): (B,) nats."""
        flat = -0.5 * (distance.square() + dim * math.log(2 * math.pi))
        return (flat - (dim - 1) * log_sinhc(self.root * distance)).flatten(1).sum(1)

    def log_normal(self, v: Tensor, std: Tensor) -> Tensor:
        """log density, to the ball's volume, of where the tangent vector v ~ N(0, std²) leads, (B,) nats."""
        flat = (-0.5 * ((v / std).square() + math.log(2 * math.pi)) - std.log()).flatten(1).sum(1)
        return flat - (v.shape[1] - 1) * log_sinhc(self.root * length(v)).flatten(1).sum(1)


class WrappedNormal(Posterior):
    """q(z|x) with mean (B, D, …) in the ball, the centre of its symmetry, and std (B, D, …) in the ball's metric.

    Draws are float64, where the device has that: what a net is given of them is `Ball.narrow`.
    """

    def __init__(self, ball: Ball, mean: Tensor, std: Tensor) -> None:
        self.ball, self.mean, self.std = ball, mean.to(std.dtype), std
        self._mean, self._std = float64_where_possible(mean), float64_where_possible(std)

    def sample(self) -> Tensor:
        """(B, D, …) in the ball; gradients pass to mean and std."""
        return self.draw()[0]

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) in nats to the ball's volume, (B,)."""
        v = self.ball.back(self.ball.add(-self._mean, float64_where_possible(z)))
        return self.ball.log_normal(v, self._std).to(z.dtype)

    def draw(self) -> tuple[Tensor, Tensor]:
        """A draw and its log q(z|x), (B,): exact, since the tangent vector is at hand."""
        v = self._tangent()
        return self.ball.add(self._mean, self.ball.out(v)), self.ball.log_normal(v, self._std).to(self.std.dtype)

    def charged(self) -> tuple[Tensor, Tensor]:
        """A draw and its log q(z|x) - log p(z), (B,) nats, p being the wrapped normal at the origin of spread 1."""
        v = self._tangent()
        away = self.ball.reach(self.ball.back(self._mean), v)
        charge = self.ball.log_normal(v, self._std) - self.ball.log_standard(away, v.shape[1])
        return self.ball.add(self._mean, self.ball.out(v)), charge.to(self.std.dtype)

    def _tangent(self) -> Tensor:
        return float64_where_possible(self.std * normal_like(self.std))
