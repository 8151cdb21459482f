"""Files that are whole or not there: written under another name, flushed to disk, then renamed; and what is left of those that were not."""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ABANDONED = 3600.0  # seconds after which another host's draft is nobody's
_NAME = 120  # bytes of the name of what will be, in that of its draft


def draft_of(path: Path) -> Path:
    """A name under which this process may make what will be `path`: `.name~<random>.<host>-<process>.tmp` in the same folder.

    Nobody can guess it, so that nobody can have put a link there.
    """
    name = path.name.encode(errors="surrogateescape")[:_NAME].decode(errors="ignore")
    return path.with_name(f".{name}~{secrets.token_hex(8)}.{_host()}-{os.getpid()}.tmp")


def _host() -> str:
    return re.sub(r"\W", "_", platform.node())[:32]


@contextmanager
def drafted(
    path: Path, *, durable: bool = True, replaces: bool = True, may: Callable[[], None] | None = None
) -> Iterator[Path]:
    """A new empty file to write into; it becomes `path` if the block ends well, else it is gone.

    It is made exclusively, is never a link, and has the rights that the umask leaves, whatever the library that fills it does.

    Args:
        durable: have it on disk before it is renamed.
        replaces: what stands at `path` already.
        may: called at the last moment; what it raises leaves what stood at `path`.

    Raises:
        OSError: it cannot be made or renamed, another took its place, or something stands there that it must not replace; what stood
            at `path` is untouched.
    """
    temporary = draft_of(path)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        yield temporary
        if not stat.S_ISREG(os.lstat(temporary).st_mode):
            raise OSError(
                errno.EEXIST, "another program put something else at the place of what was written", str(path)
            )
        if os.name == "posix":
            os.chmod(temporary, mode)
        if durable:
            flush(temporary)
        if may is not None:
            may()
        publish(temporary, path, replaces=replaces)
        if durable:
            sync_folder(path.parent)
    finally:
        with suppress(OSError):  # gone if all went well; what went wrong first is what matters
            temporary.unlink()


def write_text(path: Path, text: str, *, replaces: bool = True) -> None:
    """Write a small file atomically, flushed to disk; halves of letters, of names that are not UTF-8, are written escaped.

    Raises:
        OSError: it cannot be written, or something stands there that it must not replace.
    """
    with drafted(path, replaces=replaces) as temporary:
        put_text(temporary, text)


def put_text(path: Path, text: str) -> None:
    """Fill a file that is there; no link is followed."""
    handle = os.open(path, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0))
    with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


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
