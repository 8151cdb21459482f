"""Decoded images in one file, read by number and put there in any order: a safetensors file of a table and the pixels.

The table has a row an image: a digest of what it was decoded from (2 numbers), the sum of its pixels taken as 64-bit numbers, whether
it is there and what was noted of it, and a sum of those four. A row is written after its pixels, so whatever is cut off in the middle is known not to be there;
the sum of the pixels is looked at whenever an image is read, and an image that fails is decoded anew.

Read with `pread` and not mapped: the pages of a map count as the process's own until the system wants them back, a batch is read a third
faster, and a file that another program cuts short ends a process that has mapped it.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aegen.data.image_rows import Rows
from aegen.untrusted import opened, parse_json

_COLUMNS = 5
_SUM, _STATE, _CHECK = 2, 3, 4
_THERE, _NOTES = np.uint64(1), np.uint64(8)  # of a state: its lowest bit, and where notes begin
_WORD = 8
_SEED = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.array([1, 3, 5, 7], np.uint64)
_VECTOR = 1024  # the most that the system takes in a call
# Bytes of images that are written at once: a call takes as long as a small image, and threads wait for each other.
_TOGETHER = 2**18
_BEHIND = 8  # times as many wait for the thread that writes, before others wait for it too


class Store(Rows):
    """The images of a file.

    Attributes:
        path: of the file.
        there: bool (N,), which images were put.
        mend: number of an image → its pixels (C, H, W) and digest, for one that is damaged in the file.
    """

    def __init__(self, path: Path, handle: int, shape: tuple[int, int, int, int], head: int, *, writable: bool) -> None:
        super().__init__(shape)
        self.path, self._handle, self._writable = path, handle, writable
        self.close = weakref.finalize(self, os.close, handle)
        self._bytes = shape[1] * shape[2] * shape[3]
        self._stride = _stride(shape)
        self._table_at, self._pixels_at = head, head + shape[0] * _COLUMNS * _WORD
        self._table = np.zeros((shape[0], _COLUMNS), np.uint64)
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._waiting: deque[tuple[int, np.ndarray]] = deque()
        self.mend: Callable[[int], tuple[Tensor, bytes]] | None = None

    @classmethod
    def make(cls, path: Path, shape: tuple[int, int, int, int]) -> Store:
        """A new file without any image; it takes room as images are put.

        Raises:
            OSError: it cannot be made, or something has its name.
        """
        count, stride = shape[0], _stride(shape)
        table = count * _COLUMNS * _WORD
        header = {
            "__metadata__": {"image": "×".join(str(n) for n in shape[1:]), "aegen": json.dumps(shape)},
            "table": {"dtype": "U64", "shape": [count, _COLUMNS], "data_offsets": [0, table]},
            "pixels": {"dtype": "U8", "shape": [count, stride], "data_offsets": [table, table + count * stride]},
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % _WORD)
        handle = os.open(path, _flags(os.O_RDWR | os.O_CREAT | os.O_EXCL), 0o666)
        found = cls(path, handle, shape, _WORD + len(text), writable=True)
        found._write(struct.pack("<Q", len(text)) + text, 0)
        os.ftruncate(handle, found._pixels_at + count * stride)
        return found

    @classmethod
    def open(cls, path: Path) -> Store | None:
        """A file that `make` made, or None where there is none that is whole. What has another name too is none: it may be anybody's."""
        with suppress(OSError, ValueError, LookupError, TypeError, ArithmeticError, struct.error):
            try:
                handle, writable = opened(path, _flags(os.O_RDWR)), True
            except OSError:  # not ours, or a disk that is only read
                handle, writable = opened(path, _flags(os.O_RDONLY)), False
            try:
                (size,) = struct.unpack("<Q", os.read(handle, _WORD))
                header = parse_json(os.read(handle, min(size, 2**16)))
                shape = tuple(int(n) for n in parse_json(header["__metadata__"]["aegen"]))
                channels, height, width = shape[1:]
                end = _WORD + size + header["pixels"]["data_offsets"][1]
                told = os.fstat(handle)
                whole = told.st_size == end and told.st_nlink <= 1 and min(shape) > 0
            except BaseException:
                os.close(handle)
                raise
            sides = (shape[0], channels, height, width)
            if not whole or end != _WORD + size + size_of(sides):  # before a table of that size is made
                os.close(handle)
                return None
            found = cls(path, handle, sides, _WORD + size, writable=writable)
            if not found._fill(memoryview(found._table.data).cast("B"), found._table_at):
                return None
            found._table[found._table[:, _CHECK] != _check(found._table)] = 0
            os.utime(path)  # what was not used for longest goes first
            return found
        return None

    @property
    def there(self) -> Tensor:
        """Which images were put, bool (N,)."""
        return torch.from_numpy(self._table[:, _STATE] & _THERE == 1)

    @property
    def digests(self) -> Tensor:  # type: ignore[override]
        """Of what each image was decoded from, int64 (N, 2)."""
        return torch.from_numpy(self._table[:, :_SUM].astype(np.int64))

    @property
    def notes(self) -> dict[int, int]:
        """Number → what was noted of an image, of those of which something was."""
        found = self._table[:, _STATE] >> _NOTES
        return {int(number): int(found[number]) for number in np.flatnonzero(found)}

    def put(self, number: int, pixels: Tensor, digest: bytes, note: int = 0) -> None:
        """Write an image (C, H, W), decoded from something with this digest of 16 bytes; `flush` writes the last ones.

        Raises:
            OSError: the disk is full, or the file may not be written.
        """
        row = pixels.reshape(-1).numpy()
        if self._stride > self._bytes or not row.flags.c_contiguous:
            row = np.concatenate([row, np.zeros(self._stride - self._bytes, np.uint8)])
        record = self._table[number]
        record[:_SUM] = np.frombuffer(digest, np.uint64)
        record[_SUM] = row.view(np.uint64).sum()
        record[_STATE] = 1 | note << int(_NOTES)
        record[_CHECK] = _check(record)
        if self._writable:
            self._waiting.append((number, row))
            # The system lets one thread at a time write to a file, and others that try burn their time: they leave it to the one.
            while (much := len(self._waiting) * self._stride // _TOGETHER) and self._writing.acquire(much > _BEHIND):
                try:
                    self._write_waiting()
                finally:
                    self._writing.release()

    def flush(self) -> None:
        """Write what was put; to the system, which writes it to the disk when it wants.

        Raises:
            OSError: as of `put`.
        """
        with self._writing:
            self._write_waiting()

    def _write_waiting(self) -> None:
        taken = []
        while self._waiting:
            taken.append(self._waiting.popleft())
        taken.sort(key=itemgetter(0))
        while taken:
            first, count = taken[0][0], 1
            while count < min(len(taken), _VECTOR) and taken[count][0] == first + count:
                count += 1
            self._write_run([row for _, row in taken[:count]], self._pixels_at + first * self._stride)
            records = self._table[first : first + count]
            self._write(records.tobytes(), self._table_at + first * _COLUMNS * _WORD)
            del taken[:count]

    def finish(self, path: Path) -> None:
        """Close the file and give it its name.

        It is not flushed to the disk, which takes as long as some decoding: what a power cut takes of it has another sum.

        Raises:
            OSError: it cannot be renamed.
        """
        self.flush()
        self.close()
        os.replace(self.path, path)

    def read(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """As Rows has it; what is damaged in the file is mended."""
        numbers = index.numpy()
        if out is None:
            out = torch.empty((len(numbers), *self.shape[1:]), dtype=torch.uint8)
        exact = self._stride == self._bytes
        flat = out.view(len(numbers), -1).numpy() if exact else np.zeros((len(numbers), self._stride), np.uint8)
        view = memoryview(flat.reshape(-1).data)
        for at, number in enumerate(numbers.tolist()):
            with suppress(OSError):  # what could not be read has another sum
                self._fill(view[at * self._stride : (at + 1) * self._stride], self._pixels_at + number * self._stride)
        wrong = flat.view(np.uint64).sum(1) != self._table[numbers, _SUM]
        for at in np.flatnonzero(wrong).tolist():
            flat[at, : self._bytes] = self._mended(int(numbers[at])).reshape(-1).numpy()
        if not exact:
            out.view(len(numbers), -1).numpy()[:] = flat[:, : self._bytes]
        return out

    def _mended(self, number: int) -> Tensor:
        assert self.mend is not None
        pixels, digest = self.mend(number)
        with suppress(OSError):  # it is right in memory, and may be wrong in the file once more
            self.put(number, pixels, digest)
            self.flush()
        return pixels

    def _fill(self, view: memoryview, place: int) -> bool:
        """Read into `view` from `place` on; whether there was enough."""
        done = 0
        while done < len(view):
            if hasattr(os, "preadv"):
                got = os.preadv(self._handle, [view[done:]], place + done)
            else:  # Windows
                with self._lock:
                    os.lseek(self._handle, place + done, os.SEEK_SET)
                    part = os.read(self._handle, len(view) - done)
                got = len(part)
                view[done : done + got] = part
            if got == 0:
                return False
            done += got
        return True

    def _write_run(self, rows: list[np.ndarray], place: int) -> None:
        if (
            hasattr(os, "pwritev")
            and os.pwritev(self._handle, [row.data for row in rows], place) == len(rows) * self._stride
        ):
            return
        for number, row in enumerate(rows):
            self._write(row.data, place + number * self._stride)

    def _write(self, content: bytes | memoryview, place: int) -> None:
        view, done = memoryview(content), 0
        while done < len(view):
            if hasattr(os, "pwrite"):
                done += os.pwrite(self._handle, view[done:], place + done)
            else:  # Windows
                with self._lock:
                    os.lseek(self._handle, place + done, os.SEEK_SET)
                    done += os.write(self._handle, view[done:])


def size_of(shape: tuple[int, int, int, int]) -> int:
    """Bytes of a file for that many images."""
    return shape[0] * (_stride(shape) + _COLUMNS * _WORD)


def _stride(shape: tuple[int, int, int, int]) -> int:
    """Bytes from one image to the next: whole words."""
    size = shape[1] * shape[2] * shape[3]
    return size + -size % _WORD


def _check(table: np.ndarray) -> np.ndarray:
    found: np.ndarray = (table[..., :_CHECK] * _FACTORS).sum(-1) ^ _SEED
    return found


def _flags(flags: int) -> int:
    """No link is followed: what lies in the cache was made there."""
    return flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
