"""Which parameters a turn's loss reaches: a prior that is not charged for, for one, gets no gradient.

Such a parameter stays in its turn, where nothing moves it. What must be known is that it will have no gradient: several processes
would wait for one, and its optimizer holds no moments for it. It is found by one backward pass of copies, so that no state moves. A loss
that takes other ways later is trained all the same: nothing is kept still because of what is found here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property

import torch
from torch import Tensor, nn

from aegen.autoencoder import Autoencoder
from aegen.protocols import Objective, Turn
from aegen.training.turns import reduce, trained

Example = Callable[[Autoencoder, Tensor], Tensor]
_IMAGES = 2  # the fewest of which every objective can compare one with another


class Reach:
    """What the turns of an objective reach, found when it is first asked for.

    The model must be whole: it is asked before parts of it are given to other processes.

    Args:
        example: makes a few rows of the kind that the losses are given, images if it is not said, like a tensor.
    """

    def __init__(self, model: Autoencoder, objective: Objective, example: Example | None = None) -> None:
        self._players, self._example = (model, objective), example or _images

    def unreached(self, turn: str) -> frozenset[str]:
        """Parameters that the turn trains and its loss does not reach, as `model.…` and `objective.…`; none if the loss fails."""
        return self._found.get(turn, frozenset())

    @cached_property
    def _found(self) -> Mapping[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        with suppress(Exception):  # whatever is wrong will be said where it happens, in a step
            model, objective = copy.deepcopy(self._players)
            model.train()
            objective.train()
            names = {p: f"model.{n}" for n, p in model.named_parameters()}
            names |= {p: f"objective.{n}" for n, p in objective.named_parameters()}
            where = next((p for p in names if p.is_floating_point()), torch.zeros(()))
            with torch.random.fork_rng([where.device] if where.device.type == "cuda" else []):
                for turn in objective.turns():
                    with suppress(Exception):
                        found[turn.name] = frozenset(
                            names[p] for p in _unreached(model, turn, list(names), self._example(model, where))
                        )
        return found


def _images(model: Autoencoder, where: Tensor) -> Tensor:
    return torch.rand(_IMAGES, *model.image, device=where.device, dtype=where.dtype) * 2 - 1


def _unreached(model: Autoencoder, turn: Turn, every: list[nn.Parameter], x: Tensor) -> list[nn.Parameter]:
    own = trained(model, turn)
    for parameter in every:
        parameter.requires_grad_(False)
    for parameter in own:
        parameter.requires_grad_(True)
    told = model.given(torch.zeros(len(x), dtype=torch.long, device=x.device))
    loss, _ = reduce(turn.loss(told, x))
    if not loss.requires_grad:
        return own
    gradients = torch.autograd.grad(loss, own, allow_unused=True)
    return [p for p, gradient in zip(own, gradients, strict=True) if gradient is None]
