"""What several processes must do as one within a training step, so that no number depends on how many they are.

The loop says when a step begins and ends. Outside a step (validation, a notebook) and with one process, every function here
gives back what it was given, so that a plugin need not ask where it runs. Inside one, every process must call it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Step:
    """A training step that several processes share.

    Attributes:
        rank, size: which process this is, and of how many.
        seed: of what all of them draw alike.
        generators: by kind of device, made when they are first asked for.
    """

    rank: int
    size: int
    seed: int
    generators: dict[str, torch.Generator] = field(default_factory=dict)


together: Step | None = None
"""The step that is being taken, if several processes take it."""


def begin(rank: int, size: int, seed: int) -> None:
    """A step begins; `seed` is that of the only process, if there were one."""
    global together
    together = Step(rank, size, seed)


def end() -> None:
    """The step is over."""
    global together
    together = None


def common_generator(device: torch.device | str = "cpu") -> torch.Generator | None:
    """What every process of a step draws alike from, on a device; None, which is torch's own, with one process.

    For choices that are made once a step and not for each image: `torch.rand((), generator=common_generator())`.
    """
    if together is None or torch.compiler.is_compiling():
        return None
    where = torch.device(device)
    if where.type not in together.generators:
        together.generators[where.type] = torch.Generator(where).manual_seed(together.seed)
    return together.generators[where.type]


def gather_rows(x: Tensor) -> Tensor:
    """(B, …) of each process → (processes · B, …) in the order of the global batch; gradients pass back to all of them.

    For losses that compare the images of a batch with each other.
    """
    if together is None:
        return x
    whole: Tensor = _Gather.apply(x, together.rank, together.size)
    return whole


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows of the global batch, of which this process has (B, …), by their positions in it (N,): (N, …) without gradients.

    Only what is taken is sent.
    """
    if together is None:
        return x[index]
    local = index - together.rank * len(x)
    mine = ((local >= 0) & (local < len(x))).view(-1, *[1] * (x.ndim - 1))
    return sum_over_ranks(torch.where(mine, x[local.clamp(0, len(x) - 1)], 0))


def own_rows(x: Tensor, dim: int = 0) -> Tensor:
    """Of something as long as the global batch in dimension `dim`, the part of this process; a view."""
    if together is None:
        return x
    count = x.shape[dim] // together.size
    return x.narrow(dim, together.rank * count, count)


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean over the processes, of the same shape; gradients pass back to all of them.

    A mean over the batch becomes that over the global batch. It is needed before anything that is not linear.
    """
    if together is None:
        return x
    mean: Tensor = _Mean.apply(x, together.size)
    return mean


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum over the processes, of the same shape, without gradients: for state, such as how often a code was used."""
    if together is None:
        return x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.count = rank, len(x)
        own = x.contiguous()
        parts = [torch.empty_like(own) for _ in range(size)]
        dist.all_gather(parts, own)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.narrow(0, ctx.rank * ctx.count, ctx.count), None, None


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:
        ctx.size = size
        return _mean(x, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _mean(grad, ctx.size), None


def _mean(x: Tensor, size: int) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / size
