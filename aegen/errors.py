"""What goes wrong, said in one sentence: what was given, what is accepted, what to do.

The exit codes are those of the command line: 1 the run failed, 2 usage or configuration, 3 a plugin,
4 the environment, 130 interrupted.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches


class AegenError(Exception):
    """Base of every error that aegen raises on purpose.

    Args:
        message: what was given and what is accepted.
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class RunError(AegenError):
    """A run that had begun could not go on (a loss became NaN, the disk is full)."""


class UsageError(AegenError):
    """What was asked for cannot be done as it was asked: names, values, files, combinations."""

    exit_code = 2


class PluginError(AegenError):
    """A plugin is missing, broken, in conflict with another, or made for a newer aegen."""

    exit_code = 3


class EnvironmentFault(AegenError):
    """The machine lacks something: a device, an optional package, a data set that was not downloaded."""

    exit_code = 4


class Interrupted(AegenError):
    """A signal that asks a run to stop; the state was saved first."""

    exit_code = 130


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What the system says of a disk that is full or fails, wherever one writes on it."""


def disk_failed(error: BaseException | None) -> bool:
    """Whether the disk is full or fails, so that what was asked for was right and could not be done: exit code 1."""
    return isinstance(error, OSError) and error.errno in _FULL


def unwritable(error: OSError, what: str, hint: str) -> AegenError:
    """A failed write as one sentence: a `RunError` of a disk that is full or fails, a `UsageError` of a place that takes nothing.

    Args:
        what: that could not be done, "cannot write a.png".
        hint: where else it could be.
    """
    text = f"{what} ({error.strerror or error})"
    if disk_failed(error):
        return RunError(text, hint=f"free space, or {hint}")
    return UsageError(text, hint=hint)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"did you mean 'x'?"` for the closest of `known`, or an empty string."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def counted(number: int, thing: str) -> str:
    """`"1 image"`, `"1,617 images"`."""
    return f"{number:,} {thing}" + "s" * (number != 1)


def listing(names: Iterable[str]) -> str:
    """Names as a reader wants them in a sentence: sorted, comma-separated."""
    return ", ".join(sorted(names)) or "none"
