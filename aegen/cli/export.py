"""`aegen export`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aegen import registry
from aegen.cli.app import single
from aegen.cli.options import Checkpoint, Components, Device, Given, Json, Out, Seed, extend, flags_of

_DEFAULT = "safetensors"


def command(args: list[str]) -> Any:
    """Build the command, with the options of the format that the line names."""
    flags = flags_of(args, "--format", "exporter", "export")
    example = "Examples:  aegen export  ·  aegen export --format onnx -o model/"
    return single(extend(export, flags), "export", epilog=example)


def _formats() -> list[str]:
    return registry.names("exporter")


def export(
    checkpoint: Checkpoint = None,
    format: Annotated[
        str,
        typer.Option("--format", help="safetensors (weights only), onnx, or a plugin's.", autocompletion=_formats),
    ] = _DEFAULT,
    out: Out = None,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Largest difference of a value.")] = 1e-4,
    seed: Seed = 0,
    device: Device = "auto",
    component: Components = None,
    as_json: Json = False,
    *,
    given: Given,
) -> None:
    """Write the model for others, read it back, and compare; fails if they differ."""
    from aegen import use
    from aegen.cli.render import say, tell_files

    use.trust_components(component or [])
    options = {key: value for key, (_, value) in given.items()}
    done = use.export(checkpoint, format=format, options=options, out=out, tolerance=tolerance, seed=seed, say=say)
    tell_files(done.files, as_json=as_json, format=format, parity=done.parity, tolerance=tolerance)
