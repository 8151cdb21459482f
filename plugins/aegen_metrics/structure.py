"""How much of an image's structure its reconstruction keeps.

Wang, Bovik, Sheikh & Simoncelli, Image Quality Assessment: From Error Visibility to Structural Similarity, 2004: a
Gaussian window, 11×11, sigma 1.5, only where it fits (as scikit-image has it, too; torchmetrics alone would add a
mirrored border). Wang, Simoncelli & Bovik, Multiscale Structural Similarity for Image Quality Assessment, 2003: five
scales, as torchmetrics has it, so images of fewer than 176 pixels a side have none. Pixels lie in [0, 1] with a range
of 1, whatever range an image uses; channels are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from aegen import EnvironmentFault, Metric, Seen, UsageError

_WINDOW = 11
_LEAST = 176  # the window still fits after four halvings


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
        _, everywhere = self.judge(
            *pair(seen, _WINDOW), data_range=1.0, kernel_size=_WINDOW, reduction="none", return_full_image=True
        )
        edge = _WINDOW // 2
        return {"ssim": everywhere[..., edge:-edge, edge:-edge].flatten(1).double().mean(1)}


class MSSSIM(Metric):
    """Structural similarity at five scales, for images of 176 pixels a side and more."""

    better: ClassVar[Mapping[str, str]] = {"ms-ssim": "higher"}

    def __init__(self) -> None:
        self.judge = judges().multiscale_structural_similarity_index_measure

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Of each held-out image, (B,)."""
        if not seen.held_out:
            return {}
        # Not by its class, which keeps state, and a batch of one image would lose its dimension.
        value = self.judge(*pair(seen, _LEAST), data_range=1.0, kernel_size=_WINDOW, reduction="none")
        return {"ms-ssim": value.reshape(len(seen.x)).double()}
