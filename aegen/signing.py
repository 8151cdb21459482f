"""Whether a file was written by this user's aegen: what it asks to be read is then what this user typed.

A seal is a code (HMAC, RFC 2104, with SHA-256) of what is asked under a key that nobody else has: 32 random bytes in the user's folder of
settings, or in the cache where that cannot be written. It says nothing of the key, so that a file with a seal can be passed on; others' aegen takes it
for none.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from aegen import caches
from aegen.atomic import draft_of, publish, sweep
from aegen.untrusted import read_bytes

NAME = "key"
_BYTES = 32
_MAKING = threading.Lock()
"""Held by the thread that makes a key, since what other threads had begun would be swept."""


def seal(asked: Any) -> str:
    """Of JSON values that this user asked for; empty where no key can be kept, so that nothing is believed later."""
    with _MAKING:
        key = _key() or _new()
    return _code(key, asked) if key is not None else ""


def holds(asked: Any, told: object) -> bool:
    """Whether `told` is this user's seal of `asked`."""
    key = _key() if isinstance(told, str) and told else None
    return key is not None and hmac.compare_digest(_code(key, asked).encode(), str(told).encode("utf-8", "replace"))


def _code(key: bytes, asked: Any) -> str:
    return hmac.new(key, json.dumps(asked, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _folders() -> list[Path]:
    """Where the key may lie, the usual place first."""
    given, found = os.environ.get, []
    with suppress(RuntimeError):  # a user whom the system does not know
        told = given("XDG_CONFIG_HOME")
        if sys.platform == "win32":
            found.append(Path(given("APPDATA") or Path.home() / "AppData/Roaming") / "aegen")
        elif told and Path(told).is_absolute():
            found.append(Path(told) / "aegen")
        else:
            found.append(
                Path.home() / ("Library/Application Support" if sys.platform == "darwin" else ".config") / "aegen"
            )
    cache = caches.folder()
    return [*found, *([cache] if cache is not None else [])]


def _key() -> bytes | None:
    for folder in _folders():
        with suppress(OSError, ValueError):
            path = folder / NAME
            if _mine(path) and len(found := read_bytes(path, most=_BYTES)) == _BYTES:
                return found
    return None


def _mine(path: Path) -> bool:
    """Whether a key is this user's and nobody else can have put it there; whoever could read it so far can no more.

    Raises:
        OSError: there is none.
    """
    if not hasattr(os, "getuid"):
        return path.exists()
    told = path.stat()
    if told.st_uid != os.getuid() or _common(path, told):
        return False
    if told.st_mode & 0o077:
        with suppress(OSError):  # where nothing can be written, or modes are unknown
            path.chmod(0o600)
    return True


def _common(path: Path, told: os.stat_result) -> bool:
    """Whether others may have written a file; some file systems say so of all, and then it says nothing."""
    if not told.st_mode & 0o022:
        return False
    draft = draft_of(path)
    with suppress(OSError):
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            return not os.fstat(handle).st_mode & 0o022
        finally:
            os.close(handle)
            os.unlink(draft)
    return True


def _new() -> bytes | None:
    """A key, in the first place that takes one; of two processes that make one at once, both have the same."""
    for folder in _folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
            with suppress(OSError):
                _drop_common(folder / NAME)
            draft = draft_of(folder / NAME)
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
            try:
                with open(handle, "wb") as file:
                    file.write(os.urandom(_BYTES))
                    file.flush()
                    os.fsync(handle)
                with suppress(FileExistsError):
                    publish(draft, folder / NAME, replaces=False)
            finally:
                with suppress(OSError):
                    os.unlink(draft)
            if (key := _key()) is not None:
                return key
    return None


def _drop_common(path: Path) -> None:
    """Delete a key that others may have put there: what has a seal of it is believed no more."""
    told = path.lstat()
    if stat.S_ISREG(told.st_mode) and hasattr(os, "getuid") and _common(path, told):
        path.unlink()
