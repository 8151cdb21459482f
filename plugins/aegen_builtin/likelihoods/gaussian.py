"""Gaussian pixels around the decoder's image, with one scale for all of them.

Kingma & Welling, 2014, appendix C.2; the learned scale: see `scale`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from aegen import ImageShape, Likelihood, Pixels
from aegen_builtin.likelihoods.location import Located
from aegen_builtin.likelihoods.scale import Scale


class GaussianPixels(Located):
    """N(location, exp(log_scale)²), location (B, C, H, W), log_scale ()."""

    def nll(self, x: Tensor) -> Tensor:
        """In nats of the density over all numbers, of which images are in [-1, 1], (B,); it is negative where the density is above 1."""
        # The scale is shared, so it leaves the sum over pixels.
        square = (x - self.location).square().flatten(1).sum(1)
        pixels = self.location[0].numel()
        return 0.5 * square * torch.exp(-2 * self.log_scale) + pixels * (self.log_scale + 0.5 * math.log(2 * math.pi))

    def sample(self) -> Tensor:
        """(B, C, H, W), clamped to [-1, 1]."""
        return (self.location + self.log_scale.exp() * torch.randn_like(self.location)).clamp(-1, 1)


class Gaussian(Likelihood):
    """Gaussian pixels.

    Options:
        scale: standard deviation of a pixel in [-1, 1], or learned: one number for all pixels.
    """

    def __init__(self, image: ImageShape, *, scale: float | Literal["learned"] = "learned") -> None:
        super().__init__()
        self.fan_out = image.channels
        self.scale = Scale(scale)

    def forward(self, parameters: Tensor) -> Pixels:
        """The location, before it is bent beyond [-1, 1], (B, C, H, W)."""
        return GaussianPixels(parameters, self.scale())
