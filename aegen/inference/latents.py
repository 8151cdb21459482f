"""The mathematics of latents: tensors to tensors, with no model and no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Straight from `a` to `b` (*z), at each of `t` (T,): (T, *z)."""
    t = t.view(-1, *[1] * a.ndim)
    return (1 - t) * a + t * b


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the great circle, which keeps the norm typical of a Gaussian (Shoemake, 1985; White, 2016)."""
    cosine = (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12)
    angle = torch.acos(cosine.clamp(-1, 1))
    if angle.sin() < 1e-4:  # parallel or opposite: the circle is not defined
        return lerp(a, b, t)
    t = t.view(-1, *[1] * a.ndim)
    return (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()


METHODS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"lerp": lerp, "slerp": slerp}


def path(
    a: Tensor, b: Tensor, steps: int, method: str = "lerp", nearest: Callable[[Tensor], Tensor] = lambda z: z
) -> Tensor:
    """`steps` latents from `a` to `b` (*z), both ends included, (steps, *z).

    Args:
        method: one of METHODS.
        nearest: brings what lies between to latents that a bottleneck can give, `Bottleneck.nearest`; the ends stay as they are.
    """
    way = METHODS[method](a, b, torch.linspace(0, 1, steps, device=a.device))
    return torch.cat([way[:1], nearest(way[1:-1]), way[-1:]])
