"""One safetensors file ⇄ named states and a JSON header. No code in it, none run by reading it.

Keys: `model.*`, `ema.*`, `objective.*`, `sampler.<name>.*`, `optim/<turn>/<parameter>/<slot>`. The only metadata entry,
`aegen`, is a JSON string. Reading is lazy: decoding takes the `model.` or `ema.` tensors and leaves the optimizer's
on disk, so the training file is the inference file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import (
    Any,
    NotRequired,  # pydantic asks for this one before Python 3.12
)

import torch
from pydantic import NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import TypedDict

from aegen import registry
from aegen.errors import PluginError, UsageError
from aegen.settings import RunSpec

FORMAT = 1


class Origin(TypedDict):
    """Where a component came from."""

    package: str
    version: str


class DataNote(TypedDict):
    """What a model was trained on."""

    name: str
    count: int
    classes: list[str]
    fingerprint: str


class Header(TypedDict):
    """The JSON of a checkpoint; what is read from a file is checked against this.

    `encodes` says whether the encoder was trained; `plugins` is keyed `kind:name`; `samplers` has the options of each fitted sampler; the rest is the progress of the run.
    """

    format: int
    spec: dict[str, Any]
    image: tuple[PositiveInt, PositiveInt, PositiveInt]
    latent: list[PositiveInt]
    data: DataNote
    plugins: dict[str, Origin]
    samplers: dict[str, dict[str, Any]]
    encodes: NotRequired[bool]
    versions: dict[str, str]
    step: NonNegativeInt
    best: float | None
    best_epoch: int
    waited: int
    per_epoch: PositiveInt
    validation: dict[str, float]


_DAMAGED = "it was altered after aegen wrote it; use another checkpoint of the run"


def save(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write atomically: a temporary file in the same folder, flushed to disk, then renamed over `path`.

    Raises:
        OSError: the file cannot be written; what stood at `path` is untouched and nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            save_file(_detached(tensors), temporary, {"aegen": json.dumps({"format": FORMAT, **header})})
        except SafetensorError as error:
            raise OSError(str(error)) from error  # that is how safetensors reports a full disk
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):  # what went wrong first is what matters
            temporary.unlink()
        raise


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, each with memory of its own, which safetensors demands."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        if plain.numel() and plain.untyped_storage().data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        result[name] = plain
    return result


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system allows a folder to be flushed."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


class Checkpoint:
    """A checkpoint opened for reading; only the header is read at once.

    Attributes:
        path: of the file.
        header: what the metadata holds: `format`, `spec`, `image`, `latent`, `step`, `data`, `plugins`, ….

    Raises:
        UsageError: the file is missing, cut short, not aegen's, or of a newer format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise UsageError(f"there is no checkpoint at {path}", hint="give a run folder or a .safetensors file")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                self.keys = frozenset(file.keys())
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"{path} is not a whole safetensors file ({error})",
                hint="it was cut short or is something else; use another checkpoint of the run",
            ) from error
        if "aegen" not in metadata:
            raise UsageError(
                f"{path} was not written by aegen: its safetensors metadata has no aegen entry",
                hint="give a checkpoint that `aegen train` wrote",
            )
        try:
            raw = json.loads(metadata["aegen"])
            version = TypeAdapter(int).validate_python(raw["format"] if isinstance(raw, dict) else None)
            if version > FORMAT:
                raise UsageError(
                    f"{path} has checkpoint format {version}, this aegen reads up to {FORMAT}",
                    hint="pip install --upgrade aegen",
                )
            self.header: Header = TypeAdapter(Header).validate_python(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "format"
            raise UsageError(f"{path} has a damaged header ({where}: {first['msg']})", hint=_DAMAGED) from error
        except (ValueError, KeyError) as error:
            raise UsageError(f"{path} has a damaged header ({error})", hint=_DAMAGED) from error

    def tensors(self, prefix: str, *, device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """The tensors whose keys begin with `prefix`, by the rest of their key; others stay on disk."""
        with safe_open(self.path, "pt", device=str(device)) as file:
            return {k.removeprefix(prefix): file.get_tensor(k) for k in sorted(self.keys) if k.startswith(prefix)}

    def has(self, prefix: str) -> bool:
        """Whether any key begins with `prefix`."""
        return any(k.startswith(prefix) for k in self.keys)

    def restore(self, module: nn.Module, prefix: str) -> None:
        """Load a module's state; every tensor must be there and fit.

        Raises:
            UsageError: naming the first tensor that is missing, superfluous or of another shape.
        """
        tensors = self.tensors(prefix)
        own = module.state_dict()
        wrong = [f"{k} is missing" for k in own if k not in tensors]
        wrong += [f"{k} is unknown to the model" for k in tensors if k not in own]
        wrong += [
            f"{k} is {tuple(tensors[k].shape)}, the model has {tuple(v.shape)}"
            for k, v in own.items()
            if k in tensors and tensors[k].shape != v.shape
        ]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise UsageError(
                f"{self.path} does not fit its own configuration: {prefix}{wrong[0]}{more}",
                hint="the file was altered, or a plugin changed since it was written",
            )
        module.load_state_dict(tensors)

    @property
    def spec(self) -> RunSpec:
        """The run that wrote it.

        Raises:
            UsageError: its configuration was altered.
        """
        try:
            return RunSpec.from_dict(self.header["spec"])
        except UsageError as error:
            raise UsageError(f"{self.path} has a damaged configuration ({error.message})", hint=_DAMAGED) from error

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
                    hint=f"pip install {origin['package']}",
                )


def origins(components: Iterable[tuple[str, str]]) -> dict[str, Origin]:
    """Package and version of each (kind, name), for the header."""
    found: dict[str, Origin] = {}
    for kind, name in components:
        component = registry.find(kind, name)
        found[f"{kind}:{name}"] = {"package": component.package, "version": component.version}
    return found
