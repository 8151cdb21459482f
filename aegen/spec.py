"""Signatures are configuration: a component's keyword-only parameters, read as a schema.

The command line, the TOML file, the header of a checkpoint and the documentation are all made from it, so a default
stands in one place only: the signature.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from aegen.errors import PluginError, UsageError, did_you_mean, listing
from aegen.schedules import Schedule
from aegen.tracebacks import defined, said
from aegen.untrusted import parse_json, quoted, shown

if TYPE_CHECKING:
    from pydantic import TypeAdapter


_LONGEST = 1000  # entries of an option that is a list
_COUNT = 2**31 - 1
_FLOAT = 3e38


@dataclass(frozen=True)
class Range:
    """Bounds of a numeric option, both ends included: `width: Annotated[int, Range(1)] = 32`.

    `above` is an open lower end: `lr: Annotated[float, Range(above=0)]`.
    """

    min: float | None = None
    max: float | None = None
    above: float | None = None

    def __contains__(self, value: float) -> bool:
        # Written so that NaN, which fails every comparison, is outside.
        return (
            (self.min is None or value >= self.min)
            and (self.max is None or value <= self.max)
            and (self.above is None or value > self.above)
        )

    def __str__(self) -> str:
        """`1≤x≤8`; an end beyond which there is no number says nothing, and is left out."""
        ends = [end if end is not None and abs(end) < _FLOAT else None for end in (self.above, self.min, self.max)]
        above, least, most = ends
        low = f"{above:.10g}<" if above is not None else f"{least:.10g}≤" if least is not None else ""
        high = f"≤{most:.10g}" if most is not None else ""
        return f"{low}x{high}" if low or high else ""


@dataclass(frozen=True)
class File:
    """Marks an option that names a file to read: `weights: Annotated[str, File()] = ""`. A checkpoint that names one is not enough."""


@dataclass(frozen=True)
class Option:
    """One keyword-only parameter, as a user sees it."""

    name: str
    type: Any
    default: Any
    help: str = ""
    range: Range | None = None
    schedulable: bool = False
    file: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        """The accepted words, where the type is a `Literal`."""
        return tuple(str(a) for a in get_args(self.type)) if get_origin(self.type) is Literal else ()

    @property
    def kind(self) -> str:
        """The type in a few words, for help and for errors."""
        if self.choices:
            return "|".join(self.choices)
        name = _type_name(self.type)
        bounded = f"{name} {self.range}".rstrip() if self.range else name
        return f"{bounded}|schedule" if self.schedulable else bounded

    def check(self, value: Any, key: str) -> Any:
        """`value`, converted to the option's type; text is read as the command line writes it.

        Raises:
            UsageError: naming `key`, what was given and what is accepted.
        """
        if self.schedulable and isinstance(value, str) and "(" in value:
            schedule = Schedule.parse(value)
            for end in (schedule.low, schedule.high):
                self._check_range(end, value, key)
            return str(schedule)
        if {"on", "off"} <= set(self.choices):
            value = {"True": "on", "true": "on", "False": "off", "false": "off"}.get(str(value), value)
        try:
            checked = _adapt(self.type, value)
        except ValueError:
            word = did_you_mean(shown(value, most=80), self.choices)
            raise UsageError(f"{key} is {quoted(value)}, but takes {self.kind}", hint=word) from None
        self._check_range(checked, value, key)
        return checked

    def _check_range(self, checked: Any, value: Any, key: str) -> None:
        numbers = checked if isinstance(checked, list) else [checked]
        if len(numbers) > _LONGEST:
            raise UsageError(f"{key} has {len(numbers):,} entries, but takes at most {_LONGEST:,}")
        limits = self.range or Range()
        bad = [n for n in numbers if isinstance(n, int | float) and n not in limits]
        if bad and str(limits):
            raise UsageError(f"{key} is {quoted(value)}, but must lie in {limits}")
        # Whatever a component forgets to bound: no count is larger, and float32 has no larger numbers.
        for n in numbers:
            most = _COUNT if isinstance(n, int) and limits.max is None else _FLOAT if isinstance(n, float) else math.inf
            if isinstance(n, int | float) and abs(n) > most:
                way = f"at least {-most:.10g}" if n < 0 else f"at most {most:.10g}"
                raise UsageError(f"{key} is {quoted(value)}, but must be {way}")


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return "|".join(_type_name(a) for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is Literal:
        return "|".join(str(a) for a in get_args(annotation))
    if get_origin(annotation) is list:
        return f"[{_type_name(get_args(annotation)[0])},…]"
    return {int: "integer", float: "number", str: "text", bool: "true|false"}.get(annotation, str(annotation))


def _adapt(annotation: Any, value: Any) -> Any:
    """`value` as `annotation`, or ValueError."""
    branches = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    if (
        isinstance(value, str)
        and any(get_origin(b) is list for b in branches)
        and (len(branches) == 1 or value.lstrip().startswith("["))
    ):
        value = parse_json(value)
    if isinstance(value, bool) and annotation in (int, float):
        raise ValueError(value)
    return _validator(annotation).validate_python(value)


@functools.cache
def _validator(annotation: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter  # 60 ms that help and listings need not spend

    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))


def options_of(cls: Any, *, schedulable: bool = False) -> dict[str, Option]:
    """The options of a component class or settings dataclass: the keyword-only parameters of its constructor.

    Args:
        cls: a class whose docstring may have an "Options:" part, one `name: help` a line.
        schedulable: whether its `float` options also take a schedule (they do for objectives).
    """
    return dict(_options(cls, schedulable))


@functools.cache  # type hints are slow to read, and a load asks for those of seven classes
def _options(cls: Any, schedulable: bool) -> dict[str, Option]:
    init = cls.__init__
    if init is object.__init__:
        return {}
    try:
        hints, parameters = get_type_hints(init, include_extras=True), inspect.signature(init).parameters
    except Exception as error:  # a name in an annotation that is nowhere; a constructor that is none
        raise PluginError(f"the constructor of {defined(cls)} cannot be read ({said(error)})") from error
    helps: dict[str, str] = {}
    for base in reversed(cls.__mro__):  # a subclass need only document what it adds
        helps |= _option_helps(inspect.cleandoc(base.__doc__ or ""))
    found = {}
    for name, parameter in parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.default is inspect.Parameter.empty or name not in hints:
            raise PluginError(
                f"option {name!r} of {defined(cls)} needs a type and a default",
                hint=f"for example {name}: {_example(hints.get(name), parameter.default)}",
            )
        hint, limits = _unwrap(hints[name])
        default = parameter.default
        if type(default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":  # how dataclasses mark default_factory
            default = getattr(cls(), name)
        # `float` itself, not a union that has it: `scale: float | Literal["learned"]` is no number to anneal.
        file = any(isinstance(extra, File) for extra in getattr(hints[name], "__metadata__", ()))
        found[name] = Option(name, hint, default, helps.get(name, ""), limits, schedulable and hint is float, file)
    return found


def _example(hint: Any, default: Any) -> str:
    """A type and a default, with what of them is there."""
    usual: dict[type, Any] = {float: 1.0, int: 1, bool: False, str: "", list: []}
    if default is not inspect.Parameter.empty and type(default) in usual:
        kind = "list[float]" if isinstance(default, list) else type(default).__name__
        return f"{kind} = {default!r}"
    return f"{hint.__name__} = {usual[hint]!r}" if hint in usual else "float = 1.0"


def _unwrap(hint: Any) -> tuple[Any, Range | None]:
    """A type without its `Annotated`, also inside a union, and the range that it carried."""
    if get_origin(hint) is Annotated:
        bare, *extras = get_args(hint)
        return bare, next((e for e in extras if isinstance(e, Range)), None)
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_unwrap(part) for part in get_args(hint)]
        return Union[tuple(part for part, _ in parts)], next((r for _, r in parts if r is not None), None)  # noqa: UP007
    return hint, None


def positional_of(cls: Any) -> list[str]:
    """Names of the positional parameters, those that the framework fills."""
    if cls.__init__ is object.__init__:
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return [n for n, p in inspect.signature(cls.__init__).parameters.items() if p.kind in kinds and n != "self"]


def _option_helps(doc: str) -> dict[str, str]:
    """`name: help` lines of the "Options:" part of a docstring; continued lines are indented further."""
    match = re.search(r"^Options:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    helps: dict[str, str] = {}
    name = ""
    for line in match.group(1).splitlines() if match else []:
        entry = re.match(r"^ {4}(\w+): (.*)$", line)
        if entry:
            name = entry.group(1)
            helps[name] = entry.group(2).strip()
        elif name and line.strip():
            helps[name] += " " + line.strip()
    return helps


def check_options(
    options: Mapping[str, Option],
    given: Mapping[str, Any],
    prefix: str,
    owner: str,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """`given`, each value checked, completed by the defaults.

    Args:
        prefix: how the key reads to the user, such as `arch.`.
        owner: whose options they are, for the message: `architecture conv`.
        labels: what the user wrote for a key, such as `--lr`, where that is not the key itself.

    Raises:
        UsageError: an unknown name (with a suggestion) or an unacceptable value.
    """
    labels = labels or {}
    for name in given:
        if name not in options:
            hint = did_you_mean(name[:80], options) or f"{owner} takes {listing(options)}"
            raise UsageError(f"unknown option {prefix}{shown(name, most=80)}: {owner} has none of that name", hint=hint)
    return {
        name: option.check(given[name], labels.get(prefix + name, prefix + name))
        if name in given
        else copy.copy(option.default)
        for name, option in options.items()
    }


@dataclass(frozen=True)
class Spec:
    """A component by name, with its options as JSON values."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """`{"name": …, **options}`, the form of a TOML table."""
        return {"name": self.name, **self.options}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Spec:
        """The inverse of `to_dict`."""
        return cls(table["name"], {k: v for k, v in table.items() if k != "name"})
