"""What stands in a run folder: settings, environment, curves, evaluations, and the checkpoint that is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from aegen import sampler_file
from aegen.checkpoint import Checkpoint, Header
from aegen.errors import AegenError, UsageError, counted
from aegen.evaluation import Evaluation
from aegen.filenames import native
from aegen.header import without_run
from aegen.reporting.merging import merged
from aegen.rundir import METRICS, RunDir, find_checkpoint, pointed
from aegen.settings import RunSpec, flatten
from aegen.untrusted import parse_json, parse_toml, read_bytes, read_text

_WHAT = "give run folders, as `aegen train` makes them"
NOT_EVALUATED = "it could not be evaluated: "
_LAST = 2**53  # the last step that a float tells from the next
_MEND = "mend it, or leave this run out"


class _Device(TypedDict, total=False):
    """Where a run ran."""

    type: str
    name: str
    processes: Annotated[int, Field(ge=1, le=2**20)]
    threads: Annotated[int, Field(ge=1, le=2**20)]


class _Environment(TypedDict, total=False):
    """What environment.json holds; more is left out."""

    python: str
    system: str
    versions: dict[str, str]
    plugins: list[str]
    device: _Device
    command: list[str]
    init_from: str


@dataclass
class Run:
    """A run as its folder tells it.

    Attributes:
        name: of the folder, or enough of its path to tell it from the others.
        config: settings by dotted key.
        tables: the same, nested.
        lines: of metrics.jsonl, in order.
        evaluations: oldest first.
        checkpoint: the file that is used, and its header; None where there is none.
        weights: a digest of what it has learned, where it is known.
        samplers: digests of those that were fitted to it, by name.
        trouble: why there is none.
        notes: what was left out, and why.
    """

    path: Path
    name: str
    tables: dict[str, Any]
    environment: dict[str, Any] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    checkpoint: Path | None = None
    header: Header | None = None
    weights: str = ""
    samplers: dict[str, str] = field(default_factory=dict)
    trouble: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        """Settings by dotted key."""
        return flatten(self.tables)

    def words(self, error: AegenError) -> str:
        """What went wrong, without the place of the run on this machine: pages are passed on."""
        return error.message.removeprefix(f"{self.path} ").replace(str(self.path), self.name)

    def evaluated(self, protocol: str, data: str | None = None) -> Evaluation | None:
        """What was measured by a protocol of the checkpoint that is used, on the run's own data by default."""
        found = merged(self._current(protocol, data))
        return None if found is None else found.whole

    def apart(self, protocol: str, data: str | None = None) -> list[str]:
        """What `evaluated` leaves out of evaluations by the same protocol on data of the same name, and why."""
        found = merged(self._current(protocol, data))
        told = found.apart if found else []
        others = len(self._of(protocol, data)) - len(self._current(protocol, data))
        if others:
            verb = "is" if others == 1 else "are"
            told.insert(0, f"{others} by this protocol {verb} of other weights of the run or of its sampler")
        return told

    def _of(self, protocol: str, data: str | None) -> list[Evaluation]:
        wanted = data or self.config.get("data.name")
        return [
            one for one in self.evaluations if (one.protocol.get("name"), one.data.get("name")) == (protocol, wanted)
        ]

    def _current(self, protocol: str, data: str | None) -> list[Evaluation]:
        """Those of the weights and the sampler that are used; an evaluation that does not name the weights is known by its steps."""
        steps = self.header["step"] if self.header else None

        def same(one: Evaluation) -> bool:
            told = one.model.get("weights")
            if self.weights and told and told != self.weights:
                return False
            drew, kept = one.model.get("sampler"), self.samplers.get(str(one.protocol.get("sampler")))
            if drew and kept and drew != kept:
                return False
            return steps is None or one.model.get("steps") == steps

        return [one for one in self._of(protocol, data) if same(one)]

    def read_evaluations(self) -> None:
        """Read what `aegen evaluate` wrote; a file that is none is noted and left out."""
        self.evaluations = []
        for path in sorted((self.path / "evaluations").glob("*.json"), key=_age):
            try:
                self.evaluations.append(_evaluation(path))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                note = f"evaluations/{path.name} is no evaluation and was left out"
                self.notes += [note] * (note not in self.notes)


def read_runs(places: Sequence[Path]) -> list[Run]:
    """The runs of several folders, each under a name of its own.

    Raises:
        UsageError: a place is no run folder, or the same run is given twice.
    """
    runs: list[Run] = []
    seen: dict[Path, Path] = {}
    # `runs/*` also names runs/latest: as another name of a run that is named, it is left out.
    for place in sorted(places, key=lambda place: place.name == "latest"):
        run = _read(place)
        if run.path in seen and place.name == "latest":
            continue
        if run.path in seen:
            also = "" if seen[run.path] == place else f", as {seen[run.path]} and as {place}"
            raise UsageError(f"run {run.path.name} is given twice{also}", hint="name each run once")
        seen[run.path] = place
        runs.append(run)
    depth = 1
    while twice := [run for run in runs if [other.name for other in runs].count(run.name) > 1]:
        depth += 1
        for run in twice:
            run.name = _tail(run.path, depth)
    return runs


def _tail(path: Path, depth: int) -> str:
    return "/".join(path.parts[-depth:])


def _refuse_imported(place: Path) -> None:
    """Say of a file what it is, where it is a model without a run.

    Raises:
        UsageError: it is.
    """
    if not place.is_file():
        return
    try:
        file = Checkpoint(place)
    except (UsageError, OSError):  # whatever else it is
        return
    if not file.has_run and "trains" not in file.header:
        raise without_run(place)


def _read(place: Path) -> Run:
    if not place.exists():
        raise UsageError(f"there is no {place}", hint=_WHAT)
    folder = RunDir(pointed(place).resolve())
    if not folder.config.is_file():
        _refuse_imported(place)
        kind = "has no config.toml" if place.is_dir() else "is a file"
        raise UsageError(f"{place} is no run folder: it {kind}", hint=_WHAT)
    try:
        tables = native(parse_toml(read_text(folder.config)))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder.config} cannot be read ({error})", hint=_MEND) from error
    try:
        RunSpec.from_dict(tables)
    except UsageError as error:
        raise UsageError(f"{folder.config} is no configuration of a run ({error.message})", hint=_MEND) from error
    run = Run(folder.path, folder.path.name, tables)
    try:
        told = native(parse_json(read_text(folder.environment)))
        run.environment = dict(TypeAdapter(_Environment).validate_python(told))
    except (OSError, ValueError):
        run.environment = {}
        run.notes.append("environment.json is missing or damaged")
    try:
        run.lines, damaged = _lines(folder.metrics)
        if damaged:
            run.notes.append(
                f"{counted(damaged, 'line')} of metrics.jsonl {'is' if damaged == 1 else 'are'} damaged and left out"
            )
    except (OSError, ValueError):
        run.notes.append("metrics.jsonl is missing or cannot be read")
    try:
        run.checkpoint = find_checkpoint(folder.path)
        file = Checkpoint(run.checkpoint)
        run.header, run.weights = file.header, file.weights
        run.samplers = {name: one.fit for name, one in sampler_file.kept(file).items()}
    except AegenError as error:
        run.checkpoint, run.trouble = None, run.words(error)
    run.read_evaluations()
    return run


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines that are whole, of each what is a number, as all but its split should be; and how many are not.

    A crash may have cut the last one short: one without its line break is not counted.
    """
    found, damaged = [], 0
    texts = read_bytes(path, most=METRICS).decode("utf-8", "replace").split("\n")
    for place, text in enumerate(texts):
        try:
            line = parse_json(text)
        except ValueError:
            damaged += place < len(texts) - 1
            continue
        if not isinstance(line, dict) or line.get("split") not in ("train", "validation"):
            damaged += 1
            continue
        numbers = {k: v for k, v in line.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        step = numbers.get("step")
        if isinstance(step, int) and 0 <= step <= _LAST:
            found.append(numbers | {"split": line["split"]})
        else:
            damaged += 1
    return found, damaged


def _age(path: Path) -> tuple[float, int, str]:
    """Older first; of one age, by the number that ends the name."""
    number = path.stem.rpartition("-")[2]
    return path.stat().st_mtime, int(number) if number.isdecimal() else 0, path.stem


def _evaluation(path: Path) -> Evaluation:
    raw = parse_json(read_text(path))
    for number in raw["numbers"]:
        if number["value"] is None:  # that is how a number that is not finite is written
            number["value"] = math.nan
    try:
        found = TypeAdapter(Evaluation).validate_python(raw)
        found.data, found.checkpoint = native(found.data), native(found.checkpoint)
        return found
    except ValidationError as error:
        raise ValueError(str(error)) from error
