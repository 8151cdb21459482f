"""Files that are whole or not there: written under another name, flushed to disk, then renamed; and what is left of those that were not."""

from __future__ import annotations

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


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically, flushed to disk."""
    temporary = draft_of(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        flush(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def begin(path: Path) -> int:
    """Make an empty file; the permissions that the umask leaves it, for when a library replaces it by one that only its owner reads."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return os.fstat(handle).st_mode & 0o777
    finally:
        os.close(handle)


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
