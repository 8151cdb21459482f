"""A safetensors file that stays the one that was opened, whatever is written to its path afterwards."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

Stamp = tuple[int, int, int, int]


class OpenedFile:
    """Opened once for its header and its tensors: training replaces a checkpoint while others read it.

    Where the system has no names for open files (it has on Linux), or cannot replace one that is open (Windows), the path is opened anew, and what
    it names must still be the same.

    Raises:
        OSError, SafetensorError: it cannot be opened, or is no whole safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: Any = None
        self._descriptor = -1
        self._stamp: Stamp | None = None
        self._open()

    @property
    def metadata(self) -> dict[str, str]:
        """Of the file."""
        found: dict[str, str] | None = self._opened().metadata()
        return found or {}

    @property
    def keys(self) -> list[str]:
        """Of its tensors."""
        return list(self._opened().keys())

    def tensor(self, key: str) -> Tensor:
        """One of them, in the file's own pages."""
        found: Tensor = self._opened().get_tensor(key)
        return found

    def shape(self, key: str) -> tuple[tuple[int, ...], bool]:
        """The shape of one of them, and whether its numbers are floating; nothing of it is read."""
        part = self._opened().get_slice(key)
        kind = part.get_dtype()
        return tuple(part.get_shape()), kind[0] in "FB" and kind != "BOOL"

    @property
    def altered(self) -> bool:
        """Whether its bytes were written over since it was opened, as a copy does that does not go by a file of its own."""
        with suppress(OSError):
            told = os.fstat(self._descriptor) if self._descriptor >= 0 else os.stat(self.path)
            return _stamp(told) != self._stamp
        return True

    @property
    def replaced(self) -> bool:
        """Whether its path names another file by now."""
        with suppress(OSError):
            return _stamp(os.stat(self.path)) != self._stamp
        return True

    def close(self) -> None:
        """Let go of it, so that what replaced it is all that takes room on the disk; what is asked for later opens it again."""
        self._handle = None
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):  # not where the path is none
            self.close()

    def _opened(self) -> Any:
        if self._handle is None:
            self._open()
        handle = self._handle
        if os.name != "posix":
            self.close()
        return handle

    def _open(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        try:
            stamp = _stamp(os.fstat(descriptor))
            if self._stamp is not None and stamp != self._stamp:
                raise OSError(f"{self.path} was replaced while it was read")
            # safetensors opens the path it is given twice, and torch wants it in UTF-8.
            name = f"/proc/self/fd/{descriptor}"
            known = os.path.exists(name)
            self._handle = safe_open(name if known else self.path, "pt")
            if not known and _stamp(os.stat(self.path)) != stamp:
                raise OSError(f"{self.path} was replaced while it was opened")
        except BaseException:
            self._handle = None
            os.close(descriptor)
            raise
        self._stamp, self._descriptor = stamp, descriptor


def _stamp(told: os.stat_result) -> Stamp:
    return told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns
