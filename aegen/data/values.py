"""Stored values → 8 bits, by a rule that follows from how they are stored and never from what one image holds."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
_BAND = 2**20  # values that are scaled at a time
_TABLED = 2**16  # different values, up to which a table of them all is faster for more values than that


class Unreadable(Exception):
    """A file that is not a usable image; the text says why."""


class Note(IntFlag):
    """What a user should know about an image that could be read."""

    NOTHING = 0
    FRAMES = 1
    """It has other pages or frames, of which the first was read."""
    CUT = 2
    """Values below black or beyond white became black or white."""
    MORE = 4
    """It has more samples a pixel than colours and opacity, which were left out."""


def white_of(kind: str, bits: int) -> float:
    """The value that is white where nobody says another: 1 of floats (`f`), the largest of whole numbers (`u`, `i`) of that many bits."""
    return 1.0 if kind == "f" else float(2 ** (bits - (kind == "i")) - 1)


def eight_bit(values: NDArray[np.generic], white: float) -> tuple[Bytes, Note]:
    """0 … `white` → 0 … 255, rounded; what lies outside is cut.

    Raises:
        Unreadable: a value is not finite.
    """
    flat, out = values.reshape(-1), np.empty(values.size, np.uint8)
    table = None
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2 and values.size > _TABLED:
        every = np.arange(_TABLED, dtype=np.float64)
        table = np.clip(np.rint(every / white * 255), 0, 255).astype(np.uint8)
    cut = False
    for start in range(0, len(flat), _BAND):
        part = flat[start : start + _BAND]
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise Unreadable("it holds values that are not finite")
        cut = cut or bool(part.max() > white or (part.dtype.kind != "u" and part.min() < 0))
        if table is not None:
            out[start : start + _BAND] = table[part]
        else:
            out[start : start + _BAND] = np.clip(np.rint(part.astype(np.float64) / white * 255), 0, 255)
    return out.reshape(values.shape), Note.CUT if cut else Note.NOTHING


_SAID = {
    Note.FRAMES: "several pages or frames, of which the first is used",
    Note.CUT: "values below black or beyond white, which are cut off (data.white says which value is white)",
    Note.MORE: "more samples a pixel than colours and opacity, of which the rest is left out",
}
_NAMED = 3


def remarks(notes: Mapping[str, Note]) -> list[str]:
    """A sentence for each kind of note, from name → note."""
    found = []
    for kind, text in _SAID.items():
        names = [name for name, note in notes.items() if kind in note]
        if names:
            others = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            who = "1 image holds" if len(names) == 1 else f"{len(names):,} images hold"
            found.append(f"{who} {text}: {', '.join(names[:_NAMED])}{others}")
    return found
