"""Files that are whole or not there: written under another name, flushed to disk, then renamed; and what is left of those that were not."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

_ABANDONED = 3600.0  # seconds after which another host's draft is nobody's


def draft_of(path: Path) -> Path:
    """The name under which this process writes what will be `path`: `.name.<host>-<process>.tmp` in the same folder."""
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}.tmp")


def _host() -> str:
    return re.sub(r"\W", "_", platform.node())[:32]


def write_text(path: Path, text: str, *, replaces: bool = True) -> None:
    """Write a small file atomically, flushed to disk; names in it that are no text are shown escaped.

    Raises:
        OSError: it cannot be written, or something stands there that it must not replace.
    """
    temporary = draft_of(path)
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        flush(temporary)
        publish(temporary, path, replaces=replaces)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def flush(path: Path) -> None:
    """Have a file's bytes on disk, not in a buffer of the system."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system allows a folder to be flushed."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Delete the drafts in `folder` whose processes are no more; of other hosts that share it, those that are an hour old."""
    for path in folder.glob(".*.tmp"):
        found = re.fullmatch(r"\..+\.(\w*)-(\d+)\.tmp", path.name)
        with suppress(OSError):
            if found is None or (_lives(int(found[2])) if found[1] == _host() else _young(path)):
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _young(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime < _ABANDONED


def _lives(process: int) -> bool:
    """Whether there is such a process, other than this one, which has not begun to write."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


class Present(FileExistsError):
    """Something stands where a new file was to be."""


def publish(draft: Path, path: Path, *, replaces: bool) -> None:
    """Give a finished draft its name.

    Raises:
        Present: something has it already, and `replaces` is not said; two processes that ask at once do not both get it.
        OSError: the system refuses.
    """
    if replaces:
        os.replace(draft, path)
        return
    try:
        os.link(draft, path, follow_symlinks=False)
    except FileExistsError as error:
        raise Present(error.errno, error.strerror, str(path)) from None
    except OSError:  # a file system without second names
        if os.path.lexists(path):
            raise Present(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.rename(draft, path)
    else:
        draft.unlink()
