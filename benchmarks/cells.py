"""Cells of Markdown tables: whatever a name holds, a row stays one row, and nothing in it is markup."""

from __future__ import annotations

from aegen.untrusted import shown

_MARKUP = str.maketrans({letter: f"&#{ord(letter)};" for letter in "|`<>[]*\\"})


def cell(text: object) -> str:
    """Text that a cell, or a line of a list, may be given; as entities, so that a table is still split at its bars. In backticks they would
    be shown as they are: what is code stands in <code>."""
    return shown(str(text).replace("&", "&amp;")).translate(_MARKUP)
