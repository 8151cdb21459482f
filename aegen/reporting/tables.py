"""The numbers of several runs side by side: one table for each protocol and each set of images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aegen.evaluation import Evaluation, Number
from aegen.reporting.runs import Run

_OF_THE_MODEL = ("sampler",)  # a choice that a protocol may leave to the model
BEST, TIE = "best", "tie"
_MANY = 6  # numbers of one metric, such as one for each dimension, beyond which they stand below the others


@dataclass(frozen=True)
class Cell:
    """One number of one run.

    Attributes:
        low, high: a 95 % interval, where there is one.
        mark: `best`, or `tie` where its interval overlaps that of the best; else nothing.
    """

    value: float
    low: float | None = None
    high: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Row:
    """One number of every run, in their order; None where a run has none."""

    metric: str
    name: str
    better: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Skipped:
    """Metrics that were not measured of some runs, and why."""

    metrics: tuple[str, ...]
    runs: tuple[str, ...]
    reason: str


@dataclass
class Table:
    """What one protocol found on one set of images.

    Attributes:
        runs: names, in the order of the cells.
        notes: what a reader should know, such as why nothing is marked as best.
    """

    protocol: str
    data: str
    runs: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    rules: dict[str, Any] = field(default_factory=dict)


def tables(runs: Sequence[Run], first: str) -> list[Table]:
    """Every protocol by which a run was evaluated, the one named `first` before the others, and those of most runs first."""
    keys: dict[tuple[str, str], None] = {}
    for run in runs:
        for found in run.evaluations:
            keys[str(found.protocol.get("name")), str(found.data.get("name"))] = None
    made = []
    for protocol, data in keys:
        having = [(run, one) for run in runs if (one := run.evaluated(protocol, data)) is not None]
        if having:
            made.append(_table(protocol, data, having))
            apart = [(run.name, why) for run, _ in having for why in run.apart(protocol, data)]
            made[-1].notes += [f"of the evaluations of {name}, {why}, and not in this table" for name, why in apart]
    for table in made:
        others = [one for one in made if one.protocol == table.protocol and not set(one.runs) & set(table.runs)]
        if others:
            told = ", ".join(f"{', '.join(one.runs)} on {one.data}" for one in others)
            table.notes.insert(
                0, f"these are numbers of {table.data}; not to be compared with those of other images ({told})"
            )
    return sorted(made, key=lambda table: (table.protocol != first, -len(table.runs)))


def _table(protocol: str, data: str, having: Sequence[tuple[Run, Evaluation]]) -> Table:
    evaluations = [one for _, one in having]
    names = [run.name for run, _ in having]
    notes, fair = _differences(names, evaluations)
    wanted: dict[tuple[str, str], str] = {}
    for one in evaluations:
        for number in one.numbers:
            wanted.setdefault((number.metric, number.name), number.better)
    rows: list[Row] = []
    for (metric, name), better in wanted.items():
        cells = [_cell(one.numbers, metric, name) for one in evaluations]
        if not any(row.name == name and _same(row.cells, cells) for row in rows):
            rows.append(Row(metric, name, better, tuple(marked(cells, better) if fair else cells)))
    numbers = Counter(row.metric for row in rows)
    rows.sort(key=lambda row: numbers[row.metric] > _MANY)
    told: dict[str, list[str]] = {}
    for one, run in zip(evaluations, names, strict=True):
        for note in one.notes:
            told.setdefault(note, []).append(run)
    notes += [note if len(who) == len(names) else f"{note} ({', '.join(who)})" for note, who in told.items()]
    metrics = {metric: None for metric, _ in wanted}
    for one, run in zip(evaluations, names, strict=True):
        looked = {number.metric for number in one.numbers} | one.skipped.keys()
        without = [metric for metric in metrics if metric not in looked]
        if without:
            notes.append(f"{run} was evaluated without {', '.join(without)}; aegen evaluate adds what is missing")
    return Table(protocol, data, names, rows, notes, _skipped(names, evaluations), evaluations[0].protocol)


def _skipped(names: Sequence[str], evaluations: Sequence[Evaluation]) -> list[Skipped]:
    """What did not apply; metrics of the same runs with the same reason together."""
    runs: dict[tuple[str, str], list[str]] = {}
    for one, run in zip(evaluations, names, strict=True):
        for metric, reason in one.skipped.items():
            runs.setdefault((metric, reason), []).append(run)
    metrics: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (metric, reason), who in runs.items():
        metrics.setdefault((reason, tuple(who)), []).append(metric)
    return [Skipped(tuple(which), who, reason) for (reason, who), which in metrics.items()]


def _cell(numbers: Sequence[Number], metric: str, name: str) -> Cell | None:
    for number in numbers:
        if (number.metric, number.name) == (metric, name):
            return Cell(number.value, number.low, number.high)
    return None


def _same(row: Sequence[Cell | None], cells: Sequence[Cell | None]) -> bool:
    """Whether two metrics say the same, as an objective's own terms and those of the bound often do."""
    return all(
        math.isclose(a.value, b.value, rel_tol=1e-4) if a is not None and b is not None else a is b
        for a, b in zip(row, cells, strict=True)
    )


def _differences(names: Sequence[str], evaluations: Sequence[Evaluation]) -> tuple[list[str], bool]:
    """What was not the same for all, and whether their numbers may still be compared."""
    notes, fair = [], True

    def look(what: str, values: Sequence[Any]) -> bool:
        if all(value == values[0] for value in values):
            return False
        told = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
        notes.append(f"{what} differs: {told}")
        return True

    fair &= not look("the number of held-out images", [one.data.get("held_out") for one in evaluations])
    fair &= not look("the shape of the images", [_shape(one) for one in evaluations])
    if fair:
        fair &= not look("the fingerprint of the data", [one.data.get("fingerprint") for one in evaluations])
    for key in {key: None for one in evaluations for key in one.protocol}:
        differs = look(f"{key} of the protocol", [one.protocol.get(key) for one in evaluations])
        fair &= not differs or key in _OF_THE_MODEL
    if not fair:
        notes.append("so these numbers are not of the same images by the same rules, and none is marked as the best")
    return notes, fair


def _shape(one: Evaluation) -> str:
    told = one.model.get("image")
    channels, *sides = told if isinstance(told, list) and told else [0]
    return "×".join(str(n) for n in [*sides, channels])


def marked(cells: Sequence[Cell | None], better: str) -> list[Cell | None]:
    """The best of at least two is marked, and those whose interval overlaps its own."""
    finite = [cell for cell in cells if cell is not None and math.isfinite(cell.value)]
    if better not in ("lower", "higher") or len(finite) < 2:
        return list(cells)
    best = (min if better == "lower" else max)(finite, key=lambda cell: cell.value)

    def mark(cell: Cell) -> str:
        if cell.value == best.value:
            return BEST
        return TIE if _overlap(cell, best) else ""

    return [c and Cell(c.value, c.low, c.high, mark(c) if c in finite else "") for c in cells]


def _overlap(a: Cell, b: Cell) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low <= b.high and b.low <= a.high


def figure(value: float) -> str:
    """Four significant digits, thousands grouped."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:#.4g}".rstrip(".")
