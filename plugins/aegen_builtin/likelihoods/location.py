"""Where a pixel's density stands: the decoder's number itself, bent beyond [-1, 1].

A tanh, the usual choice, saturates: on images that are mostly black (MNIST) an autoencoder soon paints everything black and gets
no gradient any more, for good (figures in benchmarks/RESULTS.md). Here black and white are reached at a finite number, and beyond
them the location moves at a twentieth, so that the gradient never dies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aegen import Pixels

LEAK = 0.05


class Located(Pixels):
    """Pixels around `location` (B, C, H, W), which may lie a little beyond [-1, 1], with one scale for all of them."""

    def __init__(self, parameters: Tensor, log_scale: Tensor) -> None:
        inside = parameters.clamp(-1, 1)
        self.location = inside + LEAK * (parameters - inside)
        self.log_scale = log_scale

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """(B, C, H, W) in [-1, 1]; its gradient is that of the location, or a generator whose pixels left would be stuck."""
        if not torch.is_grad_enabled():
            return self.location.clamp(-1, 1)
        return self.location.detach().clamp(-1, 1) + (self.location - self.location.detach())
