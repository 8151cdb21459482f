"""Flips and shifts of whole batches, on the device, a function of (seed, step, position in the step's global batch)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aegen.errors import UsageError


@dataclass(frozen=True)
class Augment:
    """Random changes of training images.

    Attributes:
        flip: turn each image left to right, or not, with equal probability.
        crop: move each image by as many pixels as are drawn from -crop…crop, along each side; what comes in is mirrored, since a model
            of images would learn to draw a black edge.
        seed: of the run.
    """

    flip: bool = False
    crop: int = 0
    seed: int = 0

    def __bool__(self) -> bool:
        return self.flip or self.crop > 0

    def check(self, height: int, width: int) -> None:
        """Raise UsageError for images that cannot be moved as far as `crop`."""
        if self.crop >= min(height, width):
            raise UsageError(
                f"data.crop is {self.crop}, but must be less than a side of the images, which are {height}×{width} (height×width)"
            )

    def draw(self, step: int, count: int, start: int, stop: int) -> Tensor:
        """For images `start` to `stop` of the `count` of a step, all processes and micro-batches together: int64 (stop - start, 3).

        Columns: whether it is flipped, and how many pixels it moves down and to the right.
        """
        generator = torch.Generator().manual_seed((self.seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03) % 2**63)
        drawn = torch.rand(count, 3, generator=generator)[start:stop]
        moves = (drawn[:, 1:] * (2 * self.crop + 1)).long() - self.crop
        flips = (drawn[:, :1] < 0.5).long() * self.flip
        return torch.cat([flips, moves], 1)


def changed(images: Tensor, draws: Tensor) -> Tensor:
    """Images (B, C, H, W) flipped and moved as `draws` (B, 3) on the same device says."""
    count, channels, height, width = images.shape
    rows = _mirrored(torch.arange(height, device=images.device) - draws[:, 1:2], height)
    columns = _mirrored(torch.arange(width, device=images.device) - draws[:, 2:], width)
    columns = torch.where(draws[:, :1] == 1, columns.flip(1), columns)
    places = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, height * width)
    return images.view(count, channels, -1).gather(2, places.expand(-1, channels, -1)).view_as(images)


def _mirrored(index: Tensor, size: int) -> Tensor:
    """Indices up to a side beyond either end, brought back without repeating the edge."""
    index = index.abs()
    return torch.where(index < size, index, 2 * (size - 1) - index)
