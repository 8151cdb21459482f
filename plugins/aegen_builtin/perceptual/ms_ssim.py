"""Structural similarity at several scales, beside the likelihood of single pixels.

Wang, Simoncelli & Bovik, Multiscale Structural Similarity for Image Quality Assessment, 2003, eq. 7, with the five exponents of
section 3.2 and the window of Wang et al., Image Quality Assessment, 2004: Gaussian, 11×11, sigma 1.5, only where it fits. Its
luminance is a ratio that has a meaning for intensities from 0 up, so images in [-1, 1] are moved to [0, 2], with a range of 2: the
value is that of the same images in [0, 255]. Images below 176 pixels have fewer scales, whose exponents are brought to a sum
of 1; those below 11 have a window of their size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from aegen import Autoencoder, ImageShape, Objective, Outcome, Range, Turn, Wrapper
from aegen_builtin.perceptual.refusal import given, require_encoder

_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA, _RANGE = 11, 1.5, 2.0
_LEAST = 1e-6  # structure may be negative, which has no power, and at 0 the gradient of the power is infinite


class MSSSIM(Wrapper):
    """What it wraps, plus what the reconstruction lacks in multi-scale structural similarity.

    Options:
        weight: of 1 - MS-SSIM, in nats per pixel value.
    """

    def __init__(self, inner: Objective, image: ImageShape, *, weight: Annotated[float, Range(0)] = 0.1) -> None:
        super().__init__(inner)
        require_encoder(inner, "ms-ssim", "judges reconstructions")
        self.weight = weight
        self.pixels = image.channels * image.height * image.width

    def turns(self) -> list[Turn]:
        """The inner turns, the first with the term `dissimilarity`."""
        first, *others = self.inner.turns()
        return [replace(first, loss=partial(self.compare, first.loss)), *others]

    def compare(self, inner: Callable[[Autoencoder, Tensor], Outcome], model: Autoencoder, x: Tensor) -> Outcome:
        """The inner terms and `dissimilarity`, (B,)."""
        outcome = inner(model, x)
        recon = given(outcome.recon, "ms-ssim", "reconstruction")
        return outcome.plus({"dissimilarity": self.weight * self.pixels * (1 - ms_ssim(x, recon))})


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """MS-SSIM of images (B, C, H, W) in [-1, 1], averaged over channels, (B,) up to 1."""
    side = min(x.shape[-2:])
    scales = sum(side >= _WINDOW * 2**scale for scale in range(len(_EXPONENTS))) or 1
    total, value = sum(_EXPONENTS[:scales]), x.new_ones(x.shape[:2])
    with torch.autocast(x.device.type, enabled=False):  # a variance is a small difference of large numbers
        x, y = x + 1, y + 1
        for scale, exponent in enumerate(_EXPONENTS[:scales]):
            luminance, structure = _ssim(x, y)
            last = scale == scales - 1
            mean = (luminance * structure if last else structure).mean((2, 3))
            value = value * mean.clamp(min=_LEAST) ** (exponent / total)
            x, y = (x, y) if last else (avg_pool2d(x, 2), avg_pool2d(y, 2))
    return value.mean(1)


def _ssim(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, around every pixel where the window fits, (B, C, h, w)."""
    c1, c2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
    maps = _blur(torch.cat([x, y, x * x, y * y, x * y]))
    mx, my, mxx, myy, mxy = maps.chunk(5)
    luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
    structure = (2 * (mxy - mx * my) + c2) / (mxx - mx**2 + myy - my**2 + c2)
    return luminance, structure


def _blur(x: Tensor) -> Tensor:
    """Weighted means in the Gaussian window, (B, C, H, W) → (B, C, h, w)."""
    size = min(_WINDOW, *(side - (side + 1) % 2 for side in x.shape[-2:]))
    away = torch.arange(size, device=x.device, dtype=x.dtype) - size // 2
    row = torch.softmax(-(away**2) / (2 * _SIGMA**2), 0)
    x, channels = x.flatten(0, 1)[:, None], x.shape[1]
    blurred: Tensor = conv2d(conv2d(x, row[None, None, None]), row[None, None, :, None])
    return torch.unflatten(blurred.squeeze(1), 0, (-1, channels))
