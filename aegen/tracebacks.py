"""Where code stands, and what an exception said: for errors in code that is not aegen's own."""

from __future__ import annotations

import inspect
import os
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any


def said(error: BaseException) -> str:
    """`"ValueError: no such thing"`, one line, also where the exception cannot say what it is."""
    kind = type(error).__name__
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a third party's class may fail at this too
        return kind
    return f"{kind}: {lines[0]}" if lines else kind


def place(file: str, line: int) -> str:
    """`"mine.py:14"`, as it is reached from here where it lies below."""
    path = Path(file)
    with suppress(ValueError, OSError):  # elsewhere, or this folder is gone
        path = path.relative_to(Path.cwd())
    return f"{path}:{line}"


def defined(thing: Any) -> str:
    """`"Mine (mine.py:5)"`: a class or function and where it is written; of an object, its class."""
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        thing = type(thing)
    name = getattr(thing, "__qualname__", repr(thing))
    try:
        file = inspect.getsourcefile(thing)
        _, line = inspect.getsourcelines(thing)
    except Exception:  # written in C, made by a function, or its file is gone
        return f"{name} of {getattr(thing, '__module__', 'nowhere')}"
    return f"{name} ({place(file, line)})" if file else name


def frames(error: BaseException) -> list[tuple[FrameType, int]]:
    """The frames that an exception passed and their lines, the innermost last, those of what caused it included."""
    found: list[tuple[FrameType, int]] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        step: TracebackType | None = link.__traceback__
        passed = []
        while step is not None:
            passed.append((step.tb_frame, step.tb_lineno))
            step = step.tb_next
        found = [*found, *passed]
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return found


def raised_at(error: BaseException) -> str:
    """` at mine.py:3`, where an exception left code that lies in a file; nothing if it is not known."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f" at {place(error.filename, error.lineno)}"
    for frame, line in reversed(frames(error)):
        file = frame.f_code.co_filename
        if not file.startswith("<") and os.path.exists(file) and "importlib" not in file:
            return f" at {place(file, line)}"
    return ""
