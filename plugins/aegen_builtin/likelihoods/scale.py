"""The scale of a location-scale likelihood: given, or learned as one number for all pixels.

Rybkin, Daniilidis & Levine, Simple and Effective VAE Training with Calibrated Decoders, 2021: with a shared learned scale
the balance of reconstruction and KL needs no tuning.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from aegen import UsageError

_FLOOR = math.log(1 / 255)  # half a grey level in [-1, 1]; without it, images learned by heart drive the scale to 0
# Adam moves a parameter by about lr a step whatever its gradient; the log-scale has some e^-3 to go.
_GAIN = 10.0


class Scale(nn.Module):
    """log of the scale, ()."""

    def __init__(self, scale: float | Literal["learned"]) -> None:
        super().__init__()
        if scale != "learned" and not scale > 0:
            raise UsageError(f"likelihood.scale is {scale}, but takes learned or a number above 0")
        self.fixed = None if scale == "learned" else math.log(scale)
        if self.fixed is None:
            self.raw = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor:
        """Softly held above the floor (equation 8 of the paper), so that the gradient never dies."""
        if self.fixed is not None:
            return torch.tensor(self.fixed)
        return _FLOOR + softplus(_GAIN * self.raw - _FLOOR)
