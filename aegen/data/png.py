"""What Pillow leaves undone of a PNG: long texts, transparent colours of every depth, the lower bytes of 16 bits. After PNG, third edition (W3C, 2025)."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aegen.data.values import Unreadable

MAGIC = b"\x89PNG\r\n\x1a\n"
GREY, RGB, GREY_ALPHA, RGB_ALPHA = 0, 2, 4, 6
_SHORT = 2**16  # bytes of a text that is left where it is, as it may say how an image is turned
_ALL = 2**20  # bytes of all of them
_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}


def kind(content: bytes) -> tuple[int, int]:
    """(bits, colour type) as the header has them."""
    return content[24], content[25]


def slim(content: bytes) -> bytes | None:
    """Without texts and colour profiles that are long once they are unpacked; None where there are none, or it is no PNG.

    Generators of images write their prompts and editors their history there. Pillow refuses more than a megabyte, and keeps 64 of less.
    """
    if not content.startswith(MAGIC) or not any(name in content for name in _TEXTS):
        return None
    kept, dropped, left = [content[:8]], False, _ALL
    for name, start, end in _chunks(content):
        size = _length(name, content[start + 8 : end - 4]) if name in _TEXTS else 0
        if size > min(_SHORT, left):
            dropped = True
        else:
            kept.append(content[start:end])
            left -= size
    return b"".join(kept) if dropped else None


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    place = len(MAGIC)
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        yield content[place + 4 : place + 8], place, end
        place = end


def _length(name: bytes, body: bytes) -> int:
    """Bytes of a text once it is unpacked, or somewhat more than `_SHORT`."""
    rest = body.partition(b"\0")[2]
    if name == b"iTXt" and rest[:1] == b"\1":
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif name in (b"tEXt", b"iTXt"):
        return len(body)
    else:
        rest = rest[1:]
    with suppress(zlib.error):
        return len(zlib.decompressobj().decompress(rest, _SHORT + 1))
    return len(body)


def clear_colour(image: Image.Image, content: bytes) -> int | tuple[int, ...] | None:
    """The colour that is to be transparent, as a grey or RGB PNG stores it; of a palette, or where there is none, None."""
    bits, colours = kind(content)
    found = image.info.get("transparency")
    most = 2**bits - 1
    if colours == GREY and isinstance(found, int):
        return int(found) & int(most)
    if colours == RGB and isinstance(found, tuple):
        return tuple(int(n) & most for n in found)
    return None


def deep(image: Image.Image, content: bytes) -> NDArray[Any]:
    """All 16 bits of a PNG that has them: uint16 (H, W), or (H, W, S) where a pixel has several samples.

    Of colours Pillow keeps the upper bytes; told that the file has its bytes the other way round, it keeps the lower ones. Two samples
    are as long as the four bytes of a pixel that is not so deep.
    """
    if kind(content)[1] == GREY:
        return np.asarray(image).astype(np.uint16)
    high = np.asarray(image)
    with Image.open(io.BytesIO(content), formats=("PNG",)) as other:
        (tile,) = other.tile
        named = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}.get(str(tile.args))
        if named is None:
            raise Unreadable("16 bits that Pillow reads in another way than it used to")
        other.tile = [tile._replace(args=named)]
        low = np.asarray(other)
    if named == "RGBA":
        high, low = low[..., ::2], low[..., 1::2]
    whole: NDArray[Any] = high.astype(np.uint16) << np.uint16(8) | low
    return whole
