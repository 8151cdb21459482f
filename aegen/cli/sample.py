"""`aegen sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aegen import registry
from aegen.cli.app import single
from aegen.cli.help_format import page
from aegen.cli.options import Checkpoint, Components, Device, Force, Given, Json, Seed, checked, extend, flags_of, out
from aegen.spec import Range

_EXAMPLES = ("aegen sample -n 16 --seed 1", "aegen sample --sampler mixture --each -o faces/")


def command(args: list[str]) -> Any:
    """Build the command, with the options of the sampler that the line names."""
    flags = flags_of(args, "--sampler", "sampler", "sampler")
    return single(extend(sample, flags), "sample", epilog=page(_EXAMPLES))


def _samplers() -> list[str]:
    return registry.names("sampler")


def sample(
    checkpoint: Checkpoint = None,
    count: Annotated[int, typer.Option("-n", "--count", help="How many images.", **checked("-n", int, Range(1)))] = 64,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler",
            metavar="text",
            help="How latents are drawn: prior, gaussian, mixture.  [default: mixture if fitted, else prior]",
            autocompletion=_samplers,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", metavar="text", help="Only of this class, by name, if the model was told classes."),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="One file an image, in the folder -o, instead of a grid.")
    ] = False,
    out: Annotated[Path | None, out("samples.png, or the folder samples with --each")] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    component: Components = None,
    as_json: Json = False,
    *,
    given: Given,
) -> None:
    """Draw new images from a trained model."""
    from aegen import inference
    from aegen.cli.render import say, tell_files

    inference.trust_components(component or [])
    options = {key: value for key, (_, value) in given.items()}
    files = inference.sample(
        checkpoint,
        count=count,
        sampler=sampler,
        options=options,
        label=label,
        each=each,
        out=out,
        force=force,
        seed=seed,
        device=device,
        say=say,
    )
    if files:  # the first of several processes has them
        tell_files(files, as_json=as_json, count=count, seed=seed)
