"""How much of an image's structure its reconstruction keeps.

Wang, Bovik, Sheikh & Simoncelli, Image Quality Assessment: From Error Visibility to Structural Similarity, 2004: a
Gaussian window, 11×11, sigma 1.5, only where it fits (as scikit-image has it, too; torchmetrics alone would add a
mirrored border). Wang, Simoncelli & Bovik, Multiscale Structural Similarity for Image Quality Assessment, 2003, eq. 7: five
scales, so images of fewer than 176 pixels a side have none; the window only where it fits at every one of them, where
torchmetrics mirrors the border of the coarsest. Structure that is negative on average counts as none, as it has no power.
Pixels lie in [0, 1] with a range of 1, whatever range an image uses; channels are averaged.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from aegen import EnvironmentFault, Metric, Seen, UsageError

_WINDOW = 11
_LEAST = 176  # the window still fits after four halvings
_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, section 3.2


def judge() -> Any:
    """torchmetrics' structural similarity.

    Raises:
        EnvironmentFault: it is not installed.
    """
    try:
        try:
            module = _alone("torchmetrics.functional.image.ssim")
        except ImportError:  # it is not where it was, or needs more
            module = import_module("torchmetrics.functional.image")
    except ImportError as error:
        raise EnvironmentFault(
            "structural similarity needs torchmetrics, which is not installed", hint="pip install 'aegen[metrics]'"
        ) from error
    return module.structural_similarity_index_measure


def _alone(name: str) -> Any:
    """A module without the packages around it, if nobody has imported those yet: they import scipy's signals and torchvision's networks,
    six seconds of a report. Whoever imports them later finds nothing of it."""
    top, *rest = name.split(".")[:-1]
    if top in sys.modules:
        return import_module(name)
    found = find_spec(top)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(top)
    folder = Path(found.submodule_search_locations[0])
    try:
        for i in range(len(rest) + 1):
            package = ModuleType(".".join([top, *rest[:i]]))
            package.__path__ = [str(folder.joinpath(*rest[:i]))]
            package._logger = logging.getLogger(top)  # type: ignore[attr-defined]  # which its modules take from there
            sys.modules[package.__name__] = package
        return import_module(name)
    finally:
        for known in [word for word in sys.modules if word.partition(".")[0] == top]:
            del sys.modules[known]


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
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"ssim": (-1.0, 1.0)}

    def __init__(self) -> None:
        self.judge = judge()

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Of each held-out image, (B,)."""
        if not seen.held_out:
            return {}
        return {"ssim": _similarity(self.judge, *pair(seen, _WINDOW))}


class MSSSIM(Metric):
    """Structural similarity at five scales, for images of 176 pixels a side and more."""

    better: ClassVar[Mapping[str, str]] = {"ms-ssim": "higher"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"ms-ssim": (0.0, 1.0)}

    def __init__(self) -> None:
        self.judge = judge()

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
