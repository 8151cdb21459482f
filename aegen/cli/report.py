"""`aegen report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aegen.cli.app import single
from aegen.cli.help_format import page
from aegen.cli.options import Components, Device, Force, Json, out

_EXAMPLES = ("aegen report", "aegen report runs/faces -o faces.html")


def command(args: list[str]) -> Any:
    """Build the command."""
    return single(report, "report", epilog=page(_EXAMPLES))


def report(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Run folder.  [default: the latest run under ./runs]")
    ] = None,
    out: Annotated[Path | None, out("report.html")] = None,
    force: Force = False,
    by: Annotated[
        str | None,
        typer.Option(
            "--protocol", metavar="text", help="By which it is evaluated.  [default: one by which it was, else aegen-1]"
        ),
    ] = None,
    evaluates: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Measure what was not yet, and keep the numbers.")
    ] = True,
    device: Device = "auto",
    component: Components = None,
    as_json: Json = False,
) -> None:
    """Describe a run as one HTML page: a model card with numbers, curves and pictures."""
    from aegen import inference, reporting
    from aegen.cli.render import say, tell_files
    from aegen.rundir import latest_run

    inference.trust_components(component or [])
    reporting.check_place(out, "report.html", force)
    found = reporting.compare([run or latest_run()], protocol=by, evaluates=evaluates, device=device, say=say)
    tell_files([reporting.write_report(found, out, force=force, device=device, say=say)], as_json=as_json)
