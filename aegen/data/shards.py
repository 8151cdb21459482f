"""Images in tar files, read in long pieces: rows whose order of an epoch keeps to a few shards at a time.

An epoch goes through the shards in a new order, some at once; of each, a run of neighbouring images is read in one piece, and the pieces are
mixed. So the disk sees long reads, and the order is still known for any position without reading what comes before it.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from aegen.data import decode
from aegen.data.decode import Target, Unreadable
from aegen.data.decode_memory import LARGE, ROOM
from aegen.data.encoded import for_each, say
from aegen.data.image_rows import Rows
from aegen.data.listing import HIDDEN, is_hidden, is_image
from aegen.data.values import Note, remarks
from aegen.errors import RunError, UsageError
from aegen.protocols import LeftOut
from aegen.threads import pool, workers

TOGETHER = 8
"""Shards that are read at a time."""
_EDGE = 2**16  # bytes of each end of a shard that tell it from others
_HELD = 2**29  # bytes of encoded images that are kept for those who want their neighbours
_GAP = 2**16  # bytes between two images that are read with them
_LONG = 2**24  # bytes that are read in one piece, and held twice for a moment
_TOLD = 5  # unreadable images that are named


@dataclass(frozen=True)
class Contents:
    """What a shard holds.

    Attributes:
        spans: offset and size of each image, int64 (N, 2).
        labels: int64 (N,) from the members `.cls`, -1 where an image has none.
        left_out: images that are there and are not among these.
    """

    spans: Tensor
    labels: Tensor
    left_out: LeftOut


Span = tuple[int, int]


def contents(path: Path, group: Callable[..., object]) -> Contents:
    """Where a shard's images lie; only headers and labels are read.

    Args:
        group: webdataset's `group_by_keys`, which says what belongs to one sample.

    Raises:
        UsageError: it is missing, or no plain tar.
    """
    left = LeftOut()
    try:
        with tarfile.open(path, "r:") as archive:
            members, labels = _members(archive, str(path), left)
        samples = list(group(members))  # type: ignore[call-overload]
    except tarfile.ReadError as error:
        hint = "shards are plain tar files that are not compressed, so that any image can be found"
        raise UsageError(f"the shard {path} cannot be read ({error})", hint=hint) from None
    except OSError as error:
        raise UsageError(f"the shard {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(f"the shard {path} holds two files of one name ({error})") from None
    spans, found = [], []
    for sample in samples:
        for suffix in _images_of(sample, path.name, left):
            # `a.left.jpg` has the class of `a.left.cls`, or of `a.cls`.
            own = f"{suffix.rpartition('.')[0]}.cls".removeprefix(".")
            text = labels.get(sample.get(own, sample.get("cls", ())), b"").strip()
            spans.append(sample[suffix])
            found.append(int(text) if text.isdigit() and int(text) < 2**16 else -1)
    return Contents(torch.tensor(spans, dtype=torch.int64).reshape(-1, 2), torch.tensor(found, dtype=torch.int64), left)


def _members(archive: tarfile.TarFile, url: str, left: LeftOut) -> tuple[list[dict[str, Any]], dict[Span, bytes]]:
    """What webdataset groups, and the bytes of labels; images that are hidden, or links to none, are left out."""
    members: list[dict[str, Any]] = []
    labels: dict[Span, bytes] = {}
    places: dict[str, Span] = {}
    while (member := archive.next()) is not None:
        vars(archive)["members"] = []  # or it would keep them all
        image = is_image(member.name)
        hidden = member.name.startswith("__") or any(map(is_hidden, PurePosixPath(member.name).parts))
        # A hard link is a second name of a file that came before.
        span = (member.offset_data, member.size) if member.isreg() else places.get(member.linkname)
        if hidden or not (member.isreg() or member.islnk()) or span is None:
            why = HIDDEN if hidden else "a link" if member.issym() or member.islnk() else "no file"
            left.add([f"{Path(url).name}, {member.name} ({why})"] * (image and not member.isdir()))
            continue
        if "." not in PurePosixPath(member.name).name:  # webdataset passes over such files without a word
            left.add([f"{Path(url).name}, {member.name} (its name has no ending that says what it is)"])
            continue
        members.append({"fname": member.name, "data": span, "__url__": url})
        if image:
            places[member.name] = span
        if member.isreg() and member.name.lower().endswith(".cls") and member.size < 64:
            taken = archive.extractfile(member)
            assert taken is not None
            labels[span] = taken.read()
    _check_end(archive)
    return members, labels


def _check_end(archive: tarfile.TarFile) -> None:
    """See that what was read is all: tarfile takes a header that is damaged or cut short for the end, unless it is the first.

    Raises:
        ReadError: something else than the zeros of an end, or nothing, follows the last member.
    """
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if any(archive.fileobj.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"damaged or cut short at byte {archive.offset:,}")


def _images_of(sample: Mapping[str, Any], shard: str, left: LeftOut) -> list[str]:
    """The suffixes of a sample's images.

    `0001.jpg` is the image of the sample `0001`, whose other parts, such as a mask `0001.seg.png`, are left out. Where there is none such, names have a
    dot within, as `22.05.png` has, and each is an image of its own.
    """
    every = [suffix for suffix in sample if not suffix.startswith("__") and is_image(f"_.{suffix}")]
    plain = [suffix for suffix in every if "." not in suffix]
    kept = plain[:1] or every
    key = sample["__key__"]
    others = [suffix for suffix in every if suffix not in kept]
    left.add(f"{shard}, {key}.{suffix} (another part of {key}.{kept[0]})" for suffix in others)
    return kept


class ShardRows(Rows):
    """Images of shards, numbered through them, decoded when they are read.

    Args:
        paths: of the shards.
        counts: how many images of each are used, its first ones.
        look: a shard's number → its contents; asked once for each, and only when it is read.
        target: what images become.
        shuffle: how many images are mixed at a time.
        strict: whether an image that cannot be read ends the run; otherwise a neighbour takes its place.
    """

    sequential = True

    def __init__(
        self,
        paths: Sequence[Path],
        counts: Sequence[int],
        look: Callable[[int], Contents],
        target: Target,
        *,
        shuffle: int,
        strict: bool,
    ) -> None:
        assert target.size is not None and target.channels is not None
        super().__init__((sum(counts), target.channels, *target.size))
        self._paths, self._look, self._target, self._strict = paths, look, target, strict
        self._counts = torch.tensor(counts)
        self._ends = self._counts.cumsum(0)
        self._together = min(TOGETHER, len(paths))
        self._piece = max(1, shuffle // self._together)
        self._tell, self._bad, self._noted = say.get(), 0, Note.NOTHING
        self._lock = threading.Lock()
        self._pieces: OrderedDict[tuple[int, int], Future[Piece]] = OrderedDict()
        warnings.filterwarnings("ignore", module=r"PIL\.")  # as in Decoded
        self._decoders = pool(workers(), "aegen-decode")

    @property
    def mark(self) -> str:
        """As Rows has it: of the names, sizes and ends of the shards."""
        digest = hashlib.blake2b(str((tuple(self.shape), self._counts.tolist())).encode(), digest_size=16)
        for path in self._paths:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(f"{path.name} {size}\n".encode(errors="surrogateescape"))
                digest.update(file.read(_EDGE))
                file.seek(max(0, size - _EDGE))
                digest.update(file.read(_EDGE))
        return digest.hexdigest()

    def order(self, generator: torch.Generator) -> Tensor:
        """Shards in a new order, `TOGETHER` at a time; of each a piece, and the images of those pieces mixed."""
        found = []
        starts = self._ends - self._counts
        for group in torch.randperm(len(self._paths), generator=generator).split(self._together):
            longest = int(self._counts[group].max())
            for begin in range(0, longest, self._piece):
                block = torch.cat(
                    [
                        torch.arange(begin, max(begin, min(begin + self._piece, count))) + start
                        for start, count in zip(starts[group].tolist(), self._counts[group].tolist(), strict=True)
                    ]
                )
                found.append(block[torch.randperm(len(block), generator=generator)])
        return torch.cat(found)

    def read(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """As Rows has it; pieces that were read stay until others are wanted, and images are decoded by several threads."""
        out = torch.empty((len(index), *self.shape[1:]), dtype=torch.uint8) if out is None else out
        shards = torch.searchsorted(self._ends, index, right=True)
        inside = index - (self._ends - self._counts)[shards]
        where = list(zip(shards.tolist(), inside.tolist(), strict=True))
        pieces = {key: self._piece_of(key) for key in dict.fromkeys((s, n // self._piece) for s, n in where)}

        def one(at: int) -> None:
            shard, number = where[at]
            out[at] = self._decoded(shard, number, pieces[shard, number // self._piece].result())

        typical = sum(piece.result().spans[0][1] for piece in pieces.values()) / max(1, len(pieces))
        for_each(self._decoders, one, len(where), typical)
        return out

    def _decoded(self, shard: int, number: int, piece: Piece) -> Tensor:
        at, count = number % self._piece, len(piece.spans)
        for step in range(count):
            try:
                size = piece.spans[(at + step) % count][1]
                with ROOM.hold(ROOM.most if size >= LARGE else 0):
                    pixels, note = decode.noted(piece.content((at + step) % count), self._target)
                self._note(shard, number, note)
                return pixels
            except Unreadable as error:
                self._refuse(shard, number, str(error))
        raise RunError(f"none of {count} images around image {number} of the shard {self._paths[shard]} can be read")

    def _refuse(self, shard: int, number: int, reason: str) -> None:
        text = f"image {number} of the shard {self._paths[shard]} cannot be used ({reason})"
        if self._strict:
            raise RunError(f"{text}, which --strict-data refuses")
        with self._lock:
            self._bad += 1
            told = self._bad
        if told <= _TOLD:
            self._tell(f"{text}; a neighbour takes its place" + "; others are not named" * (told == _TOLD))

    def _note(self, shard: int, number: int, note: Note) -> None:
        """Say of the first image of each kind what of it was not used."""
        with self._lock:
            told, self._noted = self._noted, self._noted | note
        for text in remarks({f"image {number} of the shard {self._paths[shard]}": note & ~told}):
            self._tell(f"{text}; others are not named")

    def _piece_of(self, key: tuple[int, int]) -> Future[Piece]:
        """A run of encoded images, read by whoever asks for it first."""
        with self._lock:
            found = self._pieces.get(key)
            if found is not None:
                self._pieces.move_to_end(key)
                return found
            mine: Future[Piece] = Future()
            self._pieces[key] = mine
            while len(self._pieces) > self._together and (
                len(self._pieces) > 3 * self._together or self._held() > _HELD
            ):
                self._pieces.popitem(last=False)
        try:
            mine.set_result(self._load(*key))
        except BaseException as error:
            mine.set_exception(error)
        return mine

    def _held(self) -> int:
        """Bytes of the pieces that are there."""
        return sum(piece.result().size for piece in self._pieces.values() if piece.done() and not piece.exception())

    def _load(self, shard: int, number: int) -> Piece:
        begin = number * self._piece
        count = int(self._counts[shard])
        every = self._look(shard).spans
        if len(every) < count:
            raise RunError(
                f"the shard {self._paths[shard]} holds {len(every)} images, but sizes.json says {count} or more"
            )
        spans = every[begin : min(begin + self._piece, count)].tolist()
        return Piece(self._paths[shard], spans)


class Piece:
    """A run of encoded images of a shard, read at once if they are not too many bytes, else one by one when they are wanted.

    Args:
        spans: offset and size of each.

    Attributes:
        size: bytes that are held.

    Raises:
        RunError: the shard cannot be read.
    """

    def __init__(self, path: Path, spans: list[list[int]]) -> None:
        self.spans, self._path = spans, path
        whole = sum(size for _, size in spans)
        self.size = whole if whole <= _HELD // TOGETHER else 0
        self._contents = self._read(spans) if self.size else []

    def content(self, number: int) -> bytes:
        """An encoded image."""
        return self._contents[number] if self._contents else self._read([self.spans[number]])[0]

    def _read(self, spans: list[list[int]]) -> list[bytes]:
        found: list[bytes] = []
        try:
            with open(self._path, "rb") as file:
                for run in _runs(spans):
                    file.seek(run[0][0])
                    content = memoryview(file.read(sum(run[-1]) - run[0][0]))
                    found += [bytes(content[offset - run[0][0] :][:size]) for offset, size in run]
        except OSError as error:
            raise RunError(f"the shard {self._path} can no longer be read ({error.strerror})") from error
        return found


def _runs(spans: list[list[int]]) -> Iterator[list[list[int]]]:
    """(offset, size) of images in order, as runs that are read in one piece: not too long, and with nothing large between."""
    run: list[list[int]] = []
    for offset, size in spans:
        if run and (not 0 <= offset - sum(run[-1]) <= _GAP or offset + size - run[0][0] > _LONG):
            yield run
            run = []
        run.append([offset, size])
    yield run
