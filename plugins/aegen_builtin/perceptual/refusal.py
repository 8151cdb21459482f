"""What these wrappers cannot wrap: said when the model is built, or at the latest at the first step."""

from __future__ import annotations

from typing import TypeVar

from aegen import Objective, UsageError

T = TypeVar("T")


def require_encoder(inner: Objective, name: str, what: str) -> None:
    """Refuse `gan+perceptual`.

    Raises:
        UsageError: the inner objective trains no encoder.
    """
    if not inner.encodes:
        raise UsageError(
            f"objective {name!r} {what}, but what it wraps trains no encoder",
            hint=f"wrap one that does: vae+{name} or ae-gan+{name}",
        )


def given(found: T | None, name: str, what: str) -> T:
    """What the inner outcome has.

    Raises:
        UsageError: it has none, which only an objective's first step can show.
    """
    if found is None:
        raise UsageError(
            f"objective {name!r} needs a {what}, which what it wraps does not give", hint=f"try vae+{name}"
        )
    return found
