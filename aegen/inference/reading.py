"""Files that a user names → images as a model sees them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from aegen.data import decode
from aegen.data.listing import list_folder, match
from aegen.data.source import skipped_text
from aegen.errors import UsageError
from aegen.inference.loading import Loaded
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


def read_images(
    sources: Sequence[Source], loaded: Loaded, say: Say, *, any_will_do: bool = False
) -> tuple[list[Source], Tensor]:
    """Decode to the model's shape: the readable sources and their pixels, uint8 (N, C, H, W).

    What is converted or skipped is said.

    Args:
        any_will_do: of a part of the images, whose others were read: there need be none that can be.

    Raises:
        UsageError: a file that the user named, or every file, cannot be read.
    """
    image = loaded.model.image
    target = decode.Target((image.height, image.width), image.channels, loaded.about.fit, loaded.about.white)
    others: dict[str, list[Path]] = {}
    for source in sources:
        shape = decode.probe(source.path)
        if shape is not None and (shape[0] != target.size or (shape[1] == 1) != (image.channels <= 2)):
            theirs = f"{shape[0][0]}×{shape[0][1]} (height×width) in {'grey' if shape[1] == 1 else 'colour'}"
            others.setdefault(theirs, []).append(source.path)
    for theirs, paths in list(others.items())[:_KINDS]:
        who = f"{paths[0]} is" if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1:,} more are"
        say(f"{who} {theirs}, converted to the model's {image}")
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
    return [s for s, _ in good], torch.stack([t for _, t in good]) if good else torch.empty(
        0, *image, dtype=torch.uint8
    )
