"""Images in a NumPy file: a .npy, or a .npz with `images` and, if you like, `labels`, `validation_images`, `validation_labels`.

Where it is known what each image was made from, `factors` (N, F) and `validation_factors` say it in whole numbers of which only equality
counts, and `factor_names` names the columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aegen import Dataset, DataSettings, Images, Target, UsageError, image_side, reshape_images

_NAMES = ("images", "labels", "factors")
_HELD_OUT = "validation_"
_FORM = "takes uint8 images, (N, H, W) or (N, H, W, C) with 1 to 4 channels"


class Array(Dataset):
    """A .npy or .npz of uint8 images, (N, H, W) or (N, H, W, C)."""

    def load(self, settings: DataSettings) -> Images:
        """Arrays that would need pickle are refused."""
        path = Path(settings.name).expanduser()
        try:
            with open(path, "rb") as file:  # NumPy leaves a damaged file open
                found = np.load(file, allow_pickle=False)
                if isinstance(found, np.ndarray):
                    arrays, named = {"images": found}, ["images"]
                else:  # of whose members the others are left packed: they may be of any size
                    wanted = [*_NAMES, *(_HELD_OUT + name for name in _NAMES), "factor_names"]
                    arrays, named = {k: found[k] for k in wanted if k in found.files}, found.files
        except Exception as error:  # NumPy raises OSError, ValueError, EOFError, BadZipFile
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(f"--data {path} cannot be read ({reason})", hint=f"it {_FORM}") from error
        raw = [key for key, value in arrays.items() if not isinstance(value, np.ndarray)]
        if raw:  # NumPy gives what is in the archive, whatever it is
            raise UsageError(f"--data {path} has {raw[0]}, which is no array", hint=f"it {_FORM}")
        if "images" not in arrays:
            have = ", ".join(sorted(named)) or "nothing"
            raise UsageError(f"--data {path} holds {have}, but needs an array named images")
        pixels, labels = _part(arrays, "", path, settings)
        validation = _part(arrays, "validation_", path, settings) if "validation_images" in arrays else None
        if validation is not None and validation[0].shape[1:] != pixels.shape[1:]:
            sizes = f"{tuple(pixels.shape[1:])} and {tuple(validation[0].shape[1:])}"
            raise UsageError(f"--data {path} has images and validation_images of different shapes, {sizes}")
        made = _factors(arrays, len(pixels), validation and len(validation[0]), path)
        splits = [labels] if validation is None else [labels, validation[1]]
        known = [part for part in splits if part is not None]
        if len(known) < len(splits):  # labels of one split alone are of no use
            return Images(pixels, None, [], validation and (validation[0], None), **made)
        classes = 1 + max((int(part.max()) for part in known if len(part)), default=-1)
        return Images(pixels, labels, [str(n) for n in range(classes)], validation, **made)


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


def _factors(arrays: Mapping[str, np.ndarray], count: int, held: int | None, path: Path) -> dict[str, Any]:
    """What the file knows of how its images were made, as the arguments of Images."""
    found: dict[str, Any] = {}
    for key, size in (("factors", count), ("validation_factors", held)):
        if key not in arrays or size is None:
            continue
        factors = arrays[key]
        if factors.ndim != 2 or len(factors) != size or not factors.shape[1] or factors.dtype.kind not in "iu":
            raise UsageError(
                f"--data {path} has {key} {factors.dtype} {factors.shape}, but needs a row of whole numbers for each of {size} images"
            )
        found[key] = torch.from_numpy(factors.astype(np.int64))
    if not found:
        return {}
    widths = {factors.shape[1] for factors in found.values()}
    names = arrays.get("factor_names", np.array([f"factor {n}" for n in range(max(widths))]))
    if names.dtype.kind != "U" or widths != {names.size}:
        have = " and ".join(f"{key} {tuple(factors.shape)}" for key, factors in found.items())
        raise UsageError(
            f"--data {path} has {have}, but factor_names {names.dtype} {names.shape} names no such columns"
        )
    return {**found, "factor_names": [str(name) for name in names.ravel()]}


def _advice(images: np.ndarray) -> str:
    if images.dtype.kind == "f":
        return "bring values to 0…255 and .astype('uint8')"
    if images.dtype.kind == "b":
        return "false is black and true is white after (255 * images).astype('uint8')"
    if images.dtype.kind in "iu" and images.dtype != np.uint8:
        bits = 8 * images.dtype.itemsize
        full = (
            f"(images // {2 ** (bits - 8)}).astype('uint8') if they use all {bits} bits, "
            if images.dtype.kind == "u"
            else ""
        )
        return f"bring values to 0…255: {full}.astype('uint8') if they are there already"
    if images.ndim == 4 and 1 <= images.shape[1] <= 4:
        return "channels come last: .transpose(0, 2, 3, 1)"
    return ""
