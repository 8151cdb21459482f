"""Noise of a training step that does not depend on how many processes take it.

With one process these are torch's own functions on its own generator. Of several, each draws the noise of the global batch as
the only process would, and keeps its own part, so that two processes with a batch of 32 take the step of one with 64. What is
drawn otherwise (`torch.randn_like`) is independent in every process, but another noise than with another number of them.

Inside `torch.compile`, which knows no generators, several processes draw independently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from aegen import collectives


def normal_like(x: Tensor, dim: int = 0) -> Tensor:
    """`torch.randn_like(x)`, where dimension `dim` of `x` is the batch."""
    if collectives.together is None or torch.compiler.is_compiling():
        return torch.randn_like(x)
    return collectives.own_rows(_whole(x, dim).normal_(generator=collectives.common_generator(x.device)), dim)


def uniform_like(x: Tensor, dim: int = 0) -> Tensor:
    """`torch.rand_like(x)`, in [0, 1), where dimension `dim` of `x` is the batch."""
    if collectives.together is None or torch.compiler.is_compiling():
        return torch.rand_like(x)
    return collectives.own_rows(_whole(x, dim).uniform_(generator=collectives.common_generator(x.device)), dim)


def exponential_like(x: Tensor, dim: int = 0) -> Tensor:
    """Draws from the exponential distribution of mean 1, of the shape of `x`, where dimension `dim` is the batch."""
    if collectives.together is None or torch.compiler.is_compiling():
        return torch.empty_like(x).exponential_()
    return collectives.own_rows(_whole(x, dim).exponential_(generator=collectives.common_generator(x.device)), dim)


def draw_rows(
    n: int, device: torch.device | str | None, draw: Callable[[int, torch.Generator | None], Tensor]
) -> Tensor:
    """`draw(n, None)`, `n` rows of something random for the images of a batch, made on `device`."""
    if collectives.together is None or torch.compiler.is_compiling():
        return draw(n, None)
    return collectives.own_rows(draw(n * collectives.together.size, collectives.common_generator(device or "cpu")))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Noise of its own on the CPU and on `device`; their generators are put back, and those of other devices are not touched."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        if device.type == "cpu":
            yield
            return
        module, own = torch.get_device_module(device), [device] if device.type == "cuda" else []
        state = module.get_rng_state(*own)
        with torch.cuda.device(device) if own else nullcontext():
            module.manual_seed(seed)
        try:
            yield
        finally:
            module.set_rng_state(state, *own)


def _whole(x: Tensor, dim: int) -> Tensor:
    """As empty_like(x) for the global batch: numbers are drawn in the order of memory, so that must be the same."""
    assert collectives.together is not None
    strides = torch.empty_like(x).stride()
    shape = list(x.shape)
    shape[dim] *= collectives.together.size
    dense, step = [0] * x.ndim, 1
    for d in sorted(range(x.ndim), key=lambda d: (strides[d], -d)):
        dense[d], step = step, step * shape[d]
    return torch.empty_strided(shape, dense, dtype=x.dtype, device=x.device)
