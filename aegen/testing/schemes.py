"""Checks of what fetches a model that is named by a text with a scheme, `mine://faces`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aegen.contract.outputs import place_of_scheme
from aegen.errors import AegenError


def check_scheme(fetch: Callable[[str], Path | str], *known: str, unknown: str = "there is no such thing") -> None:
    """What stands behind the scheme becomes a path here, twice the same; what does not exist is one sentence.

    Args:
        known: what may stand there, `faces` of `mine://faces`, at least one.
        unknown: what may not.
    """
    assert callable(fetch), f"{fetch!r} is no function"
    assert known, "check_scheme needs a text that the scheme knows"
    for text in known:
        found = fetch(text)
        assert place_of_scheme(found), f"{text!r} gave {found!r}, which is no file or folder here"
        assert Path(fetch(text)) == Path(found), f"{text!r} gives another place the second time"
    try:
        made = fetch(unknown)
    except AegenError as refused:
        said = refused.message
    except Exception as error:
        raise AssertionError(f"{unknown!r} raises {type(error).__name__}, not aegen.UsageError") from error
    else:
        raise AssertionError(f"{unknown!r} gave {made!r}, where aegen.UsageError was to be raised")
    assert said, "its error says nothing"
    assert "\n" not in said, f"its error is no sentence: {said!r}"
