"""`aegen list-plugins`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from aegen import registry
from aegen.cli.app import single
from aegen.descriptions import Description, describe_all
from aegen.errors import AegenError, UsageError, did_you_mean, listing
from aegen.registry import Component, unreadable


def command(args: list[str]) -> Any:
    """Build the command."""
    example = "Examples:  aegen list-plugins --kind objective  ·  aegen list-plugins conv  ·  aegen list-plugins --json"
    return single(list_plugins, "list-plugins", epilog=example)


def status(component: Component, told: Description | AegenError) -> tuple[str, str]:
    """`ok` or why a component cannot be used as it is named, and the first line of its documentation."""
    if isinstance(told, AegenError):
        return f"broken: {told.message}", ""
    owners = {c.package for c in registry.components(component.kind) if c.name == component.name}
    if len(owners) > 1:
        return f"conflict: say {component.package}/{component.name}", told.summary
    return "ok", told.summary


def list_plugins(
    name: Annotated[str | None, typer.Argument(help="Show one component with its options.", show_default=False)] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="|".join(registry.KINDS), autocompletion=lambda: list(registry.KINDS)),
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
    from aegen.combining import combinations

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


def _show(found: Mapping[Component, Description | AegenError]) -> None:
    """Everything about a component: options and defaults, documentation, source."""
    from aegen.cli.render import columns, tell, wrapped

    for component, told in found.items():
        tell(f"{component.kind} {component.name}  ({component.package} {component.version})")
        if isinstance(told, AegenError):
            tell(f"  {status(component, told)[0]}")
            continue
        for text in filter(None, told.text):
            paragraphs = [" ".join(part.split()) if columns() else part for part in text.split("\n\n")]
            tell(wrapped("\n\n".join(paragraphs), 2) + "\n", keep="\n")
        for option in told.options:
            about = f"  {option.name:<14} {option.kind:<24} default {option.default!r:<12}"
            if columns() is None:
                tell(f"{about} {option.help}")
            else:
                tell(f"{about.rstrip()}\n{wrapped(option.help, 6)}", keep="\n")
        tell(f"  source: {told.source}\n", keep="\n")
