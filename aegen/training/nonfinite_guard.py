"""A step whose loss or gradients are not finite changes nothing; decided on the device, so that no step waits for the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aegen.training.distributed import World


class Guard:
    """What one turn needs to take back a step.

    Args:
        modules: whose buffers a forward pass may move: running statistics, codebooks.
    """

    def __init__(self, modules: Sequence[nn.Module], world: World) -> None:
        self._modules, self._world = modules, world
        self._kept: list[dict[str, Tensor]] = []
        self._bad = torch.zeros((), dtype=torch.float32, device=world.device)
        self._steps: list[int] = []
        self._verdicts: list[Tensor] = []

    @torch.no_grad()
    def keep(self, step: int) -> None:
        """Remember the buffers, before the first forward pass of a step."""
        self._steps.append(step)
        self._kept = [{name: value.clone() for name, value in module.named_buffers()} for module in self._modules]
        self._bad = torch.zeros((), dtype=torch.float32, device=self._world.device)

    @torch.no_grad()
    def watch(self, loss: Tensor) -> None:
        """Look at the loss of a micro-batch, ()."""
        self._bad = self._bad + (~loss.detach().isfinite()).float()

    @torch.no_grad()
    def judge(self, gradients: Sequence[Tensor]) -> Tensor:
        """1 if the step is not finite, on any process, else 0, (); the buffers are put back where it is not."""
        bad = self._bad
        if gradients:
            found = torch.zeros_like(bad)
            torch._amp_foreach_non_finite_check_and_unscale_(list(gradients), found, torch.ones_like(bad))
            bad = bad + found
        bad = self._world.sum(bad).clamp(max=1)
        for module, kept in zip(self._modules, self._kept, strict=True):
            for name, value in module.named_buffers():
                if name in kept and kept[name].shape == value.shape:
                    value.copy_(torch.where(bad.bool(), kept[name], value))
        self._verdicts.append(bad)
        return bad

    def read(self) -> list[tuple[int, bool]]:
        """Each step since the last reading, and whether it was dropped; this waits for the device."""
        steps, verdicts = self._steps, self._verdicts
        self._steps, self._verdicts = [], []
        flags = torch.stack(verdicts).tolist() if verdicts else []
        return [(step, flag > 0) for step, flag in zip(steps, flags, strict=True)]
