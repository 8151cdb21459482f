"""Checkpoints written beside the loop, which waits for a copy of the state and not for a disk."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aegen import checkpoint, threads


@dataclass
class Write:
    """A checkpoint that is being written, or was.

    Attributes:
        step: optimizer steps taken when the state was copied.
        weight: name of a weight that was not finite, so that nothing was written.
        error: why it could not be written.
    """

    path: Path
    step: int
    weight: str | None = None
    error: Exception | None = None


class Writer:
    """Writes one checkpoint at a time, in a thread of its own that ends with it."""

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._write: Write | None = None

    def begin(
        self,
        path: Path,
        tensors: Mapping[str, Tensor],
        header: Mapping[str, Any],
        step: int,
        may: Callable[[], None] | None = None,
    ) -> None:
        """Copy the tensors, and have the copies written to `path`. The outcome of the last write must have been taken.

        Args:
            may: as `atomic.drafted` has it.
        """
        assert self._write is None, "the outcome of the last write was not taken"
        self._copy(tensors)
        write = self._write = Write(path, step)
        # A daemon: a second Ctrl-C waits for no disk. What it leaves half written has another name than the checkpoint.
        self._thread = threading.Thread(
            target=self._run, args=(write, dict(header), may), name="aegen-writer", daemon=True
        )
        self._thread.start()

    def outcome(self, *, wait: bool) -> Write | None:
        """The last write, once: None if there was none since, or if it is not over and is not waited for."""
        if self._thread is None or (not wait and self._thread.is_alive()):
            return None
        self._thread.join()
        write, self._thread, self._write = self._write, None, None
        return write

    def _copy(self, tensors: Mapping[str, Tensor]) -> None:
        """Into memory on the CPU that is kept for the next time: fresh pages cost more than the copying."""
        held, self._copies = self._copies, {}
        for name, tensor in tensors.items():
            copy, gpu = held.get(name), tensor.is_cuda
            if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                copy = torch.empty_like(tensor, device="cpu", requires_grad=False, pin_memory=gpu)
            self._copies[name] = copy.copy_(tensor.detach(), non_blocking=gpu)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.current_stream().synchronize()

    def _run(self, write: Write, header: Mapping[str, Any], may: Callable[[], None] | None) -> None:
        threads.compute_alone()
        try:
            write.weight = next((name for name, value in self._copies.items() if _broken(name, value)), None)
            if write.weight is None:
                checkpoint.save(write.path, self._copies, header, may)
        except Exception as error:
            write.error = error


def _broken(name: str, value: Tensor) -> bool:
    """Whether a weight is not finite. Its sum is looked at first: one pass, and finite only where all of them are."""
    if not name.startswith(("model.", "objective.sampler.")) or not value.is_floating_point():
        return False
    return not math.isfinite(value.sum()) and not bool(value.isfinite().all())
