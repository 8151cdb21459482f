"""`aegen sample`."""

from __future__ import annotations

import aegen
from aegen.command import (
    Annotated,
    Checkpoint,
    Device,
    Force,
    Json,
    Options,
    Path,
    Seed,
    chosen,
    command,
    option,
    out_option,
    say,
    tell_files,
)


@command(
    "aegen sample -n 16 --seed 1",
    "aegen sample --sampler mixture --each -o faces/",
    short="Draw new images: aegen sample -n 64",
    meant=("generate", "draw", "gen"),
)
def sample(
    checkpoint: Checkpoint = None,
    count: Annotated[int, option("-n", "--count", help="How many images.", least=1)] = 64,
    sampler: Annotated[
        str | None,
        chosen(
            "sampler",
            "--sampler",
            help="How latents are drawn: prior, gaussian, mixture.  [default: mixture if fitted, else prior]",
        ),
    ] = None,
    label: Annotated[
        str | None,
        option("--label", metavar="text", help="Only of this class, by name, if the model was told classes."),
    ] = None,
    size: Annotated[
        str | None,
        option(
            "--size",
            metavar="pixels|HEIGHTxWIDTH",
            help="Another size than the model's, where it takes any; by the prior.  [default: the model's]",
            show_default=False,
        ),
    ] = None,
    each: Annotated[bool, option("--each", help="One file an image, in the folder -o, instead of a grid.")] = False,
    out: Annotated[Path | None, out_option("samples.png, or the folder samples with --each")] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
    *,
    options: Options,
) -> None:
    """Draw new images from a trained model."""
    files = aegen.sample(
        checkpoint,
        count=count,
        sampler=sampler,
        options=options,
        label=label,
        size=size,
        each=each,
        out=out,
        force=force,
        seed=seed,
        device=device,
        say=say,
    )
    if files:  # the first of several processes has them
        tell_files(files, as_json=as_json, count=count, seed=seed)
