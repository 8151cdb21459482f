"""What comes from outside, names and small files: made safe to show, and read so that nothing in it can do more than be refused.

Everything here says what is wrong by OSError or ValueError; who asked for the file makes the sentence.
"""

from __future__ import annotations

import errno
import functools
import json
import operator
import os
import stat
import tomllib
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST = 1000
"""Letters of a line that are shown: more than a terminal's page of them helps nobody."""
_VALUE = 120  # of a value inside a sentence
_DEEPEST = 64  # levels of tables and lists in a file
_LARGEST = 2**100  # whole numbers beyond are none that anybody meant, and a float holds those below
_SIZE = 2**28  # bytes of a file that is read as text
# Letters that are not seen, or that move others: controls (C0, C1, DEL), formats (bidirectional overrides, zero widths, tags),
# halves of a pair (bytes of a name that is not UTF-8), separators of lines and paragraphs.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def shown(value: object, *, most: int = LONGEST, keep: str = "") -> str:
    r"""Text that a terminal, a page or a table may be given: what is not seen is written out (`\x1b`, `\u202e`), what is long is cut.

    Args:
        most: letters that are left, the end of the text among them.
        keep: letters that are left as they are, such as a line break.
    """
    text = str(value)
    if len(text) > 2 * most:  # before the work is done
        text = cut(text, 2 * most)
    if not text.isprintable():
        text = "".join(_escaped(c) if c not in keep and unicodedata.category(c) in _UNSEEN else c for c in text)
    return cut(text, most)


def _escaped(letter: str) -> str:
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:  # how Python holds a byte of a name that is not UTF-8
        number -= 0xDC00
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(letter) or (
        f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"
    )


def cut(text: str, most: int) -> str:
    """At most `most` letters: two thirds from the beginning, the rest from the end."""
    if len(text) <= most:
        return text
    head = 2 * most // 3
    return f"{text[:head]} … {text[len(text) - (most - head - 3) :]}"


def quoted(value: object) -> str:
    """A value inside a sentence, as Python writes it, cut where it is long."""
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return f"a number of about {int(abs(value).bit_length() * 0.30103) + 1} digits"
    if isinstance(value, str) and len(value) > 2 * _VALUE:
        return cut(repr(cut(value, 2 * _VALUE)), _VALUE)
    try:
        return cut(repr(value), _VALUE)
    except (RecursionError, ValueError):  # nested too deep; a number of too many digits inside a list
        return f"a {type(value).__name__} too large to show"


# ---------------------------------------------------------------------------------------------------- files


def opened(path: Path | str, how: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file; whoever asks closes it. A pipe or a device is refused, not waited for.

    Args:
        how: for reading, or `os.O_RDWR`.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    more = (getattr(os, name, 0) for name in ("O_NONBLOCK", "O_BINARY", "O_CLOEXEC"))
    handle = os.open(path, functools.reduce(operator.or_, more, how))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def read_bytes(path: Path | str, *, most: int = _SIZE) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it has more than `most` bytes.
    """
    with open(opened(path), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return content


def read_text(path: Path | str, *, most: int = _SIZE) -> str:
    """The text of a regular file, UTF-8.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is too large, or not UTF-8.
    """
    return read_bytes(path, most=most).decode("utf-8")


def parse_json(text: str | bytes) -> Any:
    """JSON as Python's values.

    Raises:
        ValueError: it is none, is nested deeper than 64 levels, or has a whole number of more than 100 bits.
    """
    return _sound(_parsed(json.loads, text))


def parse_toml(text: str | bytes) -> dict[str, Any]:
    """TOML as Python's values.

    Raises:
        ValueError: it is none, is nested deeper than 64 levels, or has a whole number of more than 100 bits.
    """
    found: dict[str, Any] = _sound(_parsed(tomllib.loads, text if isinstance(text, str) else text.decode("utf-8")))
    return found


_TOO_DEEP = f"it is nested deeper than {_DEEPEST} levels"
_TOO_LARGE = "it has a number beyond 100 bits"


def _parsed(parse: Callable[[Any], Any], text: str | bytes) -> Any:
    try:
        return parse(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError as error:
        if "integer string conversion" in str(error):  # Python's own limit, whose advice is for programmers
            raise ValueError(_TOO_LARGE) from None
        raise


def _sound(value: Any) -> Any:
    """The same value, which nothing that walks through it can stumble over."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += one.values()
            elif isinstance(one, list):
                below += one
            elif type(one) is int and abs(one) >= _LARGEST:
                raise ValueError(_TOO_LARGE)
        if not below:
            return value
        level = below
    raise ValueError(_TOO_DEEP)
