"""From a registered name and its options to the component itself."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from aegen import registry
from aegen.contract import commands, interfaces, outputs
from aegen.contract.blame import blamed
from aegen.errors import AegenError, PluginError, UsageError, listing
from aegen.protocols import (
    Architecture,
    Bottleneck,
    Dataset,
    Exporter,
    FeatureNetwork,
    Importer,
    Likelihood,
    Metric,
    Objective,
    Sampler,
)
from aegen.registry import Component
from aegen.schedules import Schedule
from aegen.spec import Spec, check_options, options_of, positional_of

T = TypeVar("T")


BASES: dict[str, type] = {
    "architecture": Architecture,
    "bottleneck": Bottleneck,
    "likelihood": Likelihood,
    "objective": Objective,
    "sampler": Sampler,
    "feature": FeatureNetwork,
    "metric": Metric,
    "dataset": Dataset,
    "exporter": Exporter,
    "importer": Importer,
}
"""Kind → what its components must be; the other kinds may be anything that does what is asked of it."""


def load(kind: str, name: str, base: type[T]) -> type[T]:
    """The class registered as `name`, a `base`.

    Raises:
        UsageError, PluginError: it is unknown or cannot be used.
    """
    assert base is BASES[kind]
    cls: type[T] = load_component(registry.find(kind, name))
    return cls


def load_component(component: Component) -> Any:
    """Import what a component names, and see that it is what its kind asks for.

    Raises:
        PluginError: its import fails, or it is something else.
    """
    if component.kind == "command":
        return commands.load(component)
    found = registry.load(component)
    base = BASES.get(component.kind)
    if base is not None and not (isinstance(found, type) and issubclass(found, base)):
        raise PluginError(f"{component.who} is not an aegen.{base.__name__} ({found!r})", hint=component.remedy)
    if component.kind == "tracker" and not isinstance(found, type):
        raise PluginError(f"{component.who} is no class ({found!r})", hint=component.remedy)
    if isinstance(found, type):
        outputs.checked(found, interfaces.declared, component.kind, found)
    return found


def refuse_untyped(cls: type, kind: str, spec: Spec) -> None:
    """Refuse the files that a component would read, unless the user named them.

    Raises:
        UsageError: naming the first that was not typed.
    """
    for name, option in options_of(cls).items():
        path = spec.options.get(name)
        if option.file and isinstance(path, str) and path and not registry.allowed(path):
            raise UsageError(
                f"{name} of {kind} {spec.name!r} is the file {path!r}, and files named by a checkpoint are not read",
                hint=f"name it yourself: --component {shlex.quote(path)}",
            )


def create(cls: type[T], kind: str, spec: Spec, prefix: str, known: Mapping[str, Any]) -> T:
    """Construct a component: its options from `spec`, its positional parameters from what the framework knows.

    Raises:
        UsageError: an unknown option or an unacceptable value.
        PluginError: the constructor asks for something that the framework does not know.
    """
    declared = options_of(cls, schedulable=kind == "objective")
    options = check_options(declared, spec.options, prefix, f"{kind} {spec.name}")
    wanted = positional_of(cls)
    strange = [n for n in wanted if n not in known]
    if strange:
        raise PluginError(
            f"{kind} {spec.name!r} asks for positional {listing(strange)}, but aegen fills only {listing(known)}",
            hint="make it keyword-only with a default",
        )
    schedules = {n: Schedule.parse(v) for n, v in options.items() if declared[n].schedulable and isinstance(v, str)}
    # A schedule that starts at 0 must still build what it will need later, so its highest value is what is passed.
    values = options | {n: max(s.low, s.high) for n, s in schedules.items()}
    part = _made(cls, [known[n] for n in wanted], values)
    outputs.checked(cls, interfaces.built, kind, part)
    if registry.is_stranger(cls.__module__):
        interfaces.guarded(kind, part)
    for name, schedule in schedules.items():
        assert isinstance(part, Objective)
        part.schedule(name, schedule)
    return part


def _made(cls: type[T], known: list[Any], options: dict[str, Any]) -> T:
    try:
        return cls(*known, **options)
    except AegenError:
        raise
    except Exception as error:
        found = blamed(error)
        if found is None:
            raise
        if "__init__() call" in str(error):
            found.hint = "its __init__ must call super().__init__() first"
        raise found from error


class TooMuch(Exception):
    """More layers than were allowed."""


@contextmanager
def bounded(most: int) -> Iterator[None]:
    """The context in which at most so many parameters and layers are made.

    Raises:
        TooMuch: there were more; what a file asks for is not waited for.
    """
    made = 0

    def count(*what: object) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise TooMuch

    hooks = [register_module_parameter_registration_hook(count), register_module_module_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Unvalued(TorchFunctionMode):
    """Tensors without values are made without the arithmetic that would have given them some: any of it imports torch's compiler, a second and more."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if (
            device is not None and torch.device(device).type != "meta"
        ):  # somebody wants values, a module's constants for one
            return func(*args, **kwargs)
        if func is torch.eye and not kwargs.keys() - {"dtype"}:
            return torch.empty((args * 2)[:2], **kwargs)
        if func in (torch.randn, torch.rand):
            func, kwargs = torch.empty, {key: value for key, value in kwargs.items() if key != "generator"}
        return func(*args, **kwargs)


@contextmanager
def unvalued() -> Iterator[None]:
    """The context in which tensors have shapes and no values, and so take no memory: those of torch's meta device."""
    with torch.device("meta"), torch.no_grad(), _Unvalued():
        yield


def build_features(
    name: str, weights: str = "", *, option: str = "--features", weights_option: str = ""
) -> FeatureNetwork:
    """A feature network, frozen and in evaluation mode.

    Args:
        weights: safetensors file for a network that has none of its own.
        option: how the user writes the option of the name, for messages.
        weights_option: that of the file, if it is another.

    Raises:
        UsageError: the name is unknown, or there are no such weights.
        EnvironmentFault: its package is not installed.
    """
    weights_option = weights_option or option
    try:
        component = registry.find("feature", name)
    except UsageError as error:
        hint = f"name it yourself: {option} {name}, or --component {name}" if registry.is_file(name) else error.hint
        raise UsageError(f"{option}: {error.message}", hint=hint) from None
    cls: type[FeatureNetwork] = load_component(component)
    if weights and "weights" not in options_of(cls):
        message = f"{weights_option} is {weights!r}, but the feature network {name} has weights of its own"
        raise UsageError(message, hint="leave the file out")
    try:
        net = create(cls, "feature", Spec(name, {"weights": weights} if weights else {}), "features.", {})
    except UsageError as error:
        raise UsageError(f"{weights_option}: {error.message}", hint=error.hint) from error
    return net.eval().requires_grad_(False)
