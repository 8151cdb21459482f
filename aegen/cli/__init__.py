"""The command line. Nothing here imports torch: a command's module is imported when the command is run."""

from __future__ import annotations

import _thread
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from aegen.errors import AegenError

SPIN_COUNT = "10000"
"""Of GNU's OpenMP, whose own is 300,000: 2 % slower on an idle machine, 6 times faster beside another training."""

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
_PATIENCE = 1.0  # seconds
_AGAIN = 0.01  # seconds after which a signal comes again that a destructor swallowed


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    if args is None:
        _streams()
    with _listening(alone=args is None) as asked:
        try:
            try:
                _main(list(sys.argv[1:] if args is None else args), asked)
            except KeyboardInterrupt:  # a second one, while the first was being told
                interrupted()
        except SystemExit as end:
            if args is None and end.code == 130:
                _leave()  # at once: Python's own end waits for threads, and forgets these handlers
            raise


def _streams() -> None:
    """Something to write to, also where whoever started this closed it, and whatever letters it takes."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        # Names of files that are no text go out as the bytes that they are, and are shown escaped.
        with suppress(AttributeError, ValueError):
            getattr(sys, name).reconfigure(errors="surrogateescape" if name == "stdout" else "backslashreplace")


@contextmanager
def _listening(*, alone: bool) -> Iterator[list[int]]:
    """Signals that end a program become KeyboardInterrupt, so that nothing half-written is left; yields those that came.

    A signal that is ignored, as by `nohup`, stays so. A second one within a second, as of an impatient finger, does not disturb
    the tidying up.

    Args:
        alone: whether the process ends with the command, so that nobody needs the handlers of before.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    latest = -math.inf

    def catch(number: int, frame: FrameType | None) -> None:
        nonlocal latest
        asked.append(number)
        if time.monotonic() - latest > _PATIENCE:
            latest = time.monotonic()
            raise KeyboardInterrupt

    shown = sys.unraisablehook

    def lost(told: sys.UnraisableHookArgs) -> None:
        """A signal that came while a destructor ran, whose exceptions Python drops, comes again a moment later."""
        nonlocal latest
        if told.exc_type is not KeyboardInterrupt or not asked:
            shown(told)
            return
        latest = -math.inf
        again = threading.Timer(_AGAIN, _thread.interrupt_main, [asked.pop()])
        again.daemon = True
        again.start()

    before = {s: signal.getsignal(s) for s in signal.Signals if s.name in _SIGNALS}
    before = {s: handler for s, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, catch)
    sys.unraisablehook = lost
    try:
        yield asked
    finally:
        sys.unraisablehook = shown
        for number, handler in before.items():
            # Threads may still be waited for; who does not wait gets no traceback of it.
            signal.signal(number, _leave if alone else handler)


def _leave(number: int = 0, frame: FrameType | None = None) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError):  # closed, or being written to just now
            stream.flush()
    os._exit(130)


def _main(words: list[str], asked: list[int]) -> None:
    # These two are good anywhere on the line; that it matters where a switch stands is a trap.
    head = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in head
    if "--no-plugins" in head:
        os.environ["AEGEN_DISABLE_PLUGINS"] = "all"
    words = [w for i, w in enumerate(words) if i >= len(head) or w not in ("--debug", "--no-plugins")] or ["--help"]
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that spin long for each other lose most of a machine that others use too; read when torch is loaded.
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        code = _run(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if not debug and not asked and (found := _blamed(end, words)) is not None:
            fail(f"{found}", found.exit_code)
    except BaseException as error:
        if asked or isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
            # Whatever a library made of it in whose middle it came.
            interrupted()
        _told(error, debug)
    if asked or code == 130:  # Typer makes an exit code of Ctrl-C
        interrupted()
    sys.exit(code)


def _run(words: list[str]) -> int:
    import typer  # noqa: F401  # here, so that Ctrl-C meanwhile is told as elsewhere

    from aegen.cli.app import build
    from aegen.installed import forgive

    forgive()
    code = build(words)(args=words, prog_name="aegen", standalone_mode=False) or 0
    sys.stdout.flush()  # here, where a full disk or a reader that went away can still be told
    return code if isinstance(code, int) else 0


def _blamed(end: SystemExit, words: list[str]) -> AegenError | None:
    """A third party's code that leaves in the middle of a command of aegen's own; its own command may."""
    from aegen.blame import blamed
    from aegen.cli.app import is_own

    return blamed(end) if is_own(words) else None


def interrupted() -> NoReturn:
    """Say that the program was asked to stop, and stop."""
    if threading.current_thread() is threading.main_thread():
        for name in _SIGNALS:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)  # what is being said is said
    if os.environ.get("LOCAL_RANK", "0") != "0":
        sys.exit(130)
    fail("interrupted; nothing is left half-written", 130)


def _told(error: BaseException, debug: bool) -> NoReturn:
    """An exception as one sentence on stderr, and its exit code."""
    from aegen.blame import blamed, suspected
    from aegen.errors import AegenError, Interrupted, UsageError
    from aegen.places import said

    if isinstance(error, BrokenPipeError):  # the reader of stdout went away, as `head` does
        _drop_stdout()
        sys.exit(1)
    if hasattr(error, "format_message"):  # the line is wrong: Typer's errors, whose class it does not export
        fail(misread(error), 2)
    if debug:
        raise error
    if isinstance(error, AegenError):
        if isinstance(error, Interrupted | UsageError) and os.environ.get("LOCAL_RANK", "0") != "0":
            sys.exit(error.exit_code)  # all of torchrun's processes have it, and the first of each machine says it
        if lacks_memory(error.__cause__):
            fail(NO_MEMORY, 4)
        fail(f"{error}", error.exit_code)
    if lacks_memory(error):
        fail(NO_MEMORY, 4)
    if (found := blamed(error)) is not None:
        fail(f"{found}", found.exit_code)
    if isinstance(error, OSError) and error.errno is not None:
        fail(*_system(error))
    if isinstance(error, RecursionError):
        fail("something in what was given is nested too deep to be walked through; make it flatter", 2)
    if (found := suspected(error)) is not None:
        fail(f"{found}", found.exit_code)
    fail(f"this should not have happened ({said(error)}); --debug shows where, please report it", 1)


NO_MEMORY = "there is not enough memory for this; use smaller images, a smaller model or batch, or fewer at once"
_STARVED = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Cannot allocate memory",
    "bad_alloc",
    "can't start new thread",
    "storage of size 0",  # what torch says of an allocation whose size does not fit 63 bits
    "torage size calculation overflowed",
    "numel: integer multiplication overflow",
    "invalid sizes, only one dimension",
)


def lacks_memory(error: BaseException | None) -> bool:
    """Whether an exception, of whatever library, means that memory ran out."""
    if error is None:
        return False
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        import errno

        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _STARVED)


def _system(error: OSError) -> tuple[str, int]:
    """What the system refused, where nobody else had made a sentence of it."""
    import errno

    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
        if error.filename is None:  # it was stdout's
            _drop_stdout()
        return f"cannot write {error.filename or 'the output'} ({reason}); free space, or give another place", 1
    where = f"{error.filename}" if error.filename is not None else "what was given"
    return f"cannot use {where} ({reason}); check that it is there and that you may read and write it", 2


def _drop_stdout() -> None:
    """Let nothing more be written there, or Python would complain of it at its end."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def misread(error: Any) -> str:
    """Typer's complaint about a line, as the sentence that every other error is."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "aegen"
    message, question, meant = error.format_message().strip().rstrip(".").partition(" Did you mean ")
    hint = f"did you mean {meant}" if question else f"{command} --help shows what it takes"
    possible = [str(word) for word in getattr(error, "possibilities", None) or []]
    if possible:
        message, hint = f"unknown option {error.option_name}", f"did you mean {' or '.join(possible)}?"
    return f"{message[:1].lower()}{message[1:].rstrip('.')}; {hint}"


def fail(text: str, code: int) -> NoReturn:
    """One sentence on stderr, and out; that somebody stopped it is no error."""
    from aegen.outside import shown

    with suppress(OSError, ValueError, AttributeError):  # nobody listens there
        colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        mark = "" if code == 130 else "\033[1;31merror:\033[0m " if colour else "error: "
        print(f"{mark}{shown(text)}", file=sys.stderr, flush=True)
    sys.exit(code)
