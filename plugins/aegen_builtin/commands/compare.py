"""`aegen compare`."""

from __future__ import annotations

import sys

import aegen
from aegen.command import (
    Annotated,
    Device,
    Force,
    Json,
    Path,
    Runs,
    command,
    option,
    out_option,
    say,
    table,
    tell_files,
)

_FORMATS = ("table", "csv", "json", "latex")


@command(
    "aegen compare runs/a runs/b",
    "aegen compare runs/* -o compare.html",
    "aegen compare runs/a runs/b --format latex > table.tex",
    short="Runs side by side, one page: aegen compare runs/a runs/b",
    meant=("diff", "leaderboard", "versus", "vs"),
)
def compare(
    runs: Runs,
    out: Annotated[Path | None, out_option("compare.html")] = None,
    force: Force = False,
    form: Annotated[
        str,
        option(
            "--format",
            help="Of the numbers on stdout; without -o, no page is written beside csv, json and latex.",
            choices=_FORMATS,
        ),
    ] = "table",
    by: Annotated[
        str | None,
        option(
            "--protocol",
            metavar="text",
            help="By which they are evaluated.  [default: one that all have in common, else aegen-1]",
        ),
    ] = None,
    evaluates: Annotated[
        bool, option("--evaluate/--no-evaluate", help="Measure what the others have and one has not yet, and keep it.")
    ] = True,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compare runs: their numbers here, and all of it with curves and pictures as one HTML page."""
    if form not in _FORMATS:
        raise aegen.UsageError(f"--format is {form!r}, but takes {'|'.join(_FORMATS)}")
    if as_json and form != "table":
        raise aegen.UsageError(f"--json and --format {form} exclude each other", hint="give one of them")
    if len(runs) < 2:
        raise aegen.UsageError(
            "one run was given, but a comparison takes two or more", hint="aegen report describes one run"
        )
    if form == "table" or out is not None:
        aegen.check_page(out, "compare.html", force)
    found = aegen.compare(runs, protocol=by, evaluates=evaluates, least=2, device=device, say=say)
    if form != "table":
        sys.stdout.write(found.text(form))
    _show(found, numbers=form == "table" and not as_json)
    if form != "table" and out is None:
        return
    page = aegen.write_comparison(found, out, force=force, device=device, say=say)
    if form == "table":
        tell_files([page], as_json=as_json, **({"tables": found.to_list()} if as_json else {}))
    else:
        say(str(page))


def _show(found: aegen.Comparison, *, numbers: bool) -> None:
    """A table for each protocol, and below it what a reader should know."""
    for one, (head, rows) in zip(found.tables, found.grids(), strict=True):
        if numbers:
            say(f"protocol {one.protocol}, data {one.data}; 95 % intervals")
            table(head, rows)
            marks = {cell.mark for row in one.rows for cell in row.cells if cell is not None}
            if "best" in marks:
                say("* the best" + "; ≈ its interval overlaps that of the best" * ("tie" in marks))
    for line in found.remarks():
        say(line)
