"""What installed packages declare, read so that a package whose metadata is broken troubles nobody else.

`importlib.metadata.entry_points()` reads all packages or none: one `entry_points.txt` that is not UTF-8, of whatever package, ends it,
and with it the import of torch, triton and pydantic, which ask for plugins of their own. `forgive` has them ask in vain instead.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aegen.tracebacks import said

SELF = "aegen"
_STRICT: Callable[[metadata.Distribution], metadata.EntryPoints] = metadata.Distribution.entry_points.fget  # type: ignore[attr-defined]


def forgive() -> None:
    """From now on, in this process, a package whose entry points cannot be read has none, whoever asks; the command line's own."""

    def entry_points(dist: metadata.Distribution) -> metadata.EntryPoints:
        try:
            return _STRICT(dist)
        except Exception:  # what is in there may be anything
            return metadata.EntryPoints(())

    metadata.Distribution.entry_points = property(entry_points)  # type: ignore[method-assign, assignment]


@dataclass(frozen=True)
class Declared:
    """One entry point in one of aegen's groups."""

    group: str
    name: str
    value: str
    package: str
    version: str


@dataclass(frozen=True)
class Unreadable:
    """A package whose metadata is not what it should be, and why."""

    package: str
    version: str
    reason: str


@functools.cache
def scan() -> tuple[tuple[Declared, ...], tuple[Unreadable, ...]]:
    """Every entry point in a group `aegen.…`, and the packages that could not be read."""
    declared: list[Declared] = []
    broken: list[Unreadable] = []
    named: list[tuple[metadata.Distribution, str, str]] = []
    seen: set[str] = set()
    for dist in _distributions():
        stem, folder_version = _folder(dist)
        try:
            if "aegen" not in (dist.read_text("entry_points.txt") or ""):
                continue
            entries = _entries(dist)
        except Exception as error:
            broken.append(Unreadable(stem, folder_version, f"entry_points.txt cannot be read ({said(error)})"))
            continue
        if not entries:
            continue
        package, version = _name(dist) or stem, _version(dist) or folder_version
        if _plain(package) == SELF:
            named.append((dist, stem, version))
            continue
        if _plain(package) in seen:  # the first on the path is the one that is imported
            continue
        seen.add(_plain(package))
        declared += [Declared(e.group, e.name, e.value, package, version) for e in entries]
    own = next((dist for dist, _, _ in named if _is_this(dist)), named[0][0] if named else None)
    for dist, stem, version in named:
        called = SELF
        if dist is not own:
            # By its folder, so that it can be told from the one that is running.
            called = f"{stem}-{version}" if _plain(stem) == SELF else stem
            broken.append(Unreadable(called, version, "it calls itself aegen, which is another package"))
        declared += [Declared(e.group, e.name, e.value, called, version) for e in _entries(dist)]
    return tuple(dict.fromkeys(declared)), tuple(broken)


def version_of(package: str) -> str:
    """The version of an installed package, `unknown` where its metadata does not say."""
    try:
        return metadata.version(package) or "unknown"
    except Exception:  # not installed by a packager, or its metadata is damaged
        return "unknown"


def _distributions() -> Iterator[metadata.Distribution]:
    found = iter(metadata.distributions())
    while True:
        try:
            yield next(found)
        except StopIteration:
            return
        except Exception:  # a finder of somebody else's; those before it are found
            return


def _entries(dist: metadata.Distribution) -> list[metadata.EntryPoint]:
    return [e for e in _STRICT(dist) if e.group.startswith("aegen.")]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _folder(dist: metadata.Distribution) -> tuple[str, str]:
    """Name and version as the folder of the metadata says them."""
    path = getattr(dist, "_path", None)
    stem = Path(str(path)).stem if path is not None else "unknown"
    name, _, version = stem.partition("-")
    return name, version.partition("-")[0]


def _name(dist: metadata.Distribution) -> str:
    try:
        return str(dist.metadata["Name"] or "")
    except Exception:
        return ""


def _version(dist: metadata.Distribution) -> str:
    try:
        return str(dist.version or "")
    except Exception:
        return ""


def _is_this(dist: metadata.Distribution) -> bool:
    """Whether a distribution is the one whose code is running, installed or, in development, pointed to."""
    here = Path(__file__).resolve().parent
    try:
        if Path(str(dist.locate_file(SELF))).resolve() == here:
            return True
        source = json.loads(dist.read_text("direct_url.json") or "{}").get("url", "")
        return bool(source) and here.is_relative_to(Path(unquote(urlsplit(source).path)).resolve())
    except Exception:
        return False
