"""Laplace pixels: the absolute error as a likelihood, sharper edges than the Gaussian's squared one."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from aegen import ImageShape, Likelihood, Pixels
from aegen_builtin.likelihoods.location import Located
from aegen_builtin.likelihoods.scale import Scale


class LaplacePixels(Located):
    """Laplace(location, exp(log_scale)), location (B, C, H, W), log_scale ()."""

    def nll(self, x: Tensor) -> Tensor:
        """In nats of the density over all numbers, of which images are in [-1, 1], (B,)."""
        error = (x - self.location).abs().flatten(1).sum(1)
        return error * torch.exp(-self.log_scale) + self.location[0].numel() * (self.log_scale + math.log(2))

    def sample(self) -> Tensor:
        """(B, C, H, W), clamped to [-1, 1]; the inverse of the distribution function at uniform noise."""
        u = torch.rand_like(self.location) - 0.5
        noise = -u.sign() * torch.log1p(-2 * u.abs())
        return (self.location + self.log_scale.exp() * noise).clamp(-1, 1)


class Laplace(Likelihood):
    """Laplace pixels.

    Options:
        scale: mean absolute deviation of a pixel in [-1, 1], or learned: one number for all pixels.
    """

    def __init__(self, image: ImageShape, *, scale: float | Literal["learned"] = "learned") -> None:
        super().__init__()
        self.fan_out = image.channels
        self.scale = Scale(scale)

    def forward(self, parameters: Tensor) -> Pixels:
        """The location, before it is bent beyond [-1, 1], (B, C, H, W)."""
        return LaplacePixels(parameters, self.scale())
