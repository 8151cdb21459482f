"""LPIPS, the distance of two images in the maps of a network that was trained to recognise things.

Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018, eq. 1: features of unit length at every
place, squared differences weighted by channel, averaged over places, added over levels. Without the learned weights each is half of a
level's share, which makes it the mean over levels of 1 - cosine, from 0 to 2: of LPIPS's order, however many levels there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import interpolate

from aegen import FeatureNetwork, UsageError

_HEADS = ("alexnet", "squeezenet1_1", "vgg16")
_TINY = 1e-10


class FeatureDistance(nn.Module):
    """Pairs of images → their distance, by a frozen network.

    Args:
        net: the network.
        heads: LPIPS's weights of the channels of each map, (1, c, 1, 1); without them each is 1/2 over the number of maps.
    """

    def __init__(self, net: FeatureNetwork, heads: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.net = net
        self.heads = nn.ParameterList(heads)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1], grey or RGB → distances (B,); gradients pass to y alone."""
        one = next(chain(self.parameters(), self.buffers()), x)
        if one.device != x.device or one.dtype != x.dtype:
            self.to(x)  # it is no part of the model, so nobody else moves it
        with torch.no_grad():
            wanted = self.maps(x)
        distance = x.new_zeros(len(x))
        for level, (a, b) in enumerate(zip(wanted, self.maps(y), strict=True)):
            weight = self.heads[level] if self.heads else 0.5 / len(wanted)
            distance = distance + ((a - b).square() * weight).sum(1).flatten(1).mean(1)
        return distance

    def maps(self, x: Tensor) -> list[Tensor]:
        """Images → the features of each compared level, (B, c, h, w), of unit length at every place."""
        scale = self.net.least / min(x.shape[2:])
        if scale > 1:
            x = interpolate(x, [math.ceil(side * scale) for side in x.shape[2:]], mode="bilinear")
        return [_unit(f) for f in self.net.maps(x.expand(-1, 3, -1, -1))]


def _unit(f: Tensor) -> Tensor:
    """Features (B, c, h, w) of unit length; where all are 0 they stay so, and their gradient is finite."""
    f = f.float() if f.dtype.itemsize < 4 else f  # what keeps the root from 0 is 0 in half precision
    return f * (f.square().sum(1, keepdim=True) + _TINY).rsqrt()


def read_heads(name: str, path: str, channels: Sequence[int], option: str) -> list[Tensor]:
    """LPIPS's weights of a network's channels, each (1, c, 1, 1), from a safetensors file.

    Args:
        option: how the user writes the path's option.

    Raises:
        UsageError: there is no such file, it holds something else, or LPIPS has none for that network.
    """
    short = name.rpartition("/")[2]
    if short not in _HEADS:
        able = ", ".join(_HEADS)
        raise UsageError(
            f"{option} is given, but LPIPS has weights for {able} alone, not for {name}", hint="leave it out"
        )
    hint = f"save the state dictionary that LPIPS has for {short} as safetensors"
    if not Path(path).is_file():
        what = f"a safetensors file with LPIPS's weights for {short}"
        raise UsageError(f"{option} is {path!r}, which is no file; it takes {what}", hint=hint)
    keys = [f"lin{level}.model.1.weight" for level in range(len(channels))]
    try:
        with safe_open(path, framework="pt") as file:
            held = set(file.keys())
            found = [file.get_tensor(key).float() if key in held else torch.empty(0) for key in keys]
    except SafetensorError as error:
        raise UsageError(f"{option}: {path} is no safetensors file ({error})", hint=hint) from error
    for key, head, count in zip(keys, found, channels, strict=True):
        if head.shape != (1, count, 1, 1):
            what = f"{key} is missing or of another shape"
            raise UsageError(f"{option}: {path} does not hold LPIPS's weights for {short}: {what}", hint=hint)
    return found
