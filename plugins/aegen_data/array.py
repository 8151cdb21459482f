"""Images in a NumPy file: a .npy, or a .npz with `images` and, if you like, `labels`, `validation_images`, `validation_labels`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aegen import Dataset, DataSettings, Images, Target, UsageError, image_side, reshape_images

_FORM = "takes uint8 images, (N, H, W) or (N, H, W, C) with 1 to 4 channels"


class Array(Dataset):
    """A .npy or .npz of uint8 images, (N, H, W) or (N, H, W, C)."""

    def load(self, settings: DataSettings) -> Images:
        """Arrays that would need pickle are refused."""
        path = Path(settings.name).expanduser()
        try:
            with open(path, "rb") as file:  # NumPy leaves a damaged file open
                found = np.load(file, allow_pickle=False)
                arrays = {"images": found} if isinstance(found, np.ndarray) else {k: found[k] for k in found.files}
        except Exception as error:  # NumPy raises OSError, ValueError, EOFError, BadZipFile
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(f"--data {path} cannot be read ({reason})", hint=f"it {_FORM}") from error
        if "images" not in arrays:
            have = ", ".join(sorted(arrays)) or "nothing"
            raise UsageError(f"--data {path} holds {have}, but needs an array named images")
        pixels, labels = _part(arrays, "", path, settings)
        validation = _part(arrays, "validation_", path, settings) if "validation_images" in arrays else None
        if validation is not None and validation[0].shape[1:] != pixels.shape[1:]:
            sizes = f"{tuple(pixels.shape[1:])} and {tuple(validation[0].shape[1:])}"
            raise UsageError(f"--data {path} has images and validation_images of different shapes, {sizes}")
        splits = [labels] if validation is None else [labels, validation[1]]
        known = [part for part in splits if part is not None]
        if len(known) < len(splits):  # labels of one split alone are of no use
            return Images(pixels, None, [], validation and (validation[0], None))
        classes = 1 + max((int(part.max()) for part in known if len(part)), default=-1)
        return Images(pixels, labels, [str(n) for n in range(classes)], validation)


def _part(
    arrays: Mapping[str, np.ndarray], prefix: str, path: Path, settings: DataSettings
) -> tuple[Tensor, Tensor | None]:
    """uint8 (N, C, H, W) and int64 (N,) of one split."""
    images, labels = arrays[f"{prefix}images"], arrays.get(f"{prefix}labels")
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and not 1 <= images.shape[3] <= 4):
        raise UsageError(f"--data {path} holds {images.dtype} {images.shape}, but {_FORM}", hint=_advice(images))
    if labels is not None and (
        labels.shape != (len(images),)
        or labels.dtype.kind not in "iu"
        or not 0 <= labels.min(initial=0) <= labels.max(initial=0) < 2**16
    ):
        raise UsageError(
            f"--data {path} has {prefix}labels {labels.dtype} {labels.shape}, but needs one integer from 0 to 65535 an image"
        )
    pixels = torch.from_numpy(images[:, :, :, None] if images.ndim == 3 else images).permute(0, 3, 1, 2).contiguous()
    target = Target(image_side(settings.size), settings.channels, settings.fit)
    kept = torch.from_numpy(labels.astype(np.int64)) if labels is not None else None
    return reshape_images(pixels, target), kept


def _advice(images: np.ndarray) -> str:
    if images.dtype.kind == "f":
        return "bring values to 0…255 and .astype('uint8')"
    if images.ndim == 4 and 1 <= images.shape[1] <= 4:
        return "channels come last: .transpose(0, 2, 3, 1)"
    return ""
