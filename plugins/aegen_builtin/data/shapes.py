"""Pictures of one shape on a plain ground, drawn when they are loaded, of which it is known what each was made from.

After dSprites (Matthey et al., 2017) and 3D Shapes (Burgess & Kim, 2018), but drawn here. Factors are independent and uniform, a function of
the seed and of the number of the image alone, whatever the size. All shapes have the same area at the same scale. Edges are smooth: a
pixel is covered as far as its middle lies within the outline. Rotations are spread over a quarter turn, since a square that is turned
further looks like one that is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from aegen import Dataset, DataSettings, Images, Range, Target, image_side, reshape_images

_SMALLEST, _LARGEST = 0.35, 0.65  # root of the area, where half the shorter side of the image is 1
_FURTHEST = 0.42  # of the middle from that of the image, along each side, so that every shape is wholly seen
_BLOCK = 256  # images drawn at a time
_FACTORS = ("shape", "scale", "rotation", "x", "y", "colour", "background")
_ROOT3 = math.sqrt(3)


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - 0.5


def _ellipse(u: Tensor, v: Tensor) -> Tensor:
    wide, high = math.sqrt(2 / math.pi), math.sqrt(0.5 / math.pi)
    level = torch.hypot(u / wide, v / high).clamp(min=1e-6)
    # To first order: the level's excess over its slope.
    return (level - 1) * level / torch.hypot(u / wide**2, v / high**2).clamp(min=1e-6)


def _heart(u: Tensor, v: Tensor) -> Tensor:
    half = 1 / math.sqrt(4 + math.pi)  # a square on its corner and half a disc on each upper side
    v = v - 0.443 * half  # its centre of mass is that of the others
    p, q = (u + v) * math.sqrt(0.5), (u - v) * math.sqrt(0.5)
    discs = torch.minimum(torch.hypot(p, q - half), torch.hypot(p + half, q)) - half
    return torch.minimum(torch.maximum(p.abs(), q.abs()) - half, discs)


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    inner = 1 / math.sqrt(3 * _ROOT3)  # radius of the largest disc in it
    return torch.maximum(v, 0.5 * (_ROOT3 * u.abs() - v)) - inner


_OUTLINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "square": _square,
    "ellipse": _ellipse,
    "heart": _heart,
    "triangle": _triangle,
}
"""Distance from an outline of area 1, negative inside; u points right, v down."""


class Shapes(Dataset):
    """One shape an image, 64×64 RGB unless asked otherwise: a data set whose factors are known, for measures of disentanglement.

    Options:
        count: how many images.
        seed: another one gives other images.
        shapes: how many of square, ellipse, heart and triangle, in this order; they are the classes.
        scales: number of sizes.
        rotations: number of angles in a quarter turn.
        positions: number of places along each side.
        colours: number of hues; of grey levels, where there is no colour.
        backgrounds: number of hues of the ground, or of grey levels; one is black.
    """

    def __init__(
        self,
        *,
        count: Annotated[int, Range(2, 100_000_000)] = 10_000,
        seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
        shapes: Annotated[int, Range(1, 4)] = 3,
        scales: Annotated[int, Range(1, 256)] = 6,
        rotations: Annotated[int, Range(1, 256)] = 6,
        positions: Annotated[int, Range(1, 256)] = 8,
        colours: Annotated[int, Range(1, 256)] = 8,
        backgrounds: Annotated[int, Range(1, 256)] = 1,
    ) -> None:
        self.count, self.seed = count, seed
        self.values = (shapes, scales, rotations, positions, positions, colours, backgrounds)

    def load(self, settings: DataSettings) -> Images:
        """Draw them; a factor that has one value is none."""
        factors = drawn(self.seed, self.count, self.values)
        size = image_side(settings.size) or (64, 64)
        channels = settings.channels or 3
        pixels = render(factors, self.values, size, grey=channels < 3)
        names = list(_OUTLINES)[: self.values[0]]
        varies = [n for n, values in enumerate(self.values) if values > 1]
        return Images(
            reshape_images(pixels, Target(size, channels, settings.fit)),
            factors[:, 0] if len(names) > 1 else None,
            names if len(names) > 1 else [],
            factors=factors[:, varies] if varies else None,
            factor_names=[_FACTORS[n] for n in varies],
        )


def drawn(seed: int, count: int, values: tuple[int, ...]) -> Tensor:
    """Factors of the first `count` images, int64 (count, F), each below its number of values: SplitMix64 of a counter (Steele et al., 2014)."""
    state = np.arange(count * len(values), dtype=np.uint64) + np.uint64(seed << 32)
    for shift, factor in ((0, 0x9E3779B97F4A7C15), (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift)) if shift else state) * np.uint64(factor)
    state ^= state >> np.uint64(31)
    uniform = (state >> np.uint64(11)).astype(np.float64).reshape(count, len(values)) * 2.0**-53
    return torch.from_numpy((uniform * np.array(values)).astype(np.int64))


def render(factors: Tensor, values: tuple[int, ...], size: tuple[int, int], *, grey: bool = False) -> Tensor:
    """Factors (N, 7) → uint8 (N, 1 or 3, height, width)."""
    height, width = size
    unit = 2 / min(height, width)  # a pixel
    down = ((torch.arange(height) + 0.5) * unit - height * unit / 2)[:, None]
    right = (torch.arange(width) + 0.5) * unit - width * unit / 2
    ink = _levels(values[5], 0.4, 1.0) if grey else _hues(values[5], 1.0)
    ground = _levels(values[6], 0.0, 0.25) if grey else _hues(values[6], 0.4)
    if values[6] == 1:
        ground = torch.zeros_like(ground)
    pixels = torch.empty(len(factors), ink.shape[1], height, width, dtype=torch.uint8)
    for kind, outline in enumerate(_OUTLINES.values()):
        for part in (factors[:, 0] == kind).nonzero()[:, 0].split(_BLOCK):
            shape = factors[part]
            scale = _spread(values[1], _SMALLEST, _LARGEST)[shape[:, 1], None, None]
            angle = (math.pi / 2 * shape[:, 2] / values[2])[:, None, None]
            x = right - _spread(values[3], -_FURTHEST, _FURTHEST)[shape[:, 3], None, None]
            y = down - _spread(values[4], -_FURTHEST, _FURTHEST)[shape[:, 4], None, None]
            cosine, sine = angle.cos() / scale, angle.sin() / scale
            away = outline(x * cosine + y * sine, y * cosine - x * sine)
            covered = (0.5 - away * (scale / unit)).clamp(0, 1)[:, None]
            below, above = ground[shape[:, 6], :, None, None], ink[shape[:, 5], :, None, None]
            pixels[part] = torch.lerp(below, above, covered).mul_(255).round_().to(torch.uint8)
    return pixels


def _spread(count: int, low: float, high: float) -> Tensor:
    """Evenly from one to the other; one value is in the middle."""
    return torch.linspace(low, high, count) if count > 1 else torch.tensor([(low + high) / 2])


def _levels(count: int, low: float, high: float) -> Tensor:
    """Grey levels, (count, 1); one value is the brightest."""
    return torch.linspace(high, low, count).flip(0)[:, None]


def _hues(count: int, value: float) -> Tensor:
    """Colours around the circle of hues, (count, 3)."""
    hue = torch.arange(count)[:, None] * (6 / count) + torch.tensor([0.0, 4.0, 2.0])
    return value * ((hue % 6 - 3).abs() - 1).clamp(0, 1)
