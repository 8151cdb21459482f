"""From encoded images to rows of decoded ones: in memory, in a file of the cache, or decoded whenever they are asked for."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from aegen import caches
from aegen.data import decode
from aegen.data.decode import Target, Unreadable
from aegen.data.rows import MemoryRows, Rows
from aegen.data.store import Store, size_of
from aegen.errors import RunError
from aegen.settings import DataSettings

SMALL = 256 * 2**20
"""Bytes of decoded images that are held in memory, wherever they come from."""
_LEAST = 4 * 2**20  # bytes below which decoding anew is as fast as the cache
_SPARE = 2**30  # bytes of the disk that are left to others
_EVERY = 10.0  # seconds between two words on how far decoding is
_MISSING = "no such file"

say: ContextVar[Callable[[str], None]] = ContextVar("say", default=lambda text: None)
"""Who is told how far decoding is, and what goes another way than usual."""


class Files:
    """Encoded images, by number.

    Args:
        paths: of the files.
        spans: (offset, size) of each image in its file, where a file holds several.
    """

    def __init__(self, paths: Sequence[Path], spans: Sequence[tuple[int, int]] | None = None) -> None:
        self.paths, self.spans = paths, spans

    def __len__(self) -> int:
        return len(self.paths)

    def content(self, number: int) -> bytes:
        """The encoded image.

        Raises:
            Unreadable: it cannot be had.
        """
        try:
            if self.spans is None:
                return self.paths[number].read_bytes()
            offset, size = self.spans[number]
            with open(self.paths[number], "rb") as file:
                file.seek(offset)
                return file.read(size)
        except FileNotFoundError:
            raise Unreadable(_MISSING) from None
        except PermissionError:
            raise Unreadable("no permission to read it") from None
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None

    def key(self, asked: str) -> str:
        """A name for what these become if decoded as `asked`: of their paths, sizes, times and places, and of how they are read."""
        digest = hashlib.blake2b(f"{decode.VERSION}\n{asked}\n".encode(), digest_size=16)
        last, stamp = None, ""
        for number, path in enumerate(self.paths):
            if path is not last:
                last, stamp = path, _stamp(path)
            digest.update(stamp.encode(errors="surrogateescape"))
            if self.spans is not None:
                digest.update(f"{self.spans[number]}\n".encode())
        return digest.hexdigest()


def _stamp(path: Path) -> str:
    try:
        told = os.stat(path)
    except OSError:
        return f"{os.path.abspath(path)}\0{_MISSING}\n"
    return f"{os.path.abspath(path)}\0{told.st_size}\0{told.st_mtime_ns}\n"


@dataclass
class Kept:
    """Decoded images.

    Attributes:
        rows: those that can be read, with their digests.
        good: their numbers, int64 (len(rows),).
        bad: number → reason, of the others.
        how: where they are, for the user.
    """

    rows: Rows
    good: Tensor
    bad: dict[int, str]
    how: str


def keep(files: Files, settings: DataSettings, target: Target | Callable[[], Target]) -> Kept:
    """Decode all of `files`, or find them decoded.

    Args:
        target: what they become; a function is called only if they are not in the cache, and follows from the files, `size`,
            `channels` and `fit` alone.
    """
    known = repr(target) if isinstance(target, Target) else f"{settings.size} {settings.channels} {settings.fit}"
    goal = cache(target if callable(target) else lambda: target)
    root = caches.folder() if settings.cache else None
    if root is None:
        return _uncached(files, goal())
    root = root / "images"
    name = files.key(known)
    how, bad = "read from the cache", None
    try:
        store = Store.open(root / f"{name}.safetensors")
        if store is None:
            shape = _shape(files, goal())
            if size_of(shape) < _LEAST:
                return _uncached(files, goal())
            root.mkdir(parents=True, exist_ok=True)
            with caches.alone(root / f"{name}.lock", lambda: say.get()("another run decodes these images; waiting")):
                store = Store.open(root / f"{name}.safetensors")  # which the other one may have made
                if store is None:
                    how = "decoded once into the cache"
                    store, bad = _build(files, settings, root, name, shape)
        if bad is None:  # what could not be read before may have become readable, and the reasons are in no cache
            bad = decode_all(files, _target(store, settings), (~store.there).nonzero()[:, 0].tolist(), store.put)
    except OSError as error:
        say.get()(f"decoded images cannot be kept in {root} ({error.strerror or error}), and the run goes on without")
        return _uncached(files, goal())
    return _from_store(files, settings, store, bad, how)


def _shape(files: Files, target: Target) -> tuple[int, int, int, int]:
    assert target.size is not None and target.channels is not None
    return len(files), target.channels, *target.size


def _build(
    files: Files, settings: DataSettings, root: Path, name: str, shape: tuple[int, int, int, int]
) -> tuple[Store, dict[int, str]]:
    """Go on with what another run began, or begin; the lock is held.

    Raises:
        OSError: there is no room, or no permission.
    """
    whole, part, size = root / f"{name}.safetensors", root / f"{name}.part", size_of(shape)
    store = Store.open(part)
    if store is None or store.shape != shape:
        room = shutil.disk_usage(root).free - _SPARE
        if size > min(room, settings.cache_gb * 1e9):
            reason = "too little room is left" if size > room else f"data.cache_gb is {settings.cache_gb:g}"
            raise OSError(f"they take {amount(size)}, and {reason}")
        store = Store.make(part, shape)
    try:
        bad = decode_all(files, _target(store, settings), (~store.there).nonzero()[:, 0].tolist(), store.put)
        store.finish(whole)
    except OSError:
        part.unlink(missing_ok=True)  # it takes the room that others may need
        raise
    others = [p for p in root.iterdir() if p.suffix in (".safetensors", ".part") and p != whole]
    caches.tidy(others, settings.cache_gb * 1e9 - size)
    found = Store.open(whole)
    if found is None:
        raise OSError(f"{whole} was changed by another program")
    return found, bad


def _target(store: Store, settings: DataSettings) -> Target:
    """What the images of a store were decoded to."""
    channels, height, width = store.shape[1:]
    return Target((height, width), channels, settings.fit)


def _from_store(files: Files, settings: DataSettings, store: Store, bad: dict[int, str], how: str) -> Kept:
    goal = _target(store, settings)

    def mend(number: int) -> tuple[Tensor, bytes]:
        try:
            content = files.content(number)
            return decode.read(content, goal), _digest(content)
        except Unreadable as error:
            raise RunError(
                f"{files.paths[number]} is damaged in the cache {store.path} and cannot be read anew ({error})",
                hint="delete the file of the cache, and begin again",
            ) from None

    store.mend = mend
    good = store.there.nonzero()[:, 0]
    size = len(good) * store.shape[1:].numel()
    rows: Rows
    if size <= SMALL and len(good):
        rows, how = MemoryRows(store.read(good), store.digests[good]), f"{how} {store.path.parent}, held in memory"
    else:
        rows, how = store.pick(good) if bad else store, f"{how} {store.path.parent}"
    return Kept(rows, good, bad, f"{len(good):,} {how}, {amount(size)}")


def _uncached(files: Files, target: Target) -> Kept:
    shape = _shape(files, target)
    size = torch.Size(shape).numel()
    digests = torch.zeros(len(files), 2, dtype=torch.int64)
    holds = size <= max(SMALL, _free_memory() // 2)
    pixels = torch.empty(shape if holds else (0, *shape[1:]), dtype=torch.uint8)

    def put(number: int, image: Tensor, digest: bytes) -> None:
        digests[number] = torch.frombuffer(bytearray(digest), dtype=torch.int64)
        if holds:
            pixels[number] = image

    bad = decode_all(files, target, range(len(files)), put)
    good = torch.tensor([n for n in range(len(files)) if n not in bad], dtype=torch.int64)
    rows: Rows
    if holds:
        rows = MemoryRows(pixels[good] if bad else pixels, digests[good])
        how = "decoded once into memory"
    else:
        rows = Decoded(files, target, digests).pick(good)
        how = "decoded whenever they are asked for, being more than half of the free memory holds"
    return Kept(rows, good, bad, f"{len(good):,} {how}, {amount(size)}")


class Decoded(Rows):
    """Images that are decoded whenever they are read."""

    def __init__(self, files: Files, target: Target, digests: Tensor | None = None) -> None:
        super().__init__(_shape(files, target))
        self.digests, self._files, self._target = digests, files, target
        self._pool = ThreadPoolExecutor(workers())
        warnings.filterwarnings("ignore", module=r"PIL\.")  # remarks on odd metadata, from threads that have no filters

    def read(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """As Rows has it, by several threads."""
        out = torch.empty((len(index), *self.shape[1:]), dtype=torch.uint8) if out is None else out

        def one(at: int, number: int) -> None:
            try:
                out[at] = decode.read(self._files.content(number), self._target)
            except Unreadable as error:
                raise RunError(f"{self._files.paths[number]} can no longer be read ({error})") from None

        list(self._pool.map(one, range(len(index)), index.tolist()))
        return out


def decode_all(
    files: Files, target: Target, numbers: Sequence[int], put: Callable[[int, Tensor, bytes], None]
) -> dict[int, str]:
    """Decode in parallel (decoders release the interpreter's lock) and hand each image with its digest to `put`.

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
                content = files.content(number)
                pixels = decode.read(content, target)
            except Unreadable as error:
                bad[number] = str(error)
            else:
                put(number, pixels, _digest(content))

    tell = say.get()
    # Around the threads and not in them, since the filters belong to the whole process.
    with warnings.catch_warnings(), ThreadPoolExecutor(workers()) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, and on sizes, which read() looks at itself
        jobs = {pool.submit(work) for _ in range(min(workers(), len(numbers)))}
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


def workers() -> int:
    """Threads for decoding: one a core, and no more than 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def amount(size: int) -> str:
    """`47 MB`, `15.7 GB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def _free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its container."""
    found = [8 * 2**30]
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        found = [int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable")]
        group = Path("/sys/fs/cgroup")
        most = (group / "memory.max").read_text(encoding="ascii").strip()
        if most != "max":
            found.append(int(most) - int((group / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        pass
    return max(0, min(found, default=8 * 2**30))
