"""The command line. Nothing here imports torch: a command's module is imported when the command is run."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from aegen import signals

if TYPE_CHECKING:
    from aegen.errors import AegenError

SPIN_COUNT = "10000"
"""Of GNU's OpenMP, whose own is 300,000: 2 % slower on an idle machine, 6 times faster beside another training."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    alone, code = args is None, 130  # alone: the process ends with the command
    if alone:
        _streams()
        atexit.register(
            signals.ignore
        )  # the last of all: Python's own end takes a second, and has default handlers meanwhile

    def leave(number: int, frame: FrameType | None) -> None:
        _leave(code)  # threads may still be waited for; who does not wait gets no traceback of it

    with signals.raised(after=leave if alone else None) as asked:
        try:
            try:
                _main(list(sys.argv[1:] if args is None else args), asked)
            except KeyboardInterrupt:  # a second one, while the first was being told
                interrupted()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            if alone and code == 130:
                _leave(code)  # at once: Python's own end waits for threads
            raise


def _streams() -> None:
    """Something to write to, also where whoever started this closed it, and whatever letters it takes."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        # Names of files that are no text go out as the bytes that they are, and are shown escaped.
        with suppress(AttributeError, ValueError):
            getattr(sys, name).reconfigure(errors="surrogateescape" if name == "stdout" else "backslashreplace")


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError):  # closed, or being written to just now
            stream.flush()
    os._exit(code)


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
        from aegen.errors import Interrupted

        if isinstance(error, Interrupted):  # it says where the run stands
            signals.ignore()
            _told(error, debug)
        # Whatever a library made of it in whose middle it came; what is raised without any signal is its raiser's.
        if asked or ((isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort") and not _raised(error)):
            interrupted()
        _told(error, debug)
    if asked or code == 130:  # Typer makes an exit code of Ctrl-C
        interrupted()
    sys.exit(code)


def _run(words: list[str]) -> int:
    import typer  # noqa: F401  # here, so that Ctrl-C meanwhile is told as elsewhere

    from aegen.cli.app import build
    from aegen.package_metadata import forgive

    forgive()
    code = build(words)(args=words, prog_name="aegen", standalone_mode=False) or 0
    sys.stdout.flush()  # here, where a full disk or a reader that went away can still be told
    return code if isinstance(code, int) else 0


def _blamed(end: SystemExit, words: list[str]) -> AegenError | None:
    """A third party's code that leaves in the middle of a command of aegen's own; its own command may."""
    from aegen.cli.app import is_own
    from aegen.contract.blame import blamed

    return blamed(end) if is_own(words) else None


def _raised(error: BaseException) -> bool:
    """Whether a third party's code raised what looks like Ctrl-C."""
    from aegen.contract.blame import blamed

    return blamed(error) is not None


def interrupted() -> NoReturn:
    """Say that the program was asked to stop, and stop."""
    signals.ignore()
    if os.environ.get("LOCAL_RANK", "0") != "0":
        sys.exit(130)
    fail("interrupted; nothing is left half-written", 130)


def _told(error: BaseException, debug: bool) -> NoReturn:
    """An exception as one sentence on stderr, and its exit code."""
    from aegen.contract.blame import blamed, suspected
    from aegen.errors import AegenError, EnvironmentFault, Interrupted, PluginError, UsageError
    from aegen.memory import NONE_LEFT, lacks_memory
    from aegen.tracebacks import said

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
        if isinstance(error, PluginError) and _told_already():
            sys.exit(error.exit_code)
        if lacks_memory(error.__cause__) and not isinstance(error, EnvironmentFault):
            fail(NONE_LEFT, 4)
        fail(f"{error}", error.exit_code)
    if (found := blamed(error)) is not None:
        _told(found, debug)
    if lacks_memory(error):
        fail(NONE_LEFT, 4)
    if isinstance(error, OSError) and error.errno is not None:
        fail(*_system(error))
    if isinstance(error, RecursionError):
        fail("something in what was given is nested too deep to be walked through; make it flatter", 2)
    if (found := suspected(error)) is not None:
        _told(found, debug)
    fail(f"this should not have happened ({said(error)}); --debug shows where, please report it", 1)


def _told_already() -> bool:
    """Whether another of torchrun's processes says what its plugin did; most often all of them have it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    from aegen.training.distributed import tells_first

    return not tells_first()


def _system(error: OSError) -> tuple[str, int]:
    """What the system refused, where nobody else had made a sentence of it."""
    import errno

    from aegen.errors import disk_failed

    reason = error.strerror or str(error)
    if disk_failed(error) or error.errno == errno.EROFS:
        if error.filename is None:  # it was stdout's
            _drop_stdout()
        return (
            f"cannot write {error.filename or 'the output'} ({reason}); free space, or give another place",
            1 if disk_failed(error) else 2,
        )
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
    from aegen.cli.text_width import fitted
    from aegen.untrusted import shown

    with suppress(OSError, ValueError, AttributeError):  # nobody listens there
        colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        line = fitted(f"{'' if code == 130 else 'error: '}{shown(text)}", sys.stderr)
        if colour and code != 130:
            line = f"\033[1;31merror:\033[0m{line.removeprefix('error:')}"
        print(line, file=sys.stderr, flush=True)
    sys.exit(code)
