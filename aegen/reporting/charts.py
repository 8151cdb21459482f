"""Curves of metrics.jsonl as SVG: one small chart for each term, one colour for each run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from aegen.reporting.runs import Run
from aegen.reporting.tables import Cell, figure
from aegen.untrusted import shown

WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 20, 8, 24
_NOT_TERMS = ("step", "split", "epoch", "images_per_second", "data_wait", "checkpoint_stall")
_HUGE = 1e30  # values beyond, and NaN, are not drawn: the picture of the others would be lost
_MOST = 240  # points of a line: more than pixels are not seen
_SETTLING = 0.1  # of a run; its first values are so high that nothing else would be seen


@dataclass(frozen=True)
class Line:
    """One term of one run, in training or in validation: (step, value)."""

    run: int
    name: str
    split: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Chart:
    """Everything of one term."""

    term: str
    lines: tuple[Line, ...]


def charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart for each term, those of most runs first, the loss before all."""
    terms: dict[str, list[Line]] = {}
    for index, run in enumerate(runs):
        points: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for line in run.lines:
            for key, value in line.items():
                if key not in _NOT_TERMS and isinstance(value, int | float) and abs(value) <= _HUGE:
                    drawn = float(value) if abs(value) >= 1 / _HUGE else 0.0
                    points.setdefault((key, line["split"]), []).append((line["step"], drawn))
        for (key, split), found in points.items():
            if key != "lr" or len({value for _, value in found}) > 1:
                terms.setdefault(key, []).append(Line(index, run.name, split, tuple(thinned(found))))
    shared = {term: len({line.run for line in lines}) for term, lines in terms.items()}
    order = sorted(terms, key=lambda term: (term != "loss", -shared[term]))
    return [Chart(term, tuple(terms[term])) for term in order]


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most so many points, evenly taken, with the last."""
    every = math.ceil(len(points) / _MOST)
    return list(points[len(points) - 1 :: -every][::-1]) if points else []


def svg(chart: Chart) -> str:
    """Both scales in one picture, of which the page shows one; logarithmic only where everything is positive."""
    steps = [step for line in chart.lines for step, _ in line.points]
    last = max(max(steps), 1)
    late = [
        v for line in chart.lines for s, v in line.points if s > _SETTLING * line.points[-1][0] or len(line.points) < 3
    ]
    every = [v for line in chart.lines for _, v in line.points]
    scales = [_scale(late or every, log=False)]
    if min(every) > 0:
        scales.append(_scale(every, log=True))
    kinds = ["lin", "log"] if len(scales) > 1 else ["lin both"]
    drawn = "".join(_plot(chart, last, scale, kind) for scale, kind in zip(scales, kinds, strict=True))
    data = [
        {
            "run": line.run,
            "name": shown(line.name),
            "split": line.split,
            "points": [[s, _short(v)] for s, v in line.points],
        }
        for line in chart.lines
    ]
    told = escape(json.dumps(data, separators=(",", ":")))
    frame = json.dumps([_LEFT, WIDTH - _RIGHT, last])
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(shown(chart.term))} by step" '
        f'data-lines="{told}" data-frame="{frame}">{_steps(last)}{drawn}'
        f'<line class="cursor" x1="-9" x2="-9" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/></svg>'
    )


def _short(value: float) -> float:
    return float(f"{value:.5g}")


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def y(self, value: float) -> float:
        """Pixels from the top."""
        if self.log:
            share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP)


def _scale(values: Sequence[float], *, log: bool) -> _Scale:
    low, high = min(values), max(values)
    if log:
        low, high = low / 1.08, high * 1.08
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if math.log10(high / low) < 2.2 else (1,)
        marks = [m * 10.0**p for p in powers for m in steps]
        kept = [mark for mark in marks if low <= mark <= high]
        kept = kept[:: max(1, math.ceil(len(kept) / 7))]
        return _Scale(low, high, True, tuple(kept if len(kept) > 1 else [low * 1.08, high / 1.08]))
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = (low if 0 <= low < room else low - room), high + room
    low = 0.0 if 0 <= low < 0.15 * high else low
    step = _nice((high - low) / 4)
    first = math.ceil(low / step)
    ticks = tuple(step * n for n in range(first, math.floor(high / step) + 1))
    return _Scale(low, high, False, ticks)


def _nice(rough: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten, above."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _tick(value: float) -> str:
    """As short as it can be told: 0.05, 150, 12k, 2M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if name == 'k' else unit):g}{name}"
    return f"{value:.4g}"


def _x(step: float, last: int) -> float:
    return _LEFT + step / last * (WIDTH - _LEFT - _RIGHT)


def _steps(last: int) -> str:
    step = max(1.0, _nice(last / 4))
    marks = [int(step * n) for n in range(int(last / step) + 1)]
    y = HEIGHT - _BOTTOM
    return "".join(
        f'<text class="tick" x="{_x(m, last):.1f}" y="{y + 15}" text-anchor="middle">{_tick(m)}</text>' for m in marks
    )


def _plot(chart: Chart, last: int, scale: _Scale, kind: str) -> str:
    marks, parts = [], []
    for tick in scale.ticks:
        y = scale.y(tick)
        marks.append(f'<line class="rule" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_tick(tick)}</text>')
    for line in chart.lines:
        places = [(_x(step, last), scale.y(value)) for step, value in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        validation = line.split == "validation"
        parts.append(f'<polyline class="{line.split} {colour(line.run)}" points="{path}"/>')
        if validation and len(places) <= 30:
            parts += [
                f'<circle class="{colour(line.run)}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places if y > 0
            ]
    # A nested svg clips what lies outside the scale, without names that other charts would share.
    box = f'x="0" y="{_TOP - 4}" width="{WIDTH}" height="{HEIGHT - _BOTTOM - _TOP + 8}"'
    inner = f'viewBox="0 {_TOP - 4} {WIDTH} {HEIGHT - _BOTTOM - _TOP + 8}"'
    return f'<g class="{kind}">{"".join(marks)}<svg {box} {inner}>{"".join(parts)}</svg></g>'


def colour(index: int) -> str:
    """The class that gives a run its colour; after eight they come again, dashed."""
    return f"c{index % 8}" + (" again" if index >= 8 else "")


def whiskers(runs: Sequence[int], cells: Sequence[Cell | None]) -> str:
    """The intervals of one number, of all runs on one scale, in the colours of these runs."""
    ends = [
        end
        for cell in cells
        if cell is not None and math.isfinite(cell.value)
        for end in (cell.value, cell.low, cell.high)
        if end is not None and math.isfinite(end)
    ]
    if sum(cell is not None for cell in cells) < 2 or len(ends) < 2 or min(ends) == max(ends):
        return ""
    low, high, width, lane = min(ends), max(ends), 140, 9

    def x(value: float) -> str:
        return f"{6 + (value - low) / (high - low) * (width - 12):.1f}"

    parts = []
    for place, (index, cell) in enumerate(zip(runs, cells, strict=True)):
        if cell is None or not math.isfinite(cell.value):
            continue
        y = lane * place + lane / 2 + 1
        if cell.low is not None and cell.high is not None:
            parts.append(f'<line class="{colour(index)}" x1="{x(cell.low)}" x2="{x(cell.high)}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="{colour(index)}" cx="{x(cell.value)}" cy="{y}" r="3"/>')
    height = lane * len(cells) + 2
    spoken = f"from {figure(low)} to {figure(high)}"
    return f'<svg class="whiskers" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{spoken}">{"".join(parts)}</svg>'
