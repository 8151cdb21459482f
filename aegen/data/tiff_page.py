"""How the first page of a TIFF is stored. After the TIFF 6.0 specification (Aldus, 1992) and what libtiff made of it since."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import TiffImagePlugin

from aegen.data.values import Unreadable

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GREY_FROM_WHITE, GREY, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5
COLOURS = {GREY_FROM_WHITE: 1, GREY: 1, RGB: 3, PALETTE: 1, CMYK: 4}
_MEANINGS = {4: "a mask", 6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "a sensor's mosaic", 32844: "LogL"}
_MEANINGS |= {32845: "LogLuv", 34892: "a camera's raw light", 51177: "depth"}
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # of sample format; 4 says that nobody knows
UNPACKED = {1: "nothing", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate", 34925: "LZMA", 50000: "ZSTD"}
WEBP = 50001
_PACKED = {2: "CCITT", 3: "CCITT G3", 4: "CCITT G4", 6: "old JPEG", 7: "JPEG", WEBP: "WebP", 34676: "SGI Log"}
_PACKED |= {
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
TOGETHER = 2**24  # bytes of samples that are unpacked at a time
_SHRUNK, _MASK = 1, 4  # bits of NewSubfileType: pages that show the first one again
_LOOKED = 64  # pages that are looked at for one that shows something else
_MOST = 32  # samples a pixel


@dataclass(frozen=True)
class Page:
    """How the first image of a TIFF is stored.

    Attributes:
        kind: of its samples: `u` whole, `i` whole with a sign, `f` floats, or what it is called.
        bits: of each sample.
        extra: what samples beyond the colours are: 1 premultiplied alpha, 2 alpha, 0 anything.
        offsets, counts: where the strips or tiles lie, and how many bytes each has; of planes one after another.
        block: (width, height) of a strip or tile.
        more: whether there are pages with other pictures.
    """

    order: str
    width: int
    height: int
    kind: str
    bits: tuple[int, ...]
    meaning: int
    planes: bool
    packed: int
    predictor: int
    extra: tuple[int, ...]
    orientation: int
    fill: int
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    block: tuple[int, int]
    tiled: bool
    palette: tuple[int, ...]
    more: bool

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as it is to be shown."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)

    @property
    def grey(self) -> bool:
        """Whether it has no colours."""
        if self.meaning == PALETTE and self.palette:
            table = np.array(self.palette[: len(self.palette) // 3 * 3]).reshape(3, -1)
            return bool((table == table[0]).all())
        return self.meaning in (GREY_FROM_WHITE, GREY)

    @property
    def usual(self) -> bool:
        """Whether Pillow reads such pages, and as they are meant."""
        shallow = set(self.bits) <= {1, 2, 4, 8} and self.kind == "u" and self.packed != WEBP
        lossless = self.packed in UNPACKED or self.packed == WEBP
        return (shallow and not self.planes) or not lossless or self.meaning not in COLOURS

    @property
    def cost(self) -> int:
        """About how many bytes of memory reading takes."""
        channels = min(4, len(self.bits))
        return self.width * self.height * (channels + 8) + 4 * TOGETHER

    def __str__(self) -> str:
        depths = sorted(set(self.bits))
        name = {"u": "bits", "i": "bits with a sign", "f": "bits of floats"}.get(self.kind, f"bits of {self.kind}")
        each = f"{' and '.join(str(n) for n in depths)} {name}"
        packed = {**UNPACKED, **_PACKED}.get(self.packed, f"method {self.packed}")
        meaning = {**_MEANINGS, 0: "grey", 1: "grey", 2: "RGB", 3: "a palette", 5: "CMYK"}.get(
            self.meaning, f"photometric {self.meaning}"
        )
        planes = " in planes" if self.planes else ""
        return f"a TIFF of {meaning}, {len(self.bits)} × {each}{planes}, compressed by {packed}"


def page(file: IO[bytes]) -> Page:
    """The first page of a TIFF, from its directory.

    Raises:
        Unreadable: the directory is damaged.
    """
    try:
        return _page(file)
    except Unreadable:
        raise
    except Exception as error:  # of what a damaged directory makes the parser raise
        raise Unreadable(f"a damaged TIFF ({type(error).__name__} in its directory)") from None


def _page(file: IO[bytes]) -> Page:
    head = file.read(8)
    if head[2:3] == b"\x2b" or head[3:4] == b"\x2b":
        head += file.read(8)
    directory = TiffImagePlugin.ImageFileDirectory_v2(head)
    start = directory.next

    def load(place: int) -> None:
        file.seek(place)
        directory.load(file)

    load(start)

    def many(tag: int) -> tuple[int, ...]:
        found = directory.get(tag, ())
        found = found if isinstance(found, tuple) else (found,)
        return tuple(int(n) for n in found)

    def one(tag: int, usual: int) -> int:
        return next(iter(many(tag)), usual)

    width, height = one(256, 0), one(257, 0)
    samples, planes = one(277, 1), one(284, 1) == 2
    if min(width, height) < 1 or not 1 <= samples <= _MOST:
        raise Unreadable(f"a damaged TIFF ({height}×{width} pixels, height×width, of {samples} samples)")
    bits = many(258) or (1,)
    kinds = set(many(339)) or {1}
    kind = _KINDS.get(next(iter(kinds)), "complex numbers") if len(kinds) == 1 else "several kinds"
    tiled = 324 in directory
    offsets, counts = many(324 if tiled else 273), many(325 if tiled else 279)
    block = (one(322, 0), one(323, 0)) if tiled else (width, min(height, one(278, height) or height))
    found = Page(
        order="<" if head[:2] == b"II" else ">",
        width=width,
        height=height,
        kind=kind,
        bits=bits * samples if len(bits) == 1 else bits[:samples],
        meaning=one(262, 0),
        planes=planes,
        packed=one(259, 1),
        predictor=one(317, 1),
        extra=many(338),
        orientation=turn if 1 <= (turn := one(274, 1)) <= 8 else 1,
        fill=one(266, 1),
        offsets=offsets,
        counts=counts,
        block=block,
        tiled=tiled,
        palette=many(320),
        more=False,
    )
    if min(block) < 1 or not offsets or len(found.bits) != samples:
        raise Unreadable("a damaged TIFF (its strips or tiles are not described)")
    with suppress(Exception):  # a damaged second page is none
        seen = {start}
        while (place := directory.next) and place not in seen and len(seen) < _LOOKED:
            seen.add(place)
            load(place)
            if not one(254, 0) & (_SHRUNK | _MASK):
                return Page(**{**vars(found), "more": True})
    return found
