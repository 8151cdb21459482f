"""The tree of commands: a table of names and short helps, from which `--help` is drawn without importing any command.

Only Typer's documented names are used (Typer, Option, Context, style, typer.core.TyperGroup and TyperCommand, typer.main.get_command): it
vendors Click, which may go.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from aegen import registry, signals
from aegen.cli.builtin_commands import BUILTIN
from aegen.cli.help_format import WIDEST, Command, panel, without_rich
from aegen.contract import commands
from aegen.contract.commands import CORE
from aegen.registry import Component

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": WIDEST}

_CORE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "train": (
        "aegen.cli.train",
        "Train a model: aegen train --arch conv --objective vae --data digits",
        ("fit", "learn", "run", "resume", "continue"),
    ),
    "evaluate": (
        "aegen.cli.evaluate",
        "Measure a model: aegen evaluate -c runs/faces",
        ("eval", "score", "test", "measure", "metrics", "benchmark", "validate", "val", "fid"),
    ),
    "list-plugins": (
        "aegen.cli.list_plugins",
        "What is installed: aegen list-plugins --kind objective",
        ("list", "ls", "plugins", "components", "info", "models"),
    ),
}
"""The commands that are no plugins: name → the module whose `command(args)` builds it, its short help, and what people call it."""


def _rows() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """All of aegen's own in the order of help: training, use, then what measures and what reads its numbers."""
    using = {name: row for name, row in BUILTIN.items() if name not in _AFTER}
    after = {name: row for name, row in BUILTIN.items() if name in _AFTER}
    train, evaluate, plugins = ({name: _CORE[name]} for name in CORE)
    return train | using | evaluate | after | plugins


_AFTER = ("compare", "report", "export", "import")

COMMANDS = _rows()
"""Name → where it is, its short help, and what people call it who have not seen its name; what looks alike seldom means alike."""


def _typo(given: str, command: str) -> bool:
    """Whether at most two letters are too many or too few, in whatever order they are."""
    one, other = Counter(given.lower()), Counter(command)
    return (one - other).total() + (other - one).total() <= 2


class LazyGroup(TyperGroup):
    """Commands are rows of a table until one of them runs."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Commands, those of plugins under a heading of their own, and options."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, told in self.commands.items():
            panels.setdefault(getattr(told, "rich_help_panel", None) or "Commands", []).append((name, told.help or ""))
        options = [row for parameter in self.get_params(ctx) if (row := parameter.get_help_record(ctx)) is not None]
        for heading, rows in [*panels.items(), ("Options", options)]:
            formatter.write(panel(heading, rows, formatter.width))

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """The commands that may follow."""
        found = super().shell_complete(ctx, incomplete)
        without_rich()
        return found

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the one module that is asked for.

        Raises:
            UsageError: there is no such command; the one that is meant is suggested, if that can be told.
        """
        name, *rest = args
        if name in _CORE:
            build_command: Callable[[list[str]], Any] = import_module(_CORE[name][0]).command
            return name, build_command(rest), rest
        if name in COMMANDS:
            return name, plugin_command(Component("command", name, BUILTIN[name][0], registry.BUILTIN, ""), rest), rest
        if name in self.commands or "/" in name.lstrip("-"):
            return name, plugin_command(registry.find("command", name), rest), rest
        if name.startswith("-"):
            return super().resolve_command(ctx, args)
        from aegen.errors import UsageError

        meant = [command for command, (_, _, words) in COMMANDS.items() if name.lower() in words]
        meant = meant or [word for word in get_close_matches(name, self.commands, n=1) if _typo(name, word)]
        hint = f"did you mean {meant[0]!r}?" if meant else "aegen --help lists them"
        raise UsageError(f"no such command {name!r}", hint=hint)


def build(args: Sequence[str]) -> Any:
    """The root command, for this line of arguments."""
    app = typer.Typer(
        cls=LazyGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=_SETTINGS,
    )
    app.callback(
        help="Autoencoders: train, reconstruct, sample, interpolate, evaluate, compare, export. Every part is a plugin."
    )(_root)
    for name, (_, text, _) in COMMANDS.items():
        app.command(name, help=text)(_row)
    if not is_own(args):  # a known command need not pay for the scan of the installed packages
        for component in registry.components("command"):
            if component.name not in COMMANDS:
                app.command(component.name, help=_told(component), rich_help_panel="Plugins")(_row)
    return typer.main.get_command(app)


def is_own(args: Sequence[str]) -> bool:
    """Whether a line names a command of aegen's own."""
    return next((a for a in args if not a.startswith("-")), None) in COMMANDS


def _told(component: Component) -> str:
    """What a third party's command is for, as far as that is known without importing it: once it was run, or listed."""
    from aegen.descriptions import remembered

    found = remembered(component)
    return found.summary if found is not None and found.summary else f"From {component.package}."


def plugin_command(component: Component, args: list[str]) -> Any:
    """A command that a package declares in `aegen.commands`: a function, made with `aegen.command` or with Typer's annotations, or a Typer app.

    Raises:
        PluginError: it cannot be imported, or not be read.
    """
    found = commands.load(component)
    if not component.builtin:
        from aegen.descriptions import describe_all

        describe_all([component])  # for the list of all commands
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    made = commands.kit(found)
    if made is None:
        return single(found, component.name)
    function, epilog = made.plain(args)
    return single(function, component.name, epilog=epilog)


def single(function: Callable[..., Any], name: str, **options: Any) -> Any:
    """One function as a command."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=_SETTINGS)
    app.command(name, cls=Command, **options)(_owned(function))
    return typer.main.get_command(app)


def _owned(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but a KeyboardInterrupt that a third party's code raised is its own: Typer would make an exit code of it."""

    @functools.wraps(function)
    def call(*values: Any, **more: Any) -> Any:
        try:
            return function(*values, **more)
        except KeyboardInterrupt as error:
            from aegen.contract.blame import blamed

            if not signals.asked() and (found := blamed(error)) is not None:
                raise found from error
            raise

    return call


def _row() -> None:
    """Stands for a command in the table; `resolve_command` never lets it run."""


def _version(show: bool) -> None:
    if show:
        from aegen.package_metadata import version_of

        typer.echo(f"aegen {version_of('aegen')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; good after a command too.")] = False,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="Switch third parties off, likewise.")] = False,
) -> None:
    pass
