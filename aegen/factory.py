"""From a registered name and its options to the component itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from aegen import registry
from aegen.errors import PluginError, listing
from aegen.protocols import Objective
from aegen.schedules import Schedule
from aegen.spec import Spec, check_options, options_of, positional_of

T = TypeVar("T")


def load(kind: str, name: str, base: type[T]) -> type[T]:
    """The class registered as `name`.

    Raises:
        PluginError: what is registered is not a `base`.
    """
    component = registry.find(kind, name)
    cls = registry.load(component)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise PluginError(f"{kind} {name!r} of {component.package} is not an aegen.{base.__name__} ({cls!r})")
    return cls


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
    part = cls(*(known[n] for n in wanted), **values)
    for name, schedule in schedules.items():
        assert isinstance(part, Objective)
        part.schedule(name, schedule)
    return part
