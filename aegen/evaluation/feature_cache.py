"""Features of the same images by the same network are computed once: a folder of safetensors files, the oldest of which go.

A file is named by a digest of all that the features depend on. It appears under its name only when it is whole, so two runs may
write the same at once; one that cannot be read is computed again.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save_file as save
from torch import Tensor

from aegen.atomic import drafted
from aegen.caches import folder as folder
from aegen.caches import tidy
from aegen.data.image_rows import Pictures, fingerprint
from aegen.evaluation.features import FeatureSpace
from aegen.untrusted import opened

MOST = 2 * 2**30  # bytes in the folder
_ABANDONED = 24 * 3600.0  # seconds after which a temporary file belongs to nobody
_NAME = "features"


def digest(space: FeatureSpace, pixels: Pictures) -> str:
    """Of everything that the features of `pixels` (uint8, (N, C, H, W)) depend on."""
    net = type(space.net)
    found = hashlib.blake2b(digest_size=16)
    for part in (
        f"{net.__module__}.{net.__qualname__}",
        space.checksum,
        space.side,
        space.protocol.filter,
        next((p.device.type for p in space.net.parameters()), "cpu"),
        torch.__version__,
        tuple(pixels.shape),
    ):
        found.update(f"{part}\n".encode())
    if isinstance(pixels, Tensor):
        found.update(pixels.contiguous().numpy().data)
    else:
        found.update(fingerprint(pixels).encode())
    return found.hexdigest()


class Kept:
    """The features of one set of images, asked for from its first image to its last: from the cache, or computed and kept.

    What is found is tried on the first batch before it is believed, since the code of a network is in no digest.
    """

    def __init__(self, space: FeatureSpace, pixels: Pictures) -> None:
        self._space, self._pixels = space, pixels
        self._place: Path | None = None
        self._found: Tensor | None = None
        self._parts: list[Tensor] = []
        self._asked = self._used = False

    def features(self, start: int, x: Tensor) -> Tensor:
        """Of `x`, the images from `start` on, (B, width)."""
        first, self._asked = not self._asked, True
        if first:
            self._open()
        kept = None if self._found is None else self._found[start : start + len(x)].to(x.device)
        if kept is not None and not first:
            self._used = True
            return kept
        found = self._space(x)
        if kept is None or not torch.allclose(kept, found, rtol=1e-3, atol=1e-4):
            self._found = None
            self._parts.append(found.cpu())
        return found

    def _open(self) -> None:
        root = folder()
        if root is None:
            return
        self._place = root / f"{digest(self._space, self._pixels)}.safetensors"
        self._found = read(self._place, (len(self._pixels), self._space.net.width))

    def close(self) -> Path | None:
        """Keep what was computed, if it is all of them; the file that features came from, if they did."""
        if self._place is not None and sum(map(len, self._parts)) == len(self._pixels):
            # A full disk or a folder that is not ours: the numbers do not depend on it.
            with suppress(OSError, SafetensorError):
                write(self._place, torch.cat(self._parts))
        return self._place if self._used else None


def read(place: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The features in a file, if it is there and whole."""
    try:
        os.close(opened(place))  # a pipe of that name would be waited for
        found = load_file(place).get(_NAME)
        os.utime(place)  # the oldest go first: those that were not used for longest
    except (OSError, SafetensorError):
        return None
    good = found is not None and found.shape == shape and found.dtype == torch.float32 and bool(found.isfinite().all())
    return found if good else None


def write(place: Path, features: Tensor, most: int = MOST) -> None:
    """Keep features, then delete the files that were not used for longest until the folder has at most `most` bytes.

    Raises:
        OSError, SafetensorError: they cannot be written; nothing is left behind.
    """
    if features.nbytes > most:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with drafted(place, durable=False) as draft:
        save({_NAME: features.float().contiguous()}, draft)
    _tidy(place.parent, most)


def _tidy(root: Path, most: int) -> None:
    """Only files of this cache are counted and deleted, whatever else lies in the folder."""
    for path in root.glob(".*.tmp"):
        with suppress(OSError):  # another run may have deleted it
            if path.stat().st_mtime < time.time() - _ABANDONED:
                path.unlink()
    tidy((path for path in root.glob("*.safetensors") if len(path.stem) == 32), most)
