"""The sections of a page; each says why something is missing instead of failing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aegen.errors import counted
from aegen.reporting import charts, formats
from aegen.reporting.figures import PAIRS, Sights
from aegen.reporting.markup import code, fold, listed, missing, row, say, scroll, section, text, who
from aegen.reporting.runs import NOT_EVALUATED, Run
from aegen.reporting.speed import duration, file_size, images_per_second, training_seconds
from aegen.reporting.sprites import sprite
from aegen.reporting.tables import BEST, TIE, Cell, Row, Table, figure
from aegen.settings import to_toml

_CARDS = 3  # more of them would fill a small screen
_NONE = '<span class="none">–</span>'


def overview(runs: Sequence[Run]) -> str:
    """What each run is made of: a card for each, or, of many, a table."""
    facts = [_facts(run) for run in runs]
    if len(runs) > _CARDS:
        lines = [[who(i, run.name), *map(text, facts[i].values())] for i, run in enumerate(runs)]
        notes = [f"{run.name}: {note}" for run in runs for note in run.notes]
        return scroll(["", *facts[0]], lines, "facts left") + listed(notes)
    cards = []
    for index, run in enumerate(runs):
        body = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts[index].items())
        cards.append(f'<article class="card">{who(index, run.name)}<dl>{body}</dl>{listed(run.notes)}</article>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _facts(run: Run) -> dict[str, str]:
    config = run.config
    return {
        "objective": config["objective.name"],
        "architecture": config["arch.name"],
        "bottleneck": bottleneck(run),
        "likelihood": config["likelihood.name"],
        "data": images_of(run),
        "steps": f"{run.header['step']:,}" if run.header else "no checkpoint",
    }


def bottleneck(run: Run) -> str:
    """Its name and the shape of a latent."""
    shape = "×".join(map(str, run.header["latent"])) if run.header else ""
    return f"{run.config['bottleneck.name']} {shape}".strip()


def images_of(run: Run) -> str:
    """The data and the shape of an image."""
    if not run.header:
        return str(run.config.get("data.name", ""))
    channels, height, width = run.header["image"]
    return f"{run.header['data']['name']} {height}×{width}×{channels}"


# ------------------------------------------------------------------------------------------------------- numbers


def metrics(runs: Sequence[Run], tables: Sequence[Table]) -> str:
    """The numbers with their intervals; the best is marked."""
    places = {run.name: index for index, run in enumerate(runs)}
    body = [_one_table(table, places) for table in tables]
    without = [run for run in runs if not any(run.name in table.runs for table in tables)]
    for run in without:
        failed = next((note for note in run.notes if note.startswith(NOT_EVALUATED)), "aegen evaluate makes one")
        reason = f"no evaluation: {run.trouble or failed.removeprefix(NOT_EVALUATED)}"
        body.append(missing(places[run.name], run.name, reason))
    marked = any(cell and cell.mark for table in tables for r in table.rows for cell in r.cells)
    told = [
        "Of held-out images; below each number its 95 % interval, where there is one that holds the truth about as often.",
        "The best is marked by a disc, and what its interval overlaps by a ring." if marked else "",
    ]
    return section("metrics", "Metrics", say(*filter(None, told)) if tables else "", *body)


def _one_table(table: Table, places: Mapping[str, int]) -> str:
    heads = [who(places[run], run) for run in table.runs]
    if formats.turned(table):
        names = [_number(r) for r in table.rows]
        lines = [[head, *(_cell(r.cells[i]) for r in table.rows)] for i, head in enumerate(heads)]
        shown = scroll(["", *names], lines, "numbers")
    elif len(heads) > 1:
        lanes = [places[run] for run in table.runs]
        lines = [[_number(r), *map(_cell, r.cells), charts.whiskers(lanes, r.cells)] for r in table.rows]
        shown = scroll(["", *heads, ""], lines, "numbers")
    else:
        shown = scroll(["", "value"], [[_number(r), _cell(r.cells[0])] for r in table.rows], "numbers")
    reasons: dict[str, list[str]] = {}
    for one in table.skipped:
        some = f" of {', '.join(one.runs)}" if len(one.runs) < len(table.runs) else ""
        reasons.setdefault(one.reason, []).append(f"{', '.join(one.metrics)}{some}")
    skipped = [f"{'; '.join(which)}: {reason}" for reason, which in reasons.items()]
    rules = ", ".join(f"{key} {value}" for key, value in table.rules.items() if key != "name" and value != "")
    parts = [
        f"<h3>Protocol {text(table.protocol)}, data {text(table.data)}</h3>",
        shown,
        listed(table.notes),
        fold("What did not apply, and why", listed(skipped)) if skipped else "",
        fold("The rules of this protocol", say(rules + ".")),
    ]
    return "".join(parts)


def _number(r: Row) -> str:
    arrow = {"lower": "lower is better", "higher": "higher is better"}.get(r.better, "")
    sign = f' <abbr title="{arrow}">{formats.ARROWS[r.better]}</abbr>' if arrow else ""
    metric = f"<small>{text(r.metric)}</small>" if r.metric != r.name else ""
    return f"{text(r.name)}{sign}{metric}"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return _NONE
    value, interval = _apart(cell)
    kind = f' class="{cell.mark}"' if cell.mark else ""
    spoken = {BEST: "the best", TIE: "its interval overlaps that of the best"}.get(cell.mark)
    title = f' title="{spoken}"' if spoken else ""
    return f"<b{kind}{title}>{value}</b>" + (f"<small>{interval}</small>" if interval else "")


def _apart(cell: Cell | None) -> tuple[str, str]:
    if cell is None:
        return _NONE, ""
    interval = "" if cell.low is None or cell.high is None else f"{figure(cell.low)} – {figure(cell.high)}"
    return figure(cell.value), interval


def _why_silent(run: Run) -> str:
    return "".join(f": {note}" for note in run.notes if "metrics.jsonl" in note)


def curves(runs: Sequence[Run]) -> str:
    """A chart for each term."""
    drawn = charts.charts(runs)
    silent = [i for i, run in enumerate(runs) if not any(line.run == i for chart in drawn for line in chart.lines)]
    gone = [missing(i, runs[i].name, "has no metrics.jsonl with numbers" + _why_silent(runs[i])) for i in silent]
    if not drawn:
        return section("curves", "Curves", *gone)
    legend = "".join(who(i, run.name) for i, run in enumerate(runs) if i not in silent) if len(runs) > 1 else ""
    switch = (
        '<fieldset class="switch"><legend>Scale</legend>'
        '<label><input type="radio" name="scale" value="lin" checked>linear</label>'
        '<label><input type="radio" name="scale" value="log">logarithmic</label></fieldset>'
    )
    kinds = '<span class="who"><i class="key train"></i>training</span><span class="who"><i class="key validation"></i>validation</span>'
    shown = [f"<figure><figcaption>{text(chart.term)}</figcaption>{charts.svg(chart)}</figure>" for chart in drawn]
    first, later = shown[:9], shown[9:]
    return section(
        "curves",
        "Curves",
        say(
            "By step; losses are nats per image.",
            "The linear scale leaves out values that only the first tenth of a run had; the logarithmic one shows all, where all are positive.",
        ),
        f'<div class="legend">{legend}{kinds}{switch}</div><div class="charts">{"".join(first)}</div>',
        fold(f"{len(later)} more", f'<div class="charts">{"".join(later)}</div>') if later else "",
        *gone,
    )


# ------------------------------------------------------------------------------------------------------ pictures


def _alike(sights: Sequence[Sights]) -> list[tuple[str, list[int]]]:
    """Runs that show the same images."""
    groups: dict[str, list[int]] = {}
    for index, seen in enumerate(sights):
        if seen.originals is not None:
            groups.setdefault(seen.data, []).append(index)
    return list(groups.items())


def _gone(key: str, runs: Sequence[Run], sights: Sequence[Sights]) -> list[str]:
    return [missing(i, runs[i].name, seen.missing[key]) for i, seen in enumerate(sights) if key in seen.missing]


def reconstructions(runs: Sequence[Run], sights: Sequence[Sights]) -> str:
    """The same held-out images by every run."""
    body = []
    groups = _alike(sights)
    for data, members in groups:
        originals = sights[members[0]].originals
        assert originals is not None
        title = f"<h3>{text(data)}</h3>" if len(groups) > 1 else ""
        top = f'<div class="strip"><span class="who plain">original</span>{sprite(originals, "held-out images")}</div>'
        rows = []
        for i in members:
            recon, errors = sights[i].recon, sights[i].errors
            if recon is not None:
                mean = figure(sum(errors) / len(errors))
                rows.append(
                    row(i, runs[i].name, sprite(recon, f"reconstructions by {runs[i].name}, mean error {mean}"))
                )
        body.append(f'{title}<div class="strips">{top}{"".join(rows)}</div>')
    told = say("Held-out images and, below, what becomes of them, by the mean of the posterior.") if body else ""
    return section("reconstructions", "Reconstructions", told, *body, *_gone("reconstructions", runs, sights))


def samples(runs: Sequence[Run], sights: Sequence[Sights]) -> str:
    """Generated images: as the model draws them, and from the prior where that is something else."""
    own: list[str] = []
    prior: list[str] = []
    for i, seen in enumerate(sights):
        for place, (sampler, images) in enumerate(seen.samples.items()):
            columns = max(4, round(len(images) ** 0.5))
            picture = sprite(images, f"samples of {runs[i].name}, {sampler}", columns=columns)
            caption = f"<figcaption>{who(i, runs[i].name)}<small>{text(sampler)}</small></figcaption>"
            (prior if place and sampler == "prior" else own).append(f'<figure class="card">{caption}{picture}</figure>')
    if len(runs) == 1:  # both beside each other
        own, prior = own + prior, []
    body = [f'<div class="sheets">{"".join(own)}</div>'] if own else []
    if prior:
        body.append(f'<h3>Straight from the prior</h3><div class="sheets">{"".join(prior)}</div>')
    asked = any(seen.usual != next(iter(seen.samples), seen.usual) for seen in sights)
    how = "As was asked for, and as each model draws by default" if asked else "As each model draws by default"
    told = say(f"{how}; the sampler stands beside its name. The seed is the same.") if own else ""
    return section("samples", "Samples", told, *body, *_gone("samples", runs, sights))


def interpolations(runs: Sequence[Run], sights: Sequence[Sights]) -> str:
    """The way between the same pairs."""
    body = []
    groups = _alike(sights)
    for data, members in groups:
        title = f"<h3>{text(data)}</h3>" if len(groups) > 1 else ""
        blocks = []
        for pair in range(PAIRS):
            rows = [
                row(i, runs[i].name, sprite(sights[i].ways[pair], f"way {pair + 1} by {runs[i].name}"))
                for i in members
                if pair < len(sights[i].ways)
            ]
            if rows:
                blocks.append("".join(rows))
        if len(members) == 1:
            blocks = ["".join(blocks)] if blocks else []
        blocks = [f'<div class="strips">{block}</div>' for block in blocks]
        body += [title, *blocks] if blocks else []
    told = say("From the latent of one held-out image straight to that of another.") if body else ""
    return section("interpolations", "Interpolations", told, *body, *_gone("interpolations", runs, sights))


def traversals(runs: Sequence[Run], sights: Sequence[Sights]) -> str:
    """One latent dimension at a time."""
    cards = []
    for i, seen in enumerate(sights):
        if not seen.journeys:
            continue
        scale = 1 if seen.journeys[0].frames.shape[-1] >= 24 else None
        rows = [
            f'<div class="strip"><span class="who plain">z{j.dimension}<small>{figure(j.spread)}</small></span>'
            f"{sprite(j.frames, f'dimension {j.dimension} from -3 to 3', scale=scale)}</div>"
            for j in seen.journeys
        ]
        active = f"<small>{seen.active[0]} of {seen.active[1]} dimensions active</small>" if seen.active else ""
        caption = f"<figcaption>{who(i, runs[i].name)}{active}</figcaption>"
        cards.append(f'<figure class="card">{caption}<div class="strips tight">{"".join(rows)}</div></figure>')
    told = (
        say(
            "One dimension of an image's latent is moved from -3 to 3 standard deviations of the encoded held-out images, the most active first.",
            "Beside its name stands the standard deviation of its posterior mean; a dimension is active where the variance is above 0.01.",
        )
        if cards
        else ""
    )
    body = [f'<div class="sheets wide">{"".join(cards)}</div>'] if cards else []
    return section("traversals", "Latent traversals", told, *body, *_gone("traversals", runs, sights))


# --------------------------------------------------------------------------------------------------------- facts


def cost(runs: Sequence[Run], sights: Sequence[Sights]) -> str:
    """Speed, size and time."""

    def line(name: str, tell: Callable[[Run, Sights], str]) -> list[str]:
        return [text(name), *(tell(run, seen) or _NONE for run, seen in zip(runs, sights, strict=True))]

    def part(name: str) -> Callable[[Run, Sights], str]:
        return lambda run, seen: f"{seen.sizes[name]:,}" if name in seen.sizes else ""

    def speed(run: Run, seen: Sights) -> str:
        found = images_per_second(run)
        return f"{found:,.0f}" if found else ""

    def time(run: Run, seen: Sights) -> str:
        found = training_seconds(run)
        return duration(found) if found else ""

    lines = [
        line("parameters", lambda run, seen: f"{sum(seen.sizes.values()):,}" if seen.sizes else ""),
        *(line(f"… of the {name}", part(name)) for name in ("encoder", "bottleneck", "decoder", "likelihood")),
        line("checkpoint file", lambda run, seen: file_size(run.checkpoint.stat().st_size) if run.checkpoint else ""),
        line("training, images a second", speed),
        line("training time", time),
        line("trained on", lambda run, seen: text(device(run))),
    ]
    lines = [one for one in lines if any(cell not in (_NONE, "0", "1") for cell in one[1:])]
    return section(
        "cost",
        "Speed and size",
        scroll(["", *(who(i, run.name) for i, run in enumerate(runs))], lines, "facts"),
        say(
            "The checkpoint also holds what training goes on with; training time is that of the steps, without validation and pictures."
        ),
    )


def device(run: Run) -> str:
    """What it was trained on, in words."""
    there = run.environment.get("device", {})
    if not there:
        return ""
    name = str(there.get("name", there.get("type", "")))
    threads = f", {counted(there['threads'], 'thread')}" if there.get("type") == "cpu" and "threads" in there else ""
    many = f" ×{there['processes']}" if there.get("processes", 1) != 1 else ""
    return f"{name}{many}{threads}"


def differing(rows: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Only those whose values are not all the same."""
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


_ABSENT = object()


def _side_by_side(tables: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for table in tables for key in table)
    return {key: [table.get(key, _ABSENT) for table in tables] for key in keys}


def _value(value: Any) -> str:
    if value is _ABSENT:
        return _NONE
    return f"<code>{text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))}</code>"


def _settings(runs: Sequence[Run], rows: Mapping[str, Sequence[Any]]) -> str:
    head = ["", *(who(i, run.name) for i, run in enumerate(runs))]
    return scroll(head, ([f"<code>{text(key)}</code>", *map(_value, values)] for key, values in rows.items()), "facts")


def configuration(runs: Sequence[Run]) -> str:
    """The settings that differ, and all of each run folded."""
    whole = [fold(f"All settings of {run.name}", code(to_toml(run.tables))) for run in runs]
    if len(runs) == 1:
        return section("configuration", "Configuration", *whole)
    rows = differing(_side_by_side([run.config for run in runs]))
    shown = _settings(runs, rows) if rows else say("All settings are the same.")
    return section("configuration", "Configuration", say("Only settings that differ.") if rows else "", shown, *whole)


def environment(runs: Sequence[Run]) -> str:
    """Versions and machine."""
    flat = []
    for run in runs:
        there = {k: v for k, v in run.environment.items() if k not in ("versions", "device", "command", "folder")}
        versions = run.environment.get("versions", {})
        flat.append({**there, "device": device(run), **(versions if isinstance(versions, dict) else {})})
    rows = _side_by_side(flat)
    different = differing(rows)
    if len(runs) == 1 or not rows:
        return section("environment", "Environment", _settings(runs, rows))
    note = "What differs is shown." if different else "The same versions on the same kind of machine."
    top = _settings(runs, different) if different else ""
    return section("environment", "Environment", say(note), top, fold("All of it", _settings(runs, rows)))
