"""An image and a slightly moved copy of it should have the same posterior.

Sinha & Dieng, Consistency Regularization for Variational Auto-Encoders, 2021: KL(q(z|moved x) ‖ q(z|x)), with gradients to
both. Of the paper's objective only the regulariser is added; its bound of the moved images is augmentation of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from aegen import Autoencoder, Objective, Outcome, Range, Turn, Wrapper, uniform_like
from aegen_builtin.perceptual.refusal import given, require_encoder


class Consistency(Wrapper):
    """What it wraps, plus the divergence between the posteriors of a moved image and of the image itself.

    Options:
        weight: of the divergence in nats.
        shift: largest shift, as a share of the image's side.
        angle: largest rotation, in degrees.
        flip: also mirror half of the images left to right.
    """

    def __init__(
        self,
        inner: Objective,
        *,
        weight: Annotated[float, Range(0)] = 1.0,
        shift: Annotated[float, Range(0, 1)] = 0.05,
        angle: Annotated[float, Range(0, 180)] = 10.0,
        flip: bool = False,
    ) -> None:
        super().__init__(inner)
        require_encoder(inner, "consistency", "compares posteriors")
        self.needs = self.needs | {"diagonal"}
        self.weight, self.shift, self.angle, self.flip = weight, shift, angle, flip

    def turns(self) -> list[Turn]:
        """The inner turns, the first with the term `inconsistency`."""
        first, *others = self.inner.turns()
        return [replace(first, loss=partial(self.compare, first.loss)), *others]

    def compare(self, inner: Callable[[Autoencoder, Tensor], Outcome], model: Autoencoder, x: Tensor) -> Outcome:
        """The inner terms and `inconsistency`, (B,)."""
        outcome = inner(model, x)
        q: Any = model.encode(self.move(x)).posterior
        p: Any = given(outcome.latent, "consistency", "latent").posterior
        ratio, away = q.std / p.std, (q.mean - p.mean) / p.std
        kl = 0.5 * (ratio.square() + away.square() - 1).flatten(1).sum(1) - ratio.log().flatten(1).sum(1)
        return outcome.plus({"inconsistency": self.weight * kl})

    def move(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W), each turned, shifted and mirrored at random; what comes in repeats the border."""
        count, _, height, width = x.shape
        turn, right, down = (uniform_like(x.new_empty(3, count), dim=1) * 2 - 1).unbind()
        turn = turn * self.angle * (math.pi / 180)
        mirror = uniform_like(turn).sub(0.5).sign() if self.flip else torch.ones_like(turn)
        cos, sin = turn.cos(), turn.sin()
        # Where each pixel comes from, in units of half a side, so that a turn of an oblong image must know its form.
        rows = [mirror * cos, -sin * (height / width), 2 * self.shift * right]
        columns = [mirror * sin * (width / height), cos, 2 * self.shift * down]
        theta = torch.stack([torch.stack(rows, 1), torch.stack(columns, 1)], 1)
        grid = affine_grid(theta, list(x.shape), align_corners=False)
        return grid_sample(x, grid, padding_mode="border", align_corners=False)
