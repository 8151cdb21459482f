"""Gaussian pixels around the decoder's image, with one scale for all of them.

Kingma & Welling, 2014, appendix C.2; the learned scale: see `scale`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from aegen import ImageShape, Likelihood, Pixels
from aegen_likelihoods.scale import Scale


class GaussianPixels(Pixels):
    """N(mean, exp(log_scale)²), mean (B, C, H, W) in [-1, 1], log_scale ()."""

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        self.mean = mean
        self.log_scale = log_scale

    def nll(self, x: Tensor) -> Tensor:
        """In nats of the density over [-1, 1], (B,); it is negative where the density is above 1."""
        # The scale is shared, so it leaves the sum over pixels.
        square = (x - self.mean).square().flatten(1).sum(1)
        pixels = self.mean[0].numel()
        return 0.5 * square * torch.exp(-2 * self.log_scale) + pixels * (self.log_scale + 0.5 * math.log(2 * math.pi))

    def sample(self) -> Tensor:
        """(B, C, H, W), clamped to [-1, 1]."""
        return (self.mean + self.log_scale.exp() * torch.randn_like(self.mean)).clamp(-1, 1)


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
        """Before tanh, (B, C, H, W)."""
        return GaussianPixels(parameters.tanh(), self.scale())
