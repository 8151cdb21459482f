"""What callers of the handle give, held against what it takes; whatever else comes is one sentence."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from aegen.errors import AegenError, UsageError
from aegen.untrusted import quoted

SEEDS = -(2**63), 2**63 - 1
"""The least and the largest."""


_FLAG = re.compile(
    r"--(sampler|label|seed|objective|bottleneck|arch)\b(?: (?!(?:is|are|does|needs|if|to|out|for)\b)('[^']*'|[\w./+-]+(?::\w+)?))?"
)
"""Flags that are arguments too, of the handle or of `aegen.train`; others, such as --data, are of commands alone."""


@contextmanager
def in_python() -> Iterator[None]:
    """Let errors name arguments, `label='7'`, where the command line's functions name flags, `--label 7`."""
    try:
        yield
    except AegenError as error:
        error.message, error.hint = spoken(error.message), spoken(error.hint)
        error.args = (error.message, *error.args[1:])
        raise


def spoken(text: str) -> str:
    """`text` with arguments for flags."""

    def argument(found: re.Match[str]) -> str:
        name, value = found[1].replace("-", "_"), found[2]
        if value is None:
            return name
        return f"{name}={value if value.startswith(chr(39)) else repr(value)}"

    return _FLAG.sub(argument, text)


def dense(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor with all its values, in a box."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested and not value.is_meta


def described(value: object) -> str:
    """`"torch.uint8 (2, 1, 8, 8)"`, or what else it is."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if not dense(value):
        return "a tensor without values" if value.is_meta else "a sparse or nested tensor"
    return f"{value.dtype} {tuple(value.shape)}"


def whole(value: object, name: str, least: int, most: int | None = None) -> int:
    """A whole number, as Python, numpy and torch have them.

    Raises:
        UsageError: it is none, or too small or too large.
    """
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except (TypeError, RuntimeError):  # torch raises either
        raise UsageError(f"{name} is {quoted(value)}, but must be a whole number") from None
    if found < least or (most is not None and found > most):
        wanted = f"at least {least}" if most is None else f"{least}…{most}"
        raise UsageError(f"{name} is {quoted(found)}, but must be {wanted}")
    return found


def paths_of(paths: object) -> list[str | Path]:
    """One path or several, as a list.

    Raises:
        UsageError: a part of it is no path.
    """
    several = isinstance(paths, Iterable) and not isinstance(paths, str | bytes | Path)
    found: list[str | Path] = []
    for place in paths if several and isinstance(paths, Iterable) else [paths]:
        if not isinstance(place, str | Path):
            raise UsageError(f"{quoted(place)} is no path", hint="give texts or pathlib.Path")
        found.append(place)
    return found


def integers(labels: object) -> Tensor:
    """Labels as int64, on the CPU.

    Raises:
        UsageError: they are no integers.
    """
    try:
        found = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or not dense(found) or found.is_floating_point() or found.is_complex():
        raise UsageError("labels must be integers, one an image", hint="model.classes has their names by number")
    return found.cpu().long()
