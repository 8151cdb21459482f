"""`aegen fit-sampler`."""

from __future__ import annotations

import aegen
from aegen.command import (
    Annotated,
    Checkpoint,
    Json,
    Options,
    Settings,
    argument,
    chosen,
    command,
    number,
    option,
    say,
    settings,
    tell,
    tell_json,
)


@command(
    "aegen fit-sampler runs/faces --sampler flow",
    "aegen fit-sampler runs/faces --sampler flow --epochs 400 --resume",
    "aegen fit-sampler runs/faces --sampler mixture --sampler.components 50 --force",
    short="Fit how latents are drawn: aegen fit-sampler runs/faces --sampler flow",
    meant=("prior", "flow", "sampler", "fit-prior", "density"),
)
def fit_sampler(
    place: Annotated[
        Checkpoint, argument("[RUN]", "Run folder or checkpoint.  [default: the latest run under ./runs]")
    ] = None,
    sampler: Annotated[
        str, chosen("sampler", "--sampler", help="Which one: flow, gaussian, mixture, or a plugin's.", unnamed=True)
    ] = "flow",
    sets: Annotated[Settings | None, settings("Training", without=["--parallel"])] = None,
    resume: Annotated[bool, option("--resume", help="Go on with its training, bit for bit.")] = False,
    force: Annotated[bool, option("--force", help="Replace one that is there, and its training.")] = False,
    data: Annotated[
        str | None, option("--data", metavar="text", help="Where the training images are now, if they were moved.")
    ] = None,
    data_root: Annotated[
        str | None, option("--data-root", metavar="path", help="Where downloaded data sets are now.")
    ] = None,
    as_json: Json = False,
    *,
    options: Options,
) -> None:
    """Fit a sampler to the latents of a trained model, and keep it beside the model for every command that draws.

    One in closed form is fitted at once, one that learns is trained: with the settings that it suggests, unless others are said;
    the defaults below are those of `aegen train`, which come after its own.
    """
    from aegen.command import Display

    found = aegen.fit_sampler(
        place,
        sampler,
        sets or [],
        resume=resume,
        force=force,
        data=data,
        data_root=data_root,
        listeners=[Display()],
        say=say,
        options=options,
    )
    if found.rank != 0:
        return
    if as_json:
        tell_json(found.to_dict())
        return
    tell(f"sampler    {found.file}")
    tell(f"samples    {found.samples}")
    if found.metrics:
        tell("held out   " + "  ".join(f"{name} {number(value)}" for name, value in found.metrics.items()))
