"""The first step of a turn, looked at: what each part gives is held against the rules, so that an author reads which one is broken.

Without a compiler it is the step itself, seen through hooks that are gone afterwards. A compiled step cannot be looked into; where a
third party's code takes part it is rehearsed first, on the same images, with random state and buffers put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from aegen import collectives, registry
from aegen.autoencoder import Autoencoder
from aegen.contract import outputs
from aegen.protocols import Objective, Outcome, Turn

Loss = Callable[[Autoencoder, Tensor], Outcome]


@contextmanager
def watched(model: Autoencoder, objective: Objective, turn: Turn, *, learns: bool) -> Iterator[Loss]:
    """Hold what is computed within against the rules; the turn's loss, to be called instead of its own.

    Args:
        learns: whether gradients must come of the loss.

    Raises:
        PluginError: a rule does not hold; it names the class and where it is written.
    """
    neck, likelihood = model.bottleneck, model.likelihood
    stages: list[tuple[nn.Module, str, Callable[[Any, Tensor], None]]] = [
        (model.encoder, "images", lambda found, x: outputs.features(found, x, neck.fan_in)),
        (neck, "features", lambda found, given: _latent(neck, found, given)),
        (model.decoder, "latents", lambda found, z: outputs.parameters(found, z, likelihood.fan_out, model.image)),
        (likelihood, "parameters", lambda found, given: _pixels(likelihood, found, given, model)),
    ]
    # An objective may decode what is smaller or larger than a latent (equivariance does); the rules are of images of the model's own.
    own_size: dict[nn.Module, Callable[[Tensor], bool]] = {
        model.decoder: lambda z: z.shape[1:] == model.latent_shape,
        likelihood: lambda given: given.shape[2:] == model.image[1:],
    }

    def sized(part: nn.Module, rule: Callable[[Any, Tensor], None]) -> Callable[[Any, Tensor], None]:
        fits = own_size.get(part)

        def held(found: Any, given: Tensor) -> None:
            if fits is None or fits(given):
                rule(found, given)

        return held

    with ExitStack() as stack:
        for part, name, rule in ((part, name, sized(part, rule)) for part, name, rule in stages):
            own = part in (neck, likelihood) or registry.is_stranger(type(part).__module__)
            stack.enter_context(_hooked(part, part if own else model.architecture or part, name, rule))
        for inner in objective.modules():
            # A wrapper asks what it wraps by `self.inner.loss`: then the culprit is the inner one.
            if isinstance(inner, Objective) and inner is not objective:
                stack.enter_context(_replaced(inner, _checked(inner.loss, inner)))
        parameters = [*model.parameters(), *objective.parameters()]
        yield _checked(turn.loss, getattr(turn.loss, "__self__", turn.loss), learns=learns, parameters=parameters)


@contextmanager
def _hooked(part: nn.Module, who: object, name: str, rule: Callable[[Any, Tensor], None]) -> Iterator[None]:
    versions: list[int] = []

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        versions[:] = [arguments[0]._version] if arguments and isinstance(arguments[0], Tensor) else []

    def after(module: nn.Module, arguments: tuple[Any, ...], found: Any) -> None:
        if not versions:  # called by keywords alone
            return
        outputs.checked(who, rule, found, arguments[0])
        outputs.checked(who, outputs.still, {name: (arguments[0], versions[0])})

    handles = [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _latent(neck: nn.Module, found: Any, given: Tensor) -> None:
    outputs.latent(found, given, neck.offers)  # type: ignore[arg-type]
    if found.posterior is not None:
        z = found.z
        for name, rule in (("sample", outputs.like), ("log_prob", outputs.row), ("draw", outputs.pair)):
            _given(found.posterior, name, rule, z)


def _given(thing: Any, name: str, rule: Callable[..., None], like: Tensor) -> None:
    """What a method of this one object gives is held against a rule."""
    method = getattr(thing, name)

    def checked(*values: Any, **more: Any) -> Any:
        found = method(*values, **more)
        outputs.checked(thing, rule, found, like, f"{name}()")
        return found

    if hasattr(thing, "__dict__"):
        vars(thing)[name] = checked


@contextmanager
def _replaced(objective: Objective, loss: Loss) -> Iterator[None]:
    vars(objective)["loss"] = loss
    try:
        yield
    finally:
        vars(objective).pop("loss", None)


def _pixels(likelihood: nn.Module, found: Any, given: Tensor, model: Autoencoder) -> None:
    outputs.pixels(found, given, model.image)
    nll = found.nll

    def checked(x: Tensor) -> Tensor:
        before = x._version
        value: Tensor = nll(x)
        outputs.checked(found, outputs.nll, value, x)
        outputs.checked(found, outputs.still, {"images": (x, before)})
        return value

    if hasattr(found, "__dict__"):
        vars(found)["nll"] = checked  # of these pixels alone
    _given(found, "sample", outputs.like, found.mean)


def _checked(loss: Loss, who: object, *, learns: bool = False, parameters: Sequence[nn.Parameter] = ()) -> Loss:
    def checked(model: Autoencoder, x: Tensor) -> Outcome:
        before, gradients = x._version, _gradients(parameters)
        found = loss(model, x)
        outputs.checked(who, outputs.outcome, found, x, learns=learns)
        outputs.checked(who, outputs.still, {"images": (x, before)})
        own = gradients == _gradients(parameters)
        outputs.checked(who, outputs.hold, own, "it calls backward() itself; give the terms back, and aegen does")
        return found

    return checked


def _gradients(parameters: Sequence[nn.Parameter]) -> list[tuple[int, int] | None]:
    return [None if p.grad is None else (id(p.grad), p.grad._version) for p in parameters]


_BACKWARD = {
    "backward through the graph a second time": "what its terms were computed from is given away before aegen goes back through it: "
    "it calls backward(), or torch.autograd.grad without create_graph or retain_graph",
    "modified by an inplace operation": "a tensor that a gradient is computed from was modified by an inplace operation, such as mul_() or "
    "+=; write a new one",
}


@contextmanager
def _explained(model: Autoencoder, objective: Objective) -> Iterator[None]:
    """What torch says of a backward pass, in which no line of the loss is passed any more, as the rule that was broken."""
    try:
        yield
    except RuntimeError as error:
        rule = next((rule for sign, rule in _BACKWARD.items() if sign in str(error)), None)
        own = [part for part in _parts(model, objective) if registry.is_stranger(part.__module__)]
        if rule is None or not own:
            raise
        outputs.told(own, outputs.Broken(rule), error)


@contextmanager
def first_step(
    stage: Any, x: Tensor, labels: Tensor | None, *, learns: bool, compiled: bool, autocast: Any
) -> Iterator[None]:
    """A turn's first forward and backward pass happen within.

    Args:
        stage: the turn's `Stage`, not compiled.
        autocast: makes the context of its arithmetic.

    Raises:
        PluginError: a rule does not hold.
    """
    looked_at = _looked_at(stage, x, labels, learns=learns, compiled=compiled, autocast=autocast)
    with _explained(stage.model, stage.objective), looked_at:
        yield


@contextmanager
def _looked_at(
    stage: Any, x: Tensor, labels: Tensor | None, *, learns: bool, compiled: bool, autocast: Any
) -> Iterator[None]:
    if compiled and not foreign(stage.model, stage.objective):
        yield
        return
    with watched(stage.model, stage.objective, stage.turn, learns=learns) as loss:
        if not compiled:
            stage.loss = loss
            try:
                yield
            finally:
                stage.loss = stage.turn.loss
            return
        with _put_back((stage.model, stage.objective), x.device), autocast():
            loss(stage.model.given(labels), x)
    yield


def foreign(model: Autoencoder, objective: Objective) -> bool:
    """Whether a part of a run is a third party's code."""
    return any(registry.is_stranger(part.__module__) for part in _parts(model, objective))


def _parts(model: Autoencoder, objective: Objective) -> list[type]:
    own = [type(m) for m in objective.modules()]
    return list(
        dict.fromkeys([*own, type(model.bottleneck), type(model.likelihood), model.architecture or Autoencoder])
    )


@contextmanager
def _put_back(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Random state and buffers are afterwards what they were."""
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    devices = [device.index or 0] if device.type == "cuda" else []
    common = collectives.together.generators if collectives.together is not None else {}
    drawn = {kind: generator.get_state() for kind, generator in common.items()}
    forked: AbstractContextManager[Any] = (
        torch.random.fork_rng(devices) if device.type in ("cpu", "cuda") else nullcontext()
    )
    with forked:
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            for kind in list(common):
                if kind in drawn:
                    common[kind].set_state(drawn[kind])
                else:
                    del common[kind]
