"""What a person sees: talk on stderr, results on stdout. With `progress`, the only module that imports rich."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from aegen.cli.text_width import columns, fitted, wrapped
from aegen.untrusted import shown

_TEXT = 40  # characters, below which lines of text are ragged and words do not fit


_BYTES = "".join(map(chr, range(0xDC80, 0xDD00)))  # how Python holds those of a name that is not UTF-8


def say(text: str) -> None:
    """A line of talk; nothing stops because nobody can hear it."""
    with suppress(OSError, ValueError):
        print(fitted(shown(text), sys.stderr), file=sys.stderr, flush=True)


def tell(text: str, *, keep: str = "") -> None:
    """A line of results, what is not seen in it written out; whoever needs every byte asks for --json."""
    typer.echo(shown(text, most=10**6, keep=keep))


def tell_json(value: Any) -> None:
    """One line of JSON as the result."""
    typer.echo(json.dumps(value))


def tell_files(files: Sequence[Path], *, as_json: bool, **more: Any) -> None:
    """The files written: a line each, or one JSON object."""
    if as_json:
        tell_json({"files": [str(f) for f in files], **more})
    else:
        whole = getattr(sys.stdout, "errors", "") == "surrogateescape"  # it takes them as they are
        for file in files:
            tell(str(file), keep=_BYTES if whole else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for eyes on a terminal, aligned columns without decoration for a pipe."""
    head, rows = [shown(cell) for cell in head], [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    if sys.stdout.isatty() and _long(widths):
        for row in [head, *rows]:
            lead = "  ".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)).rstrip()
            typer.echo(lead if row is not head else typer.style(lead, bold=True))
            if row is not head and row[-1]:
                typer.echo(wrapped(row[-1], 4))
        return
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text  # what a name has in brackets is no markup

        styles = {"ok": "green", "not imported": "dim"}
        grid = Table(box=None, header_style="bold", pad_edge=False)
        for cell in head:
            grid.add_column(Text(cell), overflow="fold")  # rather than cut
        for row in rows:
            grid.add_row(*(Text(cell, styles.get(cell, "")) for cell in row))
        Console().print(grid)
        return
    for row in [head, *rows]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _long(widths: Sequence[int]) -> bool:
    """Whether the last column, of columns so wide, is text for which the others leave too little room in a line, so that it has lines of its own."""
    *others, last = widths
    room = (columns() or last) - sum(width + 2 for width in others)
    return last > room and room < _TEXT and last >= _TEXT


def number(value: float) -> str:
    """Four significant digits, thousands grouped."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:#.4g}".rstrip(".")
