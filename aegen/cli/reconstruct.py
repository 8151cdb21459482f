"""`aegen reconstruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aegen.cli.app import single
from aegen.cli.help_format import page
from aegen.cli.options import Checkpoint, Components, Device, Force, Json, Seed, out

_EXAMPLES = ("aegen reconstruct photo.png", "aegen reconstruct 'photos/*.jpg' --each -o again/")


def command(args: list[str]) -> Any:
    """Build the command."""
    return single(reconstruct, "reconstruct", epilog=page(_EXAMPLES))


def reconstruct(
    images: Annotated[list[str], typer.Argument(help="Images, folders or globs.", show_default=False)],
    checkpoint: Checkpoint = None,
    each: Annotated[
        bool, typer.Option("--each", help="One file an image, under its own name, in the folder -o.")
    ] = False,
    stochastic: Annotated[
        bool, typer.Option("--stochastic", help="Draw from the posterior instead of taking its mean.")
    ] = False,
    out: Annotated[Path | None, out("reconstructions.png, or the folder reconstructions with --each")] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    component: Components = None,
    as_json: Json = False,
) -> None:
    """Write originals above their reconstructions."""
    from aegen import inference
    from aegen.cli.render import say, tell_files

    inference.trust_components(component or [])
    files = inference.reconstruct(
        images, checkpoint, each=each, stochastic=stochastic, out=out, force=force, seed=seed, device=device, say=say
    )
    if files:  # the first of several processes has them
        tell_files(files, as_json=as_json)
