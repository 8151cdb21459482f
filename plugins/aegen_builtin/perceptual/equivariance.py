"""Turning or shrinking the latent should turn or shrink the image: feature maps become smooth, and easier to generate.

Kouzelis et al., EQ-VAE: Equivariance Regularized Latent Space for Improved Generative Image Modeling, 2025: in half of
the steps the latent is brought to 8/32 … 31/32 of its size and turned by one to three quarters, and what is decoded is
compared with the image treated alike. The paper then leaves out the usual reconstruction; here the term is added to it. A latent
has few sizes, so the target takes the size that was decoded. The draw is the batch's own, and it is made on the host, since it
decides about shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from aegen import Autoencoder, Objective, Outcome, Range, Turn, UsageError, Wrapper, common_generator
from aegen_builtin.perceptual.refusal import given, require_encoder

_SHARE = 0.5  # of the steps
_SCALES, _PARTS = (8, 32), 32  # from 8/32 to 31/32


class Equivariance(Wrapper):
    """What it wraps, plus the error of images decoded from turned and shrunken feature maps.

    Options:
        weight: of their negative log-likelihood, in nats per (smaller) image.
    """

    def __init__(self, inner: Objective, latent: tuple[int, ...], *, weight: Annotated[float, Range(0)] = 1.0) -> None:
        super().__init__(inner)
        require_encoder(inner, "equivariance", "turns what is encoded")
        if len(latent) != 3:
            raise UsageError(
                f"objective 'equivariance' turns feature maps, but the latent is a vector of {latent[0]} dimensions",
                hint="choose an architecture that keeps a map, as --arch conv --arch.spatial does",
            )
        self.weight = weight

    def turns(self) -> list[Turn]:
        """The inner turns, the first with the term `equivariance`."""
        first, *others = self.inner.turns()
        return [replace(first, loss=partial(self.turned, first.loss)), *others]

    def turned(self, inner: Callable[[Autoencoder, Tensor], Outcome], model: Autoencoder, x: Tensor) -> Outcome:
        """The inner terms and `equivariance`, (B,), which is 0 in the steps that turn nothing."""
        outcome = inner(model, x)
        z = given(outcome.latent, "equivariance", "latent").z
        if torch.rand((), device="cpu", generator=common_generator()) >= _SHARE:
            return outcome.plus({"equivariance": z.new_zeros(len(z))})
        part = int(torch.randint(*_SCALES, (), device="cpu", generator=common_generator())) / _PARTS
        quarters = int(torch.randint(1, 4, (), device="cpu", generator=common_generator()))
        small = [max(1, round(part * side)) for side in z.shape[2:]]
        pixels = model.decode(torch.rot90(_resize(z, small), quarters, (2, 3)))
        height, width = pixels.mean.shape[2:]
        target = _resize(x, [width, height] if quarters % 2 else [height, width])
        return outcome.plus({"equivariance": self.weight * pixels.nll(torch.rot90(target, quarters, (2, 3)))})


def _resize(x: Tensor, size: list[int]) -> Tensor:
    """(B, C, H, W) → (B, C, *size), without aliasing."""
    return interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
