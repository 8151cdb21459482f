"""`aegen compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aegen.cli.app import single
from aegen.cli.help_format import page
from aegen.cli.options import Components, Device, Force, Json, out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegen.reporting import Comparison
    from aegen.reporting.tables import Table


_EXAMPLES = (
    "aegen compare runs/a runs/b",
    "aegen compare runs/* -o compare.html",
    "aegen compare runs/a runs/b --format latex > table.tex",
)


def command(args: list[str]) -> Any:
    """Build the command."""
    return single(compare, "compare", epilog=page(_EXAMPLES))


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, two or more.")],
    out: Annotated[Path | None, out("compare.html")] = None,
    force: Force = False,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="table|csv|json|latex",
            help="Of the numbers on stdout; without -o, no page is written beside csv, json and latex.",
            autocompletion=lambda: ["table", "csv", "json", "latex"],
        ),
    ] = "table",
    by: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="text",
            help="By which they are evaluated.  [default: one that all have in common, else aegen-1]",
        ),
    ] = None,
    evaluates: Annotated[
        bool,
        typer.Option("--evaluate/--no-evaluate", help="Measure what the others have and one has not yet, and keep it."),
    ] = True,
    device: Device = "auto",
    component: Components = None,
    as_json: Json = False,
) -> None:
    """Compare runs: their numbers here, and all of it with curves and pictures as one HTML page."""
    from aegen import inference, reporting
    from aegen.cli.render import say, tell_files
    from aegen.errors import UsageError
    from aegen.reporting import formats

    if form not in formats.FORMATS:
        raise UsageError(f"--format is {form!r}, but takes {'|'.join(formats.FORMATS)}")
    if as_json and form != "table":
        raise UsageError(f"--json and --format {form} exclude each other", hint="give one of them")
    if len(runs) < 2:
        raise UsageError("one run was given, but a comparison takes two or more", hint="aegen report describes one run")
    inference.trust_components(component or [])
    if form == "table" or out is not None:
        reporting.check_place(out, "compare.html", force)
    found = reporting.compare(runs, protocol=by, evaluates=evaluates, least=2, device=device, say=say)
    if form != "table":
        typer.echo(
            {"csv": formats.as_csv, "json": formats.as_json, "latex": formats.as_latex}[form](found.tables), nl=False
        )
    show(found, numbers=form == "table" and not as_json)
    if form != "table" and out is None:
        return
    out = reporting.write_comparison(found, out, force=force, device=device, say=say)
    if form == "table":
        tell_files([out], as_json=as_json, **({"tables": list(map(formats.to_dict, found.tables))} if as_json else {}))
    else:
        say(str(out))


def remarks(tables: Sequence[Table]) -> list[str]:
    """What stands below the tables, each sentence once, with the tables that it concerns where that is not all of them."""
    said: dict[str, list[str]] = {}
    for one in tables:
        where = f"{one.protocol}, {one.data}"
        for note in one.notes:
            said.setdefault(f"note: {note}", []).append(where)
        for reason in dict.fromkeys(gone.reason for gone in one.skipped):
            told = []
            for gone in (gone for gone in one.skipped if gone.reason == reason):
                some = f" of {', '.join(gone.runs)}" if set(gone.runs) != set(one.runs) else ""
                told.append(f"{', '.join(gone.metrics)}{some}")
            said.setdefault(f"not measured: {'; '.join(told)} ({reason})", []).append(where)
    return [line if len(where) == len(tables) else f"{line} [{'; '.join(where)}]" for line, where in said.items()]


def show(found: Comparison, *, numbers: bool) -> None:
    """A table for each protocol, and below it what a reader should know."""
    from aegen.cli.render import say, table
    from aegen.reporting.formats import grid

    for one in found.tables:
        if numbers:
            say(f"protocol {one.protocol}, data {one.data}; 95 % intervals")
            table(*grid(one))
            marks = {cell.mark for row in one.rows for cell in row.cells if cell is not None}
            if "best" in marks:
                say("* the best" + "; ≈ its interval overlaps that of the best" * ("tie" in marks))
    for line in remarks(found.tables):
        say(line)
    for run in found.runs:
        if not any(run.name in one.runs for one in found.tables):
            say(f"no numbers of {run.name}: {run.trouble or 'it was not evaluated'}")
