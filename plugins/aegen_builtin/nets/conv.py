"""Strided convolutions down, transposed convolutions up, for images of any height and width from 8.

Each level halves the sides, rounding up, and doubles the channels. The decoder walks the encoder's own sizes backwards,
so that nothing needs to be a power of two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from aegen import Architecture, ImageShape, Range, UsageError
from aegen.nn.spectral import spectrally_normed


class Conv(Architecture):
    """Convolutional encoder and decoder.

    Options:
        width: channels of the first level; each next level has twice as many.
        depth: number of levels, each halving height and width.
        blocks: residual blocks at each level.
        hidden: width of the linear layer before a vector latent; 0 has none.
        spatial: keep a feature map as latent, of shape dim×h×w, instead of a vector.
        spectral_norm: divide each weight of the decoder by its largest singular value.
    """

    # A quarter of the side, as van den Oord et al., 2017, section 4: of the smallest images, of 8 pixels, a deeper net leaves one position.
    map_options: ClassVar[Mapping[str, Any]] = {"spatial": True, "depth": 2}

    def __init__(
        self,
        image: ImageShape,
        fan_in: int,
        *,
        width: Annotated[int, Range(1, 16_384)] = 32,
        depth: Annotated[int, Range(1, 10)] = 3,
        blocks: Annotated[int, Range(0, 256)] = 0,
        hidden: Annotated[int, Range(0, 65_536)] = 256,
        spatial: bool = False,
        spectral_norm: bool = False,
    ) -> None:
        self.image, self.fan_in, self.spectral_norm = image, fan_in, spectral_norm
        self.blocks, self.hidden, self.spatial = blocks, hidden, spatial
        self.widths = [width * 2**level for level in range(depth)]
        self.sizes = [(image.height, image.width)]
        for _ in range(depth):
            height, breadth = self.sizes[-1]
            if max(height, breadth) == 1:
                deepest = math.ceil(math.log2(max(image.height, image.width)))
                raise UsageError(f"--arch.depth {depth} is too deep for {image} images", hint=f"use at most {deepest}")
            self.sizes.append((-(-height // 2), -(-breadth // 2)))
        # The way up doubles each side only if nothing was rounded on the way down.
        self.factor = 2**depth
        self.any_size = spatial and image.height % self.factor == 0 and image.width % self.factor == 0

    def encoder(self) -> nn.Module:
        """(B, C, H, W) → (B, fan_in), or (B, fan_in, h, w) if spatial."""
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise([self.image.channels, *self.widths]):
            layers += [nn.Conv2d(fan_in, fan_out, 3, 2, 1), nn.ReLU(inplace=True), *self._residual(fan_out)]
        last, flat = self.widths[-1], self.widths[-1] * math.prod(self.sizes[-1])
        if self.spatial:
            layers.append(nn.Conv2d(last, self.fan_in, 3, 1, 1))
        elif self.hidden:
            layers += [
                nn.Flatten(),
                nn.Linear(flat, self.hidden),
                nn.ReLU(inplace=True),
                nn.Linear(self.hidden, self.fan_in),
            ]
        else:
            layers += [nn.Flatten(), nn.Linear(flat, self.fan_in)]
        return nn.Sequential(*layers)

    def decoder(self, latent: tuple[int, ...], fan_out: int) -> nn.Module:
        """(B, *latent) → (B, fan_out, H, W)."""
        last, small = self.widths[-1], self.sizes[-1]
        layers: list[nn.Module] = []
        if self.spatial:
            layers += [nn.Conv2d(latent[0], last, 3, 1, 1), nn.ReLU(inplace=True)]
        else:
            layers += [
                nn.Linear(math.prod(latent), last * math.prod(small)),
                nn.ReLU(inplace=True),
                nn.Unflatten(1, (last, *small)),
            ]
        # The width stays on the way up until the level below has given its detail.
        up = [last, *reversed(self.widths)]
        for (wide, narrow), (before, after) in zip(pairwise(up), pairwise(reversed(self.sizes)), strict=True):
            odd = (after[0] - 2 * before[0] + 1, after[1] - 2 * before[1] + 1)
            layers += [
                *self._residual(wide),
                nn.ConvTranspose2d(wide, narrow, 3, 2, 1, output_padding=odd),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.Conv2d(self.widths[0], fan_out, 3, 1, 1))
        net = nn.Sequential(*layers)
        return spectrally_normed(net) if self.spectral_norm else net

    def _residual(self, width: int) -> list[nn.Module]:
        return [Residual(width) for _ in range(self.blocks)]


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), (B, width, h, w) → the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) → (B, width, h, w)."""
        out: Tensor = x + self.net(x)
        return out
