"""What a command is as it is declared: a function whose every parameter says what it takes, or a Typer app, under a name that is free."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Protocol, get_args, get_origin, runtime_checkable

import typer

from aegen import registry
from aegen.errors import PluginError
from aegen.registry import Component
from aegen.spec import Option
from aegen.tracebacks import defined, said

CORE = ("train", "evaluate", "list-plugins")
"""Commands that are no plugins; nobody else's has one of these names without its package before it."""

MARK = "__aegen_command__"
"""The attribute by which `aegen.command` marks a function that was made with it."""


@runtime_checkable
class Kit(Protocol):
    """What a function made with `aegen.command` carries.

    Attributes:
        short: one line for the list of all commands.
    """

    short: str

    def plain(self, args: list[str]) -> tuple[Callable[..., Any], str]:
        """The function as Typer reads it, with the options of components that `args` name, and what stands below its help."""


def kit(found: Any) -> Kit | None:
    """The mark of a function that was made with `aegen.command`."""
    mark = getattr(found, MARK, None)
    return mark if isinstance(mark, Kit) else None


def taken(component: Component) -> bool:
    """Whether a third party's command has the name of one of aegen's own, which is then the one that runs."""
    own = {c.name for c in registry.components("command") if c.builtin}
    return not component.builtin and component.name in {*CORE, *own}


def load(component: Component) -> Any:
    """Import a command, and see that Typer can read it.

    Raises:
        PluginError: its import fails, it is no function and no Typer app, or a parameter does not say what it takes.
    """
    found = registry.load(component)
    readable(component, found)
    return found


def readable(component: Component, found: Any) -> None:
    """See that Typer can read what was imported.

    Raises:
        PluginError: it is no function and no Typer app, or a parameter does not say what it takes.
    """
    if not isinstance(found, typer.Typer) and (not callable(found) or inspect.isclass(found)):
        raise PluginError(f"{component.who} is neither a function nor a Typer app ({found!r})", hint=component.remedy)
    try:
        if not isinstance(found, typer.Typer):
            signature = inspect.signature(found, eval_str=True)
            _annotated(component, found, signature)
        read(found)
    except PluginError:
        raise
    except Exception as error:  # Typer raises what it likes at a signature that it cannot read
        raise PluginError(f"{component.who} cannot be read by Typer ({said(error)}): {defined(found)}") from error


def _annotated(component: Component, function: Callable[..., Any], signature: inspect.Signature) -> None:
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise PluginError(
                f"{component.who} takes {str(parameter).partition(':')[0]!r}, which no line can say: {defined(function)}",
                hint="give each option a parameter of its own, that can be named",
            )
        if parameter.annotation is parameter.empty:
            raise PluginError(
                f"{component.who} does not say what {parameter.name!r} is: {defined(function)}",
                hint=f"annotate it, for example {parameter.name}: int = 3, or with a type of aegen.command",
            )


def read(found: Any) -> Any:
    """A command as Typer reads it; for a look, not to be run."""
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(_plain(found))
    return typer.main.get_command(app)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    made = kit(function)
    return function if made is None else made.plain([])[0]


def short(found: Any) -> str:
    """One line that says what a command is for."""
    made = kit(found)
    if made is not None and made.short:
        return made.short
    text = (
        getattr(getattr(found, "info", None), "help", None) if isinstance(found, typer.Typer) else inspect.getdoc(found)
    )
    return text.strip().partition("\n")[0] if isinstance(text, str) else ""


def options(found: Any) -> tuple[Option, ...]:
    """What a line can say to a command: `--name`, or the word in capitals of what has no flag; nothing of a Typer app, which may have many."""
    if isinstance(found, typer.Typer):
        return ()
    signature = inspect.signature(_plain(found), eval_str=True)
    return tuple(_option(p) for p in signature.parameters.values() if p.annotation is not typer.Context)


def _option(parameter: inspect.Parameter) -> Option:
    annotation, default = parameter.annotation, parameter.default
    marks = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    base = get_args(annotation)[0] if marks else annotation
    info = next((one for one in (*marks, default) if hasattr(one, "param_decls")), None)
    # In `Annotated`, the first name is held as if it were a default.
    names = [str(n) for n in (getattr(info, "default", ""), *(getattr(info, "param_decls", None) or ())) if n]
    flags = [name for name in names if name.startswith("-")]
    bare = isinstance(info, type(typer.Argument())) or (info is None and default is parameter.empty)
    word = str(getattr(info, "metavar", None) or parameter.name.upper()).strip("[]")
    flag = next(iter([*(f for f in flags if f.startswith("--")), *flags]), f"--{parameter.name.replace('_', '-')}")
    text = " ".join(str(getattr(info, "help", None) or "").split())
    plain = default if isinstance(default, str | int | float | bool) else None
    return Option(word if bare else flag.partition("/")[0], _type(base), plain, text)


def _type(annotation: Any) -> Any:
    """As descriptions hold it: paths, and whatever has names, are text."""
    branches = [one for one in (get_args(annotation) or (annotation,)) if one is not type(None)]
    if get_origin(annotation) is list or any(get_origin(one) is list for one in branches):
        return list[str]
    return branches[0] if branches[0] in (int, float, bool) else str
