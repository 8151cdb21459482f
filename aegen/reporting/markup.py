"""Pieces of HTML that every section uses; what comes from a run is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from aegen.reporting.charts import colour
from aegen.untrusted import shown


def text(value: object) -> str:
    """Plain text, in which nothing is unseen or turned round."""
    return escape(shown(value))


def code(value: str) -> str:
    """Text whose lines stay lines, each shown as `text` shows it."""
    return f"<pre>{chr(10).join(map(text, value.splitlines()))}</pre>"


def section(key: str, title: str, *body: str) -> str:
    """A part of the page with a heading that can be linked to."""
    return f'<section id="{key}"><h2>{text(title)}</h2>{"".join(body)}</section>'


def say(*sentences: str) -> str:
    """A paragraph that explains what is seen."""
    return f'<p class="say">{" ".join(text(s) for s in sentences)}</p>'


def who(index: int, name: str) -> str:
    """A run's name with its colour."""
    return f'<span class="who"><i class="dot {colour(index)}"></i>{text(name)}</span>'


def missing(index: int, name: str, reason: str) -> str:
    """Why a run has nothing here."""
    return f'<p class="missing">{who(index, name)}: {text(reason)}</p>'


def row(index: int, name: str, picture: str) -> str:
    """A run's name and its strip of pictures."""
    return f'<div class="strip">{who(index, name)}{picture}</div>'


def scroll(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table in a box of its own, whose first column names the rows; cells are HTML."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def fold(title: str, body: str) -> str:
    """Something long that opens when it is asked for."""
    return f"<details><summary>{text(title)}</summary>{body}</details>"


def listed(items: Iterable[str]) -> str:
    """Plain sentences, one a line."""
    shown = "".join(f"<li>{text(item)}</li>" for item in items)
    return f"<ul>{shown}</ul>" if shown else ""
