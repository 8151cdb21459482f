"""Images that lie somewhere else than in one tensor, and are read when they are asked for."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

_COPIED = (
    2**30
)  # bytes of images that are copied when they are split; a gather from one tensor needs no index of an index


class Rows(ABC):
    """uint8 images (N, C, H, W), or rows of another type and shape, that are read by number; `len`, `shape`, slices, index tensors and `split` as a tensor has them.

    Attributes:
        shape: (N, C, H, W).
        digests: int64 (N, 2), of what each image was decoded from, if that is known.
        sequential: whether each process should read a part of an epoch's order that is in one piece.
    """

    dtype = torch.uint8
    ndim = 4
    digests: Tensor | None = None
    sequential = False

    @property
    def mark(self) -> str:
        """A digest of all images that is cheaper than theirs one by one, or an empty text."""
        return ""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype = torch.uint8) -> None:
        self.shape, self.dtype, self.ndim = torch.Size(shape), dtype, len(shape)

    @abstractmethod
    def read(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """The images of `index`, int64 (B,), as uint8 (B, C, H, W), written to `out` where it is given. Safe in several threads.

        Raises:
            RunError: one can no longer be read.
        """

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | Tensor) -> Tensor:
        if isinstance(which, slice):
            which = torch.arange(*which.indices(len(self)))
        return self.read(which)

    def split(self, size: int) -> Sequence[Tensor]:
        """All images in order, `size` at a time, each part read when it is asked for."""
        return _Parts(self, size, range(0, len(self), size))

    def pick(self, index: Tensor) -> Rows:
        """The images of `index` as rows of their own, without reading them."""
        return _Picked(self, index)

    def order(self, generator: torch.Generator) -> Tensor:
        """The numbers of all images, int64 (N,), in an order for one epoch; rows that are best read in sequence mix less."""
        return torch.randperm(len(self), generator=generator)


Pictures = Tensor | Rows
"""uint8 (N, C, H, W), in memory or not."""


class _Parts(Sequence[Tensor]):
    """Parts of rows; slices of it read nothing either."""

    def __init__(self, rows: Rows, size: int, starts: range) -> None:
        self._rows, self._size, self._starts = rows, size, starts

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, which: int) -> Tensor: ...
    @overload
    def __getitem__(self, which: slice) -> _Parts: ...
    def __getitem__(self, which: int | slice) -> Tensor | _Parts:
        if isinstance(which, slice):
            return _Parts(self._rows, self._size, self._starts[which])
        start = self._starts[which]
        return self._rows[start : start + self._size]


class _Picked(Rows):
    def __init__(self, rows: Rows, index: Tensor) -> None:
        super().__init__((len(index), *rows.shape[1:]), rows.dtype)
        self._rows, self._index = rows, index
        self.digests = None if rows.digests is None else rows.digests[index]

    def read(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        return self._rows.read(self._index[index], out)

    def pick(self, index: Tensor) -> Rows:
        return self._rows.pick(self._index[index])


class MemoryRows(Rows):
    """Images in memory."""

    def __init__(self, pixels: Tensor, digests: Tensor | None = None) -> None:
        super().__init__(pixels.shape, pixels.dtype)
        self.pixels, self.digests = pixels, digests

    def read(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """One gather."""
        return torch.index_select(self.pixels, 0, index, out=out)


def pick(pixels: Pictures, index: Tensor) -> Pictures:
    """Some of the images: small ones copied, others by reference."""
    if isinstance(pixels, Tensor):
        return pixels.index_select(0, index) if pixels.nbytes <= _COPIED else MemoryRows(pixels).pick(index)
    if isinstance(pixels, MemoryRows) and pixels.pixels.nbytes <= _COPIED:
        return MemoryRows(pixels.read(index), None if pixels.digests is None else pixels.digests[index])
    return pixels.pick(index)


def fingerprint(pixels: Pictures) -> str:
    """A digest of the images: of what they were decoded from where that is known, else of every pixel."""
    if isinstance(pixels, Rows) and pixels.mark:
        return pixels.mark
    digest = hashlib.blake2b(str(tuple(pixels.shape)).encode(), digest_size=16)
    if isinstance(pixels, Tensor):
        digest.update(pixels.contiguous().numpy().data)
    elif pixels.digests is not None:
        digest.update(pixels.digests.contiguous().numpy().data)
    else:
        for part in pixels.split(256):
            digest.update(part.contiguous().numpy().data)
    return digest.hexdigest()
