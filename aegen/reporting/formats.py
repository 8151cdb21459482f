"""A table of numbers as text: for a terminal, as CSV, JSON or LaTeX."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from aegen.reporting.tables import BEST, TIE, Cell, Row, Table, figure
from aegen.untrusted import shown

ARROWS = {"lower": "↓", "higher": "↑"}
FORMATS = ("table", "csv", "json", "latex")
_FORMULA = tuple("=+-@\t\r＝＋－＠")
_FEW = 4  # runs that stand beside each other
_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "[": "{[}", "]": "{]}", "*": "{*}", "×": r"$\times$", "→": r"$\to$",
    "↓": r"$\downarrow$", "↑": r"$\uparrow$", "–": "--", "β": r"$\beta$",
}  # fmt: skip


def label(row: Row) -> str:
    """`mse ↓`."""
    return f"{row.name} {ARROWS.get(row.better, '')}".rstrip()


def turned(table: Table) -> bool:
    """Whether runs are the rows, because there are many of them."""
    return len(table.runs) > max(_FEW, len(table.rows))


def grid(table: Table) -> tuple[list[str], list[list[str]]]:
    """Head and rows for a terminal; the best has a `*`, a tie with it a `≈`."""
    return _laid(table, "run" if turned(table) else "number", _plain)


def _plain(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    interval = "" if cell.low is None or cell.high is None else f" [{figure(cell.low)}, {figure(cell.high)}]"
    return figure(cell.value) + {BEST: " *", TIE: " ≈"}.get(cell.mark, "") + interval


def _laid(table: Table, corner: str, show: Any) -> tuple[list[str], list[list[str]]]:
    """Metrics by runs, or runs by metrics."""
    body = [[label(row), *(show(cell) for cell in row.cells)] for row in table.rows]
    if not turned(table):
        return [corner, *table.runs], body
    columns = [list(column) for column in zip(*body, strict=True)] or [[]]
    return [corner, *columns[0]], [[run, *cells] for run, cells in zip(table.runs, columns[1:], strict=True)]


def remarks(tables: Sequence[Table]) -> list[str]:
    """What stands below the tables, each sentence once, with the tables that it concerns where that is not all of them."""
    said: dict[str, list[str]] = {}
    for one in tables:
        where = f"{one.protocol}, {one.data}"
        for note in one.notes:
            said.setdefault(f"note: {note}", []).append(where)
        for reason in dict.fromkeys(gone.reason for gone in one.skipped):
            told = []
            for gone in (gone for gone in one.skipped if gone.reason == reason):
                some = f" of {', '.join(gone.runs)}" if set(gone.runs) != set(one.runs) else ""
                told.append(f"{', '.join(gone.metrics)}{some}")
            said.setdefault(f"not measured: {'; '.join(told)} ({reason})", []).append(where)
    return [line if len(where) == len(tables) else f"{line} [{'; '.join(where)}]" for line, where in said.items()]


def as_csv(tables: Sequence[Table]) -> str:
    """A line for each number of each protocol, whole precision; runs of all tables are columns."""
    runs = list(dict.fromkeys(run for table in tables for run in table.runs))
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    parts = [(run, f"{run} low", f"{run} high", f"{run} mark") for run in runs]

    def write(cells: Sequence[Any]) -> None:
        lines.writerow([_neutral(cell) if isinstance(cell, str) else cell for cell in cells])

    write(["protocol", "data", "metric", "number", "better", *(name for part in parts for name in part)])
    for table in tables:
        for row in table.rows:
            cells = dict(zip(table.runs, row.cells, strict=True))
            values: list[Any] = []
            for run in runs:
                cell = cells.get(run)
                values += ["", "", "", ""] if cell is None else [cell.value, cell.low, cell.high, cell.mark]
            write([table.protocol, table.data, row.metric, row.name, row.better, *values])
    return out.getvalue()


def _neutral(cell: str) -> str:
    """Text in one line that a spreadsheet does not take for a formula, also where it splits cells at other signs than commas."""
    text = re.sub(r"([;|]\s*)(?=[=+@-])", r"\1'", shown(cell))
    return f"'{text}" if text.lstrip()[:1] in _FORMULA else text


def to_dict(table: Table) -> dict[str, Any]:
    """As JSON values; each row has a cell for each run that has this number."""
    return {
        "protocol": table.protocol,
        "rules": table.rules,
        "data": table.data,
        "runs": table.runs,
        "rows": [
            {
                "metric": row.metric,
                "number": row.name,
                "better": row.better,
                "cells": {run: _finite(c) for run, c in zip(table.runs, row.cells, strict=True) if c is not None},
            }
            for row in table.rows
        ],
        "notes": table.notes,
        "not_measured": [asdict(one) for one in table.skipped],
    }


def _finite(cell: Cell) -> dict[str, Any]:
    """A number that is not finite is null, which JSON has."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(cell).items()}


def as_json(tables: Sequence[Table]) -> str:
    """One list of tables."""
    return json.dumps([to_dict(table) for table in tables], ensure_ascii=False, indent=1) + "\n"


def as_latex(tables: Sequence[Table]) -> str:
    """A `tabular` with the rules of booktabs for each table; the best and its ties are bold."""
    return "\n".join(_tabular(table) for table in tables)


def _tabular(table: Table) -> str:
    head, rows = _laid(table, "", _bold)
    lines = [
        "% \\usepackage{booktabs}",
        f"% protocol {shown(table.protocol)}, data {shown(table.data)}; 95 % intervals in brackets; bold: the best, and whatever overlaps it",
        f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        "\\toprule",
        " & ".join(escape(cell) for cell in head) + r" \\",
        "\\midrule",
        *(" & ".join([escape(first), *cells]) + r" \\" for first, *cells in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _bold(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    shown = _grouped(figure(cell.value))
    shown = f"\\textbf{{{shown}}}" if cell.mark else shown
    if cell.low is None or cell.high is None:
        return shown
    return f"{shown} {{\\scriptsize [{_grouped(figure(cell.low))}, {_grouped(figure(cell.high))}]}}"


def _grouped(text: str) -> str:
    """A comma between digits is punctuation to LaTeX, and a hyphen no minus."""
    return text.replace(",", "{,}").replace("-", "$-$")


def escape(text: str) -> str:
    """Plain text for LaTeX, in one line; brackets and stars too, which a row's end before them would take for its options."""
    return "".join(_ESCAPES.get(letter, letter) for letter in shown(text))
