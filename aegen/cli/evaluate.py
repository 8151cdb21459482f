"""`aegen evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aegen import registry
from aegen.cli.app import single
from aegen.cli.help_format import page
from aegen.cli.options import Checkpoint, Components, Device, Flag, Force, Given, Json, extend, out, peek
from aegen.descriptions import describe
from aegen.evaluation.protocol import PROTOCOLS, Protocol
from aegen.spec import options_of

if TYPE_CHECKING:
    from aegen.evaluation import Evaluation


_EXAMPLES = (
    "aegen evaluate",
    "aegen evaluate -c runs/faces --metric fid --metric kid --samples 10000",
    "aegen evaluate --data mnist --json",
)


def command(args: list[str]) -> Any:
    """Build the command, with the options of the metrics that the line names."""
    flags = []
    for name in _named(args):
        registry.trust(name)
        component = registry.find("metric", name)
        for option in describe(component).options:
            decl = f"--{name}.{option.name.replace('_', '-')}"
            flags.append(Flag(decl, f"{name}.{option.name}", option, f"Metric {component.title}"))
    return single(extend(evaluate, flags), "evaluate", epilog=page(_EXAMPLES))


def _named(args: list[str]) -> list[str]:
    """Metrics that `--metric` names, and those whose options are given, `--nll.samples 500`."""
    begun = [word.removeprefix("--").partition(".")[0] for word in args if word.startswith("--") and "." in word]
    return list(
        dict.fromkeys([*peek(args, "--metric")["--metric"], *(w for w in begun if w in registry.names("metric"))])
    )


_PROTOCOL = PROTOCOLS["aegen-1"]


def _knob(name: str, *flags: str, text: str, complete: Callable[[], list[str]] | None = None) -> Any:
    """The option that changes what the protocol says of `name`; checked with the protocol, so that one sentence serves both."""
    value = getattr(_PROTOCOL, name)
    usual = {"sampler": "the model's own choice", "limit": "all"}.get(name, value)
    option, text = options_of(Protocol)[name], f"{text}  [default: the protocol's, {usual} in {_PROTOCOL.name}]"
    return typer.Option(*flags, metavar=option.kind, help=text, autocompletion=complete)


def evaluate(
    checkpoint: Checkpoint = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="text",
            help="Only this one; may be repeated.  [default: all that apply]",
            autocompletion=lambda: registry.names("metric"),
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="text",
            help="Other images than the run's: a set, a folder, a .npz.  [default: the run's held-out images]",
        ),
    ] = None,
    data_root: Annotated[
        str | None,
        typer.Option("--data-root", metavar="path", help="Where downloaded data sets live.  [default: as in the run]"),
    ] = None,
    limit: Annotated[str | None, _knob("limit", "--limit", text="At most so many held-out images.")] = None,
    by: Annotated[
        str,
        typer.Option(
            "--protocol",
            metavar="|".join(PROTOCOLS),
            help="What is held fixed, by name.",
            autocompletion=lambda: list(PROTOCOLS),
        ),
    ] = _PROTOCOL.name,
    samples: Annotated[str | None, _knob("samples", "--samples", "-n", text="How many images are generated.")] = None,
    sampler: Annotated[
        str | None,
        _knob("sampler", "--sampler", text="How their latents are drawn.", complete=lambda: registry.names("sampler")),
    ] = None,
    features: Annotated[
        str | None,
        _knob(
            "features",
            "--features",
            text="Network of the features: a name, or name:weights.safetensors.",
            complete=lambda: registry.names("feature"),
        ),
    ] = None,
    side: Annotated[
        str | None,
        _knob("side", "--features-side", text="Pixels a side that the network is given; 0 leaves images as they are."),
    ] = None,
    latent: Annotated[
        str | None, _knob("latent", "--latent", text="Reconstructions of the posterior's mean, or of a draw.")
    ] = None,
    reference: Annotated[
        str | None, _knob("reference", "--reference", text="What generated images are compared with.")
    ] = None,
    seed: Annotated[str | None, _knob("seed", "--seed", text="Of everything random.")] = None,
    device: Device = "auto",
    out: Annotated[Path | None, out("the protocol's name .json, in the folder evaluations of the run")] = None,
    force: Force = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Beside each number, printed ones and by what rules they differ.")
    ] = False,
    component: Components = None,
    as_json: Json = False,
    *,
    given: Given,
) -> None:
    """Measure a trained model on held-out images and on images that it generates."""
    from aegen import evaluation, inference
    from aegen.cli.render import say, tell
    from aegen.errors import AegenError
    from aegen.inference.loading import refuse_present

    inference.trust_components(component or [])
    if out is not None:
        refuse_present([out], force)  # before minutes of work
    network, weights = _network(features or "")
    registry.trust(network)
    knobs = {
        "samples": samples, "sampler": sampler, "features": network, "weights": weights, "side": side,
        "latent": latent, "reference": reference, "limit": limit, "seed": seed,
    }  # fmt: skip
    options: dict[str, dict[str, Any]] = {}
    for key, (_, value) in given.items():
        name, _, option = key.partition(".")
        options.setdefault(name, {})[option] = value
    if out is not None:
        evaluation.check_place(out)
    found = evaluation.evaluate(
        checkpoint,
        metrics=metric or (),
        options=options,
        by=by,
        changes={key: value for key, value in knobs.items() if value},
        data={key: value for key, value in {"name": data, "root": data_root}.items() if value},
        device=device,
        say=say,
    )
    if found.rank > 0:
        return
    file = None  # without a number there is nothing to keep
    if found.numbers:
        try:
            file = evaluation.save(found, out, say, force=force)
        except AegenError:
            show(found)  # the work of minutes
            raise
    if as_json:
        typer.echo(json.dumps({**found.to_dict(), "file": str(file) if file else None}))
    else:
        show(found)
        if file:
            tell(str(file))
    if not found.numbers:
        say(
            "none of these metrics applies, so nothing is written; aegen list-plugins --kind metric shows what there is"
        )
    if explain:
        _explain(found)


def _network(given: str) -> tuple[str, str]:
    """`vgg16:weights.safetensors`, `./mine.py:Net:weights.safetensors` → the network and its weights."""
    name, _, rest = given.partition(":")
    if not registry.is_file(name):
        return name, rest
    own, _, weights = rest.partition(":")
    return f"{name}:{own}" if own else name, weights


def _explain(found: Evaluation) -> None:
    """The rules of this evaluation, and those of printed numbers of the same name."""
    from aegen.cli.render import number, say
    from aegen.evaluation.published import differences

    say("the rules here: " + ", ".join(f"{key} {value}" for key, value in found.protocol.items() if value != ""))
    rules = {**found.protocol, "data": found.data["name"]}
    for entry in found.numbers:
        for one, other in differences(entry.name, rules):
            why = "; ".join(other) or "no rule that is known differs"
            say(f"{entry.name} {number(entry.value)} here, {number(one.value)} printed for {one.system}: {why}")


def show(found: Evaluation) -> None:
    """A table of the numbers, and what did not apply and why."""
    from aegen.cli.render import number, say, table

    rows = []
    for entry in found.numbers:
        interval = "" if entry.low is None or entry.high is None else f"{number(entry.low)} to {number(entry.high)}"
        rows.append(
            [
                entry.metric,
                entry.name,
                number(entry.value),
                interval,
                {"lower": "↓", "higher": "↑"}.get(entry.better, ""),
            ]
        )
    if rows:
        table(["metric", "number", "value", "95 % interval", "better"], rows)
    reasons: dict[str, list[str]] = {}
    for name, reason in found.skipped.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        say(f"not measured: {', '.join(names)} ({reason})")
    for note in found.notes:
        say(f"note: {note}")
