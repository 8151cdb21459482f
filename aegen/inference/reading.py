"""Files that a user names → images as a model sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from aegen.data import decode
from aegen.data.batches import normalize
from aegen.data.listing import list_folder, match
from aegen.data.source import skipped_text
from aegen.errors import UsageError
from aegen.inference.loading import Loaded
from aegen.inference.sizes import OWN, Own
from aegen.messages import Say, silent, warn
from aegen.protocols import LeftOut

_PLACES = "give images (PNG, JPEG, WebP, BMP, GIF, TIFF), folders or globs"

_KINDS = 5  # of size and colour, that are named


@dataclass
class Source:
    """A picture that the user named.

    Attributes:
        name: where `--each` puts its reconstruction, relative to the folder of outputs.
        named: whether the user named this very file, rather than a folder that holds it.
    """

    path: Path
    name: Path
    named: bool


def find_images(places: Sequence[str], say: Say = silent) -> list[Source]:
    """Files, folders (searched through and through, as training does) and globs → pictures, in order.

    Args:
        say: is told of images that are left out.

    Raises:
        UsageError: a place does not exist or holds no picture.
    """
    found: list[Source] = []
    left = LeftOut()
    for text in places:
        if not text.strip():
            raise UsageError(f"{text!r} names no image", hint=_PLACES)
        path = Path(os.path.expanduser(text))  # of a user who is not known, as it is
        try:
            is_dir, exists = path.is_dir(), path.exists()
            if is_dir:
                files = _inside(path, left)
            elif exists:
                files = [Source(path, Path(path.name), True)]
            else:
                matched, hidden = match(str(path))
                left.add(hidden)
                files = [source for one in matched for source in _matched(one, left)]
        except OSError as error:
            raise UsageError(f"{text} cannot be read ({error.strerror})") from error
        if not files:
            wild = any(c in text for c in "*?[")
            what = "matches no file" if wild else "holds no image" if is_dir else "does not exist"
            raise UsageError(f"{text} {what}" + f"; {left}" * bool(left), hint=_PLACES)
        found += files
    if left:
        warn(say, str(left))
    return found


def _inside(folder: Path, left: LeftOut) -> list[Source]:
    """The pictures of a folder."""
    listed = list_folder(folder)
    left.add(listed.left_out + listed.unreadable)
    return [Source(folder.joinpath(*name), Path(*name), False) for name in listed.images]


def _matched(place: Path, left: LeftOut) -> list[Source]:
    """What a glob found: a file, or the pictures of a folder under its name."""
    if not place.is_dir():
        return [Source(place, Path(place.name), False)]
    return [Source(one.path, Path(place.name, one.name), False) for one in _inside(place, left)]


def read_each(
    sources: Sequence[Source],
    loaded: Loaded,
    say: Say,
    *,
    any_will_do: bool = False,
    size: tuple[int, int] | Own | None = None,
) -> tuple[list[Source], list[Tensor]]:
    """Decode to the model's shape, or to its channels and another size: the readable sources and their pixels, uint8 (C, H, W) each.

    What is converted or skipped is said.

    Args:
        any_will_do: of a part of the images, whose others were read: there need be none that can be.
        size: (height, width), or `own`: each image's own; the model's by default.

    Raises:
        UsageError: a file that the user named, or every file, cannot be read.
    """
    image = loaded.model.image
    wanted = None if size == OWN else size or (image.height, image.width)
    target = decode.Target(wanted, image.channels, loaded.about.fit, loaded.about.white)
    into = f"the model's {image}" if size is None else f"{image.channels} channel{'s' * (image.channels > 1)}"
    into += f", {wanted[0]}×{wanted[1]}" if size is not None and wanted else ""
    others: dict[str, list[Path]] = {}
    for source in sources:
        shape = decode.probe(source.path)
        other = shape is not None and (wanted not in (None, shape[0]) or (shape[1] == 1) != (image.channels <= 2))
        if shape is not None and other:
            theirs = f"{shape[0][0]}×{shape[0][1]} (height×width) in {'grey' if shape[1] == 1 else 'colour'}"
            others.setdefault(theirs, []).append(source.path)
    for theirs, paths in list(others.items())[:_KINDS]:
        who = f"{paths[0]} is" if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1:,} more are"
        say(f"{who} {theirs}, converted to {into}")
    if rest := sum(len(paths) for paths in list(others.values())[_KINDS:]):
        say(f"{rest:,} more are of other sizes, converted too")
    tensors, bad = decode.read_many([s.path for s in sources], target, say)
    named = {s.path for s in sources if s.named}
    for path, reason in bad:
        if path in named or (len(bad) == len(sources) and not any_will_do):
            raise UsageError(f"{path} cannot be read ({reason})", hint="give another image")
    if bad:
        texts = [f"{path.name} ({reason})" for path, reason in bad]
        warn(say, f"{skipped_text(texts, f'{len(sources):,} given')}; it goes on without them")
    good = [(s, t) for s, t in zip(sources, tensors, strict=True) if t is not None]
    return [s for s, _ in good], [t for _, t in good]


def read_images(
    sources: Sequence[Source], loaded: Loaded, say: Say, *, size: tuple[int, int] | Own | None = None
) -> tuple[list[Source], Tensor]:
    """As `read_each`, with all pixels in one tensor, uint8 (N, C, H, W).

    Raises:
        UsageError: as `read_each`, or they are of several sizes.
    """
    good, tensors = read_each(sources, loaded, say, size=size)
    return good, stacked(tensors)


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Images (C, H, W) of one size → (N, C, H, W).

    Raises:
        UsageError: they are of several.
    """
    found = list(dict.fromkeys(f"{one.shape[1]}×{one.shape[2]}" for one in images))
    if len(found) > 1:
        raise UsageError(
            f"the images are of {len(found)} sizes, {', '.join(found[:3])}{', …' * (len(found) > 3)}, where one is needed",
            hint="give --size HEIGHTxWIDTH instead of own, or images of one size",
        )
    return torch.stack(list(images))


def read_in_batches(
    sources: Sequence[Source], loaded: Loaded, say: Say, batch: int, size: tuple[int, int] | Own | None = None
) -> Iterator[tuple[list[Source], Tensor]]:
    """Readable sources and their images (B, C, H, W) in [-1, 1], at most `batch` at a time, those of one batch of one size.

    Raises:
        UsageError: as `read_each`.
    """
    found = False
    for start in range(0, len(sources), batch):
        last = start + batch >= len(sources)
        good, pixels = read_each(sources[start : start + batch], loaded, say, any_will_do=found or not last, size=size)
        found = found or bool(good)
        for _, group in groupby(zip(good, pixels, strict=True), key=lambda pair: pair[1].shape):
            pairs = list(group)
            yield [source for source, _ in pairs], normalize(torch.stack([one for _, one in pairs]))
