"""`aegen train`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aegen import registry
from aegen.cli.app import single
from aegen.cli.help_format import page
from aegen.cli.options import Components, Flag, Given, Json, extend, peek, wants_help
from aegen.settings import COMPONENTS, FLAGS, SETTINGS, flatten, to_toml
from aegen.spec import Option, options_of

if TYPE_CHECKING:
    from aegen.config import Layer

_KIND = {
    "arch": "architecture",
    "objective": "objective",
    "bottleneck": "bottleneck",
    "likelihood": "likelihood",
}
_HELP = {
    "arch": "Encoder and decoder.",
    "objective": "What is minimised; wrappers are added with +, as in vae+adversarial.",
    "bottleneck": "What lies between; the objective has its own.",
    "likelihood": "Of a pixel, given the latent; the objective has its own.",
}
_DEFAULT = {"arch": "conv", "objective": "vae"}
_HINT = "Options of components: name them before --help, as in  aegen train --arch conv --objective vae --help"
_EXAMPLES = (
    "aegen train",
    "aegen train --data photos/ --size 64 --objective vae --objective.beta 4",
    "aegen train --resume runs/latest --epochs 60",
)


def command(args: list[str]) -> Any:
    """Build the command for this line: peek at the components that it names, and add their options."""
    # In place, since Typer, which has no options whose value may be left out, parses the same list.
    args[:] = [_worded(word, following) for word, following in zip(args, [*args[1:], "-"], strict=False)]
    seen = peek(
        args, "--config", "--set", "--resume", "--component", *(f"--{c}" for c in COMPONENTS), "--data", "--data-root"
    )
    typed = {f"{c}.name": seen[f"--{c}"][-1] for c in (*COMPONENTS, "data") if seen[f"--{c}"]}
    before = _before_flags(seen["--config"], seen["--set"], seen["--resume"], typed, root=bool(seen["--data-root"]))
    values = before | typed
    _trust(seen, typed)
    named = any(f"{c}.name" in values for c in COMPONENTS)
    usual = {key: before.get(key) for key in typed}  # what is typed is no default
    hints = []
    if named or not wants_help(args):
        likely = _suggested(values) | values
        flags = _setting_flags(likely | usual) + _component_flags(likely)
    else:
        flags = _setting_flags(values | usual)
        hints.append(_HINT)
    return single(extend(train, flags), "train", epilog=page(_EXAMPLES, *hints))


def _worded(word: str, following: str) -> str:
    """`--compile` and `--no-compile` as switches, besides `--compile auto`."""
    if word == "--compile" and following.startswith("-"):
        return "--compile=on"
    return "--compile=off" if word == "--no-compile" else word


def _before_flags(
    configs: list[str], sets: list[str], resumes: list[str], typed: dict[str, Any], *, root: bool
) -> dict[str, Any]:
    """What the configuration, `--set` and a run to resume say: the defaults that flags may override.

    Args:
        typed: names of components and of the data.
        root: whether `--data-root` is.
    """
    if not (configs or sets or resumes):
        return {}
    layers = _layers([Path(c) for c in configs], sets, {})
    if resumes:
        from aegen.checkpoint import resumable
        from aegen.rundir import begun_in
        from aegen.training.warm_start import followed

        found = resumable(Path(resumes[-1]))
        said = {key for values in (typed, *(layer for _, layer in layers)) for key in values}
        said |= {"data.root"} if root else set()
        spec, _ = followed(found, begun_in(found.home), said)
        layers = [("the run", flatten(spec.to_dict())), *layers]
    values: dict[str, Any] = {}
    for _, layer in layers:
        values.update(layer)
    return values


def _layers(configs: list[Path], sets: list[str], given: Given) -> list[Layer]:
    from aegen.config import parse_sets, read_toml

    for _, value in given.values():  # an option too may name a file: --objective.perceptual.features ./mine.py:Net
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str):
                registry.trust(name)
    layers = [read_toml(path) for path in configs]
    if sets:
        layers.append(parse_sets(sets))
    return [*layers, *((decl, {key: value}) for key, (decl, value) in given.items())]


def _trust(seen: dict[str, list[str]], typed: dict[str, str]) -> None:
    """Files may run only if they stand on the command line itself."""
    for name in (*typed.values(), *seen["--component"]):
        registry.trust(name)
    for text in seen["--set"]:
        registry.trust(text.partition("=")[2].strip())


def _setting_flags(values: dict[str, Any]) -> list[Flag]:
    flags = []
    for part in COMPONENTS:
        name = values.get(f"{part}.name") or _DEFAULT.get(part)
        option = Option(part, str, name, _HELP[part])
        kind = _KIND[part]
        flags.append(Flag(f"--{part}", f"{part}.name", option, "Components", partial(registry.names, kind)))
    dim = Option("dim", int, None, "Short for --bottleneck.dim.")
    flags.append(Flag("--latent-dim", "bottleneck.dim", dim, "Components"))
    for panel, table in FLAGS.items():
        for decl, key in table.items():
            section, _, name = key.partition(".")
            option = options_of(SETTINGS[section])[name]
            complete = {
                "--data": lambda: registry.names("dataset"),
                "--track": lambda: registry.names("tracker"),
            }.get(decl)
            flags.append(Flag(decl, key, _with_default(option, values.get(key)), panel, complete))
    return flags


def _suggested(values: dict[str, Any]) -> dict[str, Any]:
    from aegen.config import suggestions

    return {key: value for _, layer in suggestions(values) for key, value in layer.items()}


def _component_flags(values: dict[str, Any]) -> list[Flag]:
    from aegen.config import chosen, component_options

    flags = []
    for section, (component, options) in component_options(chosen(values)).items():
        for option in options.values():
            key = f"{section}.{option.name}"
            decl = f"--{key.replace('_', '-')}"
            panel = f"{component.kind.capitalize()} {component.title}"
            if section == "data" and (option.name in options_of(SETTINGS["data"])):
                continue
            flags.append(Flag(decl, key, _with_default(option, values.get(key)), panel))
    return flags


def _with_default(option: Option, value: Any) -> Option:
    """The default that a configuration file gives instead of the signature's."""
    from dataclasses import replace

    if value is None:
        return option
    return replace(option, default=option.check(value, option.name) if option.type is bool else value)


def train(
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", metavar="path", help="TOML file; flags override it; may be repeated."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any setting, such as checkpoint.every_steps=20; may be repeated."
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="path", help="Run to go on with, bit for bit.")
    ] = None,
    init_from: Annotated[
        Path | None, typer.Option("--init-from", metavar="path", help="Checkpoint whose weights to begin with.")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", metavar="path", help="Folder to make for the run.  [default: a new one in ./runs]"),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print every value and where it came from, and stop.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the run that --run-dir names, if there is one.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build everything, take one step, write nothing.")] = False,
    component: Components = None,
    as_json: Json = False,
    *,
    given: Given,
) -> None:
    """Train a model on images.

    With no option at all: a convolutional VAE on the embedded digits.
    """
    from aegen.cli.progress import Display
    from aegen.cli.render import say, tell
    from aegen.config import resolve

    layers = _layers(config or [], sets or [], given)
    if print_config:
        if resume is not None:
            layers = [
                (
                    "the run",
                    _before_flags(
                        [],
                        [],
                        [str(resume)],
                        dict(item for _, layer in layers for item in layer.items()),
                        root=any("data.root" in layer for _, layer in layers),
                    ),
                ),
                *layers,
            ]
        resolved = resolve(layers)
        typer.echo(to_toml(resolved.spec.to_dict(), resolved.origins), nl=False)
        return
    if resume is None:
        resolve(layers)  # what is refused is refused before torch is loaded
    from aegen.training.run import train as run

    result = run(
        layers,
        resume=resume,
        init_from=init_from,
        run_dir=run_dir,
        force=force,
        dry_run=dry_run,
        listeners=[Display()],
        say=say,
    )
    if result.rank != 0:
        return
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    elif result.run is not None:
        tell(f"checkpoint {result.checkpoint}")
        tell(f"samples    {result.samples}")
