"""An exponential moving average of the weights of whatever is trained.

The decay starts low, min(decay, (1 + t) / (10 + t)), or the random first weights would haunt a short run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Averages of a module's parameters; its buffers are copied, being state and not weights."""

    def __init__(self, module: nn.Module, decay: float, *, sharded: bool = False) -> None:
        self.decay, self._sharded = decay, sharded
        self.module = module
        self.shadow = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self._parameters = {name for name, _ in module.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the current weights; `step` counts the steps already taken."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = []
        weights: list[Tensor] = []
        for name, value in self.module.state_dict().items():
            if name in self._parameters and value.is_floating_point():
                averages.append(self._own(self.shadow[name]))
                weights.append(self._own(value))
            else:
                self.shadow[name].copy_(value)
        torch._foreach_lerp_(averages, weights, weight)

    def _own(self, tensor: Tensor) -> Tensor:
        """This process's part of a tensor that several share."""
        return tensor.to_local() if self._sharded and hasattr(tensor, "to_local") else tensor

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Continue from saved averages, each like its own: whole, or a part of the whole."""
        for name, value in self.shadow.items():
            self._own(value).copy_(saved[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module with the averaged weights, for validation and pictures."""
        own = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.shadow)
        try:
            yield
        finally:
            self.module.load_state_dict(own)
