"""Shards: tar files of images, in webdataset's form; `0001.jpg` and `0001.cls` are one sample, of a class that is a number.

Images are read and decoded while training goes on, so that sets of any size need no room; images that are hardly larger when they are
decoded are kept as those of a folder are. Nothing else in a shard is opened.
"""

from __future__ import annotations

import re
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
    LeftOut,
    Range,
    ShardRows,
    UsageError,
    common_target,
    keep_images,
    parse_json,
    read_text,
    shard_contents,
)

_PATTERN = "several shards are written 'name-{000..009}.tar'"
_SHARDS = 10**6
_MOST = 2**31 - 1  # images of a shard
_PROBED = 64  # images that tell the size and channels of the others
_LARGER = 2  # times the room of the shards, which their decoded images may take to be kept


class Shards(Dataset):
    """Tar files of images, `shards-{000000..000999}.tar`, streamed.

    Options:
        shuffle: how many images are mixed at a time, out of eight shards.
        labels: read classes from .cls even where a sizes.json makes it needless to look into all shards first.
        kept_gb: decoded images of no more than this, and of no more than twice the room of their shards, are not streamed but kept as a
            folder's are; 0 streams always.
    """

    def __init__(
        self,
        *,
        shuffle: Annotated[int, Range(1)] = 4096,
        labels: bool = False,
        kept_gb: Annotated[float, Range(0)] = 4.0,
    ) -> None:
        self.shuffle, self.labels, self.kept_gb = shuffle, labels, kept_gb

    def load(self, settings: DataSettings) -> Images:
        """Hold out some shards, or the end of each; those are decoded now, the others when they are asked for. All of them, if they are small."""
        paths, group = _expanded(settings.name)
        known, look = None if self.labels else _sizes(paths), _look(paths, group)
        sizes = known or [len(look(number).spans) for number in range(len(paths))]
        left = LeftOut()
        for found in map(look, range(len(paths)) if known is None else ()):
            left.add(found.left_out.names, found.left_out.count - len(found.left_out.names))
        if not any(sizes):
            raise UsageError(
                f"--data {settings.name} holds no image" + f" but {left.count} that are hidden or links" * bool(left),
                hint="PNG, JPEG, WebP, BMP, GIF and TIFF are read",
            )
        target = common_target(settings, _first(paths, look))
        assert target.channels and target.size  # a common target leaves nothing open
        room = min(self.kept_gb * 1e9, _LARGER * sum(path.stat().st_size for path in paths))
        small = sum(sizes) * target.channels * target.size[0] * target.size[1] <= room
        trained = [0] * len(paths) if small else _split(sizes, settings.validation)
        places, spans, others = _ends(paths, look, trained, sizes, left)
        kept = keep_images(ImageFiles([paths[shard] for shard, _ in places], spans.numpy()), settings, target)
        bad = [(*places[number], reason) for number, reason in sorted(kept.bad.items())]
        skipped = [f"{paths[shard].name}, image {number} ({reason})" for shard, number, reason in bad]
        if not len(kept.good):
            which = "" if small else "held out "
            raise UsageError(
                f"none of the {len(places)} images {which}of --data {settings.name} can be read: {skipped[0]}, …"
            )
        labels, classes = None, []
        others = others[kept.good]
        if known is None:
            every = torch.cat([look(shard).labels for shard in range(len(paths))])
            if every.min() >= 0:
                labels = torch.cat([look(shard).labels[:count] for shard, count in enumerate(trained)])
                classes = [str(n) for n in range(1 + int(every.max()))]
        if small:
            return Images(kept.rows, others if classes else None, classes, skipped=skipped, left_out=left, how=kept.how)
        rows = ShardRows(paths, trained, look, target, shuffle=self.shuffle, strict=settings.strict)
        how = f"{len(rows):,} streamed from {len(paths):,} shards, and for validation {kept.how}"
        held = kept.rows, others if classes else None
        return Images(rows, labels, classes, held, skipped, left_out=left, how=how)


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
    try:
        if _home(name).is_file():
            return [_home(name)], group_by_keys
        _check_pattern(name)
        paths = [_home(path) for path in expand_urls(name)]
    except OSError as error:
        raise UsageError(f"--data {name} cannot be read ({error.strerror})") from error
    except ValueError as error:  # also what braces make of an odd name
        raise UsageError(f"--data {name} is no pattern of shards ({error})", hint=_PATTERN) from error
    missing = [path for path in paths if not path.is_file()]
    if missing:
        if len(paths) == 1:
            raise UsageError(f"there is no --data {name}", hint="give a tar file, or several as 'name-{000..009}.tar'")
        number = f"{len(missing):,} of {len(paths):,} shards are"
        raise UsageError(f"--data {name} means {missing[0]}, which is no file; {number} missing")
    return paths, group_by_keys


def _check_pattern(name: str) -> None:
    """Refuse braces that do not close, and those that mean more shards than there can be, before they are written out.

    Raises:
        UsageError: the pattern is one of those.
    """
    if name.count("{") != name.count("}"):
        raise UsageError(f"--data {name} has a brace without its other half", hint=_PATTERN)
    count = 1
    for inside in re.findall(r"\{([^{}]*)\}", name):
        ends = re.fullmatch(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?\d+)?", inside)
        count *= abs(int(ends[2]) - int(ends[1])) + 1 if ends else inside.count(",") + 1
        if count > _SHARDS:
            raise UsageError(f"--data {name} means more than {_SHARDS:,} shards", hint=_PATTERN)


def _home(path: str) -> Path:
    """With `~` as the user's folder, where there is such a user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _sizes(paths: list[Path]) -> list[int] | None:
    """How many images each shard holds, from a `sizes.json` beside them.

    Raises:
        UsageError: it is no table of whole numbers.
    """
    found: dict[Path, Any] = {}
    for folder in {path.parent for path in paths}:
        place = folder / "sizes.json"
        try:
            found[folder] = parse_json(read_text(place))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UsageError(f"{place} cannot be read ({error})") from error
        bad = not isinstance(found[folder], dict) or not all(
            type(n) is int and 0 <= n <= _MOST for n in found[folder].values()
        )
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
    spans = look(number).spans[:_PROBED].numpy()
    files = ImageFiles([paths[number]] * len(spans), spans)
    yield from (files.content(n) for n in range(len(spans)))


def _ends(
    paths: list[Path], look: Any, starts: list[int], sizes: list[int], left: LeftOut
) -> tuple[list[tuple[int, int]], torch.Tensor, torch.Tensor]:
    """(shard, number) of each shard's images from its start on, where they lie, and their labels; those that its size leaves out are counted.

    Raises:
        UsageError: a shard holds fewer than its size.
    """
    places, spans, labels = [], [torch.empty(0, 2, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    for shard, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if start < size:
            found = look(shard)
            if len(found.spans) < size:
                raise UsageError(
                    f"the shard {paths[shard]} holds {len(found.spans)} images, but sizes.json says {size}"
                )
            beyond = len(found.spans) - size
            if beyond:
                left.add([f"{paths[shard].name}, images {size} and after (sizes.json says {size})"], beyond - 1)
            places += [(shard, number) for number in range(start, size)]
            spans.append(found.spans[start:size])
            labels.append(found.labels[start:size])
    return places, torch.cat(spans), torch.cat(labels)


def _split(sizes: list[int], share: float) -> list[int]:
    """How many of each shard are trained on: all but every so-many-th shard, or, of few shards, all but the end of each."""
    every = round(1 / share)
    if len(sizes) >= every and any(sizes[every - 1 :: every]):
        return [0 if number % every == every - 1 else size for number, size in enumerate(sizes)]
    held = [round(size * share) for size in sizes]
    if not sum(held):
        held[max(range(len(sizes)), key=sizes.__getitem__)] = 1
    return [size - out for size, out in zip(sizes, held, strict=True)]
