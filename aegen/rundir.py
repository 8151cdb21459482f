"""The folder of a run: where it is made, what is in it, which one is the latest."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from aegen import signing
from aegen.atomic import draft_of, sweep, sync_folder, write_text
from aegen.errors import RunError, UsageError, unwritable
from aegen.filenames import native
from aegen.untrusted import parse_json, read_bytes, read_text

RUNS = Path("runs")
LATEST = "latest"
METRICS = 2**32
"""The most bytes of a metrics.jsonl that is read."""
_NAME = 1024  # bytes; longer names are of no file


class RunDir:
    """`config.toml`, `environment.json`, `metrics.jsonl`, `samples/`, `checkpoints/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.safetensors"
        self.best = self.checkpoints / "best.safetensors"
        self._owed = ""

    @classmethod
    def create(
        cls,
        path: Path | None,
        stem: str,
        begin: Callable[[RunDir], None] = lambda run: None,
        *,
        replaces: bool = False,
        points: bool = True,
    ) -> RunDir:
        """Make a new folder: `path`, or the first free `runs/stem`, `runs/stem-2`, ….

        It appears under its name with all that a resumption needs, or not at all.

        Args:
            begin: writes the first files, into a folder that is not yet where it will be.
            replaces: take the place of a run that stands at `path`.
            points: have `latest` name it.

        Raises:
            UsageError: `path` exists, or cannot be made.
            RunError: the disk is full or fails.
            OSError: `begin` could not write.
        """
        if path is not None:
            refuse_existing(path, replaces=replaces)
        goal = path or RUNS / stem
        draft = cls(draft_of(goal))
        try:
            try:
                goal.parent.mkdir(parents=True, exist_ok=True)
                sweep(goal.parent)
                draft.samples.mkdir(parents=True)
                draft.checkpoints.mkdir()
            except OSError as error:
                hint = "choose a --run-dir that can be written"
                raise unwritable(error, f"cannot make the run folder {goal}", hint) from error
            begin(draft)
            sync_folder(draft.path)
            if path is not None and replaces and path.exists():
                from aegen.lock import held  # loads threads and more, which reading needs not

                with held(path):  # nobody trains what is replaced
                    run = cls(draft._in_place_of(path))
            else:
                run = cls(draft._named(path, stem))
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)
        sync_folder(run.path.parent)
        if points:
            run._point_latest()
        return run

    def _named(self, path: Path | None, stem: str) -> Path:
        """Rename the draft; that fails where another run has taken the name, whose folder is not empty."""
        number = 1
        while True:
            folder = path or RUNS / (stem if number == 1 else f"{stem}-{number}")
            try:
                if not os.path.lexists(folder):
                    os.rename(self.path, folder)
                    return folder
            except OSError as error:
                if not folder.exists():
                    raise
                if path is not None:
                    raise UsageError(f"{path} exists already", hint="choose another --run-dir") from error
            if path is not None:
                refuse_existing(path)
            number += 1

    def _in_place_of(self, path: Path) -> Path:
        """Take the name of another run, whose folder is deleted once that is done."""
        old = draft_of(path.with_name(f"{path.name}.replaced"))
        os.rename(path, old)
        try:
            os.rename(self.path, path)
        except OSError:
            os.rename(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return path

    def _point_latest(self) -> None:
        """`latest` beside the run: a link, or a text file where links fail. A folder of that name is a run like others, and left alone."""
        latest = self.path.parent / LATEST
        if latest.is_dir() and not latest.is_symlink():
            return
        temporary = draft_of(latest)
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(self.path.name, target_is_directory=True)
        except OSError:
            temporary.write_bytes(os.fsencode(self.path.name))
        try:
            os.replace(temporary, latest)
        except OSError:  # something else of that name stands there
            temporary.unlink(missing_ok=True)

    def log(self, line: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl, after those that could not be written before.

        Raises:
            OSError: it could not be written; it is kept for the next time, and the file has no half of it.
        """
        self._owed += json.dumps(line) + "\n"
        with open(self.metrics, "ab", buffering=0) as file:
            size = file.tell()
            try:
                text = self._owed.encode()
                if file.write(text) != len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise
        self._owed = ""

    def forget_after(self, step: int) -> None:
        """Drop the metrics of steps that a resumed run will take again, so that no step has two lines."""
        if not self.metrics.exists():
            return
        kept = []
        for text in read_bytes(self.metrics, most=METRICS).decode("utf-8", "replace").split("\n"):
            try:
                if parse_json(text)["step"] <= step:
                    kept.append(text)
            except (ValueError, KeyError, TypeError):
                continue  # a line cut short by a crash, or none of a run's
        write_text(self.metrics, "".join(f"{line}\n" for line in kept))


def refuse_existing(path: Path, *, replaces: bool = False) -> None:
    """Never write into a folder that is there already; only a run may be replaced.

    Raises:
        UsageError: it is, or it is no run and nothing else is replaced.
    """
    if not os.path.lexists(path):
        return
    is_run = (path / "config.toml").is_file() and not path.is_symlink()
    if replaces and is_run:
        return
    hint = "choose another --run-dir"
    if replaces:
        raise UsageError(f"{path} is no run folder, and --force replaces nothing else", hint=hint)
    if is_run:
        hint += f", go on with it: aegen train --resume {shlex.quote(str(path))}, or replace it with --force"
    raise UsageError(f"{path} exists already", hint=hint)


def latest_run() -> Path:
    """The newest run under ./runs.

    Raises:
        UsageError: there is none.
    """
    pointer = RUNS / LATEST
    if (named := pointed(pointer)) != pointer and named.is_dir():
        return named
    if pointer.is_symlink() and pointer.is_dir():
        return RUNS / pointer.resolve().name if pointer.resolve().parent == RUNS.resolve() else pointer
    # A folder called latest points to nothing: it is a run like others, or something else.
    runs = [p.parent for p in RUNS.glob("*/config.toml")]
    if not runs:
        raise UsageError("there is no run under ./runs", hint="run `aegen train` first, or name one with -c")
    return max(runs, key=lambda p: (p / "config.toml").stat().st_mtime_ns)


def pointed(place: Path) -> Path:
    """The run that a text file `latest` names, which stands for a link where links fail; any other place is itself."""
    try:
        if place.name != LATEST or not place.is_file() or place.stat().st_size > _NAME:
            return place
        name = place.read_bytes().decode("utf-8", errors="surrogateescape").strip()
    except OSError:
        return place
    return place.with_name(name) if name and Path(name).name == name else place


def find_checkpoint(place: Path | None, *, prefer: str = "best") -> Path:
    """The checkpoint file meant by a run folder, a file, or nothing (the latest run).

    Args:
        prefer: `best` for using a model, `last` for training on.

    Raises:
        UsageError: there is none.
    """
    place = latest_run() if place is None else pointed(place)
    if not place.exists():
        raise UsageError(f"there is no {place}", hint="give a run folder or a .safetensors file")
    if place.is_file():
        return place
    folder = place / "checkpoints" if (place / "checkpoints").is_dir() else place
    order = ("best", "last") if prefer == "best" else ("last", "best")
    for name in order:
        if (folder / f"{name}.safetensors").is_file():
            return folder / f"{name}.safetensors"
    stopped = (place / "config.toml").is_file()
    hint = "give a run folder or a .safetensors file"
    if stopped:
        hint = f"it was stopped before the first one; begin again: aegen train --resume {shlex.quote(str(place))}"
    raise UsageError(f"{place} holds no checkpoint", hint=hint)


def free_name(path: Path, suffix: str | None = None) -> Path:
    """`path`, or the first of `path-2`, `path-3`, … that does not exist: a default name never overwrites.

    Args:
        suffix: the ending before which the number stands, where it is not what follows the last dot; empty for a folder.
    """
    suffix = path.suffix if suffix is None else suffix
    number, free = 2, path
    while os.path.lexists(free):  # a link to nothing has the name too
        free = path.with_name(f"{path.name.removesuffix(suffix)}-{number}{suffix}")
        number += 1
    return free


def owner(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in.

    Raises:
        UsageError: it lies in none, so that there is nothing to go on with.
    """
    run = checkpoint.resolve().parent.parent
    if checkpoint.resolve().parent.name != "checkpoints" or not (run / "config.toml").is_file():
        hint = f"give the run's folder, or begin a new run with --init-from {checkpoint}"
        raise UsageError(f"{checkpoint} does not lie in a run folder, so it cannot be resumed", hint=hint)
    return checkpoint.parent.parent


BEGUN, FIRST, ASKS = "folder", "init_from", "asks"
"""Of environment.json: where relative paths of the run begin and which weights it began with, both seen from the run's folder; what it asks for."""


def sealed_paths(about: dict[str, Any]) -> dict[str, Any]:
    """What environment.json says of other places, with this user's seal."""
    return about | {"seal": signing.seal(_paths(about))}


def _paths(about: dict[str, Any]) -> list[Any]:
    return [about.get(key) for key in (BEGUN, FIRST, ASKS)]


def told_paths(home: Path) -> dict[str, Any]:
    """What environment.json says of other places; nothing where this user's aegen did not write it.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    told = native(parse_json(read_text(home / "environment.json")))
    known = isinstance(told, dict) and signing.holds(_paths(told), told.get("seal"))
    return {key: told[key] for key in (BEGUN, FIRST, ASKS) if key in told} if known else {}


def begun_in(home: Path) -> Path | None:
    """The folder in which a run was begun, where its relative paths begin; None where that is not known, or not from this user."""
    try:
        told = told_paths(home).get(BEGUN)
        return Path(os.path.normpath(home.resolve() / told)) if isinstance(told, str) else None
    except (OSError, ValueError):
        return None


def reason(error: OSError) -> str:
    """Why a write failed, in a few words."""
    return error.strerror or str(error)


def disk_error(error: OSError, path: Path, *, last_good: Path | None = None) -> RunError:
    """A failed write as one sentence, with the last good checkpoint."""
    good = f"the last good checkpoint is {last_good}" if last_good else "there is no checkpoint yet"
    return RunError(
        f"cannot write {path} ({reason(error)})", hint=f"{good}; free space or mend the folder, then resume"
    )
