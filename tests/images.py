"""Image files of kinds that no library writes, byte by byte."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

# Bytes of one value of each field type that the tests use: ASCII, SHORT, LONG.
_SIZES, _CODES = {2: 1, 3: 2, 4: 4}, {2: "B", 3: "H", 4: "I"}


def tiff(
    tags: dict[int, tuple[int, Any]], data: list[bytes], order: str = "<", more: bytes = b"", tiled: bool = False
) -> bytes:
    """A TIFF of one page: tag → (field type, value or values), the content of its strips or tiles, and what follows it as a second page."""
    places = np.cumsum([8, *(len(part) for part in data)])
    offsets, counts = (324, 325) if tiled else (273, 279)
    tags = {**tags, offsets: (4, places[:-1].tolist()), counts: (4, [len(part) for part in data])}
    end = int(places[-1])
    tail, entries = b"", []
    for tag, (kind, value) in sorted(tags.items()):
        numbers = list(value) if isinstance(value, (list, tuple)) else [value]
        packed = struct.pack(f"{order}{len(numbers)}{_CODES[kind]}", *numbers)
        if len(packed) > 4:
            place = end + 2 + 12 * len(tags) + 4 + len(tail)
            tail += packed + bytes(len(packed) % 2)
            packed = struct.pack(f"{order}I", place)
        entries.append(struct.pack(f"{order}HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0"))
    after = end + 2 + 12 * len(tags) + 4 + len(tail) if more else 0
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", end)
    count = struct.pack(f"{order}H", len(entries))
    return b"".join([head, *data, count, *entries, struct.pack(f"{order}I", after), tail, more])


def page(width: int, height: int, bits: int | list[int], meaning: int = 1, **others: Any) -> dict[int, tuple[int, Any]]:
    """The tags of a page in one strip; others are named `t` and their number."""
    several = bits if isinstance(bits, list) else [bits]
    tags = {
        256: (4, width),
        257: (4, height),
        258: (3, several),
        259: (3, 1),
        262: (3, meaning),
        277: (3, len(several)),
    }
    tags[278] = (4, height)
    return {**tags, **{int(name[1:]): (3, value) for name, value in others.items()}}


def packed_bits(values: np.ndarray, bits: int) -> bytes:
    """Whole numbers (rows, n) as so many bits each, the highest first, each row beginning at a whole byte."""
    each = (values[..., None].astype(np.int64) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(each.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def png(
    values: np.ndarray,
    bits: int,
    colours: int,
    *chunks: tuple[bytes, bytes],
    after: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """A PNG of whole numbers (H, W) or (H, W, S), of a bit depth and colour type, with chunks before and after its pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = values.reshape(len(values), -1)
    stride = len(packed_bits(rows[:1], bits))
    flat = packed_bits(rows, bits)
    raw = b"".join(b"\0" + flat[n * stride : (n + 1) * stride] for n in range(len(rows)))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], len(values), bits, colours, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(raw)), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def bmp(pixels: np.ndarray, masks: tuple[int, ...], *, head: int, upright: bool = False) -> bytes:
    """A BMP (H, W) of 16 or 32 bits a pixel that masks take apart, under a header of `head` bytes."""
    bits = 8 * pixels.dtype.itemsize
    way = 6 if len(masks) == 4 and head == 40 else 3
    fields = struct.pack(f"<{len(masks)}I", *masks)
    height = -len(pixels) if upright else len(pixels)
    info = struct.pack("<IiiHHIIiiII", head, pixels.shape[1], height, 1, bits, way, 0, 0, 0, 0, 0)
    info = info + fields if head == 40 else (info + fields).ljust(head, b"\0")
    rows = pixels if upright else pixels[::-1]
    data = b"".join(row.tobytes().ljust(-(-row.nbytes // 4) * 4, b"\0") for row in rows)
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(data), 0, 0, 14 + len(info)) + info + data
