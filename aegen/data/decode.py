"""One image file → uint8 (C, H, W), whatever its mode, depth, orientation and size."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

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
_DRAFT = 2  # times the size, to which a JPEG may be decoded: the last halving is left to a better filter
VERSION = 2
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
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Unreadable(_BOMB)  # Pillow refuses only twice as many
            plain, smaller = _plain(image, target), _draft(image, target)
            box = _box(image.size, target) if plain else None
            if box is not None and smaller:
                return _resized(torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1), box, target)
            decode = None if box is None else _decode_jpeg()
            if box is not None and decode is not None:
                whole = decode(source if isinstance(source, bytes) else source.read_bytes(), image.mode)
                return _resized(whole, box, target)
            return to_tensor(_fit(_mode(image, target.channels), target))
    except Image.DecompressionBombError:
        raise Unreadable(_BOMB) from None
    except Unreadable:
        raise
    except UnidentifiedImageError:
        empty = not (source if isinstance(source, bytes) else source.stat().st_size)
        raise Unreadable("empty file" if empty else "not an image") from None
    except PermissionError:
        raise Unreadable("no permission to read it") from None
    except FileNotFoundError:
        raise Unreadable("no such file") from None
    except (
        Exception
    ) as error:  # decoders raise anything on damaged data: OSError, SyntaxError, ValueError, struct.error
        damaged = any(word in str(error) for word in ("truncated", "broken", "decode_jpeg"))
        reason = "cut short or damaged" if damaged else str(error)
        raise Unreadable(reason.splitlines()[0] if reason else type(error).__name__) from None


def _plain(image: Image.Image, target: Target) -> bool:
    """Whether it is a JPEG that needs no change but of its size, which torch makes as Pillow would, only faster."""
    return (
        image.format == "JPEG"
        and image.mode in ("L", "RGB")
        and target.channels in (None, len(image.mode))
        and image.getexif().get(_ORIENTATION, 1) == 1
    )


def _draft(image: Image.Image, target: Target) -> bool:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8, in less time, if that is enough; whether it will be."""
    size = image.size
    if target.size is not None and image.format == "JPEG":
        side = _DRAFT * max(target.size)  # a square covers turned ones too
        image.draft(None, (side, side))
    return image.size != size


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
    """A part of an image (C, H, W) in the target's size."""
    left, top, width, height = box
    part = whole[:, top : top + height, left : left + width]
    if target.size not in (None, (height, width)):
        part = interpolate(part[None], size=target.size, mode="bicubic", antialias=True)[0]
    return part.contiguous()


@cache
def _decode_jpeg() -> Callable[[bytes, str], Tensor] | None:
    """torchvision's decoder of whole JPEGs, content and mode → uint8 (C, H, W), or None where there is none.

    It gives Pillow's very pixels, and torch's bicubic filter Pillow's to a level, from 512×512 on one core in 1.5 ms where Pillow takes 2.0
    as they are, and 1.7 instead of 4.1 at 256×256.
    """
    try:
        import torchvision.io  # makes the operator known; its own function warns that a later torchvision may be without
    except ImportError:
        return None
    operator = getattr(torch.ops.image, "decode_jpeg", None)
    if operator is None:
        return None
    modes = {"L": torchvision.io.ImageReadMode.GRAY.value, "RGB": torchvision.io.ImageReadMode.RGB.value}

    def decode(content: bytes, mode: str) -> Tensor:
        found: Tensor = operator(torch.frombuffer(bytearray(content), dtype=torch.uint8), modes[mode], False)
        return found

    return decode


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
    return torch.stack([to_tensor(_fit(_mode(to_pil(image), channels), target)) for image in pixels])
