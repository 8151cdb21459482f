"""The JSON of a checkpoint: what it may say of itself, and how that is read and checked.

A model that was trained by a run has the run's configuration (`spec`), its data and its progress; one that was imported has its own parts
(`model`) and where it came from. Both have the shapes of images and latents.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import (
    Annotated,
    Any,
    NotRequired,  # pydantic asks for this one before Python 3.12
)

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from aegen.errors import RunError, UsageError
from aegen.filenames import native, portable
from aegen.model_spec import LatentStatistics, ModelSpec, sound
from aegen.settings import RunSpec
from aegen.untrusted import parse_json

FORMAT = 2
"""The newest that is read: 1 has a run, 2 has none."""
# What a file may say of itself. Beyond lies nothing that was trained, only arithmetic that overflows.
Whole = Annotated[int, Field(ge=0, le=2**53)]
Count = Annotated[int, Field(ge=1, le=2**53)]
Side = Annotated[int, Field(ge=1, le=65535)]
Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
Real = Annotated[float, Field(allow_inf_nan=False)]


class Origin(TypedDict):
    """Where a component came from."""

    package: str
    version: str


class DataNote(TypedDict):
    """What a model was trained on."""

    name: str
    count: Whole
    classes: list[str]
    fingerprint: str
    held_out: NotRequired[str]


class LatentNote(TypedDict):
    """A `LatentStatistics`."""

    scaling: Real
    shift: Real
    mean: list[Real]
    std: list[Real]
    images: Whole


class ImportNote(TypedDict):
    """What a model without a run was made of: the name of the file, and who read it."""

    importer: str
    file: str


class SamplerNote(TypedDict):
    """The sampler that a checkpoint is the training of; `weights` is the digest of the model that it is for."""

    sampler: str
    options: dict[str, Any]
    weights: str


class Header(TypedDict):
    """The JSON of a checkpoint; what is read from a file is checked against this.

    `encodes` says whether the encoder was trained; `plugins` is keyed `kind:name`; `samplers` has the options of each fitted sampler inside (now
    they have files of their own); `latents` is how they are spread; `trains` says that it holds no model, but a sampler in training; `batch` is of all processes; `seal` is that of `RunSpec.asks`; `unmoved` names, by turn, the
    parameters of which the optimizer holds nothing, since no gradient has reached them; the rest is the progress of the run. All of
    `OF_A_RUN` is there, or `model` and none of it.
    """

    format: int
    image: tuple[Annotated[int, Field(ge=1, le=4)], Side, Side]
    latent: Annotated[list[Size], Field(min_length=1, max_length=4)]
    plugins: dict[str, Origin]
    samplers: dict[str, dict[str, Any]]
    latents: NotRequired[LatentNote]
    encodes: NotRequired[bool]
    versions: dict[str, str]
    model: NotRequired[dict[str, Any]]
    imported: NotRequired[ImportNote]
    spec: NotRequired[dict[str, Any]]
    data: NotRequired[DataNote]
    step: NotRequired[Whole]
    best: NotRequired[float | None]
    best_epoch: NotRequired[Annotated[int, Field(ge=-1, le=2**53)]]
    waited: NotRequired[Whole]
    per_epoch: NotRequired[Count]
    processes: NotRequired[Count]
    batch: NotRequired[Count]
    validation: NotRequired[dict[str, float]]
    skipped: NotRequired[Whole]
    skipped_in_row: NotRequired[Whole]
    rollbacks: NotRequired[Whole]
    unmoved: NotRequired[dict[str, list[str]]]
    trains: NotRequired[SamplerNote]
    low: NotRequired[dict[str, tuple[Whole, Whole, bool]]]
    seal: NotRequired[str]


OF_A_RUN = ("spec", "data", "step", "best", "best_epoch", "waited", "per_epoch", "validation")


class Unwritable(RunError, ValueError):
    """What would be written could not be read again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="a component gave it; aegen.testing checks the components of a package")


def check(header: Mapping[str, Any]) -> dict[str, Any]:
    """A header as it is written, held against what one that is read must be.

    Raises:
        Unwritable: it is not; some component gave what is no JSON value, or of another type than `Header` says.
    """
    try:
        told: dict[str, Any] = portable({"format": 2 if "model" in header else 1, **header})
        validated(parse_json(json.dumps(told)))
    except ValidationError as error:
        raise Unwritable(f"the header of a checkpoint has {first_fault(error)}") from error
    except (ValueError, TypeError) as error:
        raise Unwritable(f"the header of a checkpoint is no JSON: {error}") from error
    return told


def read(text: str) -> Header:
    """The header of a model's file.

    Raises:
        Newer, ValueError, KeyError, TypeError: as `versioned` and `validated`.
    """
    return validated(versioned(text, FORMAT))


def versioned(text: str, newest: int) -> Any:
    """The JSON of a header whose format is known.

    Raises:
        Newer: it is of a format that this aegen does not know.
        ValueError, KeyError, TypeError: it is none.
    """
    raw = parse_json(text)
    version = raw.get("format") if isinstance(raw, dict) else None
    if not isinstance(version, int):
        raise ValueError("format: it takes a whole number")
    if version > newest:
        raise Newer(f"has checkpoint format {version}, this aegen reads up to {newest}")
    return raw


class Newer(Exception):
    """A later aegen wrote it."""


def validated(raw: Any) -> Header:
    """What JSON gave, checked.

    Raises:
        ValueError: it is no header.
    """
    found: Header = native(_type().validate_python(raw))
    if "model" not in found:
        missing = [key for key in OF_A_RUN if key not in found]
        if missing:
            raise ValueError(f"{missing[0]}: Field required")
    elif told := [key for key in OF_A_RUN if key in found]:
        raise ValueError(f"{told[0]}: it is of a run, and a model of its own has none")
    if (statistics := statistics_of(found)) is not None and (wrong := sound(statistics, found["latent"][0])):
        raise ValueError(f"latents: {wrong}")
    return found


def first_fault(error: ValidationError) -> str:
    """The first of what is wrong, in a few words."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'format'}: {first['msg']}"


@functools.cache
def _type() -> TypeAdapter[Header]:
    return TypeAdapter(Header)  # made when it is first needed; that takes longer than its use


# ---------------------------------------------------------------------------------------------------- what it says


def statistics_of(header: Header) -> LatentStatistics | None:
    """How the latents are spread, where that is known."""
    note = header.get("latents")
    if note is None:
        return None
    return LatentStatistics(note["scaling"], note["shift"], note["mean"], note["std"], note["images"])


def note_of(statistics: LatentStatistics) -> LatentNote:
    """The inverse of `statistics_of`."""
    return {
        "scaling": statistics.scaling,
        "shift": statistics.shift,
        "mean": list(statistics.mean),
        "std": list(statistics.std),
        "images": statistics.images,
    }


def run_of(header: Header) -> RunSpec | None:
    """The configuration of the run that trained the model, if there was one.

    Raises:
        UsageError: it was altered.
    """
    return RunSpec.from_dict(header["spec"]) if "spec" in header else None


def model_of(header: Header) -> ModelSpec:
    """What the model is, whoever trained it.

    Raises:
        UsageError: it was altered.
    """
    image, latent, statistics = header["image"], header["latent"], statistics_of(header)
    encodes = header.get("encodes", True)
    run = run_of(header)
    if run is None:
        return ModelSpec.from_dict(header["model"], image, latent, statistics, encodes=encodes)
    parts = {key: getattr(run, key).to_dict() for key in ("arch", "bottleneck", "likelihood")}
    tables = parts | {"classes": header["data"]["classes"], "fit": run.data.fit, "white": run.data.white}
    return ModelSpec.from_dict(tables, image, latent, statistics, encodes=encodes)


def classes_of(header: Header) -> list[str]:
    """Names of the classes that the model was told, by label."""
    note = header.get("data")
    return list(note["classes"]) if note is not None else list(header.get("model", {}).get("classes", []))


def without_run(path: object) -> UsageError:
    """What is said where something of a run is asked for, and there was none."""
    hint = "images for it are named with --data; training on its weights: aegen train --init-from"
    return UsageError(f"{path} was imported and has no run here: no training data, objective or curves", hint=hint)
