"""What a component is as it stands, before it has computed anything: its methods can be called as aegen calls them, its attributes are what
they should be. What it gives is in `aegen/contract/outputs.py`."""

from __future__ import annotations

import functools
import inspect
import json
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from aegen.contract import outputs
from aegen.contract.enforcement import Broken, callable_as_asked, hold
from aegen.errors import UsageError
from aegen.protocols import Objective, Sampler, Wrapper
from aegen.settings import DataSettings, TrainSettings
from aegen.spec import check_options, options_of, positional_of

FILLED = {
    "architecture": ("image", "fan_in", "classes"),
    "bottleneck": ("image", "classes"),
    "likelihood": ("image", "classes"),
    "objective": ("image", "latent", "size", "inner"),
    "sampler": ("model", "latent"),
}
"""Kind → the positional parameters that the framework fills; the other kinds have none."""

_TABLED = (
    "architecture",
    "bottleneck",
    "likelihood",
    "objective",
    "dataset",
)  # kinds that stand in a configuration as a table


def _words(value: Any) -> bool:
    return isinstance(value, set | frozenset) and all(isinstance(word, str) for word in value)


def _names(value: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str) and all(isinstance(n, str) for n in value)


def _counts(value: Any) -> bool:
    return isinstance(value, Sequence) and all(type(n) is int and n >= 1 for n in value)


def _table(value: Any) -> bool:
    try:
        return isinstance(value, Mapping) and json.loads(json.dumps(dict(value))) == dict(value)
    except (TypeError, ValueError):
        return False


Form = tuple[Callable[[Any], bool], str]
_SET: Form = (_words, "a set of words")
_TEXT: Form = (lambda value: isinstance(value, str), "a text")
_SWITCH: Form = (lambda value: isinstance(value, bool), "true or false")
_COUNT: Form = (lambda value: type(value) is int and value >= 1, "a number of at least 1")
_COUNTS: Form = (_counts, "a sequence of numbers of at least 1")
_TABLE: Form = (_table, "options by name, as JSON has them")

ATTRIBUTES: dict[str, dict[str, Form]] = {
    "architecture": {"map_options": _TABLE, "any_size": _SWITCH, "factor": _COUNT},
    "bottleneck": {
        "offers": _SET,
        "any_size": _SWITCH,
        "codebooks": _COUNTS,
        "undecayed": (_names, "names of parameters"),
    },
    "likelihood": {
        "measure": (lambda value: value in ("density", "levels", "binary"), "density, levels or binary"),
        "undecayed": (_names, "names of parameters"),
    },
    "objective": {
        "bottleneck": _TEXT,
        "likelihood": _TEXT,
        "stands_for": _TEXT,
        "map_options": (lambda value: value is None or _table(value), "options by name, as JSON has them, or None"),
        "suggests": (_table, "settings by name, as JSON has them"),
        "encodes": _SWITCH,
        "needs": _SET,
        "undecayed": (_names, "names of parameters"),
    },
    "sampler": {
        "needs": _SET,
        "fitted": _SWITCH,
        "learns": _SWITCH,
        "suggests": (_table, "settings by name, as JSON has them"),
        "most": (lambda value: value is None or (type(value) is int and value >= 1), "a number of at least 1, or None"),
    },
    "metric": {
        "needs": _SET,
        "better": (
            lambda value: isinstance(value, Mapping) and all(v in ("lower", "higher") for v in value.values()),
            "lower or higher by the name of a number",
        ),
        "ranges": (outputs.are_ranges, "a least and a greatest value by the name of a number"),
        "resamples": (lambda value: type(value) is int and value >= 0, "a number of at least 0"),
    },
    "exporter": {"suffix": _TEXT, "carries": _SET},
}
"""Kind → what its attributes are, by name, of the class and of an instance."""

_OF_INSTANCES: dict[str, dict[str, Form]] = {
    "bottleneck": {"fan_in": _COUNT},
    "likelihood": {"fan_out": _COUNT},
    "feature": {"width": _COUNT, "least": _COUNT, "channels": _COUNTS},
}


def _holds(name: str, value: Any, form: Form) -> None:
    holds, what = form
    hold(holds(value), f"{name} is {value!r}, not {what}")


# ---------------------------------------------------------------------------------------------------- classes


def declared(kind: str, cls: Any) -> None:
    """A class as it stands: nothing abstract is left, its constructor can be read, its methods and attributes are what they should be."""
    for base in cls.__mro__:
        hold(base.__doc__ is None or isinstance(base.__doc__, str), f"__doc__ is {base.__doc__!r}, not a text")
        hold(isinstance(base.__module__, str), f"__module__ is {base.__module__!r}, not a text")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    hold(not missing, f"it does not define {' and '.join(f'{name}()' for name in missing)}")
    options(cls, schedulable=kind == "objective")
    filled = FILLED.get(kind, ())
    strange = [name for name in positional_of(cls) if name not in filled]
    know = f"aegen fills only {', '.join(filled)}" if filled else "aegen fills none"
    hold(not strange, f"its constructor asks for positional {', '.join(strange)}, but {know}")
    _named(kind, cls)
    for name, form in ATTRIBUTES.get(kind, {}).items():
        value = inspect.getattr_static(cls, name, None)
        if not hasattr(value, "__get__") and hasattr(cls, name):  # a property says it of an instance
            _holds(name, value, form)
    callable_as_asked(cls)
    if kind == "objective":
        _objective(cls)
    elif kind == "sampler":
        _suggested(cls)
        hold(not cls.learns or cls.loss is not Sampler.loss, "it says that it learns, but does not define loss()")
    elif kind == "architecture":
        _own(cls, getattr(cls, "map_options", {}), "map_options", "the architecture")


def _named(kind: str, cls: type) -> None:
    """No option is called as something else that stands where it does."""
    taken = {"name"} if kind in _TABLED else set()
    if kind == "dataset":
        taken |= set(options_of(DataSettings))
    strange = sorted(taken & set(options_of(cls)))
    hold(
        not strange,
        f"its option {' and '.join(strange)} has the name of a setting of aegen's own, so that nobody can set it",
    )


def _own(cls: type, given: Any, name: str, where: str) -> None:
    if isinstance(given, Mapping):
        try:
            check_options(options_of(cls), given, "", where)
        except UsageError as error:
            raise Broken(f"{name} is {dict(given)}: {error}") from error


def options(cls: type, *, schedulable: bool = False) -> None:
    """Every option has a type that values can be checked by, and a default that is a JSON value and passes that check."""
    for option in options_of(cls, schedulable=schedulable).values():
        default = option.default
        try:
            same = json.loads(json.dumps(default)) == default
        except (TypeError, ValueError):
            same = False
        hold(same, f"the default of option {option.name} is no JSON value: {default!r}")
        try:
            checked = default if default is None else option.check(default, option.name)
        except UsageError as error:
            raise Broken(f"the default of option {option.name} is refused: {error}") from error
        except Exception as error:  # pydantic, at a type that it does not know
            raise Broken(f"option {option.name} is of a type that cannot be checked, {option.kind}") from error
        hold(checked == default, f"the default of option {option.name} is {default!r}, which is read as {checked!r}")


def _suggested(cls: Any) -> None:
    try:
        check_options(options_of(TrainSettings), cls.suggests, "train.", "suggests")
    except UsageError as error:
        raise Broken(f"suggests is {dict(cls.suggests)}: {error}") from error


def _objective(cls: Any) -> None:
    _suggested(cls)
    own = cls.stands_for or cls.loss is not Objective.loss
    hold(bool(own), "it does not define loss()")


# ---------------------------------------------------------------------------------------------------- instances


def built(kind: str, part: Any) -> None:
    """An instance: `super().__init__()` was called, and what a constructor must set is set."""
    if isinstance(part, nn.Module):
        hold("_modules" in vars(part), "its __init__ does not call super().__init__()")
    if isinstance(part, Wrapper):
        hold(isinstance(getattr(part, "inner", None), Objective), "its __init__ does not call super().__init__(inner)")
    for name, form in {**ATTRIBUTES.get(kind, {}), **_OF_INSTANCES.get(kind, {})}.items():
        if hasattr(part, name) or name in _OF_INSTANCES.get(kind, {}):
            _holds(name, getattr(part, name, None), form)
    if kind == "objective":
        least: Any = getattr(type(part), "needs", frozenset())
        has = part.needs
        if isinstance(least, set | frozenset):
            hold(
                set(least) <= set(has),
                f"it needs {sorted(has)}, but its class {sorted(least)}: an instance may only need more",
            )
    if isinstance(part, nn.Module):
        outputs.module(part)


def guarded(kind: str, part: Any) -> None:
    """From now on, what the further methods of `part` give is held against the rules whenever they are called."""
    for name, rule in _GIVES.get(kind, {}).items():
        method = getattr(part, name)
        if getattr(method, "__func__", None) is not None:
            vars(part)[name] = types.MethodType(_guard(name, method.__func__, rule), part)
    if kind == "feature":

        def after(net: Any, given: tuple[Any, ...], found: Any) -> None:
            if given and not torch.compiler.is_compiling():
                outputs.checked(net, outputs.pooled, found, given[0], net.width)

        part.register_forward_hook(after)


def _guard(name: str, method: Callable[..., Any], rule: Callable[..., None]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(part: Any, *values: Any, **more: Any) -> Any:
        found = method(part, *values, **more)
        if not torch.compiler.is_compiling():
            outputs.checked(part, rule, found, part, *values, **more)
        return found

    return call


_GIVES: dict[str, dict[str, Callable[..., None]]] = {
    "bottleneck": {
        "prior": lambda found, part, n, shape, generator=None: outputs.drawn(found, n, shape, "prior()"),
        "log_prior": lambda found, part, z: outputs.row(found, z, "log_prior()"),
        "nearest": lambda found, part, z: outputs.like(found, z, "nearest()"),
        "labels_of": lambda found, part, z: outputs.labels(found, z, "labels_of()"),
        "relabel": lambda found, part, z, labels: outputs.like(found, z, "relabel()"),
    },
    "feature": {
        "maps": lambda found, part, x: outputs.maps(found, x, part.channels),
        "logits": lambda found, part, features: outputs.logits(found, features),
    },
    "metric": {"notes": lambda found, part, rows: outputs.notes(found)},
}
"""Kind → the rules of what its methods give, called with that, the component, and what the method was given."""
