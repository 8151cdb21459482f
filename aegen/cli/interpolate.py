"""`aegen interpolate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aegen.cli.app import single
from aegen.cli.help_format import page
from aegen.cli.options import Checkpoint, Components, Device, Force, Json, Seed, checked, out
from aegen.spec import Range

_EXAMPLES = ("aegen interpolate a.png b.png", "aegen interpolate a.png b.png c.png --steps 24 -o way.gif")


def command(args: list[str]) -> Any:
    """Build the command."""
    return single(interpolate, "interpolate", epilog=page(_EXAMPLES))


def interpolate(
    images: Annotated[list[str], typer.Argument(help="Two or more images.", show_default=False)],
    checkpoint: Checkpoint = None,
    steps: Annotated[
        int, typer.Option("--steps", help="Frames from one image to the next.", **checked("--steps", int, Range(2)))
    ] = 12,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="lerp|slerp",
            help="Straight, or along the great circle.",
            autocompletion=lambda: ["lerp", "slerp"],
        ),
    ] = "lerp",
    stochastic: Annotated[
        bool, typer.Option("--stochastic", help="From draw to draw of the posteriors, instead of mean to mean.")
    ] = False,
    out: Annotated[Path | None, out("interpolation.png")] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    component: Components = None,
    as_json: Json = False,
) -> None:
    """Write the way from image to image: a strip (PNG), or a film (GIF, WebP) by the ending of -o."""
    from aegen import inference
    from aegen.cli.render import say, tell_files

    inference.trust_components(component or [])
    files = inference.interpolate(
        images,
        checkpoint,
        steps=steps,
        method=method,
        stochastic=stochastic,
        out=out,
        force=force,
        seed=seed,
        device=device,
        say=say,
    )
    tell_files(files, as_json=as_json)
