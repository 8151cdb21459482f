"""Plain JPEGs, decoded by simplejpeg: Pillow's very pixels without its detours, and torch's bicubic filter Pillow's to a level or two."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from aegen.data.decode_memory import ROOM

MAGIC = b"\xff\xd8"
DRAFT = 2  # times the size, to which a JPEG may be decoded: the last halving is left to a better filter
ORIENTATION = 0x0112  # in EXIF
_MARKER, _APP1, _SCAN = 0xFF, 0xE1, 0xDA
_BASELINE = (0xC0, 0xC1)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_CHANNELS, _COLOURS = {"Gray": 1, "YCbCr": 3, "RGB": 3}, {1: "GRAY", 3: "RGB"}
_COEFFICIENTS = 2  # bytes of each, and there are as many as numbers in the image
_CHEAP = 2**20  # pixels that are decoded without counting what they take


@dataclass(frozen=True)
class Target:
    """What decoded images must be.

    Attributes:
        size: (height, width), or None for the image's own.
        channels: 1 to 4, or None for the image's own.
        fit: `crop` cuts the largest centred part of the right proportions, `resize` distorts.
        white: the stored value that is white, of samples of more than 8 bits; None is 1 of floats and the largest of whole numbers.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    fit: str = "crop"
    white: float | None = None


def part_of(size: tuple[int, int], target: Target) -> int:
    """The part of its side to which a JPEG of `size` is decoded, in less time and near enough: 1, 2, 4 or 8."""
    if target.size is None:
        return 1
    return max(n for n in (1, 2, 4, 8) if n == 1 or min(size) >= n * DRAFT * max(target.size))


def read(content: bytes, target: Target, most: float) -> Tensor | None:
    """A JPEG that needs no change but of its size, uint8 (C, H, W); None for all else, and for what is odd in any way, which is Pillow's to judge.

    Args:
        most: pixels that may be held at once.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        channels = _CHANNELS.get(colours)
        if channels is None or target.channels not in (None, channels):
            return None
        whole, part = width * height, part_of((width, height), target)
        width, height = math.ceil(width / part), math.ceil(height / part)
        box = _box((width, height), target)
        if box is None or not _upright(content):
            return None
        cost = 2 * width * height * channels
        if whole > _CHEAP and progressive(content):
            if whole > most:
                return None
            cost += whole * channels * _COEFFICIENTS
        if width * height > most:
            return None
        with ROOM.hold(cost):
            return _decoded(content, (height, width, channels), box, target)
    except ValueError:
        return None


def _decoded(
    content: bytes, shape: tuple[int, int, int], box: tuple[int, int, int, int], target: Target
) -> Tensor | None:
    height, width, channels = shape
    pixels = simplejpeg.decode_jpeg(content, _COLOURS[channels], min_height=height, min_width=width)
    if pixels.shape != shape:
        return None
    # In a batch of one with the strides of one: torch's filter would rearrange other strides first.
    return _resized(torch.from_numpy(pixels)[None].permute(0, 3, 1, 2), box, target)[0]


def progressive(content: bytes) -> bool:
    """Whether all coefficients are held before there is a picture, so that decoding it small spares no memory."""
    place = len(MAGIC)
    while content[place : place + 1] == b"\xff":
        marker = content[place + 1] if place + 1 < len(content) else _SCAN
        if marker in _FRAMES:
            return marker not in _BASELINE
        if marker == _SCAN:
            break
        place += 1 if marker == _MARKER else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return True


def _upright(content: bytes) -> bool:
    """Whether a JPEG is to be shown as it lies; what could say else is in a segment that few but cameras write."""
    place = len(MAGIC)
    while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != bytes([_APP1]):
        if content[place + 1 : place + 2] == bytes([_SCAN]):
            return True
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            return bool(image.getexif().get(ORIENTATION, 1) == 1)
    except Exception:  # as in decode.read(), where the reason is told
        return False


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
