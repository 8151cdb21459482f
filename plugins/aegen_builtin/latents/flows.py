"""Invertible maps of the last dimension, the steps of normalizing flows, with their log-determinants.

Rezende & Mohamed, Variational Inference with Normalizing Flows, 2015, eq. 10 to 14 and appendix A; Kingma et al., Improved Variational
Inference with Inverse Autoregressive Flow, 2016, algorithm 1; Germain et al., MADE, 2015, for the masks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

_ONE = math.log(math.e - 1)  # where softplus is 1
_TINY = 1e-12
_HALVINGS = 60
_INSIDE = 0.999  # of what a constraint allows: on its edge a log-determinant is infinite


class Flow(nn.Module, ABC):
    """`depth` steps over D dimensions, each told the image's own parameters.

    Attributes:
        fan_in: numbers that the encoder emits for all steps.
    """

    fan_in: int
    depth: int

    def forward(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """z (…, D), parameters (…, fan_in) → the image of z (…, D), and log |det| of the map there (…)."""
        total = torch.zeros_like(z[..., 0])
        for index, own in enumerate(self.shares(parameters)):
            z, logdet = self.step(index, z, own)
            total = total + logdet
        return z, total

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """The z whose image is y, (…, D)."""
        for index, own in reversed(list(enumerate(self.shares(parameters)))):
            y = self.back(index, y, own)
        return y

    def shares(self, parameters: Tensor) -> Sequence[Tensor]:
        """The parameters of each step."""
        return parameters.chunk(self.depth, -1)

    @abstractmethod
    def step(self, index: int, z: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """z (…, D) → its image (…, D) and log |det| (…)."""

    @abstractmethod
    def back(self, index: int, y: Tensor, own: Tensor) -> Tensor:
        """The inverse of a step."""


class Planar(Flow):
    """f(z) = z + u tanh(w·z + b), u and w (D,) and b from the encoder.

    The constraint of appendix A.1, w·u > -1, by u + (m(w·u) - w·u) w / |w|². There m(x) = softplus(x) - 1, which sends u to infinity as
    w goes to 0; here softplus is shifted so that m(0) = 0, and small parameters are a small step.
    """

    def __init__(self, dim: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.dim, self.depth, self.fan_in = dim, depth, depth * (2 * dim + 1)

    def step(self, index: int, z: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        u, w, b, product = self._constrained(own)
        bend = torch.tanh((w * z).sum(-1, keepdim=True) + b)
        return z + u * bend, torch.log1p((1 - bend.square()) * product).squeeze(-1)

    def back(self, index: int, y: Tensor, own: Tensor) -> Tensor:
        u, w, b, product = self._constrained(own)
        goal = (w * y).sum(-1, keepdim=True)
        with torch.no_grad():  # a = w·z solves a + (w·u) tanh(a + b) = w·y, whose left side rises with a
            low, high = goal - product.abs(), goal + product.abs()
            for _ in range(_HALVINGS):
                a = (low + high) / 2
                above = a + product * torch.tanh(a + b) > goal
                low, high = torch.where(above, low, a), torch.where(above, a, high)
            slope = 1 + product * (1 - torch.tanh(a + b).square())
        a = a - (a + product * torch.tanh(a + b) - goal) / slope  # Newton: the last digits, and the gradient
        return y - u * torch.tanh(a + b)

    def _constrained(self, own: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u, w (…, D), b and w·u (…, 1)."""
        u, w, b = own.tensor_split([self.dim, 2 * self.dim], -1)
        raw = (w * u).sum(-1, keepdim=True)
        product = _INSIDE * (softplus(raw + _ONE) - 1)
        return u + (product - raw) * w / (w.square().sum(-1, keepdim=True) + _TINY), w, b, product


class Radial(Flow):
    """f(z) = z + beta (z - centre) / (alpha + |z - centre|), all three from the encoder; alpha > 0 and beta > -alpha, appendix A.2."""

    def __init__(self, dim: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.dim, self.depth, self.fan_in = dim, depth, depth * (dim + 2)

    def step(self, index: int, z: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        centre, alpha, beta = self._constrained(own)
        away = z - centre
        # The root of 0 has no slope; at the centre the gradient is that of somewhere near.
        reach = alpha + (away.square().sum(-1, keepdim=True) + _TINY).sqrt()
        across = torch.log1p(beta / reach)
        along = torch.log1p(beta * alpha / reach.square())
        return z + beta * away / reach, ((self.dim - 1) * across + along).squeeze(-1)

    def back(self, index: int, y: Tensor, own: Tensor) -> Tensor:
        centre, alpha, beta = self._constrained(own)
        away = y - centre
        far = (away.square().sum(-1, keepdim=True) + _TINY).sqrt()
        half = (alpha + beta - far) / 2  # r² + 2 half r - alpha far = 0
        larger = (half.square() + alpha * far).sqrt() + half.abs()  # the root of no cancellation, and from it the other
        radius = torch.where(half > 0, alpha * far / larger, larger)
        return centre + away / (1 + beta / (alpha + radius))

    def _constrained(self, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centre, alpha, beta = own.tensor_split([self.dim, self.dim + 1], -1)
        alpha = softplus(alpha)
        return centre, alpha, softplus(beta) - _INSIDE * alpha


class IAF(Flow):
    """f(z) = s z + (1 - s) m, where m and s in (0, 1) of a dimension depend on those before it and on a context from the encoder.

    Each step has a masked net of one hidden layer, and reverses the order of the dimensions.
    """

    def __init__(self, dim: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.dim, self.depth, self.fan_in = dim, depth, dim
        degrees = torch.arange(hidden) * dim // hidden  # a unit of degree d sees the first d dimensions
        order = torch.arange(dim)
        self.register_buffer("sees", degrees[:, None] > order, persistent=False)
        told = order[:, None] >= degrees
        self.register_buffer("told", torch.cat([told, told]), persistent=False)
        self.inputs = nn.ModuleList(nn.Linear(dim, hidden) for _ in range(depth))
        self.contexts = nn.ModuleList(nn.Linear(dim, hidden, bias=False) for _ in range(depth))
        self.outputs = nn.ModuleList(nn.Linear(hidden, 2 * dim) for _ in range(depth))

    def shares(self, parameters: Tensor) -> Sequence[Tensor]:
        return [parameters] * self.depth

    def step(self, index: int, z: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        m, s = self._net(index, z, self.contexts[index](own))
        return (s.sigmoid() * z + (-s).sigmoid() * m).flip(-1), -softplus(-s).sum(-1)

    def back(self, index: int, y: Tensor, own: Tensor) -> Tensor:
        y, context = y.flip(-1), self.contexts[index](own)
        z = torch.zeros_like(y)
        for _ in range(self.dim):  # each round makes one more dimension right
            m, s = self._net(index, z, context)
            z = (y - (-s).sigmoid() * m) * (1 + (-s).exp())
        return z

    def _net(self, index: int, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        first, last = self.inputs[index], self.outputs[index]
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        hidden = torch.tanh(linear(z, first.weight * self.get_buffer("sees"), first.bias) + context)
        m, s = linear(hidden, last.weight * self.get_buffer("told"), last.bias).chunk(2, -1)
        return m, s + 2  # section 4: a step starts near the identity
