"""Options of the chosen components as real options of a command.

A command is a function with Typer's annotations and one parameter `given`. `extend` adds flags that are known only
once argv has been peeked at; what the user typed of them arrives in `given`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from aegen import registry
from aegen.descriptions import describe
from aegen.spec import Option, Range, options_of
from aegen.untrusted import shown

Given = dict[str, tuple[str, Any]]
"""Dotted key → (flag as the user knows it, value)."""


def checked(flag: str, kind: type, limits: Range) -> dict[str, Any]:
    """How Typer is to read a number: as those of components are, so that one sentence serves both."""
    option = Option(flag, kind, None, range=limits)
    return {"parser": lambda value: option.check(value, flag), "metavar": option.kind}


Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "-c", "--checkpoint", metavar="path", help="Run folder or file.  [default: the latest run under ./runs]"
    ),
]


def out(usual: str) -> Any:
    """The option -o of a command that writes to `usual` without it, counting up where that is there already."""
    return typer.Option(
        "-o",
        "--out",
        metavar="path",
        help=f"Where to write; where its default is taken, with -2, -3 and so on.  [default: {usual}]",
    )


Force = Annotated[bool, typer.Option("--force", help="Replace what stands at -o.")]
Seed = Annotated[
    int, typer.Option("--seed", help="Of everything random.", **checked("--seed", int, Range(0, 2**32 - 1)))
]
Device = Annotated[str, typer.Option("--device", metavar="text", help="auto, cpu, cuda, cuda:N or mps.")]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
Components = Annotated[
    list[str] | None,
    typer.Option(
        "--component",
        metavar="path",
        help="A file that the checkpoint names and may use: ./mine.py:Class, or weights; may be repeated.",
    ),
]


@dataclass(frozen=True)
class Flag:
    """One added option.

    Attributes:
        decl: `--arch.width`.
        key: where its value goes, `arch.width`.
        option: type, help and default; the default shown may come from a configuration file.
        panel: heading in the help.
        complete: names for shell completion.
    """

    decl: str
    key: str
    option: Option
    panel: str
    complete: Callable[[], Iterable[str]] | None = None

    @property
    def parameter(self) -> str:
        """As a Python name."""
        return re.sub(r"\W", "_", self.decl.lstrip("-").replace(".", "__"))

    def signature(self) -> inspect.Parameter:
        """Values are text, checked where those of files are, so that one sentence serves both; booleans are switches."""
        option, complete, text = self.option, self.complete, shown(self.option.help)
        choices = complete or ((lambda: option.choices) if option.choices else None)
        annotation: Any
        default: Any
        if option.type is bool:
            stem = self.decl.removeprefix("--")
            annotation, default, decls = bool, option.default, [f"{self.decl}/--no-{stem}"]
            extra: dict[str, Any] = {"show_default": False}  # Typer's would be one of the two names
            text += f"  [default: {'on' if default else 'off'}]"
        else:
            many = option.type == list[str]
            annotation = list[str] if many else str | None
            default = None if option.default is None or many else _shown(option.default)
            decls, extra = [self.decl], {"metavar": "text" if many else option.kind}
            text += " May be repeated." * many
            if choices is not None:
                extra["autocompletion"] = _completion(choices)
        info = typer.Option(*decls, help=text[:1].upper() + text[1:], rich_help_panel=shown(self.panel), **extra)
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(
            self.parameter,
            kind,
            default=default if annotation != list[str] else [],
            annotation=Annotated[annotation, info],
        )


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def _completion(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [n for n in names() if n.startswith(incomplete)]

    return complete


def extend(function: Callable[..., Any], flags: Sequence[Flag]) -> Callable[..., Any]:
    """`function` with `flags` added to its signature and what was typed of them collected in its `given`."""

    def wrapper(ctx: typer.Context, **values: Any) -> Any:
        given: Given = {}
        for flag in flags:
            value = values.pop(flag.parameter)
            source = ctx.get_parameter_source(flag.parameter)
            if source is not None and source.name == "COMMANDLINE":
                given[flag.key] = (flag.decl, value)
        return function(**values, given=given)

    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in _parameters(function) if p.name != "given"]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    everything = [context, *own, *(f.signature() for f in flags)]
    wrapper.__doc__ = function.__doc__
    wrapper.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in everything}
    return wrapper


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())


def peek(args: Sequence[str], *flags: str) -> dict[str, list[str]]:
    """The values of `flags` on a line that has not been parsed yet, `--flag value` or `--flag=value`."""
    found: dict[str, list[str]] = {flag: [] for flag in flags}
    words = list(args)
    for i, word in enumerate(words):
        if word == "--":
            break
        flag, equals, value = word.partition("=")
        if flag in found:
            if equals:
                found[flag].append(value)
            elif i + 1 < len(words):
                found[flag].append(words[i + 1])
    return found


def flags_of(args: Sequence[str], flag: str, kind: str, prefix: str) -> list[Flag]:
    """The options, written `--prefix.name`, of the component that `flag` names on the line; it may be a file, being typed."""
    flags = []
    for name in peek(args, flag)[flag][-1:]:
        registry.trust(name)
        component = registry.find(kind, name)
        for option in describe(component).options:
            decl = f"--{prefix}.{option.name.replace('_', '-')}"
            flags.append(Flag(decl, option.name, option, f"{kind.capitalize()} {component.title}"))
    return flags


def setting_flags(heading: str, without: Sequence[str] = ()) -> list[Flag]:
    """The flags of `aegen train` under one of its headings, but for some."""
    from aegen.settings import FLAGS, SETTINGS

    found = []
    for decl, key in FLAGS[heading].items():
        section, _, name = key.partition(".")
        complete = partial(registry.names, "tracker") if decl == "--track" else None
        if decl not in without:
            found.append(Flag(decl, key, options_of(SETTINGS[section])[name], heading, complete))
    return found


def wants_help(args: Sequence[str]) -> bool:
    """Whether the line asks for help, or a shell asks for completions, rather than for work."""
    import os

    return "--help" in args or "-h" in args or "_AEGEN_COMPLETE" in os.environ
