"""Images in a NumPy file: a .npy, or a .npz with `images` and optional `labels`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

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
        images = arrays["images"]
        if (
            images.dtype != np.uint8
            or images.ndim not in (3, 4)
            or (images.ndim == 4 and not 1 <= images.shape[3] <= 4)
        ):
            raise UsageError(f"--data {path} holds {images.dtype} {images.shape}, but {_FORM}", hint=_advice(images))
        labels = arrays.get("labels")
        classes: list[str] = []
        if labels is not None:
            if (
                labels.shape != (len(images),)
                or labels.dtype.kind not in "iu"
                or not 0 <= labels.min(initial=0) <= labels.max(initial=0) < 2**16
            ):
                raise UsageError(
                    f"--data {path} has labels {labels.dtype} {labels.shape}, but needs one integer from 0 to 65535 an image"
                )
            classes = [str(n) for n in range(int(labels.max(initial=-1)) + 1)]
        pixels = (
            torch.from_numpy(images[:, :, :, None] if images.ndim == 3 else images).permute(0, 3, 1, 2).contiguous()
        )
        target = Target(image_side(settings.size), settings.channels, settings.fit)
        kept = torch.from_numpy(labels.astype(np.int64)) if labels is not None else None
        return Images(reshape_images(pixels, target), kept, classes)


def _advice(images: np.ndarray) -> str:
    if images.dtype.kind == "f":
        return "bring values to 0…255 and .astype('uint8')"
    if images.ndim == 4 and 1 <= images.shape[1] <= 4:
        return "channels come last: .transpose(0, 2, 3, 1)"
    return ""
