"""`aegen export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aegen import registry
from aegen.cli.app import single
from aegen.cli.help_format import page
from aegen.cli.options import Checkpoint, Components, Force, Given, Json, Seed, checked, extend, flags_of, out
from aegen.spec import Range

_DEFAULT = "safetensors"


_EXAMPLES = ("aegen export", "aegen export --format onnx -o model/")


def command(args: list[str]) -> Any:
    """Build the command, with the options of the format that the line names."""
    flags = flags_of(args, "--format", "exporter", "export")
    return single(extend(export, flags), "export", epilog=page(_EXAMPLES))


def _formats() -> list[str]:
    return registry.names("exporter")


def export(
    checkpoint: Checkpoint = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="text",
            help="safetensors (weights and samplers), onnx, or a plugin's.",
            autocompletion=_formats,
        ),
    ] = _DEFAULT,
    out: Annotated[Path | None, out("the run's and the format's name, with its ending")] = None,
    force: Force = False,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", help="Largest difference of a value.", **checked("--tolerance", float, Range(0))),
    ] = 1e-4,
    seed: Seed = 0,
    device: Annotated[
        str,
        typer.Option(
            "--device", metavar="text", help="As elsewhere; but a model is always written and compared on the CPU."
        ),
    ] = "auto",
    component: Components = None,
    as_json: Json = False,
    *,
    given: Given,
) -> None:
    """Write the model for others, read it back, and compare; fails if they differ."""
    from aegen import inference
    from aegen.cli.render import say, tell_files

    inference.trust_components(component or [])
    options = {key: value for key, (_, value) in given.items()}
    done = inference.export(
        checkpoint, format=format, options=options, out=out, force=force, tolerance=tolerance, seed=seed, say=say
    )
    tell_files(done.files, as_json=as_json, format=format, parity=done.parity, tolerance=tolerance)
