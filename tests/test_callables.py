"""A method is whatever can be called as aegen calls it: a function, a partial, an object with `__call__`, what is written in C."""

from __future__ import annotations

import functools
import operator
from typing import Any

import pytest

from aegen import Metric
from aegen.contract.enforcement import Broken, callable_as_asked


class _Called:
    def __call__(self, seen: Any) -> dict[str, Any]:
        return {}


class _Few:
    def __call__(self) -> dict[str, Any]:
        return {}


def _plain(self: Any, seen: Any) -> dict[str, Any]:
    return {}


def _static(seen: Any, more: int = 0) -> dict[str, Any]:
    return {}


RIGHT = {
    "function": _plain,
    "lambda": lambda self, seen: {},
    "partial": functools.partial(_static, more=1),
    "partial of one more": functools.partial(_plain, None),
    "partialmethod": functools.partialmethod(_plain),
    "object": _Called(),
    "bound": _Called().__call__,
    "class": dict,
    "static": staticmethod(_static),
    "class method": classmethod(_plain),
    "in C": len,
    "in C, without a signature": operator.itemgetter(0),
    "wrapped": functools.lru_cache(_plain),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_what_can_be_called_is_a_method(kind: str) -> None:
    callable_as_asked(type("Mine", (Metric,), {"collect": RIGHT[kind]}))


@pytest.mark.parametrize(
    "odd",
    [_Few(), functools.partial(_plain), lambda self: {}, _Few().__call__],
    ids=["object", "partial that lacks one", "lambda", "bound"],
)
def test_what_takes_other_arguments_is_refused(odd: Any) -> None:
    with pytest.raises(Broken, match=r"cannot be called as collect\(seen\)"):
        callable_as_asked(type("Mine", (Metric,), {"collect": odd}))


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(Broken, match="not a method"):
        callable_as_asked(type("Mine", (Metric,), {"collect": 3}))
