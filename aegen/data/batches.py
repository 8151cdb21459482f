"""Batches of images, or of rows of any type, a function of (seed, epoch) and the position in it, so that a run can resume anywhere."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from aegen.data.augment import Augment, changed
from aegen.data.image_rows import MemoryRows, Pictures, Rows
from aegen.data.prefetch import Ahead
from aegen.errors import UsageError

_BLACK = torch.tensor(-1.0)
_STEP = 0.007843136787414551  # the float32 next below 2/255: white must not come out a bit above 1
_DEVICE_SHARE = 0.25  # of the free GPU memory that images may fill
_AHEAD = 256 * 2**20  # bytes of batches that wait to be used
_DEEPEST, _THREADS = 8, 2
_PART = 64 * 2**20  # bytes sent to the device at a time


def normalize(pixels: Tensor) -> Tensor:
    """uint8 0…255 → float32 in [-1, 1], on the device where the pixels are."""
    # One pass over memory instead of three; for a small net on a CPU that is 2 % of a step.
    if pixels.device.type != "cpu":
        return torch.add(_BLACK, pixels, alpha=_STEP)
    # A CPU would make the float values beside the result, and new memory is what takes time for large images.
    values = pixels.float()
    return torch.add(_BLACK, values, alpha=_STEP, out=values)


@dataclass(frozen=True)
class _Plan:
    """Which images of an epoch's order a process sees when."""

    count: int
    batch_size: int
    per_epoch: int
    seed: int
    rank: int
    world: int
    accumulate: int
    sequential: bool

    def generator(self, epoch: int) -> torch.Generator:
        """Of an epoch's order."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)

    def start(self, position: int, part: int) -> int:
        """The place in the order where micro-batch `part` of an epoch's step `position` begins."""
        if self.sequential:
            return self.rank * (self.count // self.world) + (position * self.accumulate + part) * self.batch_size
        # The global batch of a step is the same whatever the number of processes that share it.
        return ((position * self.accumulate + part) * self.world + self.rank) * self.batch_size


class Batches:
    """The training images in a new order each epoch.

    Sets that fit live on the device as uint8 and a batch is one gather; of others, batches are read in the background, and sent without
    waiting.

    Args:
        pixels: uint8 (N, C, H, W).
        batch_size: images per process and micro-batch; made smaller where there are fewer.
        seed: of the order.
        rank, world: this process takes the rank-th part of each global batch.
        labels: int64 (N,), where a model wants them.
        augment: random changes of each image.
        prepare: makes what is asked for of the rows of a batch; rows may be of any type, if it takes them.

    Raises:
        UsageError: there are fewer images than parts of a step.
    """

    def __init__(
        self,
        pixels: Pictures,
        batch_size: int,
        *,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        labels: Tensor | None = None,
        augment: Augment | None = None,
        prepare: Callable[[Tensor], Tensor] = normalize,
    ) -> None:
        self._prepare = prepare
        self.count = len(pixels)
        if self.count < world * accumulate:
            raise UsageError(
                f"{self.count} training images are fewer than {world} processes × train.accumulate {accumulate}",
                hint="use fewer processes or a smaller --set train.accumulate",
            )
        self.batch_size = max(1, min(batch_size, self.count // (world * accumulate)))
        self.per_epoch = max(1, self.count // (self.batch_size * world * accumulate))
        """Optimizer steps in an epoch; what does not fill a step is left for other epochs to draw."""
        self.left = self.count - self.per_epoch * self.batch_size * world * accumulate
        """Images that an epoch does not look at."""
        self.seed, self.rank, self.world, self.accumulate = seed, rank, world, accumulate
        self.device = device
        self._augment = augment or None
        if self._augment is not None:
            self._augment.check(*pixels.shape[2:])
        sequential = isinstance(pixels, Rows) and pixels.sequential
        self._plan = _Plan(self.count, self.batch_size, self.per_epoch, seed, rank, world, accumulate, sequential)
        self.resident = (device.type == "cpu" and isinstance(pixels, Tensor)) or _fits(pixels, device)
        if self.resident:
            self.pixels = _moved(pixels, device)
            self.labels = labels.to(device) if labels is not None else None
            self._order: Tensor = torch.empty(0)
            self._epoch = -1
        else:
            rows = pixels if isinstance(pixels, Rows) else MemoryRows(pixels)
            size = self.batch_size * rows.shape[1:].numel() * rows.dtype.itemsize
            depth = max(1, min(_DEEPEST, _AHEAD // size))
            self._reader = _Reader(rows, labels, self._plan, device)
            self._ahead = Ahead(self._reader.read, depth, min(_THREADS, depth))

    def micro(self, step: int, part: int) -> tuple[Tensor, Tensor | None]:
        """Micro-batch `part` of optimizer step `step`: float32 (B, C, H, W) in [-1, 1] and its labels (B,), on the device."""
        if not self.resident:
            batch, labels = self._ahead.take(step * self.accumulate + part).here(self.device)
            images = self._finished(batch, step, part)
            self._reader.done(batch)
            return images, labels
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = torch.randperm(self.count, generator=self._plan.generator(epoch)).to(self.device)
            self._epoch = epoch
        start = self._plan.start(position, part)
        index = self._order[start : start + self.batch_size]
        labels = None if self.labels is None else self.labels.index_select(0, index)
        return self._finished(self.pixels.index_select(0, index), step, part), labels

    def _finished(self, batch: Tensor, step: int, part: int) -> Tensor:
        if self._augment is not None:
            start = (part * self.world + self.rank) * self.batch_size
            every = self.batch_size * self.world * self.accumulate
            draws = self._augment.draw(step, every, start, start + len(batch))
            batch = changed(batch, draws.to(self.device, non_blocking=True))
        return self._prepare(batch)


class _Sent(NamedTuple):
    """A micro-batch on its way to the device."""

    pixels: Tensor
    labels: Tensor | None
    arrival: torch.cuda.Event | None = None

    def here(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Its tensors, for kernels that are queued from now on."""
        if self.arrival is not None:
            current = torch.cuda.current_stream(device)
            current.wait_event(self.arrival)
            self.pixels.record_stream(current)
            if self.labels is not None:
                self.labels.record_stream(current)
        return self.pixels, self.labels


class _Reader:
    """Reads micro-batches by their number since the beginning of training, in any thread."""

    def __init__(self, rows: Rows, labels: Tensor | None, plan: _Plan, device: torch.device) -> None:
        self._rows, self._labels, self._plan, self._device = rows, labels, plan, device
        self._orders: dict[int, Tensor] = {}
        self._lock = threading.Lock()
        self._spare: deque[Tensor] = deque(maxlen=2)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def read(self, number: int) -> _Sent:
        """Read one and send it."""
        step, part = divmod(number, self._plan.accumulate)
        epoch, position = divmod(step, self._plan.per_epoch)
        start = self._plan.start(position, part)
        index = self._order(epoch)[start : start + self._plan.batch_size]
        labels = None if self._labels is None else self._labels.index_select(0, index)
        if self._stream is None:
            batch = self._rows.read(index, self._free(len(index))).to(self._device)
            return _Sent(batch, None if labels is None else labels.to(self._device))
        pinned = torch.empty((len(index), *self._rows.shape[1:]), dtype=self._rows.dtype, pin_memory=True)
        self._rows.read(index, pinned)
        with torch.cuda.stream(self._stream):
            batch = pinned.to(self._device, non_blocking=True)
            sent = None if labels is None else labels.pin_memory().to(self._device, non_blocking=True)
            return _Sent(batch, sent, self._stream.record_event())

    def _free(self, count: int) -> Tensor:
        """Memory for a batch: new memory of large images takes as long as reading them."""
        try:
            return self._spare.pop()
        except IndexError:
            return torch.empty((count, *self._rows.shape[1:]), dtype=self._rows.dtype)

    def done(self, batch: Tensor) -> None:
        """Take back a batch that nobody needs any more."""
        if self._device.type == "cpu":
            self._spare.append(batch)

    def _order(self, epoch: int) -> Tensor:
        with self._lock:
            found = self._orders.get(epoch)
            if found is None:
                found = self._orders[epoch] = self._rows.order(self._plan.generator(epoch))
                for old in [e for e in self._orders if abs(e - epoch) > 1]:
                    del self._orders[old]
            return found


def _moved(pixels: Pictures, device: torch.device) -> Tensor:
    """All images as one tensor on the device, a part in memory at a time."""
    if isinstance(pixels, Tensor):
        return pixels.to(device)
    moved = torch.empty(pixels.shape, dtype=pixels.dtype, device=device)
    size = max(1, _PART // (pixels.shape[1:].numel() * pixels.dtype.itemsize))
    for start, part in zip(range(0, len(pixels), size), pixels.split(size), strict=True):
        moved[start : start + len(part)] = part.to(device)
    return moved


def _fits(pixels: Pictures, device: torch.device) -> bool:
    if device.type == "cpu":
        return False  # that would read it all into memory
    if isinstance(pixels, Rows) and pixels.sequential:
        return False
    size = pixels.shape.numel() * pixels.dtype.itemsize
    if device.type != "cuda":
        return size < 2**31
    free, _ = torch.cuda.mem_get_info(device)
    return size < free * _DEVICE_SHARE
