"""The distance of two images in the maps of a feature network: LPIPS's form, without its learned weights.

Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018, eq. 1: features of unit length at every
place, squared differences summed over channels, averaged over places. Every weight is a half over the number of levels, which makes
it the mean over levels of 1 - cosine, from 0 to 2, as in the objective `perceptual`.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-10


def maps_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Of the maps of two batches of images, each (B, c, h, w), (B,)."""
    return (
        torch.stack([(_unit(x) - _unit(y)).square().sum(1).flatten(1).mean(1) for x, y in zip(a, b, strict=True)]).mean(
            0
        )
        / 2
    )


def _unit(f: Tensor) -> Tensor:
    f = f.float()
    return f * (f.square().sum(1, keepdim=True) + _TINY).rsqrt()
