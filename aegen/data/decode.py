"""One image file → uint8 (C, H, W), whatever its mode, depth, orientation and size."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from aegen import memory
from aegen.errors import UsageError
from aegen.pictures import MODES, flat
from aegen.settings import DataSettings
from aegen.threads import pool

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# Not all that Pillow knows: its EPS reader runs a program.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_USUAL, _COLOURED = (64, 64), 3
_SIXTEEN_BIT = 257  # 65535 / 255
_ORIENTATION = 0x0112  # in EXIF
_JPEG = b"\xff\xd8"
_MARKER, _APP1, _SCAN = b"\xff", b"\xe1", b"\xda"
_CHANNELS, _COLOURS = {"Gray": 1, "YCbCr": 3, "RGB": 3}, {1: "GRAY", 3: "RGB"}
_DRAFT = 2  # times the size, to which a JPEG may be decoded: the last halving is left to a better filter
VERSION = 3
"""Of what `read` makes of a file: images that were decoded by another version are decoded anew."""

_BOMB = "too large to open safely"


class Unreadable(Exception):
    """A file that is not a usable image; the text says why."""


@dataclass(frozen=True)
class Target:
    """What decoded images must be.

    Attributes:
        size: (height, width), or None for the image's own.
        channels: 1 to 4, or None for the image's own.
        fit: `crop` cuts the largest centred part of the right proportions, `resize` distorts.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    fit: str = "crop"


def read(source: Path | bytes, target: Target) -> Tensor:
    """Decode one file, or its content, to uint8 (C, H, W).

    Raises:
        Unreadable: it is empty, cut short, no image, or would decompress to an enormous one.
    """
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
        found = _plain_jpeg(content, target)
        if found is not None:
            return found
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if _enormous(image.width, image.height):
                raise Unreadable(_BOMB)
            if target.size is not None and image.format == "JPEG":
                side = _DRAFT * max(target.size)  # a square covers turned ones too
                image.draft(None, (side, side))
            return to_tensor(_fit(_mode(image, target.channels), target))
    except Image.DecompressionBombError:
        raise Unreadable(_BOMB) from None
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("not an image" if content else "empty file") from None
    except PermissionError:
        raise Unreadable("no permission to read it") from None
    except FileNotFoundError:
        raise Unreadable("no such file") from None
    except (
        Exception
    ) as error:  # decoders raise anything on damaged data: OSError, SyntaxError, ValueError, struct.error
        damaged = any(word in str(error).lower() for word in ("truncated", "broken"))
        reason = "cut short or damaged" if damaged else str(error)
        raise Unreadable(reason.splitlines()[0] if reason else type(error).__name__) from None


def _plain_jpeg(content: bytes, target: Target) -> Tensor | None:
    """A JPEG that needs no change but of its size; None for all else, and for what is odd in any way, which is Pillow's to judge.

    simplejpeg gives Pillow's very pixels without its detours, and torch's bicubic filter Pillow's to a level or two.
    """
    if not content.startswith(_JPEG):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        channels = _CHANNELS.get(colours)
        if channels is None or target.channels not in (None, channels) or _enormous(width, height):
            return None
        part = 1  # of its side, to which it is decoded: in less time, and near enough
        if target.size is not None:
            part = max(n for n in (1, 2, 4, 8) if n == 1 or min(width, height) >= n * _DRAFT * max(target.size))
        width, height = math.ceil(width / part), math.ceil(height / part)
        box = _box((width, height), target)
        if box is None or not _upright(content):
            return None
        pixels = simplejpeg.decode_jpeg(content, _COLOURS[channels], min_height=height, min_width=width)
    except ValueError:
        return None
    if pixels.shape != (height, width, channels):
        return None
    # In a batch of one with the strides of one: torch's filter would rearrange other strides first.
    return _resized(torch.from_numpy(pixels)[None].permute(0, 3, 1, 2), box, target)[0]


def _upright(content: bytes) -> bool:
    """Whether a JPEG is to be shown as it lies; what could say else is in a segment that few but cameras write."""
    place = len(_JPEG)
    while content[place : place + 1] == _MARKER and content[place + 1 : place + 2] != _APP1:
        if content[place + 1 : place + 2] == _SCAN:
            return True
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            return bool(image.getexif().get(_ORIENTATION, 1) == 1)
    except Exception:  # as in read(), where the reason is told
        return False


def _enormous(width: int, height: int) -> bool:
    """Pillow refuses only twice as many pixels."""
    return width * height > (Image.MAX_IMAGE_PIXELS or math.inf)


def _box(size: tuple[int, int], target: Target) -> tuple[int, int, int, int] | None:
    """The part of an image of `size` (width, height) that `target` shows, as ImageOps.fit has it: (left, top, width, height).

    None where it does not begin and end at whole pixels: that is Pillow's to do.
    """
    width, height = size
    if target.size is None or target.fit == "resize" or target.size == (height, width):
        return 0, 0, width, height
    tall, wide = target.size
    w, h = (height * wide / tall, height) if width * tall >= height * wide else (width, width * tall / wide)
    left, top = (width - w) / 2, (height - h) / 2
    if not all(float(n).is_integer() for n in (left, top, w, h)):
        return None
    return int(left), int(top), int(w), int(h)


def _resized(whole: Tensor, box: tuple[int, int, int, int], target: Target) -> Tensor:
    """A part of images (N, C, H, W) in the target's size."""
    left, top, width, height = box
    part = whole[:, :, top : top + height, left : left + width]
    if target.size not in (None, (height, width)):
        part = interpolate(part, size=target.size, mode="bicubic", antialias=True)
    return part.contiguous()


def _mode(image: Image.Image, channels: int | None) -> Image.Image:
    """Upright, 8 bits a channel, in the mode for that many channels."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bit(image)
    if image.mode == "P" or (image.mode in ("L", "RGB", "1") and "transparency" in image.info):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode == "PA":
        image = image.convert("RGBA")
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in MODES.values():
        image = image.convert("RGB")  # CMYK, YCbCr, LAB, HSV
    channels = channels or own_channels(image)
    if channels in (1, 3):
        image = flat(image)
    if image.mode != MODES[channels]:
        image = image.convert(MODES[channels])
    return image


def own_channels(image: Image.Image) -> int:
    """1 for a grey image, 3 for one with colour; transparency is laid on white unless asked for."""
    return 1 if image.mode in ("L", "LA", "1", "I", "F") or image.mode.startswith("I;16") else 3


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit and float greys; Pillow's own conversion clips everything above 255 to white."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise Unreadable("it holds values that are not finite")
    if image.mode == "F":
        top = 1.0 if values.max(initial=0) <= 1 else 255.0 if values.max() <= 255 else 65535.0
        values = values / top * 255
    else:
        values = values / _SIXTEEN_BIT
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8), "L")


def _fit(image: Image.Image, target: Target) -> Image.Image:
    if target.size is None or (image.height, image.width) == target.size:
        return image
    height, width = target.size
    if target.fit == "resize":
        return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3)
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL image → uint8 (C, H, W). Colours under full transparency, which nobody sees, are made white."""
    array = np.array(image)
    if array.ndim == 2:
        array = array[:, :, None]
    elif image.mode in ("LA", "RGBA"):
        array[array[:, :, -1] == 0, :-1] = 255
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def read_many(paths: Sequence[Path], target: Target) -> tuple[list[Tensor | None], list[tuple[Path, str]]]:
    """Decode files in parallel (Pillow releases the interpreter's lock).

    Returns:
        One tensor a file, None where it could not be read, and the unreadable files with their reasons.
    """

    def one(path: Path) -> Tensor | str:
        try:
            return read(path, target)
        except Unreadable as error:
            return str(error)

    # Around the threads and not in them, since the filters belong to the whole process.
    with warnings.catch_warnings(), pool(min(16, os.cpu_count() or 1), "aegen-decode") as helpers:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, and on sizes, which read() looks at itself
        results = list(helpers.map(one, paths))
    bad = [(p, r) for p, r in zip(paths, results, strict=True) if isinstance(r, str)]
    return [None if isinstance(r, str) else r for r in results], bad


def probe(source: Path | bytes) -> tuple[tuple[int, int], int] | None:
    """((height, width), channels) from a file's head without decoding it, or None if it is no image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
                turned = image.getexif().get(_ORIENTATION, 1) >= 5
                size = (image.width, image.height) if turned else (image.height, image.width)
                grey = own_channels(image) == 1 or (image.mode == "P" and _grey_palette(image))
                return size, 1 if grey else 3
    except Exception:  # as in read(), where the reason is told
        return None


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
        raise UsageError(f"--size is {size!r}, but takes a number of pixels or [height, width]")
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
    return Target(size, channels or colours or _COLOURED, settings.fit)


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
    return torch.stack([to_tensor(_fit(_mode(to_pil(image), channels), target)) for image in pixels])
