"""Layers of configuration → one RunSpec, knowing where each value came from.

Precedence: flag > `--set` > `--config` > what the objective suggests > default. An unknown key is an error with a suggestion.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aegen import registry
from aegen.combinations import check_fit, described, expand, meant, objective_options, require_usual, short, stack
from aegen.data.dataset_names import dataset_name
from aegen.descriptions import Description
from aegen.errors import PluginError, UsageError, did_you_mean, listing
from aegen.filenames import native
from aegen.objective_name import ObjectiveName
from aegen.settings import COMPONENTS, FLAGS, RESUMABLE, SETTINGS, RunSpec, flatten, nest
from aegen.spec import Option, check_options, options_of
from aegen.untrusted import parse_toml, quoted, read_text

DEFAULT_ARCH, DEFAULT_OBJECTIVE = "conv", "vae"
Layer = tuple[str, dict[str, Any]]
"""Where values come from (`--set`, a file's name) and the values by dotted key; later layers win."""


def read_toml(path: Path) -> Layer:
    """A configuration file as a layer.

    Raises:
        UsageError: it is missing or is not TOML.
    """
    try:
        values = flatten(native(parse_toml(read_text(path))))
    except OSError as error:
        raise UsageError(f"cannot read --config {path} ({error.strerror})") from error
    except ValueError as error:  # also what is not UTF-8
        raise UsageError(f"--config {path} is not TOML ({error})") from error
    if values.get("data.download") is True:
        del values["data.download"]  # only what is typed fetches
    for value in values.values():
        if isinstance(value, str):
            registry.allow(value)
    return path.name, values


def parse_sets(texts: Sequence[str]) -> Layer:
    """`--set key=value …` as a layer; values are read like those of flags.

    Raises:
        UsageError: there is no `=`.
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {text!r} is not key=value", hint="for example --set checkpoint.every_steps=20")
        values.update(flatten({key.strip(): value.strip()}))
    return "--set", values


def spellings() -> dict[str, str]:
    """What `aegen.train` calls a setting → its dotted key: the flags of the command line with `_` for `-`."""
    flags = {flag: key for table in FLAGS.values() for flag, key in table.items()} | {"--latent-dim": "bottleneck.dim"}
    return {f"{part}": f"{part}.name" for part in COMPONENTS} | {
        flag.removeprefix("--").replace("-", "_"): key for flag, key in flags.items()
    }


def keyword_layers(given: Mapping[str, Any]) -> list[Layer]:
    """Keywords of `aegen.train` as layers, each with its own origin: spellings of the command line, or dotted keys.

    Raises:
        UsageError: a word is neither.
    """
    known = spellings()
    layers: list[Layer] = []
    for word, value in given.items():
        key = known.get(word, word)
        section = key.partition(".")[0]
        if "." not in key and not (section in SETTINGS and isinstance(value, Mapping)):
            dotted = {f"{name}.{option}": option for name, kind in SETTINGS.items() for option in options_of(kind)}
            long = next((k for k, option in dotted.items() if option == word), "")
            hint = (
                did_you_mean(word, known)
                or "aegen train --help lists them, and all others are written **{'section.option': …}"
            )
            raise UsageError(
                f"train() has no argument {word!r}", hint=f"write **{{{long!r}: {value!r}}}" if long else hint
            )
        if isinstance(value, Mapping):  # arch={"name": "mlp", "hidden": [8]}
            table = flatten({section: value})
        else:
            table = {key: [value] if key == "log.trackers" and isinstance(value, str) else plain(value)}
        layers.append((f"train({word}=…)", table))
    return layers


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function whose `**options` are those of `keyword_layers`, with each of them written out."""
    own = list(inspect.signature(function).parameters.values())
    words = []
    for word, key in spellings().items():
        section, _, name = key.partition(".")
        option = options_of(SETTINGS[section]).get(name) if section in SETTINGS else None
        default = (
            option.default if option is not None else {"arch": DEFAULT_ARCH, "objective": DEFAULT_OBJECTIVE}.get(word)
        )
        kind = option.type if option is not None else int if word == "latent_dim" else str
        if option is None and default is None:
            kind = kind | None
        words.append(inspect.Parameter(word, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))
    return inspect.signature(function).replace(parameters=[*own[:-1], *words, own[-1]])


def plain(value: Any) -> Any:
    """A value of Python as JSON would have it: a path or a device is its text, a tuple a list."""
    if isinstance(value, str | int | float | bool | list | None):
        return value
    return [plain(part) for part in value] if isinstance(value, tuple) else str(value)


@dataclass(frozen=True)
class Resolved:
    """A complete configuration.

    Attributes:
        spec: of the run.
        origins: dotted key → `default`, `objective gan`, `--lr`, `--set`, or the name of a file.
        usual_map: the objective, as it was named, whose latent is usually a feature map.
    """

    spec: RunSpec
    origins: dict[str, str]
    usual_map: str = ""


def merge(layers: Sequence[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """One flat table of the given values, and where each came from."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        if "train.epochs" in layer and "train.steps" not in layer:  # two ways to say how far: the last word counts
            values.pop("train.steps", None)
        values.update(layer)
        origins.update(dict.fromkeys(layer, origin))
    return values, origins


@dataclass(frozen=True)
class Names:
    """What the components of a configuration are called; of an objective nothing is left that stands for several."""

    arch: str
    objective: ObjectiveName
    bottleneck: str
    likelihood: str
    data: str

    def text(self, key: str) -> str:
        """As a configuration has it."""
        return str(getattr(self, key))


def chosen(values: Mapping[str, Any]) -> Names:
    """The names of the components that a table of values means; an objective says its bottleneck and likelihood.

    Raises:
        UsageError: a name is unknown.
        PluginError: a component cannot be loaded.
    """
    for key in COMPONENTS:
        name = values.get(f"{key}.name")
        if name is not None and not isinstance(name, str):
            raise UsageError(f"{key} is {quoted(name)}, but takes a name")
    objective = expand(_objective(values))
    ((name, first), *_) = stack(objective)
    for kind in ("bottleneck", "likelihood"):
        if f"{kind}.name" not in values:
            require_usual(name, kind, getattr(first, kind))
    return Names(
        arch=values.get("arch.name", DEFAULT_ARCH),
        objective=objective,
        bottleneck=values.get("bottleneck.name", first.bottleneck),
        likelihood=values.get("likelihood.name", first.likelihood),
        data=str(values.get("data.name", SETTINGS["data"]().name)),
    )


def _objective(values: Mapping[str, Any]) -> ObjectiveName:
    """As it was typed."""
    return ObjectiveName.parse(values.get("objective.name", DEFAULT_OBJECTIVE))


def suggestions(values: Mapping[str, Any]) -> list[Layer]:
    """What the objective and its wrappers that a table of values means suggest, weaker than whatever else is said.

    Raises:
        UsageError: a name is unknown.
    """
    names = chosen(values)
    return [
        (f"objective {name}", {f"train.{k}": v for k, v in told.suggests.items()} | _map(name, told, names, values))
        for name, told in meant(_objective(values))
    ]


def _map(name: str, objective: Description, names: Names, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a feature map, if the objective usually has one and the user did not choose a vector."""
    architecture = described("architecture", names.arch)
    if objective.map_options is None or not architecture.map_options:
        return {}
    switch, on = next(iter(architecture.map_options.items()))
    if _options(architecture)[switch].check(values.get(f"arch.{switch}", on), f"arch.{switch}") != on:
        return {}
    found = {f"arch.{k}": v for k, v in architecture.map_options.items()}
    if names.bottleneck == stack(names.objective)[0][1].bottleneck:
        _check_map(name, objective.map_options, names.bottleneck)
        found |= {f"bottleneck.{k}": v for k, v in objective.map_options.items()}
    return found


def _check_map(name: str, given: Mapping[str, Any], bottleneck: str) -> None:
    """See that an objective's own bottleneck takes what the objective gives it.

    Raises:
        PluginError: it does not.
    """
    try:
        check_options(_options(described("bottleneck", bottleneck)), given, "bottleneck.", f"bottleneck {bottleneck}")
    except UsageError as error:
        component = registry.find("objective", name)
        raise PluginError(f"map_options of {component.who}: {error.message}", hint=component.remedy) from error


def component_options(names: Names) -> dict[str, tuple[registry.Component, dict[str, Option]]]:
    """Section (`arch`, `objective`, `objective.adversarial`, …) → its component and its options."""
    found = {}
    for key, kind in (
        ("arch", "architecture"),
        ("bottleneck", "bottleneck"),
        ("likelihood", "likelihood"),
        ("data", "dataset"),
    ):
        name = dataset_name(names.data) if key == "data" else names.text(key)
        found[key] = registry.find(kind, name), _options(described(kind, name))
    for i, (name, told) in enumerate(stack(names.objective)):
        section = f"objective.{short(name)}" if i else "objective"
        found[section] = registry.find("objective", name), _options(told)
    return found


def _options(told: Description) -> dict[str, Option]:
    return {option.name: option for option in told.options}


def resolve(layers: Sequence[Layer], *, suggest: bool = True) -> Resolved:
    """Check every value and complete them by what the objective suggests and by defaults.

    Raises:
        UsageError: an unknown key, name or option, an unacceptable value, or parts that do not go together.
    """
    values, origins = merge(layers)
    for key in values:
        _check_key(key, values[key], origins[key])
    names = chosen(values)
    usual = [name for name, told in meant(_objective(values)) if told.map_options is not None]
    values, origins = merge([*(suggestions(values) if suggest else []), *layers])
    sections = component_options(names)
    tables = nest(values)
    labels = {k: o if o.startswith("--") and o != "--set" else f"{k} in {o}" for k, o in origins.items()}
    full: dict[str, Any] = {}
    for key in COMPONENTS:
        given = {k: v for k, v in tables.get(key, {}).items() if k != "name"}
        full[key] = {"name": names.text(key), **_component(key, names, given, sections, labels)}
    for key, settings in SETTINGS.items():
        own = options_of(settings)
        given = tables.get(key, {})
        extra: dict[str, Any] = {}
        if key == "data":
            component, data_options = sections["data"]
            for name in given:
                if name not in own and name not in data_options:
                    hint = did_you_mean(name, [*own, *data_options]) or f"it takes {listing([*own, *data_options])}"
                    raise UsageError(f"unknown option data.{name} for data set {component.name}", hint=hint)
            mine = {k: v for k, v in given.items() if k in data_options and k not in own}
            extra = check_options(data_options, mine, "data.", f"data set {component.name}", labels)
            given = {k: v for k, v in given.items() if k in own}
        full[key] = {**check_options(own, given, f"{key}.", f"section {key}", labels), **extra}
    if len(full["train"]["betas"]) != 2:
        raise UsageError(f"train.betas is {full['train']['betas']}, but takes two numbers")
    spec = RunSpec.from_dict({k: {n: v for n, v in t.items() if v is not None} for k, t in full.items()}, typed=True)
    check_fit(names.objective, names.bottleneck)
    every = flatten(spec.to_dict())
    return Resolved(spec, {k: origins.get(k, "default") for k in every}, usual[-1] if usual else "")


def _check_key(key: str, value: Any, origin: str) -> None:
    """A key is `section.option`, or `objective.wrapper.option`.

    Raises:
        UsageError: it is neither.
    """
    section, *path = key.split(".")
    known = (*COMPONENTS, *SETTINGS)
    if section not in known:
        hint = did_you_mean(section, known) or f"sections are {listing(known)}"
        raise UsageError(f"unknown section {section!r} in {origin}", hint=hint)
    if not path:
        raise UsageError(
            f"{origin} sets {key} to {value!r}, but {key} is a section", hint=f"set one of its options, {key}.…"
        )
    if len(path) > (2 if section == "objective" else 1) or not all(path):
        raise UsageError(f"{origin} sets {key}, which is no setting", hint=f"settings are written {section}.option")


def _component(
    key: str,
    names: Names,
    given: Mapping[str, Any],
    sections: Mapping[str, tuple[registry.Component, dict[str, Option]]],
    labels: Mapping[str, str],
) -> dict[str, Any]:
    """Checked options of one component; those of an objective's wrappers are nested under their names."""
    if key != "objective":
        return check_options(sections[key][1], given, f"{key}.", f"{sections[key][0].kind} {names.text(key)}", labels)
    first, *wrappers = objective_options(names.objective, given)
    checked = check_options(sections["objective"][1], first.options, "objective.", f"objective {first.name}", labels)
    for part in wrappers:
        section = f"objective.{short(part.name)}"
        checked[short(part.name)] = check_options(
            sections[section][1], part.options, f"{section}.", f"objective {part.name}", labels
        )
    return {k: v for k, v in checked.items() if v != {}}


def merge_resume(saved: RunSpec, layers: Sequence[Layer]) -> RunSpec:
    """The configuration of a resumed run: the saved one, with what may change.

    Raises:
        UsageError: something else was given another value than the run's.
    """
    before = flatten(saved.to_dict())
    values, origins = merge(layers)
    for part in COMPONENTS:  # first, or the options of one component are read as another's
        name = f"{part}.name"
        if name == "objective.name" and isinstance(values.get(name), str):
            values[name] = str(expand(_objective(values)))
        if name in values and values[name] != before[name]:
            raise _fixed(name, values[name], before[name], origins[name])
    if (
        "data.name" in values
    ):  # a set of another kind has other options, and other images, which its fingerprint will tell
        _, known = component_options(replace(chosen(before), data=str(values["data.name"])))["data"]
        own = (*options_of(SETTINGS["data"]), *known)
        before = {k: v for k, v in before.items() if not k.startswith("data.") or k.removeprefix("data.") in own}
    # What today's aegen suggests is not that run's.
    candidate = resolve([("the run", before), *layers], suggest=False).spec
    after = flatten(candidate.to_dict())
    for key in values:
        if before.get(key) != after.get(key) and key not in RESUMABLE and not key.startswith(("log.", "checkpoint.")):
            raise _fixed(key, after.get(key), before.get(key), origins[key])
    return candidate


def _fixed(key: str, wanted: Any, has: Any, origin: str) -> UsageError:
    return UsageError(
        f"{origin} sets {key} to {wanted!r}, but the run has {has!r} and what is computed cannot change in mid-run",
        hint=f"only {listing(RESUMABLE)}, log.* and checkpoint.* may; or begin anew with --init-from",
    )
