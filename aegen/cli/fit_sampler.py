"""`aegen fit-sampler`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from aegen import registry
from aegen.cli.app import single
from aegen.cli.help_format import page
from aegen.cli.options import Components, Flag, Given, Json, extend, flags_of, peek
from aegen.settings import FLAGS, SETTINGS
from aegen.spec import options_of

_EXAMPLES = (
    "aegen fit-sampler runs/faces --sampler flow",
    "aegen fit-sampler runs/faces --sampler flow --epochs 400 --resume",
    "aegen fit-sampler runs/faces --sampler mixture --sampler.components 50 --force",
)
_HINT = "Options of the sampler: name it before --help, as in  aegen fit-sampler --sampler flow --help"
_NOT_HERE = ("--parallel",)
_USUAL = "flow"


def command(args: list[str]) -> Any:
    """Build the command, with the options of the sampler that the line names."""
    named = peek(args, "--sampler")["--sampler"]
    flags = [*_settings(), *flags_of(args if named else ["--sampler", _USUAL], "--sampler", "sampler", "sampler")]
    return single(extend(fit_sampler, flags), "fit-sampler", epilog=page(_EXAMPLES, *([] if named else [_HINT])))


def _settings() -> list[Flag]:
    """The flags of `train` that mean the same here."""
    found = []
    for decl, key in FLAGS["Training"].items():
        if decl in _NOT_HERE:
            continue
        section, _, name = key.partition(".")
        complete = partial(registry.names, "tracker") if decl == "--track" else None
        found.append(Flag(decl, key, options_of(SETTINGS[section])[name], "Training", complete))
    return found


def _samplers() -> list[str]:
    return registry.names("sampler")


def fit_sampler(
    place: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="Run folder or checkpoint.  [default: the latest run under ./runs]"),
    ] = None,
    sampler: Annotated[
        str,
        typer.Option(
            "--sampler",
            metavar="text",
            help="Which one: flow, gaussian, mixture.",
            autocompletion=_samplers,
        ),
    ] = _USUAL,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as train.ema=0.999; may be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with its training, bit for bit.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace one that is there, and its training.")] = False,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="text", help="Where the training images are now, if they were moved."),
    ] = None,
    data_root: Annotated[
        str | None, typer.Option("--data-root", metavar="text", help="Where downloaded data sets are now.")
    ] = None,
    component: Components = None,
    as_json: Json = False,
    *,
    given: Given,
) -> None:
    """Fit a sampler to the latents of a trained model, and keep it beside the model for every command that draws.

    One in closed form is fitted at once, one that learns is trained: with the settings that it suggests, unless others are said.
    """
    from aegen.cli.render import Display, number, say, tell
    from aegen.config import parse_sets

    for name in (sampler, *(component or [])):
        registry.trust(name)
    layers = [parse_sets(sets)] if sets else []
    options = {}
    for key, (decl, value) in given.items():
        if "." in key:
            layers.append((decl, {key: value}))
        else:
            options[key] = value
    from aegen.inference import trust_components
    from aegen.training.fit_sampler import fit_sampler as fit

    trust_components(component or [])
    found = fit(
        place,
        sampler,
        layers,
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
        typer.echo(json.dumps(found.to_dict()))
        return
    tell(f"sampler    {found.file}")
    tell(f"samples    {found.samples}")
    if found.metrics:
        tell("held out   " + "  ".join(f"{name} {number(value)}" for name, value in found.metrics.items()))
