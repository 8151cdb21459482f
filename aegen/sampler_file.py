"""A fitted sampler in a file of its own beside the model's, `samplers/<name>.safetensors`: the model's file is never written again.

Keys: `sampler.*`. The header, `aegen-sampler` of the metadata, says which sampler it is, with what options, and to which weights it was fitted;
it is read by the code that reads checkpoints. In a run the files are named for the checkpoint that the run stands for; one of another checkpoint,
and one beside a file that lies in no run, has that file's name too: `samplers/mixture.last.safetensors`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from torch import nn
from typing_extensions import TypedDict

from aegen import checkpoint, checksummed
from aegen.checkpoint import Checkpoint
from aegen.checksummed import digest_of_text
from aegen.errors import UsageError
from aegen.filenames import native, portable
from aegen.header import Origin, Size, Unwritable, Whole, versioned
from aegen.rundir import find_checkpoint, owner
from aegen.spec import Spec
from aegen.untrusted import parse_json

FORMAT = 1
FOLDER = "samplers"
_MOST = 256  # files of a folder that are looked at
PREFIX = "sampler."


class SamplerHeader(TypedDict):
    """The JSON of a sampler's file; `weights` is the digest of the model that it was fitted to, `step` how long it was trained, 0 in closed form."""

    format: int
    sampler: Annotated[str, Field(min_length=1, max_length=4096)]
    options: dict[str, Any]
    weights: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    latent: Annotated[list[Size], Field(min_length=1, max_length=4)]
    seed: Whole
    step: Whole
    plugins: dict[str, Origin]


@functools.cache
def _header_type() -> TypeAdapter[SamplerHeader]:
    return TypeAdapter(SamplerHeader)


class SamplerFile(Checkpoint):
    """A sampler's file opened for reading; only the header is read at once.

    Attributes:
        header: `sampler`, `options`, `weights`, `latent`, `seed`, `step`, `plugins`.

    Raises:
        UsageError: the file is missing, cut short, no sampler's, or of a newer format.
    """

    entry, other = "aegen-sampler", ("aegen", "is a model and no fitted sampler")
    header: SamplerHeader  # type: ignore[assignment]

    @staticmethod
    def _read(text: str) -> Any:
        return native(_header_type().validate_python(versioned(text, FORMAT)))

    @functools.cached_property
    def fit(self) -> str:
        """A digest of what was fitted, 16 hexadecimal digits; nothing where the file has none of some tensor."""
        sums = {key: self._sums.get(key) for key in sorted(self.keys)}
        return "" if None in sums.values() else digest_of_text(json.dumps(sums).encode())

    def fits_model(self, model: Checkpoint) -> bool:
        """Whether it was fitted to these very weights."""
        return self.header["weights"] == model.decoder_weights


def place_of(model: Path, name: str) -> Path:
    """Where the sampler `name` of a model's file is written."""
    words = [_word(name)]
    folder = model.parent / FOLDER
    with suppress(UsageError):
        folder = owner(model).joinpath(FOLDER)
        if find_checkpoint(owner(model)).name == model.name:
            return folder / f"{words[0]}.safetensors"
    return folder / f"{words[0]}.{model.name.removesuffix('.safetensors')}.safetensors"


def places(model: Path, name: str) -> list[Path]:
    """Where it may lie: one that was fitted for another file of the same weights serves too."""
    own = place_of(model, name)
    with suppress(UsageError):
        owner(model)
        return list(dict.fromkeys([own, own.with_name(f"{_word(name)}.safetensors")]))
    return [own]


def kept(model: Checkpoint) -> dict[str, SamplerFile]:
    """The samplers beside a model's file that were fitted to its weights, by name; what cannot be read is none."""
    found: dict[str, SamplerFile] = {}
    for path in _listed(place_of(model.path, "any").parent):
        with suppress(UsageError, OSError):
            file = SamplerFile(path)
            name = file.header["sampler"]
            if file.fits_model(model) and path in places(model.path, name):
                found.setdefault(name, file)
    return found


def _listed(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from sorted(folder.glob("[!.]*.safetensors"))[:_MOST]


def find(model: Checkpoint, name: str) -> SamplerFile | None:
    """The file of the sampler `name` that was fitted to a model's weights; None where none is beside it.

    Raises:
        UsageError: there is one that is damaged, and none that is not.
    """
    trouble: UsageError | None = None
    for path in places(model.path, name):
        if not path.exists():
            continue
        try:
            file = SamplerFile(path)
        except UsageError as error:
            trouble = trouble or error
            continue
        if file.header["sampler"] == name and file.fits_model(model):
            return file
    if trouble is not None:
        raise UsageError(trouble.message, hint=f"fit it anew: aegen fit-sampler RUN --sampler {name} --force")
    return None


def of_other_weights(model: Checkpoint, name: str) -> Path | None:
    """The file of the sampler `name` that was fitted to other weights, if there is one."""
    for path in places(model.path, name):
        with suppress(UsageError):
            if path.exists() and not SamplerFile(path).fits_model(model):
                return path
    return None


def save(
    model: Checkpoint,
    spec: Spec,
    sampler: nn.Module,
    *,
    seed: int = 0,
    step: int = 0,
    may: Callable[[], None] | None = None,
) -> Path:
    """Keep a fitted sampler beside the model that it was fitted to, whole or not at all; the file.

    Args:
        seed, step: that it was fitted by, and how long it was trained.
        may: as `atomic.drafted` has it.

    Raises:
        Unwritable: the header is none that could be read.
        OSError: the file cannot be written; what stood there is untouched.
    """
    header = {
        "format": FORMAT,
        "sampler": spec.name,
        "options": spec.options,
        "weights": model.decoder_weights,
        "latent": list(model.header["latent"]),
        "seed": seed,
        "step": step,
        "plugins": checkpoint.origins([("sampler", spec.name)]),
    }
    try:
        about = json.dumps(portable(header))
        _header_type().validate_python(parse_json(about))
    except (ValueError, TypeError) as error:
        raise Unwritable(f"the header of a sampler cannot be written: {error}") from error
    path = place_of(model.path, spec.name)
    path.parent.mkdir(exist_ok=True)
    state = {PREFIX + key: value for key, value in sampler.state_dict().items()}
    checksummed.write(path, state, about, SamplerFile.entry, may)
    return path


def _word(name: str) -> str:
    """A sampler's name as that of a file: `./mine.py:Walk` → `mine.py-Walk`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "sampler"
