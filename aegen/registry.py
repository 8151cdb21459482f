"""Kind → name → entry point. Names come from package metadata; a module is imported when its name is used.

This is why `aegen --help` is instant however many plugins are installed, and why a broken plugin troubles only those
who ask for it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from aegen import package_metadata, signals
from aegen.errors import PluginError, UsageError, did_you_mean, listing
from aegen.objective_name import ObjectiveName
from aegen.tracebacks import raised_at, said
from aegen.untrusted import quoted

API_VERSION = 1
"""The plugin interface of this aegen. A package says which it was written for with an entry point of that name:
`[project.entry-points."aegen.api"]` and `1 = "its_package"`."""

BUILTIN = "aegen"

KINDS = {
    "architecture": "aegen.architectures",
    "bottleneck": "aegen.bottlenecks",
    "likelihood": "aegen.likelihoods",
    "objective": "aegen.objectives",
    "sampler": "aegen.samplers",
    "feature": "aegen.features",
    "dataset": "aegen.datasets",
    "metric": "aegen.metrics",
    "exporter": "aegen.exporters",
    "importer": "aegen.importers",
    "scheme": "aegen.schemes",
    "tracker": "aegen.trackers",
    "command": "aegen.commands",
}
"""Kind → entry-point group."""

# Shown when a name is unknown here but is known to be in a package that can be installed: what pip is to be given. A path in
# aegen's repository where the package is on no index, so that nobody is sent to a name that a stranger may take.
KNOWN_ELSEWHERE = {("objective", "swae"): "./examples/aegen-swae"}


_FLAGS = {
    "architecture": "arch",
    "dataset": "data",
    "tracker": "track",
    "exporter": "format",
    "importer": "importer",
    "feature": "features",
}
_FEW = 8  # names that a sentence can hold


@dataclass(frozen=True)
class Component:
    """One registered name: frozen data, nothing imported.

    Attributes:
        value: where it is, `"package.module:Class"`, or `"path.py:Class"` for a file.
        package: the distribution that declares it.
        api: the plugin interface that the distribution was written for.
    """

    kind: str
    name: str
    value: str
    package: str
    version: str
    api: int = API_VERSION

    @property
    def builtin(self) -> bool:
        """Whether it came with aegen itself."""
        return self.package == BUILTIN

    @property
    def who(self) -> str:
        """`"objective 'swae' of aegen-swae"`, for sentences; a file says where it is itself."""
        return f"{self.kind} {self.name!r}" + (f" of {self.package}" if not is_file(self.value) else "")

    @property
    def remedy(self) -> str:
        """What to do about a fault of it."""
        return f"mend {self.value.partition(':')[0]}" if is_file(self.value) else "mend or uninstall that package"

    @property
    def title(self) -> str:
        """`"conv (aegen 0.1.0)"`, for panels and messages."""
        return f"{self.name} ({self.package} {self.version})".replace(" )", ")")


# ---------------------------------------------------------------------------------------------------- names


def disabled(package: str) -> bool:
    """Whether `AEGEN_DISABLE_PLUGINS` (`1`, `all`, or package names) switches this third party off."""
    words = {w.strip().lower() for w in os.environ.get("AEGEN_DISABLE_PLUGINS", "").split(",")}
    return package != BUILTIN and bool(words & {"1", "all", "true", package.lower()})


@functools.cache
def _scan() -> dict[str, tuple[Component, ...]]:
    declared, _ = package_metadata.scan()
    apis = {d.package: int(d.name) for d in declared if d.group == "aegen.api" and d.name.isdecimal()}
    found: dict[str, list[Component]] = {group: [] for group in KINDS.values()}
    kinds = {group: kind for kind, group in KINDS.items()}
    for d in declared:
        if d.group in kinds:
            api = apis.get(d.package, API_VERSION)
            found[d.group].append(Component(kinds[d.group], d.name, d.value, d.package, d.version, api))
    rank = {group: tuple(sorted(row, key=lambda c: (not c.builtin, c.name, c.package))) for group, row in found.items()}
    return {kind: rank[group] for kind, group in KINDS.items()}


def components(kind: str) -> list[Component]:
    """Every registered component of a kind, the built-in ones first; nothing is imported."""
    return [c for c in _scan()[kind] if not disabled(c.package)]


def names(kind: str) -> list[str]:
    """The names that may be asked for, each once."""
    return list(dict.fromkeys(c.name for c in components(kind)))


def every_component() -> Iterator[Component]:
    """All kinds, in the order of `KINDS`."""
    for kind in KINDS:
        yield from components(kind)


def unreadable() -> list[package_metadata.Unreadable]:
    """Installed packages whose metadata is broken."""
    return [found for found in package_metadata.scan()[1] if not disabled(found.package)]


def forget() -> None:
    """Read the metadata anew; for tests and notebooks that install a package while they run."""
    package_metadata.scan.cache_clear()
    _scan.cache_clear()
    load.cache_clear()
    _strangers.clear()


# ---------------------------------------------------------------------------------------------------- finding

_trusted_files: set[str] = set()
_typed_files: set[str] = set()


def trust(name: str) -> None:
    """Allow `name` (`./mine.py:Mine`) to be run. Called with what the user typed, never with what a file says."""
    allow(name)
    for part in ObjectiveName.parse(name).parts:
        if is_file(part):
            _trusted_files.add(part)


def allow(path: str) -> None:
    """Allow a file to be read, such as one of weights. Called with what the user typed, or wrote into a configuration that is typed."""
    _typed_files.add(os.path.abspath(path) if "\0" not in path else path)


def allowed(path: str) -> bool:
    """Whether the user asked for this file."""
    return "\0" not in path and os.path.abspath(path) in _typed_files


def _typed(name: str) -> str | None:
    """The file component that the user typed and `name` means: the same file by whatever path, or one of the same name where there is none."""
    if name in _trusted_files:
        return name
    path, _, attribute = name.partition(":")
    typed = {other: other.partition(":")[0] for other in sorted(_trusted_files) if other.partition(":")[2] == attribute}
    if "\0" in path:
        return None
    same = [o for o, own in typed.items() if os.path.abspath(path) in (os.path.abspath(own), os.path.realpath(own))]
    # A file's word is not enough to look for another, on whatever machine it may be, unless one of its name was typed.
    if not same and (alike := [o for o, own in typed.items() if os.path.basename(own) == os.path.basename(path)]):
        there = os.path.exists(path)  # or it was named as it was seen from the folder where a run was begun
        same = [o for o in alike if not there or os.path.realpath(typed[o]) == os.path.realpath(path)]
    return same[0] if len({os.path.realpath(typed[other]) for other in same}) == 1 else None


def contents(component: Component) -> str:
    """A digest of a file component's file, 16 hexadecimal digits; nothing of a package's component or where it cannot be read."""
    path = component.value.partition(":")[0]
    try:
        if not is_file(component.value) or not os.path.isfile(path):
            return ""
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return ""


def is_file(name: str) -> bool:
    """Whether a name is a file component, `./mine.py:Mine`."""
    return name.partition(":")[0].endswith(".py")


def find(kind: str, name: str) -> Component:
    """The component of that name; `package/name` chooses between two owners.

    Raises:
        UsageError: unknown, or a file that the user did not name.
        PluginError: two packages own the name, or its package is switched off.
    """
    if is_file(name):
        typed = _typed(name)
        if typed is None:
            raise UsageError(
                f"{name!r} is a file, and files named by a configuration or a checkpoint are never run",
                hint=f"name it yourself: --{_FLAGS.get(kind, kind)} {name}, or --component {name}",
            )
        return Component(kind, name, typed, "file", "")
    package, slash, short = name.rpartition("/")
    owners = [c for c in components(kind) if c.name == (short if slash else name)]
    if slash:
        owners = [c for c in owners if c.package == package]
    if len(owners) > 1:
        ways = dict.fromkeys(f"{c.package}/{c.name}" for c in owners)
        if len(ways) == 1:
            values = " and ".join(c.value for c in owners)
            raise PluginError(
                f"{owners[0].package} declares {kind} {name!r} twice, {values}", hint="mend or uninstall it"
            )
        raise PluginError(f"{kind} {name!r} is provided by {len(ways)} packages", hint=f"say {' or '.join(ways)}")
    if owners:
        return owners[0]
    off = [c for c in _scan()[kind] if disabled(c.package) and c.name == (short or name)]
    if off:
        raise PluginError(f"{kind} {name!r} is in {off[0].package}, which AEGEN_DISABLE_PLUGINS switches off")
    known = names(kind)
    everything = f"aegen list-plugins --kind {kind} shows all {len(known)}"
    hint = did_you_mean(name, known)
    if (kind, name) in KNOWN_ELSEWHERE:
        hint = f"pip install {KNOWN_ELSEWHERE[kind, name]}, in aegen's repository, provides it"
    elif len(known) <= _FEW:
        hint = f"{hint} installed: {listing(known)}".strip()
    else:
        hint = f"{hint} {everything}".strip()
    raise UsageError(f"unknown {kind} {quoted(name)}", hint=hint)


# ---------------------------------------------------------------------------------------------------- loading


_strangers: dict[Component, str] = {}
"""Third parties' components that were loaded → the name that their modules begin with."""


def strangers() -> list[Component]:
    """The components of third parties, files too, that this process has loaded."""
    return list(_strangers)


def is_stranger(module: str) -> bool:
    """Whether a module is in a package, or is the file, of a third party's component that was loaded."""
    return any(module == own or module.startswith(f"{own}.") for own in _strangers.values() if own)


def files_of_strangers() -> set[str]:
    """The source files of all modules for which `is_stranger` holds."""
    return {str(getattr(m, "__file__", "")) for name, m in list(sys.modules.items()) if is_stranger(name)}


def supported(component: Component) -> None:
    """Refuse a component that was written for a newer aegen.

    Raises:
        PluginError: it was.
    """
    if component.api > API_VERSION:
        raise PluginError(
            f"{component.package} {component.version} needs plugin interface {component.api}, "
            f"this aegen has {API_VERSION}",
            hint="pip install --upgrade aegen",
        )


@contextlib.contextmanager
def _as_if_first() -> Iterator[None]:
    """The context in which a module is imported: as if nothing were being built, so that its constants are ordinary tensors.

    A component may be asked for first while a file's layers are outlined on the meta device, or in a caller's inference
    mode; what its module makes at the top lives as long as the process.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.device("cpu"), torch.inference_mode(False), torch.enable_grad():
        yield


@functools.cache
def load(component: Component) -> Any:
    """Import what a component names.

    Raises:
        PluginError: its package asks for a newer aegen, or its import fails; the reason is in the message.
    """
    supported(component)
    if not component.builtin:
        _strangers[component] = _own_modules(component)
    try:
        # What a module prints when it is imported is no result.
        with (
            contextlib.nullcontext() if component.builtin else contextlib.redirect_stdout(sys.stderr),
            _as_if_first(),
        ):
            if is_file(component.value):
                return _load_file(component.value)
            return EntryPoint(component.name, component.value, KINDS[component.kind]).load()
    except (UsageError, MemoryError):
        raise
    except BaseException as error:  # a module that leaves takes nobody along
        if os.environ.get("AEGEN_STRICT_PLUGINS") == "1" or (isinstance(error, KeyboardInterrupt) and signals.asked()):
            raise
        raise PluginError(
            f"{component.who} could not be loaded ({said(error)}{raised_at(error)})",
            hint=f"{component.remedy}; AEGEN_STRICT_PLUGINS=1 shows the traceback",
        ) from error


def _module(value: str) -> str:
    """The module that a component is in, as `__name__` says it."""
    path = value.partition(":")[0].strip()
    return _module_of(Path(path)) if is_file(value) else path


def _own_modules(component: Component) -> str:
    """What the names of all modules of a component's package begin with: as little of its own module's name as no other package has.

    Nothing, if that very module is declared by aegen too.
    """
    own = _module(component.value)
    others = [c for row in _scan().values() for c in row if c.package != component.package and not is_file(c.value)]
    theirs = [_module(c.value) for c in others]
    if own in [_module(c.value) for c in others if c.builtin]:
        return ""
    parts = own.split(".")
    for count in range(1, len(parts)):
        prefix = ".".join(parts[:count])
        if not any(f"{module}.".startswith(f"{prefix}.") for module in theirs):
            return prefix
    return own


def _module_of(path: Path) -> str:
    return f"aegen_file_{path.stem.replace('.', '_')}"


def get(kind: str, name: str) -> Any:
    """`find`, then `load`."""
    return load(find(kind, name))


def _load_file(value: str) -> Any:
    path_text, _, attribute = value.partition(":")
    path = Path(os.path.realpath(path_text))  # unlike Path.resolve, takes links in a circle
    if not path.is_file():
        raise UsageError(f"there is no file {path_text}", hint="a file component is written ./mine.py:ClassName")
    if not attribute:
        raise UsageError(f"{value!r} names no class", hint=f"write {path_text}:ClassName")
    module_name = _module_of(path)
    module = sys.modules.get(module_name)
    if module is None or getattr(module, "__file__", None) != str(path):
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses and get_type_hints look a class's module up here
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    if not hasattr(module, attribute):
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module_name]
        hint = did_you_mean(attribute, classes) or f"it defines {listing(classes)}"
        raise UsageError(f"{path_text} has no {attribute!r}", hint=hint)
    return getattr(module, attribute)
