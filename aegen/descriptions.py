"""What help, completion, listings and the check of a combination need to know of a component, without importing it.

A component is imported once and described: its options, its documentation, what it needs and offers. Descriptions are kept in the cache
folder, a file for each package, as JSON of which nothing is run. Such a file is believed only if all is as it was when it was written:
Python, the search path and what is installed on it, what the package declares, and every source file that was loaded (size and times).
A component that does not load is never kept, so that one that was mended, or whose missing package was installed, is looked at again.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
import sysconfig
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from aegen import atomic, caches, registry
from aegen.errors import AegenError
from aegen.registry import Component
from aegen.spec import Option, Range, options_of
from aegen.untrusted import parse_json, read_text

_FORM = 5
_ROOM = 32_000_000  # bytes of all files together
_SETTLED = 2_000_000_000  # ns: a file that is younger than this may change without its times showing it
_BEGAN = time.time_ns()


@dataclass(frozen=True)
class Description:
    """A component that can be imported, in words and numbers.

    Attributes:
        title: the name of its class.
        summary: first line of its documentation.
        about: the first paragraph of it.
        source: file and line.
        needs, offers: of the class; an instance may need more.
        bottleneck, likelihood, stands_for, suggests, wraps: of an objective.
        map_options: of an objective or an architecture: options of a feature map; None where an objective does not mean one.
        settled: whether an instance offers what its class does.
    """

    title: str
    summary: str = ""
    about: str = ""
    source: str = ""
    options: tuple[Option, ...] = ()
    needs: frozenset[str] = frozenset()
    offers: frozenset[str] = frozenset()
    bottleneck: str = ""
    likelihood: str = ""
    stands_for: str = ""
    suggests: Mapping[str, Any] = field(default_factory=dict)
    wraps: bool = False
    map_options: Mapping[str, Any] | None = None
    settled: bool = True


def describe(component: Component) -> Description:
    """A component's description, from the cache or by importing it.

    Raises:
        PluginError: it cannot be loaded or is not what it should be.
    """
    found = describe_all([component])[component]
    if isinstance(found, AegenError):
        raise found
    return found


def remembered(component: Component) -> Description | None:
    """A component's description, if it is known without importing anything."""
    if component in _known:
        return _known[component]
    told = _cached(component)
    if told is not None:
        with suppress(Exception):  # whatever a damaged file may hold
            return _from_json(told)
    return None


def describe_all(components: Iterable[Component]) -> dict[Component, Description | AegenError]:
    """The descriptions of several, or why there is none; what had to be imported is kept for the next time."""
    found: dict[Component, Description | AegenError] = {}
    fresh: dict[str, dict[str, Any]] = {}
    for component in components:
        try:
            registry.supported(component)
            found[component] = _find(component, fresh)
        except AegenError as error:
            found[component] = error
            continue
        _known[component] = found[component]  # type: ignore[assignment]
    for package, told in fresh.items():
        _keep(package, told)
    return found


_known: dict[Component, Description] = {}
_files: dict[str, dict[str, Any]] = {}


def forget() -> None:
    """Look at the cache anew; for tests, and notebooks that install a package while they run."""
    _known.clear()
    _files.clear()
    _listing.clear()


def _find(component: Component, fresh: dict[str, dict[str, Any]]) -> Description:
    found = remembered(component)
    if found is not None:
        return found
    made = look(component)
    if not registry.is_file(component.value):
        with suppress(TypeError, ValueError):  # an option of a type that JSON does not know
            fresh.setdefault(component.package, {})[_key(component)] = _to_json(made)
    return made


def _key(component: Component) -> str:
    return f"{component.kind}/{component.name}={component.value}"


def _cached(component: Component) -> Any:
    """What the cache holds of a component; nothing of one in a file."""
    if registry.is_file(component.value):
        return None
    if component.package not in _files:
        _files[component.package] = _read(component.package)
    return _files[component.package].get(_key(component))


def look(component: Component) -> Description:
    """Import a component and describe it.

    Raises:
        PluginError: as `describe`.
    """
    if component.kind == "command":
        return _of_command(component)
    from aegen.factory import load_component  # torch, which what is cached can do without

    thing = load_component(component)
    document = (inspect.getdoc(thing) or "").partition("\nOptions:")[0]
    summary, about = document.partition("\n")[0], " ".join(document.partition("\n\n")[0].split())
    source = _source(thing) or component.value
    if not isinstance(thing, type):
        return Description(getattr(thing, "__name__", component.name), summary, about, source)
    schedulable = component.kind == "objective"
    options = tuple(options_of(thing, schedulable=schedulable).values())
    facts: dict[str, Any] = {}
    for name in ("needs", "offers"):
        words = inspect.getattr_static(thing, name, None)
        facts[name] = frozenset(words) if isinstance(words, set | frozenset) else frozenset()
    if component.kind == "objective":
        from aegen.protocols import Wrapper

        for name in ("bottleneck", "likelihood", "stands_for", "suggests"):
            facts[name] = getattr(thing, name)
        facts["wraps"] = issubclass(thing, Wrapper)
    if component.kind in ("objective", "architecture"):
        facts["map_options"] = getattr(thing, "map_options", None)
    if component.kind == "bottleneck":
        facts["settled"] = not _sets(thing, "offers")
    return Description(thing.__name__, summary, about, source, options, **facts)


def _of_command(component: Component) -> Description:
    """A command's options are those of its line."""
    from aegen.contract import commands  # typer, which other descriptions do without

    found = commands.load(component)
    about = " ".join((inspect.getdoc(found) or "").partition("\n\n")[0].split()) if inspect.isroutine(found) else ""
    summary, title = commands.short(found), getattr(found, "__name__", component.name)
    return Description(title, summary, about or summary, _source(found) or component.value, commands.options(found))


def _source(thing: Any) -> str:
    """File and line where it is written; nothing if that is not known."""
    try:
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return ""


def _sets(cls: type, name: str) -> bool:
    """Whether instances of a class may have another `name` than the class: it is a property, or a method assigns it."""
    if hasattr(inspect.getattr_static(cls, name, None), "__get__"):
        return True
    codes = [getattr(value, "__code__", None) for base in cls.__mro__ for value in vars(base).values()]
    return any(name in code.co_names for code in codes if code is not None)


# ---------------------------------------------------------------------------------------------------- as JSON


def _to_json(made: Description) -> dict[str, Any]:
    told = asdict(made)
    told["needs"], told["offers"], told["suggests"] = sorted(made.needs), sorted(made.offers), dict(made.suggests)
    told["map_options"] = None if made.map_options is None else dict(made.map_options)
    told["options"] = [
        {**asdict(option), "type": _type_to_json(option.type), "range": option.range and asdict(option.range)}
        for option in made.options
    ]
    if json.loads(json.dumps(told, allow_nan=False))["options"] != told["options"]:
        raise ValueError("a default is not what JSON makes of it")
    return told


def _from_json(told: Mapping[str, Any]) -> Description:
    options = tuple(
        Option(**{**row, "type": _type_from_json(row["type"]), "range": row["range"] and Range(**row["range"])})
        for row in told["options"]
    )
    words = {name: frozenset(told[name]) for name in ("needs", "offers")}
    return Description(**{**told, **words, "options": options})


_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool, "none": type(None)}


def _type_to_json(annotation: Any) -> Any:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal and all(isinstance(part, str | int | bool) for part in parts):
        return {"literal": list(parts)}
    if origin is list and len(parts) == 1:
        return {"list": _type_to_json(parts[0])}
    if origin is Union or type(annotation).__name__ == "UnionType":
        return {"union": [_type_to_json(part) for part in parts]}
    for name, known in _TYPES.items():
        if annotation is known:
            return name
    raise TypeError(annotation)


def _type_from_json(told: Any) -> Any:
    if isinstance(told, str):
        return _TYPES[told]
    ((form, parts),) = told.items()
    if form == "literal":
        return Literal[tuple(parts)]
    if form == "list":
        return list[_type_from_json(parts)]  # type: ignore[misc]
    return Union[tuple(_type_from_json(part) for part in parts)]  # noqa: UP007


# ---------------------------------------------------------------------------------------------------- the cache


def _place(package: str) -> Path | None:
    """A file for each package and search path, so that two environments do not overwrite each other's."""
    folder = caches.folder()
    if folder is None:
        return None
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in package)[:60]
    where = hashlib.blake2b(
        "\n".join([sys.executable, *sys.path]).encode("utf-8", "replace"), digest_size=8
    ).hexdigest()
    return folder / "components" / f"{plain}-{where}.json"


_listing: dict[str, str] = {}


def _stamp(package: str) -> dict[str, Any]:
    """What must be as it was, beside the files: Python, what lies on its path, and what the package declares."""
    if not _listing:
        stdlib = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
        for entry in sys.path:
            if entry not in stdlib:
                _listing[entry] = _listed(entry)
    declared = [[c.kind, c.name, c.value, c.version, c.api] for c in registry.every_component() if c.package == package]
    return {"form": _FORM, "python": sys.version, "path": dict(_listing), "declared": declared}


def _listed(entry: str) -> str:
    """A digest of the names of the modules and of the installed packages in a folder of the search path."""
    endings = (".py", ".so", ".pyd", ".pth", ".dist-info", ".egg-info", ".egg-link")
    try:
        with os.scandir(entry or ".") as found:
            names = sorted(e.name for e in found if e.name.endswith(endings) or ("." not in e.name and e.is_dir()))
    except OSError:  # a zip file, or nothing
        names = [str(_state(entry))]
    return hashlib.blake2b("\n".join(names).encode("utf-8", "replace"), digest_size=8).hexdigest()


def _state(file: str) -> list[int] | None:
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return None
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_size]


def _loaded() -> dict[str, list[int]]:
    """The state of every source file that this process has loaded, those of Python itself excepted."""
    stdlib = (sysconfig.get_path("stdlib") or "?") + os.sep
    found = {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and (not file.startswith(stdlib) or "site-packages" in file):
            state = _state(file)
            if state is not None:
                found[file] = state
    return found


def _read(package: str) -> dict[str, Any]:
    """The descriptions that may be believed; none if the file is damaged or anything has changed."""
    path = _place(package)
    if path is None:
        return {}
    try:
        told = parse_json(read_text(path, most=_ROOM))
        components: dict[str, Any] = told["components"]
        good = told["stamp"] == _stamp(package) and all(_state(f) == state for f, state in told["files"].items())
        return components if good and told["sum"] == _sum(components) else {}
    except Exception:  # missing, or damaged in whatever way: it is made anew
        return {}


def _sum(components: dict[str, Any]) -> str:
    """A digest of the descriptions: of what a disk has changed, not all is seen by its form."""
    return hashlib.blake2b(json.dumps(components, sort_keys=True).encode(), digest_size=16).hexdigest()


def _keep(package: str, fresh: dict[str, Any]) -> None:
    path = _place(package)
    if path is None:
        return
    before = _files.get(package, {})
    files = _loaded()
    if before:
        with suppress(Exception):
            files = parse_json(read_text(path, most=_ROOM))["files"] | files
    if any(max(mtime, ctime) > _BEGAN - _SETTLED for mtime, ctime, _ in files.values()):
        return  # it may have changed after it was loaded
    _files[package] = {**before, **fresh}
    told = {"stamp": _stamp(package), "files": files, "components": _files[package], "sum": _sum(_files[package])}
    with suppress(OSError, ValueError):  # a folder that cannot be written: looked at again the next time
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, json.dumps(told, separators=(",", ":")))
        caches.tidy(path.parent.glob("*.json"), _ROOM)
