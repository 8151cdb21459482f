"""256 grey levels, each with the mass that a logistic density has between its edges.

Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, 2016, appendix C; Salimans et al., PixelCNN++,
2017, eq. 2. The darkest and the lightest level have all that lies beyond. Nats are of a probability mass, not of a density:
divided by log 2 and the number of pixel values they are bits per dimension, which compare with those of any lossless coder.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from aegen import ImageShape, Likelihood, Pixels
from aegen_builtin.likelihoods.location import Located
from aegen_builtin.likelihoods.scale import Scale

_HALF = 1 / 255  # half a grey level in [-1, 1]


def snapped(x: Tensor) -> Tensor:
    """Images in [-1, 1] → the nearest of 256 levels, in [-1, 1]."""
    return ((x + 1) / (2 * _HALF)).round().clamp(0, 255) * (2 * _HALF) - 1


class LogisticLevels(Located):
    """Discretised logistic around location (B, C, H, W), log_scale (); `mean` is that of the logistic density."""

    def nll(self, x: Tensor) -> Tensor:
        """In nats of the levels' masses, (B,), never negative; `x` is rounded to a level."""
        x = snapped(x)
        sharpness = torch.exp(-self.log_scale)
        above, below = (x + _HALF - self.location) * sharpness, (x - _HALF - self.location) * sharpness
        # s(b) - s(a) = s(b) s(-a) (1 - e^(a - b)), whose logarithm loses nothing; an open edge is an s of 1.
        lightest, darkest = x > 1 - _HALF, x < _HALF - 1
        mass = logsigmoid(above).masked_fill(lightest, 0) + logsigmoid(-below).masked_fill(darkest, 0)
        between = (~(lightest | darkest)).flatten(1).sum(1)
        return -mass.flatten(1).sum(1) - between * torch.log(-torch.expm1(-2 * _HALF * sharpness))

    def sample(self) -> Tensor:
        """(B, C, H, W), one of 256 levels in [-1, 1]."""
        return snapped(self.location + self.log_scale.exp() * torch.logit(torch.rand_like(self.location)))


class DiscretizedLogistic(Likelihood):
    """256 grey levels by a logistic distribution.

    Options:
        scale: of the logistic in [-1, 1], 0.55 of its standard deviation, or learned: one number for all pixels.
    """

    measure = "levels"

    def __init__(self, image: ImageShape, *, scale: float | Literal["learned"] = "learned") -> None:
        super().__init__()
        self.fan_out = image.channels
        self.scale = Scale(scale)

    def forward(self, parameters: Tensor) -> Pixels:
        """The location, before it is bent beyond [-1, 1], (B, C, H, W)."""
        return LogisticLevels(parameters, self.scale())
