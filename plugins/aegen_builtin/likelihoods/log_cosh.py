"""Log-cosh pixels: the squared error where it is small and the absolute one where it is large, smoothly.

Chen, Chen & Baldi, Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder, 2018. As a density, which the paper's loss
is not: 1 / cosh(e / scale) integrates to π · scale, so p(e) = 1 / (π scale cosh(e / scale)), the hyperbolic secant.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from aegen import ImageShape, Likelihood, Pixels
from aegen_builtin.likelihoods.location import Located
from aegen_builtin.likelihoods.scale import Scale


class SecantPixels(Located):
    """Hyperbolic secant around location (B, C, H, W), log_scale ()."""

    def nll(self, x: Tensor) -> Tensor:
        """In nats of the density over all numbers, of which images are in [-1, 1], (B,)."""
        error = (x - self.location).abs() * torch.exp(-self.log_scale)
        cost = (error + softplus(-2 * error)).flatten(1).sum(1)  # log cosh + log 2; cosh itself would overflow
        return cost + self.location[0].numel() * (self.log_scale + math.log(math.pi / 2))

    def sample(self) -> Tensor:
        """(B, C, H, W), clamped to [-1, 1]; the inverse of the distribution function at uniform noise."""
        noise = torch.log(torch.tan(0.5 * math.pi * torch.rand_like(self.location)))
        return (self.location + self.log_scale.exp() * noise).clamp(-1, 1)


class LogCosh(Likelihood):
    """Log-cosh pixels.

    Options:
        scale: where a pixel's error in [-1, 1] turns from squared to absolute, 2/π of the standard deviation, or learned: one
            number for all pixels.
    """

    def __init__(self, image: ImageShape, *, scale: float | Literal["learned"] = "learned") -> None:
        super().__init__()
        self.fan_out = image.channels
        self.scale = Scale(scale)

    def forward(self, parameters: Tensor) -> Pixels:
        """The location, before it is bent beyond [-1, 1], (B, C, H, W)."""
        return SecantPixels(parameters, self.scale())
