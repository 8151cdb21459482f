"""One safetensors file ⇄ named states and a JSON header. No code in it, none run by reading it.

Keys: `model.*`, `ema.*`, `objective.*`, `sampler.<name>.*`, `optim/<turn>/<parameter>/<slot>`. Of the two metadata entries,
both JSON, `aegen` is the header and `checksums` has a digest of the header and of each tensor, which are compared when
they are read. Reading is lazy: decoding takes the `model.` or `ema.` tensors and leaves the optimizer's on disk, so the
training file is the inference file.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from aegen import header as headers
from aegen import registry, signing
from aegen.checksummed import checksums, digest, digest_of_text, write
from aegen.errors import PluginError, UsageError
from aegen.filenames import native
from aegen.fitting import compare, fitting
from aegen.header import Header as Header
from aegen.header import Origin
from aegen.header import Unwritable as Unwritable
from aegen.header import check as check
from aegen.model_spec import ModelSpec
from aegen.places import locate
from aegen.rundir import ASKS, find_checkpoint, owner, told_paths
from aegen.safetensors_file import OpenedFile
from aegen.settings import RunSpec
from aegen.untrusted import parse_toml, read_text, shown

T = TypeVar("T", bound=nn.Module)
V = TypeVar("V")

_DECAYED = "a disk or a copy changed it after it was written; use another checkpoint of the run, or a copy of this one"
_AGAIN = "do it again"
_DAMAGED = "it was altered after aegen wrote it; use another checkpoint of the run"


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, Any],
    may: Callable[[], None] | None = None,
    *,
    replaces: bool = True,
) -> None:
    """Write atomically: a temporary file in the same folder, flushed to disk, then renamed over `path`.

    Args:
        may, replaces: as `atomic.drafted` has them.

    Raises:
        Unwritable: the header is none that could be read.
        OSError: the file cannot be written; what stood at `path` is untouched and nothing is left behind.
    """
    write(path, tensors, json.dumps(check(header)), "aegen", may, replaces=replaces)


class Checkpoint:
    """A checkpoint opened for reading; only the header is read at once.

    What is read later is of the same file, also where training has put another one in its place.

    Attributes:
        path: of the file.
        header: what the metadata holds: `format`, `spec`, `image`, `latent`, `step`, `data`, `plugins`, ….

    Raises:
        UsageError: the file is missing, cut short, not aegen's, or of a newer format.
    """

    entry, other = "aegen", ("aegen-sampler", "is a fitted sampler and no model: give the run folder that it lies in")
    """Of the metadata: the entry that is the header, and one of files that are something else, with what they are."""
    header: Header

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise UsageError(f"there is no checkpoint at {path}", hint="give a run folder or a .safetensors file")
        if not os.access(path, os.R_OK):  # safetensors calls that a file that is not there
            raise UsageError(f"{path} may not be read", hint="have its owner let you, or take a copy")
        try:
            self._file = OpenedFile(path)
            metadata = self._file.metadata
            self.keys = frozenset(self._file.keys)
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"{path} is not a whole safetensors file ({error})",
                hint="it was cut short or is something else; use another checkpoint of the run",
            ) from error
        if self.entry not in metadata and self.other[0] in metadata:
            raise UsageError(f"{path} {self.other[1]}")
        if self.entry not in metadata:
            raise UsageError(
                f"{path} was not written by aegen: its safetensors metadata has no {self.entry} entry",
                hint="give a checkpoint that `aegen train` wrote",
            )
        try:
            self._sums = checksums(metadata, self.entry)
            self.header = self._read(metadata[self.entry])
        except headers.Newer as error:
            raise UsageError(f"{path} {error}", hint="pip install --upgrade aegen") from error
        except ValidationError as error:
            raise UsageError(f"{path} has a damaged header ({headers.first_fault(error)})", hint=_DAMAGED) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} has a damaged header ({error})", hint=_DAMAGED) from error

    @staticmethod
    def _read(text: str) -> Any:
        return headers.read(text)

    def tensors(self, prefix: str, *, device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """The tensors whose keys begin with `prefix`, by the rest of their key; others stay on disk.

        Raises:
            UsageError: a tensor is not what was written; only those that are read are looked at.
        """
        found = {}
        try:
            for key in sorted(key for key in self.keys if key.startswith(prefix)):
                tensor = self._file.tensor(key)
                if key in self._sums and digest(tensor) != self._sums[key]:
                    if self._file.altered:
                        raise UsageError(f"{self.path} was written over while it was read", hint=_AGAIN)
                    raise UsageError(f"{self.path} is damaged: the checksum of {key} does not fit", hint=_DECAYED)
                found[key.removeprefix(prefix)] = tensor.to(device)
        except (OSError, SafetensorError) as error:
            raise UsageError(f"{self.path} can no longer be read ({error})", hint=_AGAIN) from error
        return found

    def same_weights(self, other: Checkpoint) -> bool:
        """Whether both hold the same tensors of the model and of its objective, as far as their digests tell."""

        own = self._sums_of_weights()
        return None not in own.values() and own == other._sums_of_weights()

    @property
    def weights(self) -> str:
        """One digest of the model's and the objective's tensors, 16 hexadecimal digits; nothing where the file has none of some."""
        own = self._sums_of_weights()
        return "" if None in own.values() else digest_of_text(json.dumps(own, sort_keys=True).encode())

    @functools.cached_property
    def decoder_weights(self) -> str:
        """A digest of the model as it is used, 16 hexadecimal digits: what a sampler is fitted to, wherever it is written."""
        prefix = "ema." if self.has("ema.") else "model."
        keys = sorted(key for key in self.keys if key.startswith(prefix))
        sums = {key.removeprefix(prefix): self._sums.get(key) or digest(self._file.tensor(key)) for key in keys}
        return digest_of_text(json.dumps(sums, sort_keys=True).encode())

    def _sums_of_weights(self) -> dict[str, str | None]:
        return {k: self._sums.get(k) for k in self.keys if k.startswith(("model.", "ema.", "objective."))}

    def close(self) -> None:
        """Let go of the file: what was replaced takes room on the disk as long as it is open."""
        self._file.close()

    @property
    def replaced(self) -> bool:
        """Whether another checkpoint stands in its place by now."""
        return self._file.replaced

    def has(self, prefix: str) -> bool:
        """Whether any key begins with `prefix`."""
        return any(k.startswith(prefix) for k in self.keys)

    def restore(self, module: nn.Module, prefix: str, *, mapped: bool = False) -> None:
        """Load a module's state; every tensor must be there and fit.

        Args:
            mapped: leave the tensors in the file's own pages instead of copying them, for a module that is only used.

        Raises:
            UsageError: naming the first tensor that is missing, superfluous or of another shape.
        """
        tensors = self.tensors(prefix)
        own = module.state_dict()
        self._compare(prefix, own, {k: (tuple(v.shape), v.is_floating_point()) for k, v in tensors.items()})
        mapped = mapped and os.name == "posix"  # elsewhere a file cannot be replaced while it is mapped
        if mapped:
            tensors = {k: v.to(own[k].dtype) for k, v in tensors.items()}
        module.load_state_dict({k: _like(own[k], v) for k, v in tensors.items()}, assign=mapped)

    def fits(self, build: Callable[[], T], prefix: str) -> T | None:
        """See that what `build` makes has the tensors of this file, before any of it is made; keys begin with `prefix`. See `fitting`."""
        held = {k.removeprefix(prefix): self._file.shape(k) for k in sorted(self.keys) if k.startswith(prefix)}
        return fitting(self.path, build, held, prefix)

    def _compare(
        self, prefix: str, own: Mapping[str, Tensor], held: Mapping[str, tuple[tuple[int, ...], bool]]
    ) -> None:
        compare(self.path, prefix, own, held)

    @property
    def has_run(self) -> bool:
        """Whether a run trained it; else it was imported."""
        return "spec" in self.header

    @property
    def spec(self) -> RunSpec:
        """The run that wrote it.

        Raises:
            UsageError: there was none, or its configuration was altered.
        """
        return self._configured(headers.run_of, headers.without_run(self.path))

    @property
    def model_spec(self) -> ModelSpec:
        """What the model is, whoever trained it.

        Raises:
            UsageError: it was altered.
        """
        return self._configured(headers.model_of)

    def _configured(self, read: Callable[[Header], V | None], missing: UsageError | None = None) -> V:
        try:
            found = read(self.header)
            if found is None and missing is not None:
                raise missing
            assert found is not None
            return found
        except UsageError as error:
            if error is missing:
                raise
            raise UsageError(f"{self.path} has a damaged configuration ({error.message})", hint=_DAMAGED) from error

    @property
    def own(self) -> bool:
        """Whether this user's aegen wrote what it asks to be read; a model without a run asks for nothing."""
        return self.has_run and signing.holds(self.spec.asks, self.header.get("seal"))

    def changed(self) -> list[str]:
        """A sentence for each file component that holds something else than when this was written, as far as that is known."""
        told: dict[str, str] = {}
        for key, origin in self.header["plugins"].items():
            kind, _, name = key.partition(":")
            if origin["package"] != "file" or not origin["version"]:
                continue
            component = registry.find(kind, name)
            now = registry.contents(component)
            if now != origin["version"]:
                path = component.value.partition(":")[0]
                told[path] = (
                    f"{path} has changed since {self.path} was written (digest {shown(origin['version'], most=16)} then, {now} now); from here "
                    f"on the run is one of the file as it is now: put the old one back where it should be the run that was begun"
                )
        return list(told.values())

    def require_model(self) -> None:
        """Refuse a file that holds a sampler in training.

        Raises:
            UsageError: it does.
        """
        if "trains" in self.header:
            name = shown(self.header["trains"]["sampler"])
            raise UsageError(
                f"{self.path} is the training of a sampler, {name}, and no model",
                hint=f"give the run that it lies in; to go on with it: aegen fit-sampler RUN --sampler {name} --resume",
            )

    def require_plugins(self, kinds: Iterable[str]) -> None:
        """Name the package to install, before a name that it provides turns out to be unknown.

        Raises:
            PluginError: a component of these kinds came from a package that is not installed.
        """
        for key, origin in self.header["plugins"].items():
            kind, _, name = key.partition(":")
            if kind not in kinds or origin["package"] in ("file", registry.BUILTIN):
                continue
            owners = [c.package for c in registry.components(kind) if c.name == name.rpartition("/")[2]]
            if not owners:
                raise PluginError(
                    f"{self.path} needs the {kind} {name!r} of {origin['package']} {origin['version']}, "
                    "which is not installed",
                    hint=_installing(origin["package"]),
                )


def _installing(package: str) -> str:
    """What to do, without a command that a file made up."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", package):
        return f"if you trust that package: pip install {package}"
    return "ask whoever made the file where that package is from"


def _like(own: Tensor, whole: Tensor) -> Tensor:
    """A tensor, or this process's part of it where its own is only such a part."""
    mesh = getattr(own, "device_mesh", None)
    if mesh is None:
        return whole
    from torch.distributed.tensor import distribute_tensor

    placements = getattr(own, "placements", None)
    return distribute_tensor(whole.to(own.device), mesh, placements, src_data_rank=None)


def origins(components: Iterable[tuple[str, str]]) -> dict[str, Origin]:
    """Package and version of each (kind, name), for the header; a file's version is a digest of what is in it."""
    found: dict[str, Origin] = {}
    for kind, name in components:
        component = registry.find(kind, name)
        version = component.version or registry.contents(component)
        found[f"{kind}:{name}"] = {"package": component.package, "version": version}
    return found


@dataclass(frozen=True)
class Resumable:
    """What a run goes on with.

    Attributes:
        home: its folder.
        saved: its last checkpoint; None where there is none yet.
        spec: its configuration.
        own: whether this user's aegen wrote what that asks to be read.
    """

    home: Path
    saved: Checkpoint | None
    spec: RunSpec
    own: bool


def resumable(place: Path) -> Resumable:
    """What `--resume place` goes on with.

    There is no checkpoint when the run was stopped before it wrote one; its configuration is then that of `config.toml`, and it
    begins again.

    Raises:
        UsageError: there is no such run, or what is there is damaged.
        PluginError: it needs a package that is not installed.
    """
    place = locate(place)
    if (place / "config.toml").is_file() and not any((place / "checkpoints").glob("*.safetensors")):
        try:
            spec = RunSpec.from_dict(native(parse_toml(read_text(place / "config.toml"))))
        except (OSError, ValueError) as error:
            hint = "the run took no step that was saved; begin a new one"
            raise UsageError(f"{place / 'config.toml'} cannot be read ({error})", hint=hint) from error
        with suppress(OSError, ValueError):
            return Resumable(place, None, spec, told_paths(place).get(ASKS) == spec.asks)
        return Resumable(place, None, spec, False)
    saved = Checkpoint(find_checkpoint(place, prefer="last"))
    saved.require_model()
    home = owner(saved.path)
    saved.require_plugins(("architecture", "bottleneck", "likelihood", "objective", "dataset", "tracker"))
    return Resumable(home, saved, saved.spec, saved.own)
