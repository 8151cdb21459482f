"""`aegen list-plugins`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any

import typer

from aegen import registry
from aegen.cli.app import single
from aegen.cli.help_format import page
from aegen.contract.commands import taken
from aegen.descriptions import Description, describe_all
from aegen.errors import AegenError, UsageError, did_you_mean, listing
from aegen.registry import Component, unreadable
from aegen.spec import Option

_EXAMPLES = ("aegen list-plugins --kind objective", "aegen list-plugins conv", "aegen list-plugins --json")


def command(args: list[str]) -> Any:
    """Build the command."""
    return single(list_plugins, "list-plugins", epilog=page(_EXAMPLES))


def status(component: Component, told: Description | AegenError) -> tuple[str, str]:
    """`ok` or why a component cannot be used as it is named, and the first line of its documentation."""
    if isinstance(told, AegenError):
        return f"broken: {told.message}", ""
    if component.kind == "command" and component.builtin:
        return "ok", told.summary  # whoever else has its name, it is the one that runs
    if component.kind == "command" and taken(component):
        return f"conflict: say {component.package}/{component.name}", told.summary
    owners = {c.package for c in registry.components(component.kind) if c.name == component.name}
    if len(owners) > 1:
        return f"conflict: say {component.package}/{component.name}", told.summary
    return "ok", told.summary


def list_plugins(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show one component with its options.", show_default=False)
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="|".join(registry.KINDS),
            help="Only of this kind.",
            autocompletion=lambda: list(registry.KINDS),
        ),
    ] = None,
    no_import: Annotated[bool, typer.Option("--no-import", help="Names only: load nothing.")] = False,
    combinations: Annotated[
        bool, typer.Option("--combinations", help="Which objective goes with which bottleneck.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 3 if any is not well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects on stdout.")] = False,
) -> None:
    """List every component that is installed, its package, and whether it works."""
    if combinations:
        _combinations(as_json)
        return
    if kind is not None and kind.removesuffix("s") not in registry.KINDS:
        hint = did_you_mean(kind, registry.KINDS) or f"kinds are {listing(registry.KINDS)}"
        raise UsageError(f"--kind is {kind!r}, which is no kind of plugin", hint=hint)
    found = [c for c in registry.every_component() if kind in (None, c.kind, f"{c.kind}s")]
    if name is not None:
        found = [c for c in found if name in (c.name, f"{c.package}/{c.name}")]
        if not found:
            hint = did_you_mean(name, {c.name for c in registry.every_component()}) or "aegen list-plugins shows all"
            raise UsageError(f"no component is named {name!r}", hint=hint)
    told = {} if no_import else describe_all(found)
    rows: list[dict[str, Any]] = []
    for component in found:
        state, summary = ("not imported", "") if no_import else status(component, told[component])
        rows.append(
            {
                "kind": component.kind,
                "name": component.name,
                "package": component.package,
                "version": component.version,
                "status": state,
                "summary": summary,
            }
        )
        about = told.get(component)
        if name is not None and as_json and isinstance(about, Description):
            rows[-1]["options"] = [
                {"name": o.name, "type": o.kind, "default": o.default, "help": o.help} for o in about.options
            ]
    if name is None and kind is None:
        rows += [
            {
                "kind": "package",
                "name": broken.package,
                "package": broken.package,
                "version": broken.version,
                "status": f"broken: {broken.reason}",
                "summary": "",
            }
            for broken in unreadable()
        ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif name is not None and not no_import:
        _show(told)
    else:
        from aegen.cli.render import table

        table(["kind", "name", "package", "version", "status", "summary"], [list(r.values()) for r in rows])
    if check and any(r["status"] not in ("ok", "not imported") for r in rows):
        raise typer.Exit(3)


def _combinations(as_json: bool) -> None:
    """Every objective with its defaults and the bottlenecks that offer what it needs."""
    from aegen.cli.render import table
    from aegen.combinations import combinations

    rows = combinations()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    head = ["objective", "default bottleneck", "default likelihood", "goes with"]
    table(head, [[row["objective"], row["bottleneck"], row["likelihood"], _goes_with(row)] for row in rows])


def _goes_with(row: dict[str, Any]) -> str:
    if row["wraps"]:
        return f"what it wraps: vae+{row['objective']}"
    with_all = not row["goes_without"]
    return "every bottleneck" if with_all else ", ".join(map(str, row["goes_with"]))


_WRITTEN = {"architecture": "arch", "exporter": "export", "dataset": "data"}
"""Kind → how its options begin on the command line, where that is not the kind's name; a metric's begin with its own."""


def _show(found: Mapping[Component, Description | AegenError]) -> None:
    """What a component is, where it stands, and its options with type, bounds and default."""
    from aegen.cli.help_format import WIDEST, panel
    from aegen.cli.render import tell
    from aegen.cli.text_width import columns, wrapped

    width = columns() or WIDEST
    for component, told in found.items():
        tell(f"{component.kind} {component.title}")
        if isinstance(told, AegenError):
            tell(f"  {status(component, told)[0]}")
            continue
        tell(wrapped(told.about, 2), keep="\n")
        tell(f"  source: {told.source}")
        for heading, rows in _panels(component, told):
            if rows:
                tell(panel(heading, rows, width).rstrip("\n"), keep="\n\x1b")
        tell("")


def _panels(component: Component, told: Description) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A component's options; of an objective also those of what it stands for, with the defaults that they have there."""
    if component.kind == "objective" and not told.wraps:
        with suppress(AegenError):  # a part of it is broken, which concerns its own row
            yield from _of_objective(component)
            return
    if component.kind == "command":
        yield "Arguments", [_row("", option, None) for option in told.options if not option.name.startswith("-")]
        yield "Options", [_row("", option, option.default) for option in told.options if option.name.startswith("-")]
        return
    prefix = component.name if component.kind == "metric" else _WRITTEN.get(component.kind, component.kind)
    if told.wraps:
        prefix = f"objective.{component.name}"
    yield "Options", [_row(prefix, option, option.default) for option in told.options]


def _of_objective(component: Component) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    from aegen.config import chosen, component_options, suggestions

    values = {"objective.name": f"{component.package}/{component.name}"}
    usual = {key: value for _, layer in suggestions(values) for key, value in layer.items()}
    for section, (part, options) in component_options(chosen(values)).items():
        if section.partition(".")[0] in ("objective", "bottleneck", "likelihood"):
            rows = [_row(section, o, usual.get(f"{section}.{o.name}", o.default)) for o in options.values()]
            yield f"{part.kind.capitalize()} {part.title}", rows
    yield (
        "Other defaults with it",
        [
            (f"--set {key}={json.dumps(value)}", "")
            for key, value in usual.items()
            if key.startswith(("train.", "arch."))
        ],
    )


def _row(prefix: str, option: Option, default: Any) -> tuple[str, str]:
    """An option as the command line writes it and as help shows it."""
    text = option.help[:1].upper() + option.help[1:]
    flag = f"--{prefix}.{option.name.replace('_', '-')}" if prefix else option.name
    if default not in (None, "") and "[default:" not in text:
        text += f"  [default: {('on' if default else 'off') if option.type is bool else default}]"
    if option.type is bool:
        return f"{flag} / --no-{flag.removeprefix('--')}" if prefix else flag, text
    return f"{flag} {option.kind}" if flag.startswith("-") else flag, text
