"""Finite scalar quantisation: every dimension rounded to a few levels, and no codebook to learn.

Mentzer et al., Finite Scalar Quantization: VQ-VAE Made Simple, 2023, appendix A.1. The paper's sizes: 2^8 [8,6,5], 2^10 [8,5,5,5], 2^12
[7,5,5,5,5], 2^14 [8,8,8,6,5], 2^16 [8,8,8,5,5,5].
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from aegen import Bottleneck, Latent, Range, UsageError
from aegen_builtin.latents.codebook import chosen, straight_through

# By how much the range of the tanh exceeds the outermost levels, as a share of it and in levels at most: they are reached before tanh
# saturates, and half a level beyond is another one.
_MARGIN, _MOST = 1e-3, 0.25


class FSQ(Bottleneck):
    """A code for a vector, or for each position of a feature map: the levels of its dimensions, which are bounded by tanh. No charge.

    Options:
        levels: of each latent dimension, so that their number is that of the dimensions; 5 or more are advised.
    """

    offers = frozenset({"codes"})
    bound: Tensor
    offset: Tensor
    shift: Tensor
    levels: Tensor
    place: Tensor

    def __init__(self, *, levels: Annotated[list[int], Range(2, 1_024)] = [8, 5, 5, 5]) -> None:  # noqa: B006
        super().__init__()
        self.size = math.prod(levels)
        if not levels or self.size > 2**62:
            raise UsageError(f"fsq: levels {levels} make no code of 1 to 62 bits", hint="--bottleneck.levels [8,5,5,5]")
        self.fan_in = len(levels)
        self.codebooks = (self.size,)
        bound = [(n - 1) * (1 + _MARGIN) / 2 if (n - 1) * _MARGIN / 2 < 0.5 else (n - 1) / 2 + _MOST for n in levels]
        offset = [0.0 if n % 2 else 0.5 for n in levels]
        shift = [math.atanh(o / b) for o, b in zip(offset, bound, strict=True)]
        place = [math.prod(levels[:i]) for i in range(len(levels))]
        for name, values in (
            ("bound", bound),
            ("offset", offset),
            ("shift", shift),
            ("levels", levels),
            ("place", place),
        ):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(self, features: Tensor) -> Latent:
        """(B, len(levels), …) → z of the same shape in [-1, 1], codes (B, …)."""
        bound, offset, shift, half, top, place = (
            along(values, features)
            for values in (self.bound, self.offset, self.shift, self.levels // 2, self.levels - 1, self.place)
        )
        inside = torch.tanh(features + shift) * bound - offset
        # Of levels beyond 2^24 float32 has no half, so what is rounded may be one too far.
        digits = (inside.detach().round().long() + half).clamp(min=0).minimum(top)
        codes = (digits * place).sum(1)
        z = straight_through(inside, (digits - half).to(inside.dtype)) / half
        return Latent(z, features.new_zeros(features.shape[0]), codes=codes, **chosen(codes, self.size, self.training))

    def nearest(self, z: Tensor) -> Tensor:
        """Every dimension rounded to the nearest of its levels."""
        levels = along(self.levels, z)
        half = levels // 2
        return (z * half).round().clamp(-half, levels - 1 - half) / half

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, …) → z (B, len(levels), …)."""
        codes = codes.unsqueeze(1)
        levels, place = along(self.levels, codes), along(self.place, codes)
        half = levels // 2
        return (codes // place % levels - half).to(self.bound.dtype) / half


def along(values: Tensor, x: Tensor) -> Tensor:
    """(D,) → (D, 1, …), against x (B, D, …)."""
    return values.view(-1, *[1] * (x.ndim - 2))
