"""`aegen report`."""

from __future__ import annotations

import aegen
from aegen.command import Annotated, Device, Force, Json, Path, Run, command, option, out_option, say, tell_files


@command(
    "aegen report",
    "aegen report runs/faces -o faces.html",
    "aegen report runs/faces --sampler flow",
    short="A run as a page, its model card: aegen report runs/faces",
    meant=("plot", "show", "view", "card", "summary", "summarize", "visualize", "visualise", "dashboard"),
)
def report(
    run: Run,
    out: Annotated[Path | None, out_option("report.html")] = None,
    force: Force = False,
    by: Annotated[
        str | None,
        option(
            "--protocol", metavar="text", help="By which it is evaluated.  [default: one by which it was, else aegen-1]"
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        option("--sampler", metavar="text", help="How images are drawn.  [default: the model's own choice]"),
    ] = None,
    evaluates: Annotated[
        bool, option("--evaluate/--no-evaluate", help="Measure what was not yet, and keep the numbers.")
    ] = True,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Describe a run as one HTML page: a model card with numbers, curves and pictures."""
    aegen.check_page(out, "report.html", force)
    found = aegen.compare([run], protocol=by, sampler=sampler, evaluates=evaluates, device=device, say=say)
    tell_files([aegen.write_report(found, out, force=force, device=device, say=say)], as_json=as_json)
