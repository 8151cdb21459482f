"""BMPs whose pixels are laid out as Pillow does not know: any masks of bits, and four colours."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

from aegen.data.values import Bytes, Unreadable, eight_bit

_HEAD = 14
_PLAIN, _FIELDS, _ALPHA_FIELDS = 0, 3, 6  # ways to store
_DEFAULT = {16: (0x7C00, 0x3E0, 0x1F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}


@dataclass(frozen=True)
class Layout:
    """How the pixels are stored: size, bits a pixel, whether the lowest row is first, masks of red, green, blue and alpha, colours."""

    width: int
    height: int
    bits: int
    lowest_first: bool
    place: int
    masks: tuple[int, ...]
    palette: Bytes


def layout(content: bytes) -> Layout | None:
    """Of a BMP that this file can read; None for another."""
    if content[:2] != b"BM" or len(content) < _HEAD + 40:
        return None
    place, size, width, height, _, bits, way = struct.unpack_from("<IIiiHHI", content, 10)
    (colours,) = struct.unpack_from("<I", content, 46)
    known = (way in (_FIELDS, _ALPHA_FIELDS) and bits in _DEFAULT) or (way == _PLAIN and bits == 2)
    if not known or not 40 <= size <= 124 or width < 1 or height == 0:
        return None
    masks: tuple[int, ...] = ()
    if bits != 2:
        count = 4 if size >= 56 or way == _ALPHA_FIELDS else 3
        masks = (*struct.unpack_from(f"<{count}I", content, _HEAD + 40), 0)[:4]
        if not any(masks[:3]):
            masks = _DEFAULT[bits]
    table = np.frombuffer(content[_HEAD + size : _HEAD + size + 4 * min(colours or 4, 4)], np.uint8)
    return Layout(width, abs(height), bits, height > 0, place, masks, table.reshape(-1, 4)[:, 2::-1])


def picture(content: bytes, found: Layout) -> Image.Image:
    """RGB or RGBA.

    Raises:
        Unreadable: it is cut short.
    """
    stride = (found.width * found.bits + 31) // 32 * 4
    if len(content) < found.place + stride * found.height:
        raise Unreadable("cut short or damaged")
    rows = np.frombuffer(content, np.uint8, stride * found.height, found.place).reshape(found.height, stride)
    rows = rows[::-1] if found.lowest_first else rows
    if found.bits == 2:
        four = np.stack([rows >> 6, rows >> 4 & 3, rows >> 2 & 3, rows & 3], -1).reshape(found.height, -1)
        numbers = four[:, : found.width]
        if numbers.max() >= len(found.palette):
            raise Unreadable("it uses colours that its palette lacks")
        return Image.fromarray(found.palette[numbers])
    pixels = np.ascontiguousarray(rows).view(f"<u{found.bits // 8}")[:, : found.width]
    masks = found.masks if found.masks[3] else found.masks[:3]
    return Image.fromarray(np.stack([_channel(pixels, mask) for mask in masks], -1))


def _channel(pixels: np.ndarray, mask: int) -> Bytes:
    """The bits of a mask, 0 … all of them → 0 … 255."""
    if not mask:
        return np.zeros(pixels.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    values = (pixels & pixels.dtype.type(mask)) >> pixels.dtype.type(shift)
    return eight_bit(values, float(mask >> shift))[0]
