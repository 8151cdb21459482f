"""Encoded images by number, and how many of them are decoded at once."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aegen.data import decode
from aegen.data.decode import Target, Unreadable
from aegen.data.image_rows import Rows
from aegen.data.values import Note
from aegen.errors import RunError
from aegen.threads import pool, workers

_EVERY = 10.0  # seconds between two words on how far decoding is
_SMALL = 4096  # bytes of an encoded image, below which decoding is mostly Python, and threads hinder each other
_SAMPLE = 8

say: ContextVar[Callable[[str], None]] = ContextVar("say", default=lambda text: None)
"""Who is told how far decoding is, and what goes another way than usual."""


class Files:
    """Encoded images, by number.

    Args:
        paths: of the files.
        spans: offset and size of each image in its file, int64 (N, 2), where a file holds several.
    """

    def __init__(self, paths: Sequence[Path], spans: np.ndarray | None = None) -> None:
        self.paths, self.spans = paths, spans

    def __len__(self) -> int:
        return len(self.paths)

    def content(self, number: int) -> bytes:
        """The encoded image.

        Raises:
            Unreadable: it cannot be had.
        """
        return decode.content_of(self.paths[number], self._span(number))

    def held(self, number: int) -> AbstractContextManager[bytes]:
        """The encoded image, read while no other is decoded if it is large.

        Raises:
            Unreadable: it cannot be had.
        """
        return decode.held(self.paths[number], self._span(number))

    def _span(self, number: int) -> tuple[int, int] | None:
        return None if self.spans is None else tuple(self.spans[number].tolist())

    def typical(self, numbers: Sequence[int]) -> float:
        """About how many bytes the images of `numbers` have, from the first few that can be read."""
        sizes = []
        for number in numbers[:_SAMPLE]:
            with suppress(Unreadable):
                sizes.append(len(self.content(number)))
        return sum(sizes) / max(1, len(sizes))

    def key(self, asked: str) -> str:
        """A name for what these become if decoded as `asked`: of their paths, sizes, times and places, and of how they are read."""
        digest = hashlib.blake2b(f"{decode.VERSION}\n{asked}\n".encode(), digest_size=16)
        last, stamp = None, ""
        for path in self.paths:
            if path is not last:
                last, stamp = path, _stamp(path)
            digest.update(stamp.encode(errors="surrogateescape"))
        if self.spans is not None:
            digest.update(np.ascontiguousarray(self.spans).data)
        return digest.hexdigest()


def _stamp(path: Path) -> str:
    try:
        told = os.stat(path)
    except OSError:
        return f"{os.path.abspath(path)}\0{decode.MISSING}\n"
    return f"{os.path.abspath(path)}\0{told.st_size}\0{told.st_mtime_ns}\n"


class Decoded(Rows):
    """Images that are decoded whenever they are read."""

    def __init__(self, files: Files, target: Target, digests: Tensor | None = None) -> None:
        assert target.size is not None and target.channels is not None
        super().__init__((len(files), target.channels, *target.size))
        self.digests, self._files, self._target = digests, files, target
        self._size = files.typical(range(len(files)))
        self._pool = pool(workers(), "aegen-decode")
        warnings.filterwarnings("ignore", module=r"PIL\.")  # remarks on odd metadata, from threads that have no filters

    def read(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """As Rows has it, by several threads."""
        out = torch.empty((len(index), *self.shape[1:]), dtype=torch.uint8) if out is None else out
        numbers = index.tolist()

        def one(at: int) -> None:
            try:
                with self._files.held(numbers[at]) as content:
                    out[at] = decode.read(content, self._target)
            except Unreadable as error:
                raise RunError(f"{self._files.paths[numbers[at]]} can no longer be read ({error})") from None

        for_each(self._pool, one, len(numbers), self._size)
        return out


def for_each(helpers: ThreadPoolExecutor, work: Callable[[int], None], count: int, typical: float) -> None:
    """`work(n)` of every n below `count`, on images of about `typical` bytes.

    By the threads of `helpers`, a few runs of numbers, as handing one over takes as long as a small image; of the smallest by this thread alone.
    """
    size = count if typical < _SMALL else max(1, count // (4 * workers()))

    def run(start: int) -> None:
        for number in range(start, min(start + size, count)):
            work(number)

    if size >= count:
        run(0)
    else:
        list(helpers.map(run, range(0, count, size)))


def decode_all(
    files: Files, target: Target, numbers: Sequence[int], put: Callable[[int, Tensor, bytes, Note], None]
) -> dict[int, str]:
    """Decode in parallel (decoders release the interpreter's lock) and hand each image with its digest and a note to `put`.

    Returns:
        Number → reason, of those that cannot be read.
    """
    bad: dict[int, str] = {}
    left, lock, stop, taken = iter(numbers), threading.Lock(), threading.Event(), [0]

    def next_one() -> int | None:
        with lock:
            taken[0] += 1
            return next(left, None)

    def work() -> None:
        while not stop.is_set() and (number := next_one()) is not None:
            try:
                with files.held(number) as content:
                    pixels, note = decode.noted(content, target)
                    digest = digest_of(content)
            except Unreadable as error:
                bad[number] = str(error)
            else:
                put(number, pixels, digest, note)

    tell = say.get()
    threads = max(1, min(workers() if files.typical(numbers) >= _SMALL else 1, len(numbers)))
    # Around the threads and not in them, since the filters belong to the whole process.
    with warnings.catch_warnings(), pool(threads, "aegen-decode") as helpers:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, and on sizes, which read() looks at itself
        jobs = {helpers.submit(work) for _ in range(threads)}
        try:
            while jobs:
                done, jobs = wait(jobs, _EVERY, FIRST_EXCEPTION)
                for job in done:
                    job.result()
                if jobs and not done:
                    tell(f"decoded {taken[0]:,} of {len(numbers):,} images")
        finally:
            stop.set()
    return bad


def digest_of(content: bytes) -> bytes:
    """16 bytes that tell an encoded image from others."""
    return hashlib.blake2b(content, digest_size=16).digest()
