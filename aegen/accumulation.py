"""A step's micro-batches, as state that moves in a forward pass sees them.

With `train.accumulate` a step is several forward passes. A moving average that moved in each of them would run as many times as fast;
it is to move once a step, by the mean over all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

count = 1
"""Micro-batches of the step that is being taken."""
last = True
"""Whether this is the last of them."""


def begin(of: int, final: bool) -> None:
    """A micro-batch begins."""
    global count, last
    count, last = of, final


def end() -> None:
    """Whatever runs now is no part of a step."""
    global count, last
    count, last = 1, True


class StepMean(nn.Module):
    """The mean of a tensor over the micro-batches of a step; holds nothing between steps and is no part of a checkpoint.

    Args:
        shape: of the tensor.
    """

    total: Tensor
    seen: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(shape), persistent=False)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor | None:
        """The mean of what was given since the last step, without gradients; nothing before a step's last micro-batch."""
        if count == 1:
            return x.detach()
        self.total.add_(x.detach())
        self.seen.add_(1)
        if not last:
            return None
        mean = self.total / self.seen
        self._forget()
        return mean

    def _forget(self) -> None:
        self.total.zero_()
        self.seen.zero_()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._forget()  # a step that went wrong half-way is begun again


def micro_batches() -> int:
    """Of the step that is being taken; 1 outside of training."""
    return count
