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

from aegen import signals
from aegen.cli.help_format import WIDEST, Command, panel, without_rich

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": WIDEST}

COMMANDS = {
    "train": ("aegen.cli.train", "Train a model: aegen train --arch conv --objective vae --data digits"),
    "reconstruct": ("aegen.cli.reconstruct", "Originals above reconstructions: aegen reconstruct photo.png"),
    "sample": ("aegen.cli.sample", "Draw new images: aegen sample -n 64"),
    "fit-sampler": ("aegen.cli.fit_sampler", "Fit how latents are drawn: aegen fit-sampler runs/faces --sampler flow"),
    "interpolate": ("aegen.cli.interpolate", "The way between images: aegen interpolate a.png b.png"),
    "evaluate": ("aegen.cli.evaluate", "Measure a model: aegen evaluate -c runs/faces"),
    "compare": ("aegen.cli.compare", "Runs side by side, one page: aegen compare runs/a runs/b"),
    "report": ("aegen.cli.report", "A run as a page, its model card: aegen report runs/faces"),
    "export": ("aegen.cli.export", "Write the model for others: aegen export --format onnx"),
    "import": ("aegen.cli.import_", "A model trained elsewhere: aegen import mine.safetensors"),
    "list-plugins": ("aegen.cli.list_plugins", "What is installed: aegen list-plugins --kind objective"),
}
"""Name → the module whose `command(args)` builds it, and its short help."""


MEANT = {
    "train": ("fit", "learn", "run", "resume", "continue"),
    "reconstruct": ("encode", "decode", "autoencode", "restore", "denoise"),
    "sample": ("generate", "draw", "gen"),
    "fit-sampler": ("prior", "flow", "sampler", "fit-prior", "density"),
    "interpolate": ("morph", "blend", "mix"),
    "evaluate": ("eval", "score", "test", "measure", "metrics", "benchmark", "validate", "val", "fid"),
    "compare": ("diff", "leaderboard", "versus", "vs"),
    "report": ("plot", "show", "view", "card", "summary", "summarize", "visualize", "visualise", "dashboard"),
    "export": ("save", "convert", "onnx", "deploy"),
    "import": ("load", "open", "upload"),
    "list-plugins": ("list", "ls", "plugins", "components", "info", "models"),
}
"""Command → what people call it who have not seen its name; what looks alike seldom means alike."""


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
        if name in COMMANDS:
            build_command: Callable[[list[str]], Any] = import_module(COMMANDS[name][0]).command
            return name, build_command(rest), rest
        if name in self.commands:
            return name, plugin_command(name), rest
        if name.startswith("-"):
            return super().resolve_command(ctx, args)
        from aegen.errors import UsageError

        meant = [command for command, words in MEANT.items() if name.lower() in words]
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
    for name, (_, text) in COMMANDS.items():
        app.command(name, help=text)(_row)
    if not is_own(args):  # a known command need not pay for the scan of the installed packages
        from aegen import registry

        for component in registry.components("command"):
            if component.name not in COMMANDS:
                app.command(component.name, help=f"From {component.package}.", rich_help_panel="Plugins")(_row)
    return typer.main.get_command(app)


def is_own(args: Sequence[str]) -> bool:
    """Whether a line names a command of aegen's own."""
    return next((a for a in args if not a.startswith("-")), None) in COMMANDS


def plugin_command(name: str) -> Any:
    """A command that a package declares in `aegen.commands`: a function with Typer's annotations, or a Typer app."""
    from aegen import registry
    from aegen.errors import PluginError
    from aegen.tracebacks import defined, said

    component = registry.find("command", name)
    found = registry.load(component)
    if not isinstance(found, typer.Typer) and not callable(found):
        raise PluginError(f"{component.who} is neither a function nor a Typer app ({found!r})", hint=component.remedy)
    try:
        return typer.main.get_command(found) if isinstance(found, typer.Typer) else single(found, name)
    except Exception as error:  # Typer raises what it likes at a signature that it cannot read
        raise PluginError(f"{component.who} cannot be read by Typer ({said(error)}): {defined(found)}") from error


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
