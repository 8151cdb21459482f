"""Whose code an unforeseen exception comes from: a third party's is named by file, line and class; the rest is aegen's to mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aegen import registry
from aegen.errors import AegenError, PluginError
from aegen.places import defined, frames, place, said

_HINT = "mend it there, or ask its author; --debug shows the way to it"


def blamed(error: BaseException) -> PluginError | None:
    """An exception that passed a third party's code, as a sentence about that code; nothing if none was passed.

    Where none was passed but some is in use, something it made may still have been the reason: it is named.
    """
    for frame, line in reversed(frames(error)):
        if registry.is_stranger(frame.f_globals.get("__name__", "")):
            code = frame.f_code
            return PluginError(
                f"{code.co_qualname} in {place(code.co_filename, line)} failed ({said(error)})", hint=_HINT
            )
    for step in reversed(getattr(error, "real_stack", None) or []):  # what torch.compile was reading when it gave up
        if step.filename in registry.files_of_strangers():
            return PluginError(f"{step.name} in {place(step.filename, step.lineno)} failed ({said(error)})", hint=_HINT)
    return None


def suspected(error: BaseException) -> PluginError | None:
    """An exception that arose elsewhere while third parties' components were in use, as a sentence that names them."""
    names = []
    for c in registry.strangers():
        with suppress(AegenError):  # one that did not load took no part
            names.append(f"{c.kind} {c.name} of {c.package}, {defined(registry.load(c))}")
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
    """
    try:
        yield
    except (AegenError, KeyboardInterrupt, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        found = blamed(error)
        if found is None:
            raise
        raise found from error
