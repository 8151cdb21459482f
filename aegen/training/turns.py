"""One turn as one module, and the player that steps it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aegen import accumulation
from aegen.autoencoder import Autoencoder
from aegen.errors import UsageError
from aegen.nn.precision import at_least_float32
from aegen.protocols import Objective, Outcome, Turn
from aegen.settings import TrainSettings
from aegen.training import optim, precision
from aegen.training.distributed import World
from aegen.training.nonfinite_guard import Guard
from aegen.training.rehearsal import first_step

# Buffers follow from the same computation on every rank; sending them would undo what a turn changed. Newer torch renames it.
_KNOWN = inspect.signature(DistributedDataParallel.__init__).parameters
_OWN_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _KNOWN else "broadcast_buffers": False
}


class Stage(nn.Module):
    """A turn's loss as a module, so that DDP sees exactly one forward pass for each backward pass."""

    def __init__(self, model: Autoencoder, objective: Objective, turn: Turn) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.turn = turn
        self.loss = turn.loss

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (B, C, H, W) and labels (B,) → the loss () and every term and watched number, each (B,) or ()."""
        self.model.labels = labels
        return reduce(self.loss(self.model, x))


def reduce(outcome: Outcome) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of the terms and its batch mean: the only place where losses are added and averaged.

    Returns:
        The loss, (), and every term and watched number as it came, (B,) or (); the recorder averages them when they are read.
    """
    first, *others = (at_least_float32(term) for term in outcome.terms.values())
    loss = sum(others, start=first).mean()
    watch = outcome.watch if outcome.latent is None else {**outcome.watch, **outcome.latent.watch}
    metrics = {"loss": loss, **outcome.terms, **watch}
    return loss, {name: value.detach() for name, value in metrics.items()}


def trained(model: Autoencoder, turn: Turn) -> list[nn.Parameter]:
    """The parameters of the parts that a turn trains; one that two parts share is there once."""
    parts = [getattr(model, part) if isinstance(part, str) else part for part in turn.trains]
    return list(dict.fromkeys(p for part in parts for p in part.parameters()))


class TurnOptimizer:
    """A turn with its parameters, its optimizer and its gradient scaler.

    Args:
        names: of every parameter of the run, such as `model.encoder.0.weight`.
        label: put before the names of the metrics of every turn but the first.
        unreached: finds the names of those parameters of the turn that its loss does not reach; asked only where that matters.
    """

    def __init__(
        self,
        model: Autoencoder,
        objective: Objective,
        turn: Turn,
        settings: TrainSettings,
        world: World,
        names: Mapping[nn.Parameter, str],
        label: str = "",
        unreached: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self.turn, self.settings, self.world, self.label = turn, settings, world, label
        self.names = names
        self._unreached = unreached
        self.parameters = trained(model, turn)
        self._others = [p for p in names if p not in set(self.parameters)]
        moved = self.moved()
        kept = optim.undecayed(model, objective, *(part for part in turn.trains if isinstance(part, nn.Module)))
        fixed = {m for p, m in zip(self.parameters, moved, strict=True) if p in kept}
        self.stepper = optim.Stepper(settings, moved, world.device, fixed) if self.parameters else None
        self.scaler = precision.scaler(settings.precision, world.device)
        self.guard = Guard((model, objective), world) if settings.on_nan == "skip" and self.parameters else None
        self._owns = True
        self._together = [self]  # turns that step with this one's optimizer
        self.seats()
        whole = Stage(model, objective, turn)
        self._unseen: Stage | None = whole
        self.stage = self.spread(whole)
        if settings.compile != "off":
            mode = "reduce-overhead" if settings.compile == "reduce-overhead" else None
            self.stage = torch.compile(self.stage, mode=mode)  # type: ignore[assignment]
        # CUDA graphs write each step's results over those of the last, which the recorder still holds.
        self._copies = settings.compile == "reduce-overhead" and world.device.type == "cuda"

    def moved(self) -> list[nn.Parameter]:
        """What the optimizer moves."""
        return self.parameters

    def spread(self, stage: Stage) -> nn.Module:
        """The turn in each of several processes, its gradients averaged over them."""
        if self.world.size == 1 or not self.parameters:
            return stage
        index = self.world.device.index
        options: dict[str, Any] = {"device_ids": [index] if index is not None else None, **_OWN_BUFFERS}
        # What has no gradient must be looked for in each step, or the others are waited for in vain.
        searches = self.turn.varies or bool(self._unreached())
        return DistributedDataParallel(stage, find_unused_parameters=searches, **options)

    def share(self, other: TurnOptimizer) -> None:
        """Step with the optimizer of another turn that trains the very same parameters.

        With two of them a rule that divides by the gradient's own size (Adam) would make the weight of a penalty that has its
        own turn, such as a lazy R1, mean nothing.
        """
        self.stepper, self.scaler, self._owns = other.stepper, other.scaler, False
        other._together.append(self)

    def due(self, step: int) -> bool:
        """Whether the turn is taken at `step`."""
        return step >= self.turn.after and (step - self.turn.after) % self.turn.every == 0

    def seats(self) -> None:
        """Only this turn's parameters require gradients, so none can leak into another player's."""
        for parameter in self._others:
            parameter.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def accumulate(self, x: Tensor, labels: Tensor | None, *, share: float, last: bool) -> dict[str, Tensor]:
        """Forward and backward for one micro-batch that is `share` of the step; its metrics, on the device."""
        with self._quiet(not last), self._part(last), self._looked_at(x, labels):
            if self._copies:
                torch.compiler.cudagraph_mark_step_begin()
            with precision.autocast(self.settings.precision, self.world.device), self._explained():
                loss, metrics = self.stage(x, labels)
            if self._copies:
                metrics = {name: value.clone() for name, value in metrics.items()}
            if self.guard is not None:
                self.guard.watch(loss)
            if self.parameters:
                self.scaler.scale(loss * share if share != 1 else loss).backward()
        return {self.label + name: value for name, value in metrics.items()} if self.label else metrics

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """DDP notices at a step that a gradient was missing at the last one."""
        try:
            yield
        except RuntimeError as error:
            if "Expected to have finished reduction" not in str(error):
                raise
            raise UsageError(
                f"the loss of turn {self.turn.name!r} reaches other parameters from one step to the next",
                hint="declare Turn(..., varies=True), so that several processes look for them in each step",
            ) from error

    @contextmanager
    def _part(self, last: bool) -> Iterator[None]:
        """What moves in a forward pass is told of the micro-batches."""
        if self.settings.accumulate == 1:
            yield
            return
        accumulation.begin(self.settings.accumulate, last)
        try:
            yield
        finally:
            accumulation.end()

    def _looked_at(self, x: Tensor, labels: Tensor | None) -> AbstractContextManager[object]:
        """The first time, the rules of what the parts give are held against what they do give."""
        if self._unseen is None:
            return nullcontext()
        stage, self._unseen = self._unseen, None
        arithmetic = partial(precision.autocast, self.settings.precision, self.world.device)
        compiled, learns = self.settings.compile != "off", bool(self.parameters)
        return first_step(stage, x, labels, learns=learns, compiled=compiled, autocast=arithmetic)

    def _quiet(self, quiet: bool) -> AbstractContextManager[object]:
        """DDP sums gradients at the last micro-batch of a step only."""
        if quiet and isinstance(self.stage, DistributedDataParallel):
            return self.stage.no_sync()
        return nullcontext()

    def step(self, lr: float) -> None:
        """Move the parameters."""
        if self.stepper is None:
            return
        bad = None if self.guard is None else self._judged(self.guard, self.stepper)
        if self.settings.clip:
            self.scaler.unscale_(self.stepper.optimizer)
            self.clip()
        if self.scaler.is_enabled():
            self.stepper.set_learning_rate(lr)
            self.scaler.step(self.stepper.optimizer)
            self.scaler.update()
        else:
            self.stepper.step(lr, bad)
        for parameter in self.parameters:  # as zero_grad does, without its bookkeeping
            parameter.grad = None

    def _judged(self, guard: Guard, stepper: optim.Stepper) -> Tensor:
        gradients = stepper.gradients()
        if not self.scaler.is_enabled():
            return guard.judge(gradients)
        bad = guard.judge(
            []
        )  # gradients overflow as a rule; the scaler sees to that, and drops a step in which one is NaN
        if gradients:
            gradients[0].add_(torch.where(bad.bool(), torch.nan, 0.0))
        return bad

    def may_lack(self) -> frozenset[str]:
        """Names of the parameters that a checkpoint which does not say so may have no state of."""
        return frozenset.intersection(*(player._unreached() for player in self._together))

    def clip(self) -> None:
        """Bring the norm of all gradients together down to the largest that is allowed."""
        nn.utils.clip_grad_norm_(self.parameters, self.settings.clip, foreach=True)

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs, by name."""
        if not self._owns:
            return {}
        prefix = f"optim/{self.turn.name}"
        found = optim.state(self.stepper.optimizer, self.names, prefix) if self.stepper else {}
        if self.scaler.is_enabled():
            scale = self.scaler.state_dict()
            found[f"{prefix}/scaler/scale"] = torch.tensor(scale["scale"])
            found[f"{prefix}/scaler/growth"] = torch.tensor(scale["_growth_tracker"])
        return found

    def unmoved(self) -> list[str]:
        """Names of the parameters for which `state` has nothing, since no gradient has reached them."""
        return optim.unmoved(self.stepper.optimizer, self.names) if self.stepper and self._owns else []

    def restore(self, saved: dict[str, Tensor], unmoved: Collection[str] | None = None) -> None:
        """Continue from a `state`, keyed without its prefix.

        Args:
            unmoved: as it was saved; where it was not, by an earlier version, what no loss reaches may have no state.
        """
        if not self._owns:
            return
        scale, growth = saved.pop("scaler/scale", None), saved.pop("scaler/growth", None)
        if scale is not None and growth is not None and self.scaler.is_enabled():
            current = self.scaler.state_dict()
            self.scaler.load_state_dict(current | {"scale": scale.item(), "_growth_tracker": int(growth.item())})
        if self.stepper is not None:
            lacking = self.may_lack() if unmoved is None else unmoved
            optim.restore(self.stepper.optimizer, self.names, saved, f"optim/{self.turn.name}", lacking)
            self.stepper.forget()
