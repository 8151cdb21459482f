"""`aegen import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aegen import registry
from aegen.cli.app import single
from aegen.cli.help_format import page
from aegen.cli.options import Force, Given, Json, extend, flags_of, out
from aegen.data.dataset_names import dataset_name

_DEFAULT = "state-dict"
_EXAMPLES = (
    "aegen import mine.safetensors --data mnist",
    "aegen import mine.safetensors --importer.activation tanh --importer.output none",
)


def command(args: list[str]) -> Any:
    """Build the command, with the options of the importer that the line names."""
    words = args if any(word.partition("=")[0] == "--importer" for word in args) else [*args, "--importer", _DEFAULT]
    flags = flags_of(words, "--importer", "importer", "importer")
    return single(extend(import_, flags), "import", epilog=page(_EXAMPLES))


def _importers() -> list[str]:
    return registry.names("importer")


def import_(
    file: Annotated[
        Path, typer.Argument(help="A model that was trained elsewhere: file or folder.", show_default=False)
    ],
    importer: Annotated[
        str,
        typer.Option(
            "--importer",
            metavar="text",
            help="Who reads it: state-dict (safetensors of a PyTorch MLP or conv autoencoder), or a plugin's.",
            autocompletion=_importers,
        ),
    ] = _DEFAULT,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="text",
            help="Images that it was trained on: its latents are measured and a sampler is fitted on them.",
        ),
    ] = None,
    data_root: Annotated[
        str | None, typer.Option("--data-root", metavar="path", help="Where downloaded data sets live.")
    ] = None,
    out: Annotated[Path | None, out("the file's name, -imported.safetensors")] = None,
    force: Force = False,
    as_json: Json = False,
    *,
    given: Given,
) -> None:
    """Make a checkpoint of a model that was trained elsewhere; every command reads it."""
    from aegen import inference
    from aegen.cli.render import say, tell_files

    if data is not None:
        registry.trust(data)
        dataset_name(data)
    settings = {key: value for key, value in {"name": data, "root": data_root}.items() if value and data}
    options = {key: value for key, (_, value) in given.items()}
    written = inference.import_model(
        file, importer=importer, options=options, data=settings, out=out, force=force, say=say
    )
    tell_files([written], as_json=as_json, importer=importer)
