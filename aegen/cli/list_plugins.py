"""`aegen list-plugins`."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aegen import registry
from aegen.cli.app import single
from aegen.errors import PluginError, UsageError, did_you_mean, listing
from aegen.registry import Component

if TYPE_CHECKING:
    from aegen.spec import Option


def command(args: list[str]) -> Any:
    """Build the command."""
    example = "Examples:  aegen list-plugins --kind objective  ·  aegen list-plugins conv  ·  aegen list-plugins --json"
    return single(list_plugins, "list-plugins", epilog=example)


def status(component: Component) -> tuple[str, str]:
    """Import a component: `ok` or the reason why not, and the first line of its documentation."""
    from aegen.factory import load_component

    owners = [c for c in registry.components(component.kind) if c.name == component.name]
    try:
        found = load_component(component)
    except PluginError as error:
        return f"broken: {error.message}", ""
    summary = (inspect.getdoc(found) or "").partition("\n")[0]
    if len(owners) > 1:
        return f"conflict: say {component.package}/{component.name}", summary
    return "ok", summary


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
    rows: list[dict[str, Any]] = []
    for component in found:
        state, summary = ("not imported", "") if no_import else status(component)
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
        if name is not None and as_json and state == "ok":
            rows[-1]["options"] = [
                {"name": o.name, "type": o.kind, "default": o.default, "help": o.help} for o in _options(component)
            ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif name is not None and not no_import:
        _show(found)
    else:
        from aegen.cli.render import table

        table(["kind", "name", "package", "version", "status", "summary"], [list(r.values()) for r in rows])
    if check and any(r["status"] not in ("ok", "not imported") for r in rows):
        raise typer.Exit(3)


def _combinations(as_json: bool) -> None:
    """Every objective with its defaults and the bottlenecks that offer what it needs."""
    from aegen.cli.render import table
    from aegen.model import combinations

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


def _show(found: list[Component]) -> None:
    """Everything about a component: options and defaults, documentation, source."""
    from aegen.cli.render import tell

    for component in found:
        tell(f"{component.kind} {component.name}  ({component.package} {component.version})")
        state, _ = status(component)
        if state.startswith("broken"):
            tell(f"  {state}")
            continue
        cls = registry.load(component)
        module = inspect.getmodule(cls)
        for text in ((inspect.getdoc(module) if module else None), inspect.getdoc(cls)):
            lines = (text or "").partition("\nOptions:")[0].strip().splitlines()
            tell("".join(f"  {line}\n" for line in lines), keep="\n")
        for option in _options(component):
            tell(f"  {option.name:<14} {option.kind:<24} default {option.default!r:<12} {option.help}")
        try:
            _, line = inspect.getsourcelines(cls)
            tell(f"  source: {inspect.getsourcefile(cls)}:{line}\n", keep="\n")
        except (OSError, TypeError):
            tell(f"  source: {component.value}\n", keep="\n")


def _options(component: Component) -> list[Option]:
    """The options of a component that loads."""
    from aegen.spec import options_of

    cls = registry.load(component)
    return list(options_of(cls, schedulable=component.kind == "objective").values()) if isinstance(cls, type) else []
