"""What it is to hold a rule against somebody's code, and to say that it is broken."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from aegen.errors import PluginError
from aegen.tracebacks import defined

_PROTOCOLS = "aegen.protocols"
_OTHERS = (staticmethod, classmethod, type, types.MethodType)
"""Callables that are given no instance where they stand in a class, or are bound by `getattr`."""


class Broken(AssertionError):
    """A rule does not hold; the text says which, and what was found instead."""


def hold(holds: bool, text: str) -> None:
    """`Broken` with `text` unless it `holds`."""
    if not holds:
        raise Broken(text)


def told(who: Sequence[object], broken: Broken, cause: BaseException | None = None) -> NoReturn:
    """Say whose rule is broken, or who of several may be meant, and where that code is.

    Raises:
        PluginError: always.
    """
    hint = "mend it there; help(aegen.Objective) and those of the other kinds say the rules, and aegen.testing checks them all"
    text = " or ".join(dict.fromkeys(defined(one) for one in who))
    raise PluginError(f"{text} breaks a rule: {broken}", hint=hint) from (cause or broken)


def checked(who: object, rule: Callable[..., None], *values: Any, **more: Any) -> None:
    """Apply a rule to what `who` gave.

    Raises:
        PluginError: it does not hold.
    """
    try:
        rule(*values, **more)
    except Broken as broken:
        told([who], broken)


def callable_as_asked(cls: type) -> None:
    """Every method that a protocol names takes what aegen calls it with."""
    for base in cls.__mro__:
        if base.__module__ != _PROTOCOLS:
            continue
        for name, asked in vars(base).items():
            if isinstance(asked, types.FunctionType) and not name.startswith("_"):
                _called(cls, name, asked)


def _called(cls: type, name: str, asked: types.FunctionType) -> None:
    """`cls.name` can be called as `asked` can be, with what may be left out and without it."""
    found = inspect.getattr_static(cls, name, None)
    if found is asked or isinstance(found, property | functools.cached_property):
        return
    hold(callable(found) or hasattr(found, "__get__"), f"{cls.__name__}.{name} is {found!r}, not a method")
    _, *wanted = inspect.signature(asked).parameters.values()
    # Only what Python binds is given the instance: a function, and what else knows how; no partial, builtin or object with `__call__`.
    binds = hasattr(type(found), "__get__") and not isinstance(found, _OTHERS)
    try:
        has = inspect.signature(found if callable(found) and not binds else getattr(cls, name))
    except (TypeError, ValueError):  # written in C
        return
    least = [p for p in wanted if p.default is inspect.Parameter.empty]
    for given in (least, wanted):
        values = [None] * (len(given) + binds)
        try:
            has.bind(*values)
        except TypeError as error:
            say = f"{name}({', '.join(p.name for p in given)})"
            raise Broken(f"{cls.__name__}.{name}{has} cannot be called as {say}: {error}") from error
