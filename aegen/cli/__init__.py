"""The command line. Nothing here imports torch: a command's module is imported when the command is run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

SPIN_COUNT = "10000"
"""Of GNU's OpenMP, whose own is 300,000: 2 % slower on an idle machine, 6 times faster beside another training."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    words = list(sys.argv[1:] if args is None else args)
    # These two are good anywhere on the line; that it matters where a switch stands is a trap.
    head = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in head
    if "--no-plugins" in head:
        os.environ["AEGEN_DISABLE_PLUGINS"] = "all"
    words = [w for i, w in enumerate(words) if i >= len(head) or w not in ("--debug", "--no-plugins")] or ["--help"]
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that spin long for each other lose most of a machine that others use too; read when torch is loaded.
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    import typer

    from aegen.blame import blamed, suspected
    from aegen.cli.app import build, is_own
    from aegen.errors import AegenError, Interrupted, UsageError
    from aegen.installed import forgive
    from aegen.places import said

    forgive()
    try:
        code = build(words)(args=words, prog_name="aegen", standalone_mode=False) or 0
    except AegenError as error:
        if debug:
            raise
        if isinstance(error, Interrupted | UsageError) and os.environ.get("LOCAL_RANK", "0") != "0":
            sys.exit(error.exit_code)  # all of torchrun's processes have it, and the first of each machine says it
        fail(f"{error}", error.exit_code)
    except MemoryError:
        fail("there is not enough memory for this; use smaller images, a smaller model or fewer at once", 4)
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted", 130)
    except BrokenPipeError:  # the reader of stdout went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if hasattr(error, "format_message"):  # the line is wrong: Typer's errors, whose class it does not export
            fail(misread(error), 2)
        if debug:
            raise
        found = blamed(error) or suspected(error)
        if found is not None:
            fail(f"{found}", found.exit_code)
        fail(f"this should not have happened ({said(error)}); --debug shows where, please report it", 1)
    except BaseException as error:  # a third party's code may leave, or raise what is no Exception
        found = None if debug or (isinstance(error, SystemExit) and not is_own(words)) else blamed(error)
        if found is None:
            raise
        fail(f"{found}", found.exit_code)
    sys.exit(code)


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


def fail(text: str, code: int) -> None:
    """One sentence on stderr, and out."""
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    print(f"\033[1;31merror:\033[0m {text}" if colour else f"error: {text}", file=sys.stderr)
    sys.exit(code)
