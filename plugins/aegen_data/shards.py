"""Shards: tar files of images, in webdataset's form; `0001.jpg` and `0001.cls` are one sample, of a class that is a number.

Images are read and decoded while training goes on, so that sets of any size need no room. Nothing else in a shard is opened.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch

from aegen import (
    Dataset,
    DataSettings,
    EnvironmentFault,
    ImageFiles,
    Images,
    Range,
    ShardRows,
    UsageError,
    common_target,
    keep_images,
    shard_contents,
)

_PROBED = 64  # images that tell the size and channels of the others


class Shards(Dataset):
    """Tar files of images, `shards-{000000..000999}.tar`, streamed.

    Options:
        shuffle: how many images are mixed at a time, out of eight shards.
        labels: read classes from .cls even where a sizes.json makes it needless to look into all shards first.
    """

    def __init__(self, *, shuffle: Annotated[int, Range(1)] = 4096, labels: bool = False) -> None:
        self.shuffle, self.labels = shuffle, labels

    def load(self, settings: DataSettings) -> Images:
        """Hold out some shards, or the end of each; those are decoded now, the others when they are asked for."""
        paths, group = _expanded(settings.name)
        sizes = None if self.labels else _sizes(paths)
        look = _look(paths, group)
        if sizes is None:
            sizes = [len(look(number).spans) for number in range(len(paths))]
        if not sum(sizes):
            raise UsageError(
                f"--data {settings.name} holds no image", hint="PNG, JPEG, WebP, BMP, GIF and TIFF are read"
            )
        target = common_target(settings, _first(paths, look))
        trained = _split(sizes, settings.validation)
        held = [(shard, number) for shard, size in enumerate(sizes) for number in range(trained[shard], size)]
        spans = [tuple(look(shard).spans[number].tolist()) for shard, number in held]
        files = ImageFiles([paths[shard] for shard, _ in held], spans)
        kept = keep_images(files, settings, target)
        if not len(kept.good):
            raise UsageError(f"none of the {len(held)} images held out of --data {settings.name} can be read")
        rows = ShardRows(paths, trained, look, target, shuffle=self.shuffle, strict=settings.strict)
        skipped = [f"{paths[held[n][0]].name}, image {held[n][1]} ({reason})" for n, reason in sorted(kept.bad.items())]
        how = f"{len(rows):,} streamed from {len(paths):,} shards, and for validation {kept.how}"
        if not self.labels and _sizes(paths) is not None:
            return Images(rows, validation=(kept.rows, None), skipped=skipped, how=how)
        labels = torch.cat([look(shard).labels[:count] for shard, count in enumerate(trained)])
        every = torch.cat([look(shard).labels for shard in range(len(paths))])
        if every.min() < 0:
            return Images(rows, validation=(kept.rows, None), skipped=skipped, how=how)
        others = torch.tensor([int(look(shard).labels[number]) for shard, number in held])[kept.good]
        classes = [str(n) for n in range(1 + int(every.max()))]
        return Images(rows, labels, classes, (kept.rows, others), skipped, how=how)


def _expanded(name: str) -> tuple[list[Path], Any]:
    """The shards that a pattern means, and what groups their members.

    Raises:
        UsageError: a shard is missing, or is no file.
    """
    try:
        from webdataset.shardlists import expand_urls
        from webdataset.tariterators import group_by_keys
    except ImportError as error:
        raise EnvironmentFault(
            "shards are read with webdataset, which is not installed", hint="pip install 'aegen[wds]'"
        ) from error
    if "://" in name or name.startswith("pipe:"):
        raise UsageError(f"--data {name} is no file, but shards are read from files", hint="fetch or mount them")
    paths = [Path(path).expanduser() for path in expand_urls(name)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        if len(paths) == 1:
            raise UsageError(f"there is no --data {name}", hint="give a tar file, or several as 'name-{000..009}.tar'")
        number = f"{len(missing):,} of {len(paths):,} shards are"
        raise UsageError(f"--data {name} means {missing[0]}, which is no file; {number} missing")
    return paths, group_by_keys


def _sizes(paths: list[Path]) -> list[int] | None:
    """How many images each shard holds, from a `sizes.json` beside them.

    Raises:
        UsageError: it is no table of whole numbers.
    """
    found: dict[Path, Any] = {}
    for folder in {path.parent for path in paths}:
        place = folder / "sizes.json"
        try:
            found[folder] = json.loads(place.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UsageError(f"{place} cannot be read ({error})") from error
        bad = not isinstance(found[folder], dict) or not all(type(n) is int and n >= 0 for n in found[folder].values())
        if bad:
            raise UsageError(f'{place} must hold the number of images by name of shard, as in {{"a-000.tar": 1000}}')
    sizes = [found[path.parent].get(path.name) for path in paths]
    return None if None in sizes else sizes


def _look(paths: list[Path], group: Any) -> Any:
    """A shard's number → its contents, looked up once."""
    known: dict[int, Any] = {}
    lock = threading.Lock()

    def look(number: int) -> Any:
        with lock:
            if number not in known:
                known[number] = shard_contents(paths[number], group)
            return known[number]

    return look


def _first(paths: list[Path], look: Any) -> Iterator[bytes]:
    """The first images of the first shard that has any; nothing is looked at before one is asked for."""
    number = next(n for n in range(len(paths)) if len(look(n).spans))
    spans = [tuple(span) for span in look(number).spans[:_PROBED].tolist()]
    files = ImageFiles([paths[number]] * len(spans), spans)
    yield from (files.content(n) for n in range(len(spans)))


def _split(sizes: list[int], share: float) -> list[int]:
    """How many of each shard are trained on: all but every so-many-th shard, or, of few shards, all but the end of each."""
    every = round(1 / share)
    if len(sizes) >= every and sum(sizes[every - 1 :: every]):
        return [0 if number % every == every - 1 else size for number, size in enumerate(sizes)]
    held = [round(size * share) for size in sizes]
    if not sum(held):
        held[max(range(len(sizes)), key=sizes.__getitem__)] = 1
    return [size - out for size, out in zip(sizes, held, strict=True)]
