"""How far reconstructions are from the images, pixel by pixel.

Errors are of pixels in [0, 1], the field's custom. PSNR is each image's own, 10 log10(1 / MSE), averaged over images: the PSNR of the
mean error is another and lower number. An image that is reconstructed without error counts as 100 dB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from aegen import Metric, Seen

_LOWEST = 1e-10  # of a mean squared error: 100 dB


class Reconstruction(Metric):
    """Mean squared and absolute error of pixels in [0, 1], and PSNR in dB, of held-out images."""

    better = {"mse": "lower", "mae": "lower", "psnr": "higher"}  # noqa: RUF012
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"mse": (0.0, math.inf), "mae": (0.0, math.inf)}

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Of each held-out image, (B,)."""
        if not seen.held_out:
            return {}
        difference = ((seen.recon - seen.x) / 2).flatten(1).double()
        mse = difference.square().mean(1)
        return {"mse": mse, "mae": difference.abs().mean(1), "psnr": -10 * torch.log10(mse.clamp(min=_LOWEST))}
