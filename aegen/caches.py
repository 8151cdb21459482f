"""Where things are kept that can be computed again, and how such a folder is kept small and shared between runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def folder() -> Path | None:
    """`$AEGEN_CACHE`, or `aegen` where the platform keeps its users' caches; none if `AEGEN_CACHE` is empty."""
    told = os.environ.get("AEGEN_CACHE")
    if told is not None:
        return Path(told) if told else None
    given = os.environ.get
    try:
        home = Path.home()
    except RuntimeError:  # a user whom the system does not know
        return None
    if sys.platform == "win32":
        return Path(given("LOCALAPPDATA") or home / "AppData/Local") / "aegen" / "Cache"
    if sys.platform == "darwin":
        return home / "Library/Caches/aegen"
    told = given("XDG_CACHE_HOME")
    # The specification has relative ones ignored; they would be another folder wherever aegen is called.
    return (Path(told) if told and Path(told).is_absolute() else home / ".cache") / "aegen"


def tidy(files: Iterable[Path], most: float) -> None:
    """Delete those of `files` that were not used for longest, until the rest have at most `most` bytes."""
    found = []
    for path in files:
        with suppress(OSError):  # another run may have deleted it
            told = path.stat()
            found.append((told.st_mtime, told.st_size, path))
    for _, size, path in sorted(found, reverse=True):
        most -= size
        if most < 0:
            with suppress(OSError):
                path.unlink()


@contextmanager
def alone(path: Path, waits: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path`, which the system frees when a process dies; `waits` is called if another run holds it.

    Raises:
        OSError: it cannot be made, or the file system has no locks.
    """
    if fcntl is None:  # without locks two runs may decode the same: slower, and each writes the same bytes
        yield
        return
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waits()
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _same(handle, path):
                try:
                    yield
                    return
                finally:
                    with suppress(OSError):
                        path.unlink()
        finally:
            os.close(handle)


def _same(handle: int, path: Path) -> bool:
    """Whether the file that was locked is still the one of that name, and not one that its last holder deleted."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
