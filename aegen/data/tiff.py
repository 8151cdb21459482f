"""TIFFs of the kinds that Pillow does not know, or whose values it changes: deep, signed, of floats, of odd bits, in planes.

Pillow's libtiff unpacks them all the same: a page is described to it as grey bytes as wide as its rows, some strips at a time, and what the
bytes mean is said here. After the TIFF 6.0 specification (1992) and Adobe's technical note 3 (2005) on predictors.
"""

from __future__ import annotations

import ctypes
import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from PIL import _imaging as imaging

from aegen.data.tiff_page import CMYK, COLOURS, GREY_FROM_WHITE, PALETTE, TOGETHER, UNPACKED, WEBP, Page
from aegen.data.values import Bytes, Note, Unreadable, eight_bit, white_of

_DEEP = 16  # bits, beyond which files seldom fill them: counts, heights, what was computed
_FLOATING = 3  # the predictor of floats


def picture(content: bytes, found: Page, white: float | None) -> tuple[Image.Image, Note]:
    """A page as it lies, 8 bits a channel: L, LA, RGB or RGBA.

    Args:
        white: the value that is white; None is `white_of` its samples.

    Raises:
        Unreadable: it is of a kind that is not known, or damaged.
    """
    _refuse(found)
    if found.packed == WEBP:
        return _webp(content, found), Note.NOTHING
    colours = COLOURS[found.meaning]
    alpha = _alpha(found)
    chosen = [*range(colours), *([colours] if alpha else [])]
    # Of a palette the numbers themselves are wanted, and of 8 bits there is nothing to be scaled.
    top = white_of(found.kind, found.bits[0]) if white is None or found.bits[0] <= 8 else white
    wanted: type[np.generic] = np.uint16 if found.meaning == PALETTE else np.uint8
    out = np.zeros((found.height, found.width, len(chosen)), wanted)
    note = Note.MORE if len(found.bits) > len(chosen) else Note.NOTHING
    largest, deep = 0, white is None and found.kind in ("u", "i") and found.bits[0] > _DEEP
    for row, taken, values in _samples(content, found, chosen):
        if found.meaning == PALETTE:
            out[row : row + len(values), :, taken] = values
            continue
        each: Any = values
        if alpha and taken[-1:] == [colours] and white is not None:  # opaque is the largest, whatever is white
            each, _ = eight_bit(values[..., -1:], white_of(found.kind, found.bits[0]))
            out[row : row + len(values), :, taken[-1]] = each[..., 0]
            values, taken = values[..., :-1], taken[:-1]
            if not taken:
                continue
        if deep:
            largest = max(largest, int(values[..., [place < colours for place in taken]].max(initial=0)))
        each, said = eight_bit(values, top)
        out[row : row + len(values), :, taken] = each
        note |= said
    if deep and 0 < largest <= top / 255:
        raise Unreadable(
            f"its values go up to {largest:,} only, so that all of it is black where white is {top:,.0f}, the largest of {found.bits[0]} bits"
            f"{' with a sign' * (found.kind == 'i')}; --set data.white={largest} would make its largest white"
        )
    return _shown(out, found, alpha), note


def _refuse(found: Page) -> None:
    whole = found.kind in ("u", "i") and (found.bits[0] <= 16 or found.bits[0] in (24, 32, 64))
    known = whole or (found.kind == "f" and found.bits[0] in (16, 24, 32, 64))
    lossless = found.packed in UNPACKED or (found.packed == WEBP and set(found.bits) == {8} and not found.planes)
    fits = len(found.bits) >= COLOURS.get(found.meaning, len(found.bits) + 1)
    if found.meaning == PALETTE:
        fits = fits and found.kind == "u" and found.bits[0] <= 16 and len(found.palette) == 3 * 2 ** found.bits[0]
    if found.predictor != 1:
        fits = fits and found.bits[0] in (8, 16, 32, 64) + (24,) * (found.predictor == _FLOATING)
    if not (known and lossless and fits and len(set(found.bits)) == 1 and found.predictor in (1, 2, _FLOATING)):
        raise Unreadable(f"{found}, which is not read")


def _alpha(found: Page) -> int:
    """1 where the sample after the colours is premultiplied alpha, 2 alpha, 0 where there is none; unnamed ones are taken for alpha."""
    colours = COLOURS[found.meaning]
    if len(found.bits) == colours or found.meaning == CMYK:
        return 0
    return (found.extra[0] if found.extra[0] in (1, 2) else 0) if found.extra else 2 * (len(found.bits) == colours + 1)


def _shown(out: NDArray[Any], found: Page, alpha: int) -> Image.Image:
    """Samples (H, W, S) of 8 bits, or numbers in a palette → a picture."""
    if found.meaning == PALETTE:
        table = (np.array(found.palette, np.uint16).reshape(3, -1) >> 8).astype(np.uint8).T
        coloured = table[out[..., 0]]
        if not alpha:
            return Image.fromarray(coloured)
        top = white_of(found.kind, found.bits[0])
        opaque, _ = eight_bit(np.minimum(out[..., 1:], top), top)
        out, alpha = np.concatenate([coloured, opaque], 2), 2
    if found.meaning == GREY_FROM_WHITE:
        out[..., 0] = 255 - out[..., 0]
        if alpha == 1:  # premultiplied white is as large as alpha
            out[..., 0] -= np.minimum(255 - out[..., 1], out[..., 0])
    if out.shape[2] == 1:
        return Image.fromarray(out[..., 0])
    if found.meaning == CMYK:
        return Image.frombuffer("CMYK", (found.width, found.height), out, "raw", "CMYK", 0, 1).convert("RGB")
    mode = {2: "LA", 3: "RGB", 4: "RGBA"}[out.shape[2]]
    if alpha != 1:
        return Image.frombuffer(mode, (found.width, found.height), out, "raw", mode, 0, 1)
    plain = Image.frombuffer(mode[:-1] + "a", (found.width, found.height), out, "raw", mode[:-1] + "a", 0, 1)
    return plain.convert(mode)


def _samples(content: bytes, found: Page, chosen: list[int]) -> Iterator[tuple[int, list[int], NDArray[Any]]]:
    """(first row, which of `chosen`, their values (rows, W, …)), some rows at a time; of planes one after another."""
    if not found.planes:
        for row, raw in _rows(content, found, found.offsets, found.counts, len(found.bits)):
            values = _values(raw, found, len(found.bits))
            yield row, list(range(len(chosen))), values[:, : found.width, chosen]
        return
    each = len(found.offsets) // len(found.bits)
    for place, sample in enumerate(chosen):
        part = slice(sample * each, (sample + 1) * each)
        for row, raw in _rows(content, found, found.offsets[part], found.counts[part], 1):
            yield row, [place], _values(raw, found, 1)[:, : found.width]


def _rows(
    content: bytes, found: Page, offsets: tuple[int, ...], counts: tuple[int, ...], samples: int
) -> Iterator[tuple[int, Bytes]]:
    """(first row, bytes of rows as they are stored), `TOGETHER` of them at a time; of tiles the whole width that they cover."""
    wide, high = found.block
    across = -(-found.width // wide)
    stride = -(-wide * samples * found.bits[0] // 8)
    if found.packed == 1 and not found.tiled:  # which can be divided anywhere, and may lack its counts
        rows = max(1, min(high, TOGETHER // stride))
        pieces = [
            (start + row * stride, min(rows, high - row, found.height - strip * high - row), strip * high + row)
            for strip, start in enumerate(offsets)
            for row in range(0, min(high, found.height - strip * high), rows)
        ]
        offsets = tuple(place for place, _, _ in pieces)
        counts, starts = tuple(n * stride for _, n, _ in pieces), [row for _, _, row in pieces]
        heights = [n for _, n, _ in pieces]
    else:
        down = -(-found.height // high)
        starts = [n * high for n in range(down)]
        heights = [high if found.tiled else min(high, found.height - row) for row in starts]
    if min(len(offsets), len(counts)) < len(starts) * across:
        raise Unreadable("cut short or damaged")
    at = 0
    while at < len(starts):
        end = at + 1
        while (  # strips of one height, as a directory says it once for all
            end < len(starts)
            and heights[end - 1] == heights[at]
            and (starts[end] - starts[at] + heights[end]) * stride * across <= TOGETHER
        ):
            end += 1
        part = slice(at * across, end * across)
        total = sum(heights[at:end])
        raw = _unpacked(content, found, offsets[part], counts[part], (stride, heights[at]), (across * stride, total))
        raw = raw[: found.height - starts[at]]
        if found.predictor != 1:
            for left in range(0, across * stride, stride):
                raw[:, left : left + stride] = _unpredicted(raw[:, left : left + stride], found, samples)
        yield starts[at], raw
        at = end


def _unpacked(
    content: bytes,
    found: Page,
    offsets: tuple[int, ...],
    counts: tuple[int, ...],
    block: tuple[int, int],
    size: tuple[int, int],
) -> Bytes:
    """Some strips or tiles as bytes (rows, stride), by Pillow, to which they are described as a grey image of that size (width, height)."""
    parts = [content[start : start + count] for start, count in zip(offsets, counts, strict=True)]
    places = np.cumsum([8, *(len(part) for part in parts)])
    tags = {256: size[0], 257: size[1], 258: 8, 259: found.packed, 262: 1, 266: found.fill, 277: 1}
    tags |= {322: block[0], 323: block[1]} if found.tiled else {278: block[1]}
    where, much = (324, 325) if found.tiled else (273, 279)
    listed: dict[int, list[int]] = {where: places[:-1].tolist(), much: [len(part) for part in parts]}
    listed |= {tag: [number] for tag, number in tags.items()}
    end = int(places[-1])
    beyond = end + 2 + 12 * len(listed) + 4
    entries, tail = [], b""
    for tag, numbers in sorted(listed.items()):
        packed = struct.pack(f"{found.order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, tail = struct.pack(f"{found.order}I", beyond + len(tail)), tail + packed
        entries.append(struct.pack(f"{found.order}HHI", tag, 4, len(numbers)) + packed)
    head = {"<": b"II*\0", ">": b"MM\0*"}[found.order] + struct.pack(f"{found.order}I", end)
    count = struct.pack(f"{found.order}H", len(entries))
    file = io.BytesIO(b"".join([head, *parts, count, *entries, bytes(4), tail]))
    try:
        with TiffImagePlugin.TiffImageFile(file) as image:
            return np.array(image)
    except Image.DecompressionBombError:
        raise Unreadable(
            f"one of its strips or tiles holds {size[0] * size[1]:,} bytes; save it in smaller ones"
        ) from None


def _unpredicted(raw: Bytes, found: Page, samples: int) -> Bytes:
    """Rows of bytes whose samples are differences to those before them → the samples."""
    rows, bits = len(raw), found.bits[0]
    if found.predictor == _FLOATING:
        summed = np.cumsum(raw.reshape(rows, -1, samples), 1, dtype=np.uint8)
        planes = summed.reshape(rows, bits // 8, -1)[:, :: 1 if found.order == ">" else -1]
        return planes.transpose(0, 2, 1).reshape(rows, -1)  # the first plane holds the highest bytes
    dtype = np.dtype(f"{found.order}u{bits // 8}")
    values = np.ascontiguousarray(raw).view(dtype).reshape(rows, -1, samples)
    return np.cumsum(values, 1, dtype=dtype.newbyteorder("=")).astype(dtype).view(np.uint8).reshape(rows, -1)


def _values(raw: Bytes, found: Page, samples: int) -> NDArray[Any]:
    """Rows of bytes → values (rows, as many pixels as they hold, samples)."""
    rows, bits = len(raw), found.bits[0]
    if bits == 24:
        ends = raw.reshape(rows, -1, samples, 3)
        ends = ends if found.order == ">" else ends[..., ::-1]  # highest byte first
        three: NDArray[Any] = ends.astype(np.uint32) @ np.array([2**16, 2**8, 1], np.uint32)
        return _float24(three) if found.kind == "f" else _signed(three, bits, found.kind)
    if bits in (8, 16, 32, 64):
        return np.ascontiguousarray(raw).view(f"{found.order}{found.kind}{bits // 8}").reshape(rows, -1, samples)
    across = -(-found.width // found.block[0])  # tiles, each of whose rows begins at a whole byte
    single = np.unpackbits(raw.reshape(rows * across, -1), axis=1)
    single = single[:, : single.shape[1] // (bits * samples) * bits * samples].reshape(-1, bits)
    joined = np.zeros(len(single), np.uint16)
    for n in range(bits):
        joined |= single[:, n].astype(np.uint16) << np.uint16(bits - 1 - n)
    return _signed(joined.reshape(rows, -1, samples), bits, found.kind)


def _signed(values: NDArray[Any], bits: int, kind: str) -> NDArray[Any]:
    return values if kind == "u" else values.astype(np.int64) - ((values >> (bits - 1)).astype(np.int64) << bits)


def _float24(values: NDArray[Any]) -> NDArray[Any]:
    """One bit of sign, seven of exponent, sixteen of fraction."""
    sign = np.where(values >> 23, -1.0, 1.0)
    exponent, fraction = ((values >> 16) & 127).astype(np.int64), (values & 65535) / 65536
    found = np.where(exponent, np.ldexp(1 + fraction, exponent - 63), np.ldexp(fraction, -62))
    return np.asarray(sign * np.where(exponent == 127, np.where(fraction > 0, np.nan, np.inf), found))


def _webp(content: bytes, found: Page) -> Image.Image:
    """Strips or tiles that are WebP files, each."""
    wide, high = found.block
    across = -(-found.width // wide)
    whole = Image.new({1: "L", 3: "RGB", 4: "RGBA"}.get(len(found.bits), "RGB"), (found.width, found.height))
    if min(len(found.offsets), len(found.counts)) < across * -(-found.height // high):
        raise Unreadable("cut short or damaged")
    for number, (start, count) in enumerate(zip(found.offsets, found.counts, strict=False)):
        with Image.open(io.BytesIO(content[start : start + count]), formats=("WEBP",)) as part:
            if part.width > wide or part.height > high:
                raise Unreadable("cut short or damaged")
            whole.paste(part.convert(whole.mode), (number % across * wide, number // across * high))
    return whole


@cache
def quiet() -> None:
    """Let libtiff keep to itself what it thinks of a damaged file; it would write on stderr, and what matters is raised."""
    with suppress(Exception):  # where it is linked into Pillow and has no name
        library = ctypes.CDLL(imaging.__file__)
        for name in (
            "TIFFSetErrorHandler",
            "TIFFSetErrorHandlerExt",
            "TIFFSetWarningHandler",
            "TIFFSetWarningHandlerExt",
        ):
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)
