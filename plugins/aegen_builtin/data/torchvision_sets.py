"""Data sets that torchvision knows: it checks their digests, and it fetches them only when told to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from aegen import (
    Dataset,
    DataSettings,
    EnvironmentFault,
    ImageFiles,
    Images,
    Rows,
    Target,
    UsageError,
    image_side,
    keep_images,
    reshape_images,
)


def fetch(name: str, settings: DataSettings, make: Callable[..., Any]) -> Any:
    """Open a torchvision data set, or say both ways to get it.

    Raises:
        EnvironmentFault: it is not there, or could not be downloaded.
    """
    try:
        return make(root=settings.root, download=settings.download)
    except Exception as error:  # torchvision raises RuntimeError, URLError, OSError and more
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if settings.download:
            raise EnvironmentFault(
                f"{name} could not be downloaded into {settings.root} ({reason})",
                hint="fetch it elsewhere and give its folder with --data-root",
            ) from error
        if "not found" not in str(error):  # torchvision's word for files that are not there
            raise UsageError(
                f"{name} in {settings.root} is damaged ({reason})",
                hint="remove it and add --download, or fetch it anew",
            ) from error
        raise EnvironmentFault(
            f"{name} is not in {os.path.realpath(settings.root)}",
            hint="add --download to fetch it, or give the folder that holds it with --data-root",
        ) from error


class _Labelled(Dataset):
    """A set of arrays with a test split, which serves for validation."""

    name: ClassVar[str]

    def load(self, settings: DataSettings) -> Images:
        """Training and test images with their labels."""
        import torchvision

        source = getattr(torchvision.datasets, type(self).__name__)

        def part(train: bool) -> tuple[Tensor, Tensor, list[str]]:
            found = fetch(self.name, settings, lambda **where: source(train=train, **where))
            pixels = torch.from_numpy(np.asarray(found.data))
            # Grey sets are (N, H, W), coloured ones (N, H, W, C).
            pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
            target = Target(image_side(settings.size), settings.channels, settings.fit)
            return (
                reshape_images(pixels.contiguous(), target),
                torch.as_tensor(found.targets),
                list(found.classes),
            )

        train, labels, classes = part(True)
        validation, validation_labels, _ = part(False)
        return Images(train, labels, classes, (validation, validation_labels))


class MNIST(_Labelled):
    """70,000 handwritten digits, 28×28 grey. LeCun et al., 1998."""

    name = "mnist"


class FashionMNIST(_Labelled):
    """70,000 articles of clothing, 28×28 grey. Xiao et al., 2017."""

    name = "fashion-mnist"


class CIFAR10(_Labelled):
    """60,000 photographs in ten classes, 32×32 RGB. Krizhevsky, 2009."""

    name = "cifar10"


class CelebA(Dataset):
    """202,599 faces, cut to the centre and brought to 64×64 RGB unless asked otherwise. Liu et al., 2015."""

    def load(self, settings: DataSettings) -> Images:
        """The train and the valid split."""
        from torchvision.datasets import CelebA as Source

        target = Target(image_side(settings.size) or (64, 64), settings.channels or 3, settings.fit)
        skipped: list[str] = []
        how: list[str] = []

        def part(split: str) -> Rows:
            found = fetch("celeba", settings, lambda **where: Source(split=split, **where))
            folder = Path(found.root) / found.base_folder / "img_align_celeba"
            kept = keep_images(ImageFiles([folder / name for name in found.filename]), settings, target)
            skipped.extend(f"{found.filename[number]} ({reason})" for number, reason in sorted(kept.bad.items()))
            how.append(kept.how)
            return kept.rows

        return Images(part("train"), validation=(part("valid"), None), skipped=skipped, how=" and ".join(how))
