"""The von Mises-Fisher distribution on the unit sphere, reparameterised.

Ulrich, Computer Generation of Distributions on the m-Sphere, 1984; Wood, Simulation of the von Mises Fisher
Distribution, 1994. Their rejection accepts 0.65 of its proposals at the least, so that of 16 none is accepted with a
probability under 5e-8; then the first one stands, a draw from a slightly wider law. Gradients do not go through the
accepted proposal, which alone is biased (by 44 % on the circle at a concentration of 1): they are those of the
distribution function itself (Figurnov et al., Implicit Reparameterization Gradients, 2018, section 3), an integral
done by Gauss and Legendre's rule.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from aegen import Posterior, normal_like, uniform_like
from aegen.nn.precision import float64_where_possible
from aegen_builtin.latents.bessel import log_partition

_PROPOSALS = 16
_RULE = [side.tolist() for side in np.polynomial.legendre.leggauss(48)]  # nodes and weights on [-1, 1]
_REACH = 12.0  # standard deviations: what lies beyond weighs nothing


def log_area(dim: int) -> float:
    """log of the area of the unit sphere in `dim` dimensions."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def depths(kappa: Tensor, dim: int) -> Tensor:
    """A draw of 1 - cosine to the mean direction, of the shape of kappa; no gradient."""
    angle, radius, coin = uniform_like(kappa.new_empty(3, _PROPOSALS, *kappa.shape), dim=2)
    # The first coordinate of a uniform direction: two coordinates are a point of the disc with this radius.
    first = torch.cos(2 * math.pi * angle) * (torch.sqrt(1 - radius ** (2 / (dim - 2))) if dim > 2 else 1)
    b = (dim - 1) / (2 * kappa + torch.sqrt(4 * kappa * kappa + (dim - 1) ** 2))
    start, gap = (1 - b) / (1 + b), 2 * b / (1 + b)  # gap is 1 - start
    depth = gap * (1 - first) / (gap + start * (1 + first))
    log_share = kappa * (gap - depth) + (dim - 1) * torch.log((gap + start * depth) / (gap * (2 - gap)))
    chosen = (coin.log() < log_share).to(kappa.dtype).argmax(0, keepdim=True)
    tiny = torch.finfo(kappa.dtype).eps
    drawn: Tensor = depth.gather(0, chosen)[0]
    return drawn.clamp(tiny * tiny, 2 - 4 * tiny)


def slope(kappa: Tensor, depth: Tensor, ratio: Tensor, dim: int) -> Tensor:
    """The derivative of a draw `depth` to kappa: minus that of the distribution function, divided by the density.

    The former is an integral of (cosine - its mean) · density over the angle, to the end that lies away from the mean.
    """
    nodes, weights = (torch.tensor(r, dtype=depth.dtype, device=depth.device) for r in _RULE)
    nodes = (nodes.view(-1, *[1] * depth.ndim) + 1) / 2
    angle = 2 * torch.asin(torch.sqrt(depth / 2))
    inward = 1 - depth > ratio
    room = torch.where(inward, angle, math.pi - angle)
    length = torch.minimum(room, _REACH * torch.rsqrt(kappa + (dim - 2)))
    sign = torch.where(inward, -1.0, 1.0).to(depth.dtype)
    there = angle + sign * length * nodes
    deep = 2 * torch.sin(there / 2).square()
    tiny = torch.finfo(depth.dtype).tiny
    sines = torch.sin(there).clamp(min=tiny).log() - torch.sin(angle).clamp(min=tiny).log()
    density = torch.exp(kappa * (depth - deep) + (dim - 2) * sines)
    integral: Tensor = sign * length * torch.sin(angle) * torch.tensordot(weights / 2, (1 - deep - ratio) * density, 1)
    return integral


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kappa: Tensor, depth: Tensor, ratio: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(kappa, depth, ratio)
        ctx.dim = dim
        return depth.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        kappa, depth, ratio = ctx.saved_tensors
        return (
            grad * slope(float64_where_possible(kappa), float64_where_possible(depth), ratio, ctx.dim).to(grad.dtype),
            None,
            None,
            None,
        )


class VonMisesFisher(Posterior):
    """q(z|x) on a unit sphere at every position: unit vectors mean (B, dim, …) and kappa (B, 1, …) ≥ 0."""

    def __init__(self, mean: Tensor, kappa: Tensor) -> None:
        self.mean = mean  # the mean direction; the mean itself lies inside
        self.kappa = kappa
        self.dim = mean.shape[1]
        self._kappa = float64_where_possible(
            kappa
        )  # once: its gradients cancel, and must be added before they are rounded
        self._log, self._ratio = log_partition(self._kappa, self.dim)

    def sample(self) -> Tensor:
        """(B, dim, …) on the sphere; gradients pass to mean and kappa."""
        with torch.no_grad():
            depth = depths(self.kappa, self.dim)
        depth = _Implicit.apply(self.kappa, depth, self._ratio.detach(), self.dim)
        around = normalize(normal_like(self.mean[:, 1:]), dim=1)
        # Householder: the mirror that takes ±e1, whichever is farther, to the mean, so that its normal is never short.
        side = torch.where(self.mean[:, :1] > 0, -1.0, 1.0).to(depth.dtype)
        x = torch.cat([side * (1 - depth), torch.sqrt(depth * (2 - depth)) * around], 1)
        normal = torch.cat([side - self.mean[:, :1], -self.mean[:, 1:]], 1)
        share = (normal * x).sum(1, keepdim=True) / normal.square().sum(1, keepdim=True)
        return x - 2 * share * normal

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) in nats to the area of the sphere, (B,)."""
        cosine = (self.mean * z).sum(1, keepdim=True)
        return (self._kappa * cosine - self._log - log_area(self.dim)).flatten(1).sum(1).to(z.dtype)

    def kl(self) -> Tensor:
        """KL to the uniform distribution at each position, (B, 1, …) nats: Davidson et al., 2018, section 3."""
        return (self._kappa * self._ratio - self._log).to(self.kappa.dtype)
