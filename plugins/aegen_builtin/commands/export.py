"""`aegen export`."""

from __future__ import annotations

import aegen
from aegen.command import (
    Annotated,
    Checkpoint,
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
    "aegen export",
    "aegen export --format onnx -o model/",
    short="Write the model for others: aegen export --format onnx",
    meant=("save", "convert", "onnx", "deploy"),
)
def export(
    checkpoint: Checkpoint = None,
    format: Annotated[
        str,
        chosen(
            "exporter",
            "--format",
            prefix="export",
            help="safetensors (weights and samplers), onnx, or a plugin's.",
        ),
    ] = "safetensors",
    out: Annotated[Path | None, out_option("the run's and the format's name, with its ending")] = None,
    force: Force = False,
    tolerance: Annotated[
        float, option("--tolerance", help="Largest difference of a value.", kind=float, least=0)
    ] = 1e-4,
    seed: Seed = 0,
    device: Annotated[
        str,
        option("--device", metavar="text", help="As elsewhere; but a model is always written and compared on the CPU."),
    ] = "auto",
    as_json: Json = False,
    *,
    options: Options,
) -> None:
    """Write the model for others, read it back, and compare; fails if they differ."""
    done = aegen.export(
        checkpoint, format=format, options=options, out=out, force=force, tolerance=tolerance, seed=seed, say=say
    )
    tell_files(done.files, as_json=as_json, format=format, parity=done.parity, tolerance=tolerance)
