"""Names of files that are not text: kept whole through JSON, TOML and checkpoints, which hold nothing but text.

A file may be called by any bytes. Python reads those that are no UTF-8 as lone surrogates, U+DC80 to U+DCFF (PEP 383), which no text
format may hold. In files of aegen they are written as U+F780 to U+F7FF instead, of a private area that no language uses.
"""

from __future__ import annotations

import re
from typing import Any

_AWAY = 0xF700 - 0xDC00
_RAW, _KEPT = re.compile("[\udc80-\udcff]"), re.compile("[\uf780-\uf7ff]")


def portable(value: Any) -> Any:
    """Text, or text anywhere in lists and tables, as a file of text can hold it."""
    return _mapped(value, _RAW, _AWAY)


def native(value: Any) -> Any:
    """The inverse of `portable`: names as the system takes them."""
    return _mapped(value, _KEPT, -_AWAY)


def _mapped(value: Any, which: re.Pattern[str], by: int) -> Any:
    if isinstance(value, str):
        return which.sub(lambda found: chr(ord(found[0]) + by), value) if which.search(value) else value
    if isinstance(value, dict):
        return {_mapped(key, which, by): _mapped(inner, which, by) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(inner, which, by) for inner in value)
    return value
