"""Batches of uint8 images, a function of (seed, epoch) and the position in it, so that a run can resume anywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from aegen.errors import UsageError

_BLACK = torch.tensor(-1.0)
_STEP = 0.007843136787414551  # the float32 next below 2/255: white must not come out a bit above 1
_DEVICE_SHARE = 0.25  # of the free GPU memory that images may fill


def normalize(pixels: Tensor) -> Tensor:
    """uint8 0…255 → float32 in [-1, 1], on the device where the pixels are."""
    # One pass over memory instead of three; for a small net on a CPU that is 2 % of a step.
    return torch.add(_BLACK, pixels, alpha=_STEP)


class Batches:
    """The training images in a new order each epoch.

    Small sets live on the device as uint8 and a batch is one gather; larger ones stay in memory, and a batch is gathered
    there and sent without waiting.

    Args:
        pixels: uint8 (N, C, H, W).
        batch_size: images per process and micro-batch; made smaller where there are fewer.
        seed: of the order.
        rank, world: this process takes the rank-th part of each global batch.
        labels: int64 (N,), where a model wants them.

    Raises:
        UsageError: there are fewer images than parts of a step.
    """

    def __init__(
        self,
        pixels: Tensor,
        batch_size: int,
        *,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        labels: Tensor | None = None,
    ) -> None:
        self.count = len(pixels)
        if self.count < world * accumulate:
            raise UsageError(
                f"{self.count} training images are fewer than {world} processes × train.accumulate {accumulate}",
                hint="use fewer processes or a smaller --set train.accumulate",
            )
        self.batch_size = max(1, min(batch_size, self.count // (world * accumulate)))
        self.per_epoch = max(1, self.count // (self.batch_size * world * accumulate))
        """Optimizer steps in an epoch; what does not fill a step is left for other epochs to draw."""
        self.seed, self.rank, self.world, self.accumulate = seed, rank, world, accumulate
        self.device = device
        self.resident = device.type == "cpu" or _fits(pixels, device)
        self.pixels = pixels.to(device) if self.resident else pixels
        self.labels = labels.to(device) if self.resident and labels is not None else labels
        self._order: Tensor = torch.empty(0)
        self._epoch = -1

    def micro(self, step: int, part: int) -> tuple[Tensor, Tensor | None]:
        """Micro-batch `part` of optimizer step `step`: float32 (B, C, H, W) in [-1, 1] and its labels (B,), on the device."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(self.count, generator=generator)
            self._order = order.to(self.device) if self.resident else order
            self._epoch = epoch
        # The global batch of a step is the same whatever the number of processes that share it.
        start = ((position * self.accumulate + part) * self.world + self.rank) * self.batch_size
        index = self._order[start : start + self.batch_size]
        batch = self._sent(self.pixels.index_select(0, index))
        labels = None if self.labels is None else self._sent(self.labels.index_select(0, index))
        return normalize(batch), labels

    def _sent(self, batch: Tensor) -> Tensor:
        if self.resident:
            return batch
        batch = batch.pin_memory() if self.device.type == "cuda" else batch
        return batch.to(self.device, non_blocking=True)


def _fits(pixels: Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return pixels.numel() < 2**31
    free, _ = torch.cuda.mem_get_info(device)
    return pixels.numel() < free * _DEVICE_SHARE
