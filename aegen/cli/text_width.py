"""How wide lines may be, and text in such lines. No word is torn: what is longer than a line, as paths are, is left to the terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import Any

_NARROWEST = 20  # characters for text; what is narrower is left to the terminal


def columns(stream: Any = None) -> int | None:
    """How wide lines of stdout may be: the terminal, or `COLUMNS`; of another stream its terminal. No matter in a pipe."""
    if stream is None:
        return shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else None
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else None
    except (OSError, ValueError, AttributeError):  # closed, or no file at all
        return None


def wrapped(text: str, indent: int) -> str:
    """`text` in lines that stdout can hold, `indent` spaces before each."""
    width, margin = columns(), " " * indent
    lines = text.splitlines()
    if width is not None and width >= indent + _NARROWEST:
        lines = [part for line in lines for part in _lines(line, width - indent) or [""]]
    return "\n".join(f"{margin}{line}".rstrip() for line in lines)


def fitted(text: str, stream: Any) -> str:
    """A line of talk as the terminal behind `stream` can hold it, what follows the first part indented; as it is where there is none."""
    width = columns(stream)
    if width is None or len(text) <= width or width < _NARROWEST:
        return text
    return "\n".join(_lines(text, width, hang="  "))


def _lines(text: str, width: int, hang: str = "") -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=hang, break_on_hyphens=False, break_long_words=False)
