"""How the help of every command is drawn: an option's name is never cut, however long it is and however narrow the terminal.

Typer's own drawing, by rich, gives names, types and negations a column each, and cuts what does not fit: 80 columns held no more than
`--objective.adve…`. Here a name that is wider than its column has a line of its own.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand

from aegen.untrusted import shown

WIDEST = 110
"""Columns of a page of help, however wide the terminal is: longer lines are hard to read."""

_COLUMN = 34  # of the names, where there is room for two columns
_NARROW = 72  # columns, below which there is none
_MARGIN = 2
_NAMES = re.compile(r"(--?[^\s,/]+(?:(?:, | / )--?[^\s,/]+)*)(.*)", re.DOTALL)


class Command(TyperCommand):
    """A command whose options stand under the headings that they name."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options, a heading each; the text of `--help`."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(row)
        for heading in sorted(panels, key=["Arguments", "Options"].__contains__, reverse=True):
            formatter.write(panel(heading, panels[heading], formatter.width))

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """What may follow; Typer would spend half the time on rich, to take markup out of texts that have none."""
        found = super().shell_complete(ctx, incomplete)
        without_rich()
        return found


def without_rich() -> None:
    """Let rich not be found by Typer, in a process that ends when completions are written."""
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]


def page(examples: Sequence[str], *more: str) -> str:
    """What stands below the options: examples, a line each, which a shell can be given."""
    return "\n\n".join(["\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples), *more])


def panel(heading: str, rows: Iterable[tuple[str, str]], width: int) -> str:
    """A heading and below it names beside what they mean, in lines of at most `width` where words allow it."""
    rows = [(shown(name, most=1000), shown(text, most=4000)) for name, text in rows]
    column = min(max(len(name) for name, _ in rows), _COLUMN)
    lines = ["", styled(f"{shown(heading)}:", bold=True)]
    for name, text in rows:
        beside = width >= _NARROW and len(name) <= column
        indent = _MARGIN + column + 2 if width >= _NARROW else _MARGIN + 4
        told = _wrapped(text, max(width - indent, 20))
        if beside:
            first, *told = told or [""]
            lines.append(f"{' ' * _MARGIN}{_coloured(name)}{' ' * (column - len(name))}  {first}".rstrip())
        else:
            lines += [f"{' ' * _MARGIN}{_coloured(part)}" for part in _parts(name, width - _MARGIN)]
        lines += [f"{' ' * indent}{line}" for line in told]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of words; a short default is not torn from what announces it."""
    whole = re.sub(r"\[default: [^\]]{1,24}\]", lambda found: found[0].replace(" ", "\xa0"), text.replace("\\n", " "))
    lines = textwrap.wrap(whole, width, break_on_hyphens=False, break_long_words=False)
    return [line.replace("\xa0", " ") for line in lines]


def _parts(name: str, width: int) -> list[str]:
    """A name with its negation and its type in as few lines as can hold them; a line breaks between choices at most."""
    if len(name) <= width:
        return [name]
    first, *rest = re.split(r" (?=/ )|(?<!/) (?=[^/])", name, maxsplit=1)
    lines = [first]
    for choices in rest:  # between two of them, if they are many
        some = textwrap.wrap(choices.replace(" ", "\xa0").replace("|", "| "), width - 2, break_on_hyphens=False)
        lines += [f"  {line.replace('| ', '|').replace(chr(0xA0), ' ')}" for line in some]
    return lines


def _coloured(name: str) -> str:
    found = _NAMES.fullmatch(name.strip())
    if found is None:
        return styled(name, fg=typer.colors.CYAN)
    indent = name[: len(name) - len(name.lstrip())]
    return indent + styled(found[1], fg=typer.colors.CYAN) + (styled(found[2], dim=True) if found[2] else "")


def styled(text: str, **style: Any) -> str:
    """`text` in colours, which Typer takes out where there is no terminal."""
    return text if "NO_COLOR" in os.environ else typer.style(text, **style)
