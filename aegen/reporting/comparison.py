"""Compare runs, or describe one: what `aegen compare`, `aegen report` and a notebook call."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aegen import evaluation, registry
from aegen.atomic import write_text
from aegen.errors import AegenError, UsageError, did_you_mean, listing
from aegen.evaluation import PROTOCOLS, evaluate, save
from aegen.evaluation.protocol import protocol as protocol_of
from aegen.inference import load
from aegen.inference.loading import Output, Say, silent
from aegen.inference.samplers import require_drawable
from aegen.places import locate
from aegen.reporting import card, formats, sections
from aegen.reporting.figures import Sights, look
from aegen.reporting.merging import looked_at
from aegen.reporting.page import page
from aegen.reporting.runs import NOT_EVALUATED, Run, read_runs
from aegen.reporting.tables import Table, tables

_USUAL = "aegen-1"
_NAMED = 4  # runs that a title names


@dataclass
class Comparison:
    """Runs and their numbers, a table for each protocol.

    Attributes:
        sampler: that draws on its page, beside each model's own choice.
    """

    runs: list[Run]
    tables: list[Table]
    sampler: str | None = None

    def text(self, form: str) -> str:
        """The tables as `csv`, `json` or `latex`."""
        return _TEXTS[form](self.tables)

    def to_list(self) -> list[dict[str, Any]]:
        """The tables as JSON has them."""
        return [formats.to_dict(one) for one in self.tables]

    def grids(self) -> list[tuple[list[str], list[list[str]]]]:
        """The tables for a terminal, head and rows; the best has a `*`, a tie with it a `≈`."""
        return [formats.grid(one) for one in self.tables]

    def remarks(self) -> list[str]:
        """What a reader of the tables should know."""
        missing = [run for run in self.runs if not any(run.name in one.runs for one in self.tables)]
        lines = [f"no numbers of {run.name}: {run.trouble or 'it was not evaluated'}" for run in missing]
        return [*formats.remarks(self.tables), *lines]


_TEXTS = {"csv": formats.as_csv, "json": formats.as_json, "latex": formats.as_latex}


def compare(
    places: Sequence[Path | str],
    *,
    protocol: str | None = None,
    sampler: str | None = None,
    evaluates: bool = True,
    least: int = 1,
    device: str = "auto",
    say: Say = silent,
) -> Comparison:
    """Read runs and their evaluations; what is missing is measured, and kept in their folders.

    A run without numbers is evaluated; one that was evaluated in part gets what the others have, and alone everything.

    Args:
        protocol: by which they are compared; by default one by which all of them were evaluated, else the usual one.
        sampler: how images are drawn, in numbers and pictures; by default each model's own choice.
        evaluates: whether what is missing is measured.
        least: how many runs it takes.

    Raises:
        UsageError: a place is no run folder, a run is given twice, there is no such protocol, or the sampler cannot draw from a run.
    """
    if protocol is not None and protocol not in PROTOCOLS:
        hint = did_you_mean(protocol, PROTOCOLS) or f"protocols are {listing(PROTOCOLS)}"
        raise UsageError(f"unknown protocol {protocol!r}", hint=hint)
    runs = read_runs([locate(place) for place in places])
    if len(runs) < least:
        given = f"{len(runs)} run was given" if len(places) < least else "all of these are the same run"
        raise UsageError(f"{given}, but it takes {least} or more", hint="name another run")
    for run in runs:
        for note in run.notes:
            say(f"{run.name}: {note}")
    usable = [run for run in runs if run.checkpoint is not None]
    if sampler is None:
        rules = _Rules(protocol or _shared(runs))
    else:
        registry.trust(sampler)
        rules = _Rules(protocol or _USUAL, {"sampler": sampler})
        for run in usable:
            require_drawable(load(run.checkpoint, device="cpu"), sampler)
    if evaluates and rules.by in PROTOCOLS:
        _complete(usable, rules, device, say)
    return Comparison(runs, tables(runs, rules.name), sampler)


@dataclass(frozen=True)
class _Rules:
    """A protocol, and what of it is asked for otherwise."""

    by: str
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Under which numbers by these rules stand."""
        return protocol_of(self.by, self.changes).name if self.changes else self.by


def _shared(runs: Sequence[Run]) -> str:
    """A protocol by which every run was evaluated, the usual one if that is one of them."""
    names = dict.fromkeys(str(one.protocol.get("name")) for run in runs for one in run.evaluations)
    usable = [run for run in runs if run.checkpoint is not None]
    shared = [name for name in names if all(run.evaluated(name) is not None for run in usable)]
    return _USUAL if _USUAL in shared or not shared else shared[0]


def _complete(runs: Sequence[Run], rules: _Rules, device: str, say: Say) -> None:
    """Measure what is missing: everything of a run alone or one without numbers, and of others what one of them has."""
    for run in runs:
        if run.evaluated(rules.name) is None:
            _evaluate(run, rules, (), device, say)
    installed = registry.names("metric")
    known = {run.path: looked_at(found) for run in runs if (found := run.evaluated(rules.name)) is not None}
    wanted = set(installed) if len(runs) == 1 else set().union(*known.values())
    for run in runs:
        missing = [name for name in installed if name in wanted - known.get(run.path, wanted)]
        if missing:
            _evaluate(run, rules, missing, device, say)


def _evaluate(run: Run, rules: _Rules, metrics: Sequence[str], device: str, say: Say) -> None:
    lacking = f"no {', '.join(metrics)} of it" if metrics else "no numbers of it"
    say(f"evaluating {run.name} by {rules.name}: its folder has {lacking} (--no-evaluate leaves this out)")
    count = len(run.evaluations)
    asked: dict[str, Any] = {"metrics": metrics, "quiet": True} if metrics else {}
    try:
        found = evaluate(run.checkpoint, by=rules.by, changes=rules.changes, device=device, say=say, **asked)
    except AegenError as error:
        run.notes.append(f"{NOT_EVALUATED}{run.words(error)}")
        say(f"{run.name} could not be evaluated: {error}")
        return
    try:
        save(found, None, say)
    except AegenError as error:
        say(f"the numbers of {run.name} are shown, but not kept: {error}")
    run.read_evaluations()
    if len(run.evaluations) == count:  # they could not be kept in its folder
        run.evaluations.append(found)


def write_comparison(
    found: Comparison, out: Path | None = None, *, force: bool = False, device: str = "auto", say: Say = silent
) -> Path:
    """The page of a comparison, at `out` or under the first free name that begins with `compare`.

    Args:
        force: replace what stands at `out`.

    Raises:
        UsageError: it cannot be written there.
    """
    place = check_place(out, "compare.html", force)
    runs = found.runs
    seen = look(runs, sampler=found.sampler, device=device, say=say)
    parts = [
        sections.metrics(runs, found.tables),
        *_shown(runs, seen),
    ]
    title = ", ".join(run.name for run in runs) if len(runs) <= _NAMED else f"{len(runs)} runs"
    command = shlex.join(["aegen", "compare", *(run.name for run in runs)])
    return _write(place, page("Comparison", title, sections.overview(runs), parts, command))


def write_report(
    found: Comparison, out: Path | None = None, *, force: bool = False, device: str = "auto", say: Say = silent
) -> Path:
    """The page of one run, a model card, at `out` or under the first free name that begins with `report`.

    Args:
        force: replace what stands at `out`.

    Raises:
        UsageError: it cannot be written there.
    """
    place = check_place(out, "report.html", force)
    runs, (run,) = found.runs, found.runs
    seen = look(runs, sampler=found.sampler, device=device, say=say)
    parts = [
        card.about(run, seen[0]),
        card.data(run),
        card.training(run),
        sections.metrics(runs, found.tables),
        card.limits(run, seen[0]),
        *_shown(runs, seen),
        card.left(),
    ]
    command = ["aegen", "report", run.name, *(["--sampler", found.sampler] if found.sampler else [])]
    return _write(place, page("Model card", run.name, "", parts, shlex.join(command)))


def check_place(out: Path | None, usual: str, force: bool = False) -> Output:
    """Refuse, before minutes of work, a place where no page can be.

    Raises:
        UsageError: it does not end in .html, is there already, or its folder does not exist.
    """
    if out is not None:
        if out.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"cannot write a page as {out}", hint="end its name in .html")
        evaluation.check_place(out)
    return Output(out, usual, force)


def _write(place: Output, text: str) -> Path:
    return place.write(lambda path, replaces: write_text(path, text, replaces=replaces))


def _shown(runs: Sequence[Run], seen: Sequence[Sights]) -> list[str]:
    """What both pages show after the numbers."""
    return [
        sections.curves(runs),
        sections.reconstructions(runs, seen),
        sections.samples(runs, seen),
        sections.interpolations(runs, seen),
        sections.traversals(runs, seen),
        sections.cost(runs, seen),
        sections.configuration(runs),
        sections.environment(runs),
    ]
