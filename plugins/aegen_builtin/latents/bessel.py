"""Modified Bessel functions of the first kind, as the von Mises-Fisher distribution wants them.

Abramowitz & Stegun, Handbook of Mathematical Functions, 1964: the uniform expansion 9.7.7 with its polynomials
9.3.10, and the recurrence 9.6.26. The expansion is right for every argument once the order is high enough; from there
the ratio of neighbours goes down to the order that is wanted, the direction in which errors shrink. All is written
for what is 1 at the argument 0, log [Γ(v+1) (2/x)^v I_v(x)], so that no large numbers cancel.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ENOUGH = 16  # the order from which on the expansion is used
_TERMS = 6  # its error is then under 1e-8


def _debye() -> list[dict[int, float]]:
    """The polynomials u_k(t), each as power → coefficient."""
    polynomials = [{0: 1.0}]
    for _ in range(_TERMS):
        following: dict[int, float] = {}
        for power, a in polynomials[-1].items():
            for j, factor in ((1, power / 2 + 1 / (8 * (power + 1))), (3, -power / 2 - 5 / (8 * (power + 3)))):
                following[power + j] = following.get(power + j, 0.0) + factor * a
        polynomials.append(following)
    return polynomials


_DEBYE = _debye()


def _expansion(x: Tensor, order: float) -> tuple[Tensor, Tensor]:
    """Of a high order: the logarithm, and 2 (order + 1) / x times its derivative."""
    z = x / order
    root = torch.sqrt(1 + z * z)
    more = z * z / (1 + root)  # root - 1
    coefficients = [0.0] * (3 * _TERMS + 1)  # constant first, of the sum over k of u_k(t) / order^k
    for k, polynomial in enumerate(_DEBYE):
        for power, a in polynomial.items():
            coefficients[power] += a / order**k
    t, u, slope = 1 / root, torch.zeros_like(x), torch.zeros_like(x)
    for coefficient in reversed(coefficients):
        slope = slope * t + u
        u = u * t + coefficient
    log = order * (more - torch.log1p(more / 2)) - torch.log1p(more) / 2 + torch.log(u / sum(coefficients))
    share = 1 / (1 + root) - t * t / (2 * order) - slope * t**3 / (u * order)
    return log, 2 * (order + 1) / order * share


class _Partition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        order = dim / 2 - 1
        steps = max(0, math.ceil(_ENOUGH - order))
        log, share = _expansion(x, order + steps)  # share: the ratio of neighbours, divided by its limit for small x
        quarter = x * x / 4
        for v in (order + j for j in reversed(range(steps))):
            part = quarter * share / ((v + 1) * (v + 2))
            log = log + torch.log1p(part)
            share = 1 / (1 + part)
        ratio = x * share / dim
        ctx.save_for_backward(ratio, 1 - ratio * ratio - (dim - 1) / dim * share)
        return log, ratio

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, log: Tensor, ratio: Tensor) -> tuple[Tensor, None]:
        first, second = ctx.saved_tensors
        return log * first + ratio * second, None


def log_partition(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """log of the mean of exp(x · cosine) over the unit sphere in `dim` dimensions; its derivative I_dim/2 / I_dim/2-1.

    Both of the shape of x ≥ 0, with gradients. Above 1,000 float32 begins to lose the second derivative; pass float64.
    """
    log, ratio = _Partition.apply(x, dim)
    return log, ratio
