"""From encoded images to rows of decoded ones: in memory, in a file of the cache, or decoded whenever they are asked for."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from aegen import caches
from aegen.data import decode
from aegen.data.cache_file import Store, size_of
from aegen.data.decode import Target, Unreadable
from aegen.data.encoded import Decoded, Files, decode_all, digest_of, say
from aegen.data.image_rows import MemoryRows, Rows
from aegen.data.values import Note, remarks
from aegen.errors import RunError
from aegen.settings import DataSettings

SMALL = 256 * 2**20
"""Bytes of decoded images that are held in memory, wherever they come from."""
_LEAST = 4 * 2**20  # bytes below which decoding anew is as fast as the cache
_SPARE = 2**30  # bytes of the disk that are left to others
_GIVEN_UP = 7 * 24 * 3600.0  # seconds


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
            `channels`, `fit` and `white` alone.
    """
    shape = f"{settings.size} {settings.channels} {settings.fit} {settings.white}"
    known = repr(target) if isinstance(target, Target) else shape
    goal = cache(target if callable(target) else lambda: target)
    root = caches.folder() if settings.cache else None
    if root is None:
        return _uncached(files, goal())
    root = root / "images"
    name = files.key(known)
    how, bad, held = "read from the cache", None, None
    try:
        store = Store.open(root / f"{name}.safetensors")
        if store is None:
            wanted = _shape(files, goal())
            if size_of(wanted) < _LEAST:
                return _uncached(files, goal())
            root.mkdir(parents=True, exist_ok=True)
            with caches.alone(root / f"{name}.lock", lambda: say.get()("another run decodes these images; waiting")):
                store = Store.open(root / f"{name}.safetensors")  # which the other one may have made
                if store is None:
                    how = "decoded once into the cache"
                    store, bad, held = _build(files, settings, root, name, wanted)
        if bad is None:  # what could not be read before may have become readable, and the reasons are in no cache
            bad = decode_all(files, _target(store, settings), (~store.there).nonzero()[:, 0].tolist(), store.put)
            store.flush()
    except OSError as error:
        say.get()(f"decoded images cannot be kept in {root} ({error.strerror or error}), and the run goes on without")
        return _uncached(files, goal())
    return _from_store(files, settings, store, bad, held, how)


def _shape(files: Files, target: Target) -> tuple[int, int, int, int]:
    assert target.size is not None and target.channels is not None
    return len(files), target.channels, *target.size


def _build(
    files: Files, settings: DataSettings, root: Path, name: str, shape: tuple[int, int, int, int]
) -> tuple[Store, dict[int, str], Tensor | None]:
    """Go on with what another run began, or begin; the lock is held.

    Returns:
        The images in the cache, number → reason of those that cannot be read, and the images in memory if they are few.

    Raises:
        OSError: there is no room, or no permission.
    """
    whole, size = root / f"{name}.safetensors", size_of(shape)
    store = None
    for path in sorted(root.glob(f"{name}.*.part")):
        found = Store.open(path) if store is None else None
        if found is not None and found.shape == shape:
            store = found
        else:  # of nobody, since the lock is held here
            with suppress(OSError):
                path.unlink()
    _sweep(root, name)
    if store is None:
        room = shutil.disk_usage(root).free - _SPARE
        if size > min(room, settings.cache_gb * 1e9):
            reason = "too little room is left" if size > room else f"data.cache_gb is {settings.cache_gb:g}"
            raise OSError(f"they take {amount(size)}, and {reason}")
        store = Store.make(root / f"{name}.{secrets.token_hex(8)}.part", shape)
    held = torch.empty(shape, dtype=torch.uint8) if size <= SMALL and not store.there.any() else None

    def put(number: int, pixels: Tensor, digest: bytes, note: Note) -> None:
        store.put(number, pixels, digest, note)
        if held is not None:
            held[number] = pixels

    try:
        bad = decode_all(files, _target(store, settings), (~store.there).nonzero()[:, 0].tolist(), put)
        store.finish(whole)
    except OSError:
        store.path.unlink(missing_ok=True)  # it takes the room that others may need
        raise
    others = [p for p in root.iterdir() if p.suffix in (".safetensors", ".part") and p != whole]
    caches.tidy(others, settings.cache_gb * 1e9 - size)
    found = Store.open(whole)
    if found is None:
        raise OSError(f"{whole} was changed by another program")
    return found, bad, held


def _sweep(root: Path, name: str) -> None:
    """Delete what other sets began to decode and nobody went on with for a week."""
    for path in root.glob("*.part"):
        with suppress(OSError):
            if path.name.partition(".")[0] != name and time.time() - path.lstat().st_mtime > _GIVEN_UP:
                path.unlink()


def _target(store: Store, settings: DataSettings) -> Target:
    """What the images of a store were decoded to."""
    channels, height, width = store.shape[1:]
    return Target((height, width), channels, settings.fit, settings.white)


def _from_store(
    files: Files, settings: DataSettings, store: Store, bad: dict[int, str], held: Tensor | None, how: str
) -> Kept:
    goal = _target(store, settings)

    def mend(number: int) -> tuple[Tensor, bytes]:
        try:
            with files.held(number) as content:
                return decode.read(content, goal), digest_of(content)
        except Unreadable as error:
            raise RunError(
                f"{files.paths[number]} is damaged in the cache {store.path} and cannot be read anew ({error})",
                hint="delete the file of the cache, and begin again",
            ) from None

    store.mend = mend
    _tell(files, {number: Note(note) for number, note in store.notes.items()})
    good = store.there.nonzero()[:, 0]
    size = len(good) * store.shape[1:].numel()
    rows: Rows
    if size <= SMALL and len(good):
        if held is None:
            held = store.read(good)
        elif bad:
            held = held[good]
        rows, how = MemoryRows(held, store.digests[good]), f"{how} {store.path.parent}, held in memory"
    else:
        rows, how = store.pick(good) if bad else store, f"{how} {store.path.parent}"
    return Kept(rows, good, bad, f"{len(good):,} {how}, {amount(size)}")


def _uncached(files: Files, target: Target) -> Kept:
    shape = _shape(files, target)
    size = torch.Size(shape).numel()
    digests = torch.zeros(len(files), 2, dtype=torch.int64)
    holds = size <= max(SMALL, _free_memory() // 2)
    pixels = torch.empty(shape if holds else (0, *shape[1:]), dtype=torch.uint8)

    notes: dict[int, Note] = {}

    def put(number: int, image: Tensor, digest: bytes, note: Note) -> None:
        digests[number] = torch.frombuffer(bytearray(digest), dtype=torch.int64)
        if holds:
            pixels[number] = image
        if note:
            notes[number] = note

    bad = decode_all(files, target, range(len(files)), put)
    _tell(files, notes)
    good = torch.tensor([n for n in range(len(files)) if n not in bad], dtype=torch.int64)
    rows: Rows
    if holds:
        rows = MemoryRows(pixels[good] if bad else pixels, digests[good])
        how = "decoded once into memory"
    else:
        rows = Decoded(files, target, digests).pick(good)
        how = "decoded whenever they are asked for, being more than half of the free memory holds"
    return Kept(rows, good, bad, f"{len(good):,} {how}, {amount(size)}")


def _tell(files: Files, notes: dict[int, Note]) -> None:
    """Say what of the images was not used, once a file."""
    for text in remarks({str(files.paths[number]): notes[number] for number in sorted(notes)}):
        say.get()(text)


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
