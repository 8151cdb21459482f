"""`aegen import`."""

from __future__ import annotations

import aegen
from aegen.command import (
    Annotated,
    File,
    Force,
    Json,
    Options,
    Path,
    argument,
    chosen,
    command,
    option,
    out_option,
    say,
    tell_files,
)


@command(
    "aegen import mine.safetensors --data mnist",
    "aegen import mine.safetensors --importer.activation tanh --importer.output none",
    short="A model trained elsewhere: aegen import mine.safetensors",
    meant=("load", "open", "upload"),
)
def import_model(
    file: Annotated[File, argument("FILE", "A model that was trained elsewhere: file or folder.")],
    importer: Annotated[
        str,
        chosen(
            "importer",
            "--importer",
            help="Who reads it: state-dict (safetensors of a PyTorch MLP or conv autoencoder), or a plugin's.",
            unnamed=True,
        ),
    ] = "state-dict",
    data: Annotated[
        str | None,
        option(
            "--data",
            metavar="text",
            help="Images that it was trained on: its latents are measured and a sampler is fitted on them.",
        ),
    ] = None,
    data_root: Annotated[
        str | None, option("--data-root", metavar="path", help="Where downloaded data sets live.")
    ] = None,
    out: Annotated[Path | None, out_option("the file's name, -imported.safetensors")] = None,
    force: Force = False,
    as_json: Json = False,
    *,
    options: Options,
) -> None:
    """Make a checkpoint of a model that was trained elsewhere; every command reads it."""
    where = {key: value for key, value in {"name": data, "root": data_root}.items() if value and data}
    written = aegen.import_model(file, importer=importer, options=options, data=where, out=out, force=force, say=say)
    tell_files([written], as_json=as_json, importer=importer)
