"""The check of objectives."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aegen import checkpoint
from aegen.autoencoder import Autoencoder, check_needs
from aegen.errors import UsageError
from aegen.factory import load
from aegen.protocols import (
    Objective,
    Turn,
    Wrapper,
)
from aegen.settings import TrainSettings
from aegen.spec import options_of
from aegen.testing.models import BATCH, SMALL, check_options, labels, made, models
from aegen.training.optim import build as build_optimizer
from aegen.training.progress import Progress
from aegen.training.turns import reduce

_HEADER: dict[str, Any] = {
    "spec": {},
    "image": list(SMALL),
    "latent": [1],
    "data": {"name": "", "count": 0, "classes": [], "fingerprint": ""},
    "plugins": {},
    "samplers": {},
    "versions": {},
    **asdict(Progress()),
    "per_epoch": 1,
    "validation": {},
}


def check_objective(cls: type[Objective], *, inner: type[Objective] | None = None, **options: Any) -> None:
    """Terms are finite and (B,) or (); every turn's gradients reach all that it trains and nothing else; one step moves
    only that; a schedule drives every float option; save → load → the same number; each bottleneck works or is refused.

    Args:
        inner: for a wrapper, the objective that it wraps; `vae` by default.
        options: of the constructor.
    """
    check_options(cls)
    worked = 0
    for model in models(cls):
        torch.manual_seed(0)
        extra = {"inner": (inner or load("objective", "vae", Objective))()} if issubclass(cls, Wrapper) else {}
        try:
            objective = made(cls, model, extra, options)
            check_needs("objective", objective.needs, model.bottleneck)
        except UsageError:
            continue  # refused with a hint, as it should be
        worked += 1
        objective.at(0)
        x = torch.rand(BATCH, *model.image) * 2 - 1
        for turn in objective.turns():
            _check_turn(objective, model, turn, x)
        _check_saved(objective, model, x)
    assert worked, f"{cls.__name__} works with no installed bottleneck"
    _check_schedules(cls, options, inner)


def _check_turn(objective: Objective, model: Autoencoder, turn: Turn, x: Tensor) -> None:
    """Terms, then gradients, then one step."""
    players = nn.ModuleDict({"model": model, "objective": objective})
    told = model.given(labels(BATCH))
    parts = [getattr(model, part) if isinstance(part, str) else part for part in turn.trains]
    mine = {p for part in parts for p in part.parameters()}
    if mine and not mine & set(model.parameters()):
        # A player beside the autoencoder must not reach into it, even where nothing but the loss keeps them apart.
        _take_seats(players, set(players.parameters()))
        reduce(turn.loss(told, x))[0].backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None, f"{turn.name}: a gradient leaks into {name}, which it does not train"
    _take_seats(players, mine)
    outcome = turn.loss(told, x)
    for name, term in outcome.terms.items():
        assert term.shape in ((len(x),), ()), f"{turn.name}: term {name} is {tuple(term.shape)}, not (B,) or ()"
        assert term.isfinite().all(), f"{turn.name}: term {name} is not finite"
    if not mine:
        return
    reduce(outcome)[0].backward()
    for name, parameter in players.named_parameters():
        # A prior's own weights learn only from what the bottleneck charges, which not every objective asks for.
        idle = name.startswith("model.bottleneck.") and "penalty" not in objective.needs
        if parameter in mine and not (idle and parameter.grad is None):
            assert parameter.grad is not None, f"{turn.name}: no gradient reaches {name}, which it trains"
            assert parameter.grad.isfinite().all(), f"{turn.name}: the gradient of {name} is not finite"
    before = {n: p.detach().clone() for n, p in players.named_parameters()}
    build_optimizer(TrainSettings(), list(mine), torch.device("cpu")).step()
    for name, parameter in players.named_parameters():
        if parameter not in mine:
            assert torch.equal(parameter, before[name]), f"{turn.name}: {name} moved, which it does not train"


def _take_seats(players: nn.Module, mine: set[nn.Parameter]) -> None:
    """Only `mine` require gradients, and none has one yet."""
    for parameter in players.parameters():
        parameter.requires_grad_(parameter in mine)
        parameter.grad = None


@torch.no_grad()
def _check_saved(objective: Objective, model: Autoencoder, x: Tensor) -> None:
    """The state dictionary is all there is: after noise and reload the loss is the same number."""

    def loss() -> Tensor:
        torch.manual_seed(5)
        return reduce(objective.loss(model.given(labels(BATCH)), x))[0]

    model.eval()
    objective.eval()
    parts = {"model.": model, "objective.": objective}
    before = loss()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        tensors = {prefix + k: v for prefix, part in parts.items() for k, v in part.state_dict().items()}
        checkpoint.save(path, tensors, _HEADER)
        for parameter in itertools.chain(model.parameters(), objective.parameters()):
            parameter.add_(1.0)
        file = checkpoint.Checkpoint(path)
        for prefix, part in parts.items():
            file.restore(part, prefix)
    after = loss()
    assert torch.equal(before, after), f"the loss was {before.item()} before saving and {after.item()} after loading"


def _check_schedules(cls: type[Objective], options: Mapping[str, Any], inner: type[Objective] | None) -> None:
    """Every float option is kept as an attribute of its name, which is what a schedule drives."""
    extra = {"inner": (inner or load("objective", "vae", Objective))()} if issubclass(cls, Wrapper) else {}
    objective = _first_that_works(cls, extra, options)
    for name, option in options_of(cls, schedulable=True).items():
        assert not option.schedulable or hasattr(objective, name), (
            f"option {name} takes a schedule, but the objective keeps no attribute self.{name}"
        )


def _first_that_works(cls: type[Objective], extra: Mapping[str, Any], options: Mapping[str, Any]) -> Objective:
    for model in models(cls):
        with suppress(UsageError):  # it refuses this bottleneck, as it may
            found: Objective = made(cls, model, extra, options)
            return found
    raise AssertionError(f"{cls.__name__} works with no installed bottleneck")
