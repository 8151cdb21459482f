"""Where a run is: what it knows of itself besides its tensors, its random state at a step, and the time it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from aegen.training.diagnostics import Low


@dataclass
class Progress:
    """What a run knows of itself besides its tensors; saved in the header.

    Attributes:
        step: optimizer steps taken.
        best: lowest validation loss so far, None before the first.
        best_epoch: when that was.
        waited: epochs since, for early stopping.
        skipped: steps that were dropped because they were not finite, and how many of them were the last ones.
        rollbacks: how often the run went back because a step was not finite; each halves the learning rate.
        low: what validations found of a collapse, see `notices`.
    """

    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    rollbacks: int = 0
    low: Low = field(default_factory=dict)


def step_seed(seed: int, rank: int, step: int) -> int:
    """One number of three; odd multipliers keep them apart."""
    return (seed * 0x9E3779B97F4A7C15 + rank * 0xBF58476D1CE4E5B9 + step * 0x94D049BB133111EB) % 2**63


def seed_step(seed: int, rank: int, step: int, device: torch.device) -> None:
    """Set torch's random state for one step.

    The generators are set one by one: `torch.manual_seed` also queues a call for devices that are not there, which costs a
    small net a tenth of its step.
    """
    number = step_seed(seed, rank, step)
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


class Clock:
    """Steps, seconds and seconds waited for data since the last reading; validation and saving do not count."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin to count."""
        self._begin, self._steps, self._waited = time.perf_counter(), 0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The part of a step that waits for its images; it counts the step too."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin
        self._steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What does not count."""
        begin = time.perf_counter()
        yield
        self._begin += time.perf_counter() - begin

    def read(self) -> tuple[int, float, float]:
        """Steps, seconds, and seconds waited for data; it begins anew."""
        now = (self._steps, max(time.perf_counter() - self._begin, 1e-9), self._waited)
        self.start()
        return now
