"""From what a person types to a model's file: the one way there, for every command and `aegen.load`.

    runs/faces                      a run's folder: its best checkpoint, or its last
    faces                           the same, where ./runs has a run of that name and there is no such file
    faces/last, runs/faces/best     one of its checkpoints
    latest, last, best              of the newest run under ./runs; so is nothing at all
    model.safetensors               a file
    scheme://…                      whatever the plugin of that scheme makes of it

A scheme runs only where it was typed. What a checkpoint or a configuration says is never resolved here.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from aegen import registry
from aegen.contract.blame import blamed
from aegen.errors import AegenError, PluginError, UsageError, listing
from aegen.rundir import LATEST, RUNS, find_checkpoint, latest_run
from aegen.untrusted import quoted

WORDS = ("last", "best")
# A path has lost one of two slashes by the time that it is a Path; a single letter is a drive.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{1,31}):/+(.*)", re.DOTALL)


def resolve(place: Path | str | None = None, *, prefer: str = "best") -> Path:
    """The checkpoint file that is meant.

    Args:
        prefer: which one of a run: `best` for using a model, `last` for training on.

    Raises:
        UsageError: there is none, or no such scheme.
        PluginError: the scheme's plugin failed.
    """
    return find_checkpoint(None if place is None else locate(place), prefer=prefer)


def locate(place: Path | str) -> Path:
    """The folder or file that is meant, whether or not it holds a checkpoint.

    Raises:
        UsageError, PluginError: as `resolve`.
    """
    path = Path(place)
    text = str(place)
    if path.exists() or "\0" in text:
        return path
    if (scheme := _SCHEME.fullmatch(text)) is not None:
        return _fetched(scheme[1].lower(), scheme[2])
    if path.name in WORDS and (run := _run(path.parent)) is not None:
        return run / "checkpoints" / f"{path.name}.safetensors"
    found = _run(path)
    if found is None and len(path.parts) == 1 and (RUNS / LATEST).parent.is_dir() and path.suffix == "":
        names = [run.parent.name for run in RUNS.glob("*/config.toml")]
        if close := get_close_matches(path.name, names, n=1):
            raise UsageError(f"there is no {text}", hint=f"did you mean {close[0]!r} of ./runs?")
    return path if found is None else found


def _run(path: Path) -> Path | None:
    """A run's folder by its path or its name; the newest where nothing or `latest` is named."""
    if str(path) in (".", LATEST) and not (path / "config.toml").is_file():
        return latest_run()
    if (path / "config.toml").is_file():
        return path
    named = RUNS / path
    return named if len(path.parts) == 1 and (named / "config.toml").is_file() else None


def _fetched(scheme: str, rest: str) -> Path:
    """What a scheme's plugin, a function of the rest of the text, gives: a path on this machine."""
    known = registry.names("scheme")
    if scheme not in known:
        hint = f"schemes are {listing(known)}" if known else "a package that knows it can be installed; or give a file"
        raise UsageError(
            f"{quoted(f'{scheme}://{rest}')} begins with {scheme}://, which no installed package knows", hint=hint
        )
    component = registry.find("scheme", scheme)
    fetch: Any = registry.load(component)
    if not callable(fetch):
        raise PluginError(f"{component.who} is no function ({fetch!r})", hint=component.remedy)
    try:
        found = fetch(rest)
    except AegenError:
        raise
    except Exception as error:
        raise blamed(error) or PluginError(f"{component.who} failed ({error})", hint=component.remedy) from error
    if not isinstance(found, str | Path) or not Path(found).exists():
        raise PluginError(f"{component.who} gave {found!r}, which is no file or folder here", hint=component.remedy)
    return Path(found)
