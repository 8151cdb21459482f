"""`aegen reconstruct`."""

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
    "aegen reconstruct photo.png",
    "aegen reconstruct 'photos/*.jpg' --each -o again/",
    "aegen reconstruct 'photos/*.jpg' --size own --each -o again/",
    short="Originals above reconstructions: aegen reconstruct photo.png",
    meant=("encode", "decode", "autoencode", "restore", "denoise"),
)
def reconstruct(
    images: Annotated[list[str], places("Images, folders or globs.")],
    checkpoint: Checkpoint = None,
    each: Annotated[bool, option("--each", help="One file an image, under its own name, in the folder -o.")] = False,
    stochastic: Annotated[
        bool, option("--stochastic", help="Draw from the posterior instead of taking its mean.")
    ] = False,
    size: Size = None,
    tile: Annotated[
        int | None,
        option(
            "--tile",
            help="Take larger images in tiles of so many pixels a side.  [default: only where they do not fit into the memory]",
            least=16,
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, out_option("reconstructions.png, or the folder reconstructions with --each")] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write originals above their reconstructions."""
    files = aegen.reconstruct(
        images,
        checkpoint,
        each=each,
        stochastic=stochastic,
        size=size,
        tile=tile,
        out=out,
        force=force,
        seed=seed,
        device=device,
        say=say,
    )
    if files:  # the first of several processes has them
        tell_files(files, as_json=as_json)
