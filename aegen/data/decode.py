"""One image file → uint8 (C, H, W), whatever its mode, depth, orientation and size."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, JpegImagePlugin, UnidentifiedImageError
from torch import Tensor

from aegen import memory
from aegen.data import bmp, jpeg, png, tiff, tiff_page
from aegen.data.convert import converted, fitted, in_mode, own_channels, to_tensor, turned
from aegen.data.decode_memory import LARGE, ROOM
from aegen.data.jpeg import ORIENTATION
from aegen.data.jpeg import Target as Target
from aegen.data.values import Note, remarks
from aegen.data.values import Unreadable as Unreadable
from aegen.errors import UsageError
from aegen.settings import DataSettings
from aegen.threads import pool, workers
from aegen.untrusted import opened, quoted

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# Not all that Pillow knows: its EPS reader runs a program.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_KNOWN = {jpeg.MAGIC: "JPEG", png.MAGIC: "PNG", b"BM": "BMP", b"GIF8": "GIF", b"RIFF": "WebP"}
_FOREIGN = {  # what is an image, but of no format that is read
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"8BPS": "Photoshop",
    b"v/1\x01": "OpenEXR",
    b"DDS ": "DDS",
    b"\0\0\1\0": "icon",
    b"<svg": "SVG",
}
_BOXED = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC"}
_USUAL, _COLOURED = (64, 64), 3
MISSING = "no such file"
_HEAD = 256  # bytes that say what a file is
VERSION = 4
"""Of what `read` makes of a file: images that were decoded by another version are decoded anew."""


def read(source: Path | bytes, target: Target) -> Tensor:
    """Decode one file, or its content, to uint8 (C, H, W); `noted` without what it notes."""
    return noted(source, target)[0]


def noted(source: Path | bytes, target: Target) -> tuple[Tensor, Note]:
    """Decode one file, or its content, to uint8 (C, H, W), and say what of it was not used.

    All threads together take no more memory for it than `room.MOST`, or what the largest image needs alone.

    Raises:
        Unreadable: it is empty, cut short, no image, or would decompress to an enormous one.
        UsageError: AEGEN_MAX_PIXELS is no number of pixels.
    """
    most = max_pixels()
    try:
        with nullcontext(source) if isinstance(source, bytes) else held(source) as content:
            if not content.startswith(jpeg.MAGIC):
                return _decoded(content, target, most)
            found = jpeg.read(content, target, most)
            return (found, Note.NOTHING) if found is not None else _decoded(content, target, most)
    except Unreadable:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unreadable(f"too large to open safely: more pixels than AEGEN_MAX_PIXELS ({most:,.0f}) allows") from None
    except MemoryError:
        raise Unreadable("it takes more memory than there is") from None
    except (
        Exception
    ) as error:  # decoders raise anything on damaged data: OSError, SyntaxError, ValueError, struct.error
        damaged = any(word in str(error).lower() for word in ("truncated", "broken", "decoder error"))
        reason = "cut short or damaged" if damaged else str(error)
        raise Unreadable(reason.splitlines()[0] if reason else type(error).__name__) from None


def max_pixels() -> float:
    """Pixels of the largest image that is opened: $AEGEN_MAX_PIXELS, else what Pillow takes for safe; a JPEG counts as large as it is decoded.

    Raises:
        UsageError: that variable is no number.
    """
    text = os.environ.get("AEGEN_MAX_PIXELS", "")
    if not text:
        return Image.MAX_IMAGE_PIXELS or math.inf
    if not text.isdecimal() or not int(text):
        raise UsageError(f"AEGEN_MAX_PIXELS is {text!r}, but takes a number of pixels such as 200000000")
    if Image.MAX_IMAGE_PIXELS is not None and int(text) > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = int(text)  # or Pillow would refuse what was allowed
    return int(text)


def content_of(path: Path, span: tuple[int, int] | None = None) -> bytes:
    """An encoded image, or the part of its file from an offset on, of a size; a pipe or a device is not waited for.

    Raises:
        Unreadable: it cannot be had.
    """
    try:
        with open(opened(path), "rb") as file:
            if span is None:
                return file.read()
            file.seek(span[0])
            return file.read(span[1])
    except FileNotFoundError:
        raise Unreadable(MISSING) from None
    except PermissionError:
        raise Unreadable("no permission to read it") from None
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None


@contextmanager
def held(path: Path, span: tuple[int, int] | None = None) -> Iterator[bytes]:
    """As `content_of`, and while no other is decoded if it is large."""
    size = span[1] if span is not None else 0
    with suppress(OSError):  # whose reason `content_of` tells
        size = size or os.stat(path).st_size
    with ROOM.hold(ROOM.most if size >= LARGE else 0):
        yield content_of(path, span)


def _decoded(content: bytes, target: Target, most: float) -> tuple[Tensor, Note]:
    """What is no plain JPEG."""
    if content.startswith(tiff_page.MAGIC):
        return _tiff(content, target, most)
    if (layout := bmp.layout(content)) is not None:
        _check(layout.width, layout.height, most)
        with ROOM.hold(layout.width * layout.height * 12):
            return _final(bmp.picture(content, layout), target), Note.NOTHING
    content = png.slim(content) or content
    try:
        return _by_pillow(content, target, most)
    except UnidentifiedImageError:
        raise Unreadable(_unknown(content)) from None


def _tiff(content: bytes, target: Target, most: float) -> tuple[Tensor, Note]:
    tiff.quiet()
    page = tiff_page.page(io.BytesIO(content))
    _check(page.width, page.height, most)
    note = Note.FRAMES if page.more else Note.NOTHING
    if page.usual:
        try:
            return _by_pillow(content, target, most)[0], note
        except UnidentifiedImageError:
            pass  # of the kinds that are read below, or one whose refusal says what it is
    with ROOM.hold(page.cost):
        pixels, said = _unusual(content, page, target)
        return pixels, note | said


def _unusual(content: bytes, page: tiff_page.Page, target: Target) -> tuple[Tensor, Note]:
    image, said = tiff.picture(content, page, target.white)
    return _final(turned(image, page.orientation), target), said


def _final(image: Image.Image, target: Target) -> Tensor:
    return to_tensor(fitted(in_mode(image, target.channels), target))


def _by_pillow(content: bytes, target: Target, most: float) -> tuple[Tensor, Note]:
    with _opened(io.BytesIO(content)) as image:
        whole, held = image.width * image.height, 0
        if image.format in ("JPEG", "MPO"):
            if whole > most and (target.size is None or jpeg.progressive(content)):
                _check(image.width, image.height, most)
            if target.size is not None:
                side = jpeg.DRAFT * max(target.size)  # a square covers turned ones too
                image.draft(None, (side, side))
            held = 6 * whole if jpeg.progressive(content) else 0
        _check(image.width, image.height, most)
        with ROOM.hold(held + image.width * image.height * _cost(image, content)):
            try:
                return _made(image, content, target)
            finally:
                image.close()  # its memory goes before the room does that was held for it


def _made(image: Image.Image, content: bytes, target: Target) -> tuple[Tensor, Note]:
    pixels, note = converted(image, content, target)
    return to_tensor(fitted(pixels, target)), note


def _cost(image: Image.Image, content: bytes) -> int:
    """About how many bytes a pixel takes until it is 8 bits in as many channels as are wanted."""
    stored = 1 if image.mode in ("1", "L", "P") else 4
    deep = image.format == "PNG" and png.kind(content)[0] == 16
    return stored + 4 + 6 + (12 if image.format in ("WEBP", "GIF") else 0) + (24 if deep else 0)


@contextmanager
def _opened(file: IO[bytes]) -> Iterator[Image.Image]:
    """An image with its head read; a JPEG of any size, as it may be decoded small."""
    try:
        image: Image.Image = Image.open(file, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        file.seek(0)
        if file.read(2) != jpeg.MAGIC:
            raise
        file.seek(0)
        image = JpegImagePlugin.jpeg_factory(file, "")
    with image:
        yield image


def _check(width: int, height: int, most: float) -> None:
    if width * height > most:
        raise Unreadable(
            f"too large to open safely: {height}×{width} (height×width) is more than the {most:,.0f} pixels that AEGEN_MAX_PIXELS allows"
        )


def _unknown(content: bytes) -> str:
    """Why Pillow does not know a file for an image."""
    if not content:
        return "empty file"
    name = next((name for magic, name in _KNOWN.items() if content.startswith(magic)), None)
    if name is not None:
        return f"a damaged {name}"
    name = next((name for magic, name in _FOREIGN.items() if content.startswith(magic)), None)
    name = name or (_BOXED.get(content[8:12]) if content[4:8] == b"ftyp" else None)
    return f"an image in {name}, which is not read" if name else "not an image"


def read_many(
    paths: Sequence[Path], target: Target, tell: Callable[[str], None] = lambda text: None
) -> tuple[list[Tensor | None], list[tuple[Path, str]]]:
    """Decode files in parallel (Pillow releases the interpreter's lock).

    Args:
        tell: is told what of the images that can be read was not used.

    Returns:
        One tensor a file, None where it could not be read, and the unreadable files with their reasons.
    """

    notes: dict[str, Note] = {}

    def one(path: Path) -> Tensor | str:
        try:
            pixels, note = noted(path, target)
        except Unreadable as error:
            return str(error)
        if note:
            notes[str(path)] = note
        return pixels

    # Around the threads and not in them, since the filters belong to the whole process.
    with warnings.catch_warnings(), pool(workers(), "aegen-decode") as helpers:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, and on sizes, which read() looks at itself
        results = list(helpers.map(one, paths))
    for text in remarks({name: notes[name] for name in map(str, paths) if name in notes}):
        tell(text)
    bad = [(p, r) for p, r in zip(paths, results, strict=True) if isinstance(r, str)]
    return [None if isinstance(r, str) else r for r in results], bad


def probe(source: Path | bytes) -> tuple[tuple[int, int], int] | None:
    """((height, width), channels) from a file's head without decoding it, or None if it is no image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with io.BytesIO(source) if isinstance(source, bytes) else open(opened(source), "rb") as file:
                return _probed(file)
    except Exception:  # as in read(), where the reason is told
        return None


def _probed(file: IO[bytes]) -> tuple[tuple[int, int], int]:
    head = file.read(_HEAD)
    file.seek(0)
    if head.startswith(tiff_page.MAGIC):
        page = tiff_page.page(file)
        return page.size, 1 if page.grey else 3
    if (layout := bmp.layout(head)) is not None:
        return (layout.height, layout.width), 3
    try:
        return _shape(file, head)
    except ValueError:
        file.seek(0)
        shorter = png.slim(file.read())
        if shorter is None:
            raise
        return _shape(io.BytesIO(shorter), head)


def _shape(file: IO[bytes], head: bytes) -> tuple[tuple[int, int], int]:
    with _opened(file) as image:
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        size = (image.width, image.height) if turned else (image.height, image.width)
        grey = own_channels(image) == 1 or (image.mode == "P" and _grey_palette(image))
        grey = grey or (image.format == "PNG" and png.kind(head)[1] == png.GREY_ALPHA)
        return size, 1 if grey else 3


def _grey_palette(image: Image.Image) -> bool:
    palette = np.asarray(image.getpalette() or [0, 0, 0]).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def side(size: int | list[int] | None) -> tuple[int, int] | None:
    """The `--size` option as (height, width).

    Raises:
        UsageError: it is not one positive number or two.
    """
    if size is None:
        return None
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or min(sides) < 1:
        raise UsageError(f"--size is {quoted(size)}, but takes a number of pixels or [height, width]")
    return sides[0], sides[1]


def common_target(settings: DataSettings, sources: Iterable[Path | bytes]) -> Target:
    """The shape asked for, else the one that all images share: 64×64 where they have several sizes, colour where one has colour.

    Only as many are looked at as can change that.

    Raises:
        UsageError: the `--size` asked for is none.
    """
    size, channels = side(settings.size), settings.channels
    sizes: set[tuple[int, int]] = set()
    colours, left = 0, iter(sources)
    while (size is None and len(sizes) < 2) or (channels is None and colours < _COLOURED):
        if (source := next(left, None)) is None:
            break
        if (shape := probe(source)) is not None:
            sizes.add(shape[0])
            colours = max(colours, shape[1])
    if size is None:
        size = sizes.pop() if len(sizes) == 1 else _USUAL
    return Target(size, channels or colours or _COLOURED, settings.fit, settings.white)


def reshape(pixels: Tensor, target: Target) -> Tensor:
    """Bring decoded images (N, C, H, W) uint8 to a target's size and channels.

    For data sets that come as arrays; the same rules as for files.
    """
    if not len(pixels) or (
        pixels.shape[2:] == (target.size or pixels.shape[2:])
        and pixels.shape[1] == (target.channels or pixels.shape[1])
    ):
        return pixels
    from aegen.pictures import to_pil

    channels = target.channels or pixels.shape[1]
    size = len(pixels) * channels * math.prod(target.size or pixels.shape[2:])
    memory.require(size, f"{len(pixels):,} images of that size", "use a smaller --size")
    return torch.stack([to_tensor(fitted(in_mode(to_pil(image), channels), target)) for image in pixels])
