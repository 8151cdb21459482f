"""How much of an image's structure its reconstruction keeps.

Wang, Bovik, Sheikh & Simoncelli, Image Quality Assessment: From Error Visibility to Structural Similarity, 2004: a
Gaussian window, 11×11, sigma 1.5, only where it fits (as scikit-image has it, too; torchmetrics alone would add a
mirrored border). Wang, Simoncelli & Bovik, Multiscale Structural Similarity for Image Quality Assessment, 2003, eq. 7: five
scales, so images of fewer than 176 pixels a side have none; the window only where it fits at every one of them, where
torchmetrics mirrors the border of the coarsest. Structure that is negative on average counts as none, as it has no power.
Pixels lie in [0, 1] with a range of 1, whatever range an image uses; channels are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from aegen import EnvironmentFault, Metric, Seen, UsageError

_WINDOW = 11
_LEAST = 176  # the window still fits after four halvings
_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, section 3.2


def judges() -> Any:
    """torchmetrics' functions of images, which take long to import.

    Raises:
        EnvironmentFault: it is not installed.
    """
    try:
        from torchmetrics.functional import image
    except ImportError as error:
        raise EnvironmentFault(
            "structural similarity needs torchmetrics, which is not installed", hint="pip install 'aegen[metrics]'"
        ) from error
    return image


def pair(seen: Seen, least: int) -> tuple[Tensor, Tensor]:
    """Reconstructions and images in [0, 1].

    Raises:
        UsageError: they are smaller than the windows need.
    """
    height, width = seen.x.shape[2:]
    if min(height, width) < least:
        raise UsageError(f"images are {height}×{width}, but it takes {least} pixels a side")
    return (seen.recon + 1) / 2, (seen.x + 1) / 2


class SSIM(Metric):
    """Structural similarity of reconstructions to held-out images, up to 1."""

    better: ClassVar[Mapping[str, str]] = {"ssim": "higher"}

    def __init__(self) -> None:
        self.judge = judges().structural_similarity_index_measure

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Of each held-out image, (B,)."""
        if not seen.held_out:
            return {}
        return {"ssim": _similarity(self.judge, *pair(seen, _WINDOW))}


class MSSSIM(Metric):
    """Structural similarity at five scales, for images of 176 pixels a side and more."""

    better: ClassVar[Mapping[str, str]] = {"ms-ssim": "higher"}

    def __init__(self) -> None:
        self.judge = judges().structural_similarity_index_measure

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Of each held-out image, (B,)."""
        if not seen.held_out:
            return {}
        x, y = (images.flatten(0, 1).unsqueeze(1) for images in pair(seen, _LEAST))  # a channel is an image of its own
        product = torch.ones(len(x), dtype=torch.float64, device=x.device)
        for exponent in _EXPONENTS[:-1]:
            _, structure = self.judge(x, y, **_RULES, return_contrast_sensitivity=True)
            product *= structure.double().clamp(min=0) ** exponent
            x, y = avg_pool2d(x, 2), avg_pool2d(y, 2)
        product *= _similarity(self.judge, x, y).clamp(min=0) ** _EXPONENTS[-1]
        return {"ms-ssim": product.view(len(seen.x), -1).mean(1)}


_RULES: dict[str, Any] = {"data_range": 1.0, "kernel_size": _WINDOW, "reduction": "none"}


def _similarity(judge: Any, x: Tensor, y: Tensor) -> Tensor:
    """Of images (B, C, H, W), by the windows that fit, (B,)."""
    _, everywhere = judge(x, y, **_RULES, return_full_image=True)
    edge = _WINDOW // 2
    valid: Tensor = everywhere[..., edge:-edge, edge:-edge].flatten(1).double().mean(1)
    return valid
