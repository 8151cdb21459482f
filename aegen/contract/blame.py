"""Whose code an unforeseen exception comes from: a third party's is named by file, line and class; the rest is aegen's to mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aegen import registry, signals
from aegen.errors import AegenError, EnvironmentFault, PluginError
from aegen.memory import ADVICE, lacks_memory
from aegen.tracebacks import defined, frames, place, said

_HINT = "mend it there, or ask its author; --debug shows the way to it"


def blamed(error: BaseException) -> AegenError | None:
    """An exception that passed a third party's code, as a sentence about that code; nothing if none was passed."""
    where = _passed(error)
    if where is None:
        return None
    if lacks_memory(error):
        return EnvironmentFault(f"{where} failed, since memory ran out ({said(error)})", hint=ADVICE)
    return PluginError(f"{where} failed ({said(error)})", hint=_HINT)


def _passed(error: BaseException) -> str | None:
    """`"Mine.loss in mine.py:14"`, the innermost line of a third party's code."""
    for frame, line in reversed(frames(error)):
        if registry.is_stranger(str(frame.f_globals.get("__name__", ""))):
            return f"{frame.f_code.co_qualname} in {place(frame.f_code.co_filename, line)}"
    for step in reversed(getattr(error, "real_stack", None) or []):  # what torch.compile was reading when it gave up
        if step.filename in registry.files_of_strangers():
            return f"{step.name} in {place(step.filename, step.lineno)}"
    return None


def suspected(error: BaseException) -> PluginError | None:
    """An exception that arose elsewhere while third parties' components were in use, as a sentence that names them."""
    names = []
    for c in registry.strangers():
        with suppress(AegenError):  # one that did not load took no part
            names.append(f"{c.who}, {defined(registry.load(c))}")
    if not names:
        return None
    return PluginError(
        f"this failed ({said(error)}) while other people's code was in use: {' and '.join(names)}",
        hint="try without it; --debug shows where, and if it fails without it too, please report it",
    )


@contextmanager
def named() -> Iterator[None]:
    """Third parties' code may run within: what it raises becomes a PluginError that says where.

    Raises:
        PluginError: in place of any exception that passed a third party's code, errors that aegen foresees excepted.
        EnvironmentFault: if that was one of memory.
    """
    try:
        yield
    except (AegenError, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and signals.asked():
            raise
        found = blamed(error)
        if found is None:
            raise
        raise found from error
