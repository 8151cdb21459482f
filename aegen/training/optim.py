"""Optimizers by name, their learning rate as a function of the step, and their state by parameter name."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.adam import adam

from aegen.errors import UsageError
from aegen.settings import TrainSettings

_ALTERED = "the checkpoint was altered; resume from another, or begin a new run with --init-from"


def undecayed(*modules: nn.Module) -> set[nn.Parameter]:
    """What weight decay leaves alone whatever its shape: embeddings, and what modules declare by the name of `undecayed`."""
    found: set[nn.Parameter] = set()
    for module in (part for whole in modules for part in whole.modules()):
        own = dict(module.named_parameters(recurse=False))
        names = own if isinstance(module, nn.Embedding | nn.EmbeddingBag) else getattr(module, "undecayed", ())
        found.update(own[name] for name in names if name in own)
    return found


def build(
    settings: TrainSettings,
    parameters: list[nn.Parameter],
    device: torch.device,
    fixed: Collection[nn.Parameter] = (),
) -> Optimizer:
    """The optimizer of one turn; fused where torch has it.

    Weight decay is for the matrices and kernels of layers: not for biases, nor for what is `fixed`, such as a prior, for which 0 is
    no simpler than any other value.
    """
    groups = [{"params": parameters, "weight_decay": 0.0}]
    if settings.weight_decay:
        heavy = [p for p in parameters if p.ndim > 1 and p not in fixed]
        light = [p for p in parameters if p.ndim <= 1 or p in fixed]
        groups = [
            {"params": heavy, "weight_decay": settings.weight_decay},
            {"params": light, "weight_decay": 0.0},
        ]
        groups = [g for g in groups if g["params"]]
    lr, fused = settings.lr, device.type in ("cpu", "cuda")
    beta1, beta2 = settings.betas
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr, (beta1, beta2), fused=fused)
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, lr, (beta1, beta2), fused=fused)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr, momentum=settings.momentum)
    return torch.optim.SGD(groups, lr, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=fused)


def learning_rate(settings: TrainSettings, step: int, total: int) -> float:
    """Linear warm-up from lr/warmup, then constant, or a cosine that reaches 0 at `total`."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    done = (step - settings.warmup) / max(1, total - settings.warmup)
    return settings.lr * (1 + math.cos(math.pi * min(1.0, done))) / 2


class Stepper:
    """`optimizer.step()`; for Adam and AdamW without its bookkeeping, which is a fortieth of a small net's step.

    The optimizer makes the moments at its first step, and saves and restores them; from then on the same kernel is called
    on the same tensors, through the functional form that torch has for it.
    """

    def __init__(
        self,
        settings: TrainSettings,
        parameters: list[nn.Parameter],
        device: torch.device,
        fixed: Collection[nn.Parameter] = (),
    ) -> None:
        self.optimizer = build(settings, parameters, device, fixed)
        self._quick = isinstance(self.optimizer, Adam) and bool(self.optimizer.defaults["fused"])
        self._groups: list[tuple[dict[str, Any], list[nn.Parameter], tuple[list[Tensor], ...]]] = []
        self._idle: list[nn.Parameter] = []  # had no gradient when the groups were made

    @torch.no_grad()
    def step(self, lr: float, bad: Tensor | None = None) -> None:
        """Move every parameter that has a gradient, and none if `bad`, (), is 1."""
        batches = [[p.grad for p in parameters] for _, parameters, _ in self._groups]
        other = any(g is None for batch in batches for g in batch) or any(p.grad is not None for p in self._idle)
        if not batches or other:
            self.set_learning_rate(lr)
            before = None if bad is None else _Before(self.optimizer)
            self.optimizer.step()
            if before is not None and bad is not None:
                before.back(bad)
            self._find_moments()
            return
        for (group, parameters, (means, squares, steps)), gradients in zip(self._groups, batches, strict=True):
            beta1, beta2 = group["betas"]
            adam(
                cast(list[Tensor], parameters),
                cast(list[Tensor], gradients),
                means,
                squares,
                [],
                steps,
                fused=True,
                found_inf=bad,
                decoupled_weight_decay=group["decoupled_weight_decay"],
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=lr,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def gradients(self) -> list[Tensor]:
        """Of every parameter that has one."""
        return [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]

    def set_learning_rate(self, lr: float) -> None:
        """For every group."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _find_moments(self) -> None:
        """Of what has a gradient now; where something else has, the groups are made again."""
        if not self._quick:
            return
        every = self.optimizer.state
        self._groups, self._idle = [], []
        for group in self.optimizer.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            self._idle += [p for p in group["params"] if p.grad is None]
            if moved:
                slots = ("exp_avg", "exp_avg_sq", "step")
                self._groups.append((group, moved, tuple([every[p][slot] for p in moved] for slot in slots)))

    def forget(self) -> None:
        """The optimizer was given other moments."""
        self._groups, self._idle = [], []


class _Before:
    """Weights and moments as they were before a step, for rules of which torch has no kernel that can leave them alone."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._weights = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
        self._slots: dict[Tensor, dict[str, Tensor]] = {p: {} for p, _ in self._weights}
        for weight, slots in optimizer.state.items():
            self._slots[weight] = {k: v.clone() for k, v in slots.items() if isinstance(v, Tensor)}

    @torch.no_grad()
    def back(self, bad: Tensor) -> None:
        """Put them back where `bad`, (), is 1."""
        for weight, before in self._weights:
            weight.copy_(torch.where(bad.bool(), before, weight))
            for slot, value in self._optimizer.state.get(weight, {}).items():
                if isinstance(value, Tensor) and value.device == bad.device:
                    old = self._slots[weight].get(slot)  # the first step makes them, of zeros
                    value.copy_(torch.where(bad.bool(), torch.zeros_like(value) if old is None else old, value))


def state(optimizer: Optimizer, names: Mapping[nn.Parameter, str], prefix: str) -> dict[str, Tensor]:
    """`prefix/<parameter>/<slot>` → tensor. By name, so that it outlives a change in the order of parameters."""
    return {
        f"{prefix}/{names[parameter]}/{slot}": value
        for parameter, slots in cast(Mapping[nn.Parameter, dict[str, Any]], optimizer.state).items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }


def unmoved(optimizer: Optimizer, names: Mapping[nn.Parameter, str]) -> list[str]:
    """Of an optimizer that has a state: the parameters for which it has none, since they never had a gradient."""
    every = [p for group in optimizer.param_groups for p in group["params"]]
    return [names[p] for p in every if p not in optimizer.state] if optimizer.state else []


@torch.no_grad()
def restore(
    optimizer: Optimizer,
    names: Mapping[nn.Parameter, str],
    saved: Mapping[str, Tensor],
    prefix: str,
    lacking: Collection[str] = (),
) -> None:
    """The inverse of `state`; `saved` is keyed `<parameter>/<slot>`, without its prefix.

    Args:
        lacking: names of the parameters that may have no state at all.

    Raises:
        UsageError: a tensor is missing or of another shape than its weight.
    """
    slots: dict[str, dict[str, Any]] = {}
    for key, value in saved.items():
        name, _, slot = key.rpartition("/")
        slots.setdefault(name, {})[slot] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    every = {slot for held in slots.values() for slot in held}
    for parameter in parameters:
        held = slots.get(names[parameter], {})
        if not held and names[parameter] in lacking:
            continue
        for slot in every:  # of what has a gradient, a turn steps all or, before it is due, none
            key = f"{prefix}/{names[parameter]}/{slot}"
            if slot not in held:
                raise UsageError(f"the optimizer's state {key} is missing", hint=_ALTERED)
            if held[slot].numel() == 1 and parameter.shape != held[slot].shape:
                continue  # a count of steps
            if held[slot].shape != parameter.shape:
                has, wants = tuple(held[slot].shape), tuple(parameter.shape)
                raise UsageError(f"the optimizer's state {key} is {has}, its weight {wants}", hint=_ALTERED)
            # Fused kernels walk weights and moments alike, so both need the same memory format.
            held[slot] = torch.empty_like(parameter, dtype=held[slot].dtype).copy_(held[slot])
    # load_state_dict knows which slots go to which device and dtype; it wants positions instead of names.
    by_position = {i: slots[names[p]] for i, p in enumerate(parameters) if names[p] in slots}
    optimizer.load_state_dict({"state": by_position, "param_groups": optimizer.state_dict()["param_groups"]})
