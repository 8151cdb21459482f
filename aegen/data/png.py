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
_SHORT = 2**16  # bytes of text that any reader takes
_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}


def kind(content: bytes) -> tuple[int, int]:
    """(bits, colour type) as the header has them."""
    return content[24], content[25]


def slim(content: bytes) -> bytes | None:
    """Without texts and colour profiles that are long once they are unpacked; None where there are none, or it is no PNG.

    Generators of images write their prompts and editors their history there, and Pillow refuses more than a megabyte.
    """
    kept, dropped = [content[:8]], False
    for name, start, end in _chunks(content):
        if name in _TEXTS and _long(name, content[start + 8 : end - 4]):
            dropped = True
        else:
            kept.append(content[start:end])
    return b"".join(kept) if dropped else None


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    place = len(MAGIC) if content.startswith(MAGIC) else len(content)
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        yield content[place + 4 : place + 8], place, end
        place = end


def _long(name: bytes, body: bytes) -> bool:
    if len(body) > _SHORT:
        return True
    rest = body.partition(b"\0")[2]
    if name == b"iTXt" and rest[:1] == b"\1":
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif name in (b"tEXt", b"iTXt"):
        return False
    else:
        rest = rest[1:]
    with suppress(zlib.error):
        return len(zlib.decompressobj().decompress(rest, _SHORT + 1)) > _SHORT
    return False


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
    """All 16 bits of a PNG that has them: uint16 (H, W), or (H, W, 3 or 4) with colour; of grey with alpha (H, W, 2) the upper eight.

    Of colours Pillow keeps the upper bytes; told that the file has its bytes the other way round, it keeps the lower ones.
    """
    _, colours = kind(content)
    if colours == GREY:
        return np.asarray(image).astype(np.uint16)
    high = np.asarray(image).astype(np.uint16)
    if colours == GREY_ALPHA:
        return high[:, :, [0, 3]] * np.uint16(257)
    with Image.open(io.BytesIO(content), formats=("PNG",)) as other:
        names = [str(tile.args) for tile in other.tile]
        if not all(name.endswith(";16B") for name in names):
            raise Unreadable("16 bits that Pillow reads in another way than it used to")
        other.tile = [tile._replace(args=f"{name[:-1]}L") for tile, name in zip(other.tile, names, strict=True)]
        whole: NDArray[Any] = high << np.uint16(8) | np.asarray(other)
        return whole
