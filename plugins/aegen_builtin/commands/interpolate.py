"""`aegen interpolate`."""

from __future__ import annotations

import aegen
from aegen.command import (
    Annotated,
    Checkpoint,
    Device,
    Force,
    Json,
    Path,
    Seed,
    Size,
    command,
    option,
    out_option,
    places,
    say,
    tell_files,
)


@command(
    "aegen interpolate a.png b.png",
    "aegen interpolate a.png b.png c.png --steps 24 -o way.gif",
    short="The way between images: aegen interpolate a.png b.png",
    meant=("morph", "blend", "mix"),
)
def interpolate(
    images: Annotated[list[str], places("Two or more images.")],
    checkpoint: Checkpoint = None,
    steps: Annotated[int, option("--steps", help="Frames from one image to the next.", least=2)] = 12,
    method: Annotated[
        str, option("--method", help="Straight, or along the great circle.", choices=("lerp", "slerp"))
    ] = "lerp",
    stochastic: Annotated[
        bool, option("--stochastic", help="From draw to draw of the posteriors, instead of mean to mean.")
    ] = False,
    size: Size = None,
    out: Annotated[Path | None, out_option("interpolation.png")] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write the way from image to image: a strip (PNG), or a film (GIF, WebP) by the ending of -o."""
    files = aegen.interpolate(
        images,
        checkpoint,
        steps=steps,
        method=method,
        stochastic=stochastic,
        size=size,
        out=out,
        force=force,
        seed=seed,
        device=device,
        say=say,
    )
    tell_files(files, as_json=as_json)
