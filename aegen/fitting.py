"""Whether a model has the tensors of a file, seen before any of it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from aegen.errors import UsageError
from aegen.factory import TooMuch, bounded, unvalued

T = TypeVar("T", bound=nn.Module)

_ALTERED = "the file was altered, or a plugin changed since it was written"
_SPARE_LAYERS = 5000  # a frozen network that is in no checkpoint has some hundred


def fitting(
    path: Path, build: Callable[[], T], held: Mapping[str, tuple[tuple[int, ...], bool]], prefix: str = ""
) -> T | None:
    """See that what `build` makes has the tensors of a file, `held`, before any of it is made.

    It is built on the meta device, where tensors have shapes and no values, and no further than the file can fill.

    Args:
        held: shapes of the tensors, and whether they are fractions, by name.
        prefix: of the names, for messages.

    Returns:
        What was built there; None where a plugin's code cannot be run without values.

    Raises:
        UsageError: naming the first tensor that is missing, superfluous or of another shape or kind.
    """
    try:
        with bounded(_SPARE_LAYERS + 4 * len(held)), unvalued():
            made = build()
    except TooMuch:
        raise UsageError(
            f"{path} does not fit its own configuration: that has more layers than the file has tensors ({len(held)})",
            hint=_ALTERED,
        ) from None
    except UsageError as error:
        raise UsageError(f"{path} cannot be used: {error.message}", hint=error.hint) from error
    except (RuntimeError, NotImplementedError, TypeError, OverflowError) as error:
        if "overflow" not in str(error).lower():
            return None
        raise UsageError(
            f"{path} does not fit its own configuration: that is larger than any memory", hint=_ALTERED
        ) from error
    compare(path, prefix, made.state_dict(), held)
    return made


def compare(
    path: Path, prefix: str, own: Mapping[str, Tensor], held: Mapping[str, tuple[tuple[int, ...], bool]]
) -> None:
    """Names, shapes, and whether they are fractions, of a module's tensors and of a file's.

    Raises:
        UsageError: they differ.
    """
    wrong = [f"{k} is missing" for k in own if k not in held]
    wrong += [f"{k} is unknown to the model" for k in held if k not in own]
    wrong += [
        f"{k} is {held[k][0]}, the model has {tuple(v.shape)}"
        for k, v in own.items()
        if k in held and held[k][0] != tuple(v.shape)
    ]
    wrong += [
        f"{k} holds {'fractions' if held[k][1] else 'whole numbers'}, the model has {v.dtype}"
        for k, v in own.items()
        if k in held and held[k][1] != v.is_floating_point()
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UsageError(f"{path} does not fit its own configuration: {prefix}{wrong[0]}{more}", hint=_ALTERED)
