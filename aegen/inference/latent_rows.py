"""The latents of a data set as rows: encoded once, by all processes together, and kept in the cache by content.

A row is what a training may need of an image again and again: mean and deviation of its posterior, its mean alone, or its codes. Where images
are flipped, both ways are encoded. A file is named by a digest of all that the rows depend on; what is wrong with it is made anew. Few rows are
held in memory, many are left in the pages of the file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from torch import Tensor
from typing_extensions import TypedDict

from aegen import caches, checksummed
from aegen.checkpoint import Checkpoint
from aegen.data.batches import normalize
from aegen.data.image_rows import Pictures
from aegen.data.source import Data
from aegen.errors import UsageError, counted
from aegen.header import versioned
from aegen.inference.loading import Loaded
from aegen.settings import DataSettings
from aegen.training.distributed import World
from aegen.training.sampler_trainer import rows_of

FORMAT = 1
FOLDER = "latents"
_SMALL = 256 * 2**20  # bytes of rows that are held in memory
_ENCODED = 256  # images that are encoded at a time

Tell = Callable[[str, int, int], None]


class _Note(TypedDict):
    format: int


@functools.cache
def _note_type() -> TypeAdapter[_Note]:
    return TypeAdapter(_Note)


class _RowsFile(Checkpoint):
    entry, other = "aegen-latents", ("aegen", "is a model")
    header: _Note  # type: ignore[assignment]

    @staticmethod
    def _read(text: str) -> Any:
        return _note_type().validate_python(versioned(text, FORMAT))


def latent_rows(loaded: Loaded, data: Data, settings: DataSettings, here: World, tell: Tell) -> Data:
    """The rows of the training and the validation images of `data`, with their labels, in each process.

    Args:
        settings: whether images are flipped, and what may be kept in the cache.
        tell: called with what is done, how much of it is over, and of how much.
    """
    train = _rows(loaded, data.train, data.fingerprint(), settings, here, tell, "training", flip=settings.flip)
    held_out = _rows(
        loaded, data.validation, data.held_out_fingerprint(), settings, here, tell, "validation", flip=False
    )
    labels = data.train_labels
    if labels is not None and settings.flip:
        labels = torch.cat([labels, labels])
    return replace(
        data, train=train, validation=held_out, train_labels=labels, _fingerprint=data.fingerprint(), _held_out=None
    )


def _rows(
    loaded: Loaded,
    images: Pictures,
    fingerprint: str,
    settings: DataSettings,
    here: World,
    tell: Tell,
    what: str,
    *,
    flip: bool,
) -> Tensor:
    root = caches.folder() if settings.cache else None
    place = root / FOLDER / f"{_key(loaded, fingerprint, flip)}.safetensors" if root is not None else None
    count = len(images) * (1 + flip)
    found = _read(place, count)
    if not here.any(found is None):
        assert found is not None
        return found
    made = _encoded(loaded, images, here, tell, what, flip=flip)
    if here.first and place is not None:
        _write(place, made, settings.cache_gb * 1e9)
    here.barrier()
    return _kept(place, made, count)


def _kept(place: Path | None, made: Tensor, count: int) -> Tensor:
    """In memory, or where there are many of them in the file, if they could be written."""
    found = _read(place, count) if made.nbytes > _SMALL else None
    return made if found is None else found


def _key(loaded: Loaded, fingerprint: str, flip: bool) -> str:
    """A digest of everything that the rows depend on."""
    parts = (FORMAT, loaded.file.decoder_weights, fingerprint, flip, loaded.device.type, torch.__version__)
    told = (loaded.about.arch, loaded.about.bottleneck)  # the weights do not say what is done with them
    return hashlib.blake2b(repr((*parts, *told)).encode(), digest_size=16).hexdigest()


@torch.no_grad()
def _encoded(loaded: Loaded, images: Pictures, here: World, tell: Tell, what: str, *, flip: bool) -> Tensor:
    model, device = loaded.model, loaded.device
    passes = [(start, turned) for turned in range(1 + flip) for start in range(0, len(images), _ENCODED)]
    text = f"encoding {counted(len(images), f'{what} image')}" + " both ways" * flip
    own: list[Tensor] = []
    for number, (start, turned) in list(enumerate(passes))[here.rank :: here.size]:
        tell(text, number, len(passes))
        torch.manual_seed(number)  # of bottlenecks that draw, whoever encodes this part
        x = normalize(images[start : start + _ENCODED].to(device))
        own.append(rows_of(model, model.encode(x.flip(-1) if turned else x)).cpu())
    told = here.gather(own)
    tell(text, len(passes), len(passes))
    return torch.cat([told[i % here.size][i // here.size] for i in range(len(passes))])


def _read(place: Path | None, count: int) -> Tensor | None:
    """The rows of a file, if it is there and whole."""
    if place is None or not place.is_file() or place.is_symlink():
        return None
    with suppress(UsageError, OSError, SafetensorError):
        rows = _RowsFile(place).tensors("rows").get("")
        if rows is not None and rows.ndim >= 1 and len(rows) == count:
            os.utime(place)  # what was not used for longest goes first
            return rows.clone() if rows.nbytes <= _SMALL else rows
    return None


def _write(place: Path, rows: Tensor, most: float) -> None:
    """Keep rows, and no more in all than `most` bytes; the training does not depend on it."""
    if rows.nbytes > most:
        return
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        checksummed.write(place, {"rows": rows}, json.dumps({"format": FORMAT}), _RowsFile.entry)
        others = (path for path in place.parent.glob("*.safetensors") if len(path.stem) == 32 and path != place)
        caches.tidy(others, most - rows.nbytes)
