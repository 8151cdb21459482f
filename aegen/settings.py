"""The settings of a run and the run they describe: what `config.toml` and the header of a checkpoint hold.

The defaults stand here only; the command line, the TOML file and the documentation are made from these classes.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from aegen.errors import UsageError, listing
from aegen.filenames import portable
from aegen.spec import Range, Spec, check_options, options_of
from aegen.untrusted import quoted

Positive = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which images, and what shape they are given.

    Options:
        name: a data set by name, or the path of a folder, .npy, .npz, or shards-{000..999}.tar.
        root: where downloaded data sets live.
        download: fetch a missing data set into `root`.
        size: side of the images in pixels, one number, or [height, width]; the data's own by default.
        channels: 1 grey, 2 grey+alpha, 3 RGB, 4 RGBA; the data's own by default.
        fit: how an image of another shape is brought to size: cut the centre square, or resize and distort.
        white: the value that is white in images of more than 8 bits, such as 255 of floats or 4095 of 12 bits in 16; by default 1 of
            floats and the largest that their bits can hold of whole numbers.
        strict: refuse a folder with files that cannot be read, instead of skipping them.
        validation: share of the images held out, where the data has no split of its own.
        cache: keep decoded images in the cache folder, so that they are decoded once.
        cache_gb: room that decoded images may take there; what was not used for longest goes first.
        flip: turn half of the training images left to right, others in each epoch.
        crop: move training images by up to this many pixels, their edges mirrored.
    """

    name: str = "digits"
    root: str = "data"
    download: bool = False
    size: Annotated[int, Range(1, 8192)] | Annotated[list[int], Range(1, 8192)] | None = None
    channels: Annotated[int, Range(1, 4)] | None = None
    fit: Literal["crop", "resize"] = "crop"
    white: Annotated[float, Range(above=0)] | None = None
    strict: bool = False
    validation: Annotated[float, Range(above=0, max=0.5)] = 0.1
    cache: bool = True
    cache_gb: Annotated[float, Range(above=0)] = 32.0
    flip: bool = False
    crop: Annotated[int, Range(0, 4096)] = 0


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How the weights are moved.

    Options:
        epochs: passes over the training images.
        steps: stop after this many optimizer steps, instead of counting epochs.
        batch_size: images per process and micro-batch.
        lr: learning rate.
        optimizer: the rule that moves the weights.
        precision: arithmetic of the nets, losses are always in fp32; auto measures which is fastest.
        device: auto takes the GPU if there is one.
        parallel: what each of several processes holds: the whole model (ddp), or a part of encoder and decoder (fsdp).
        compile: each turn (forward, loss and backward) by torch.compile; reduce-overhead adds CUDA graphs, auto measures if it pays.
        seed: of the weights, the order of the images and all noise.
        accumulate: micro-batches per optimizer step.
        clip: largest gradient norm; 0 leaves gradients alone.
        ema: decay of an average of the weights, used for pictures and decoding; 0 is off.
        warmup: steps over which the learning rate rises from 0.
        schedule: of the learning rate after the warm-up; cosine falls to 0 at the last step.
        weight_decay: decoupled (adamw) or L2; matrices and kernels only.
        betas: the two decay rates of adam and adamw.
        momentum: of sgd and rmsprop.
        patience: stop after this many epochs without a better validation loss; 0 never does.
        on_nan: when a step is not finite: stop; skip it, so that it changes nothing; or rollback to the last good checkpoint, with
            half the learning rate.
    """

    epochs: Positive = 20
    steps: Positive | None = None
    batch_size: Positive = 64
    lr: Annotated[float, Range(above=0)] = 1e-3
    optimizer: Literal["adamw", "adam", "rmsprop", "sgd"] = "adam"
    precision: Literal["fp32", "tf32", "bf16", "fp16", "auto"] = "fp32"
    device: str = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    compile: Literal["off", "on", "reduce-overhead", "auto"] = "off"
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    accumulate: Positive = 1
    clip: Annotated[float, Range(0)] = 0.0
    ema: Annotated[float, Range(0, 0.999999)] = 0.0
    warmup: Whole = 0
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: Annotated[float, Range(0)] = 0.0
    betas: Annotated[list[float], Range(0, 0.999999)] = field(default_factory=lambda: [0.9, 0.999])
    momentum: Annotated[float, Range(0, 0.999999)] = 0.9
    patience: Whole = 0
    on_nan: Literal["stop", "skip", "rollback"] = "stop"


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When the state is written.

    Options:
        every_epochs: write last.safetensors every this many epochs; 0 only at the end.
        every_steps: write it also every this many steps; 0 does not.
        best: keep best.safetensors, the state of the lowest validation loss.
    """

    every_epochs: Whole = 1
    every_steps: Whole = 0
    best: bool = True


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What is told while a run goes on.

    Options:
        every_steps: steps between two lines of metrics.jsonl.
        images_every_epochs: epochs between two sets of pictures; 0 draws only at the end.
        images: how many images a picture of samples shows.
        trackers: trackers to switch on, such as ["tensorboard"].
    """

    every_steps: Positive = 50
    images_every_epochs: Whole = 1
    images: Positive = 64
    trackers: list[str] = field(default_factory=list)


SETTINGS: dict[str, Any] = {
    "data": DataSettings,
    "train": TrainSettings,
    "checkpoint": CheckpointSettings,
    "log": LogSettings,
}
FLAGS = {
    "Data": {
        "--data": "data.name",
        "--data-root": "data.root",
        "--download": "data.download",
        "--size": "data.size",
        "--channels": "data.channels",
        "--fit": "data.fit",
        "--strict-data": "data.strict",
        "--cache": "data.cache",
    },
    "Training": {
        "--epochs": "train.epochs",
        "--steps": "train.steps",
        "--batch-size": "train.batch_size",
        "--lr": "train.lr",
        "--optimizer": "train.optimizer",
        "--precision": "train.precision",
        "--device": "train.device",
        "--parallel": "train.parallel",
        "--compile": "train.compile",
        "--seed": "train.seed",
        "--on-nan": "train.on_nan",
        "--track": "log.trackers",
    },
}
"""Heading → flag of `aegen train` → dotted key; what is not here is reached by `--set`. `aegen.train` knows the same words."""
PARTS = ("arch", "bottleneck", "likelihood")
COMPONENTS = ("arch", "objective", "bottleneck", "likelihood")
# What may differ between a run and its resumption: how far, where and how it is watched, never what is computed.
RESUMABLE = frozenset(
    {
        "train.epochs",
        "train.steps",
        "train.device",
        "train.parallel",
        "train.patience",
        "train.on_nan",
        "data.name",  # the same images under another path; their fingerprint says whether they are
        "data.root",
        "data.download",
        "data.cache",
        "data.cache_gb",
    }
)


@dataclass(frozen=True, kw_only=True)
class ModelParts:
    """The parts of a model by name, with their options: what a run asks for, and what a `ModelSpec` has for its images."""

    arch: Spec
    bottleneck: Spec
    likelihood: Spec


@dataclass(frozen=True, kw_only=True)
class RunSpec(ModelParts):
    """Everything that determines a run; what `config.toml` and the header of a checkpoint hold."""

    objective: Spec
    data: DataSettings = field(default_factory=DataSettings)
    data_options: dict[str, Any] = field(default_factory=dict)
    train: TrainSettings = field(default_factory=TrainSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    log: LogSettings = field(default_factory=LogSettings)

    def to_dict(self) -> dict[str, Any]:
        """Nested tables, as in the TOML file; unset values are left out."""
        tables = {key: getattr(self, key).to_dict() for key in COMPONENTS}
        for key in SETTINGS:
            values = dataclasses.asdict(getattr(self, key))
            tables[key] = {k: v for k, v in values.items() if v is not None}
        tables["data"].update(self.data_options)
        return tables

    @property
    def asks(self) -> dict[str, Any]:
        """What is followed only on this user's word: which images are read, with what options, how they are kept, and who is told of the run."""
        options = {k: v for k, v in self.data_options.items() if v is not None}
        told = {"data": self.data.name, "root": self.data.root, "options": options, "trackers": self.log.trackers}
        usual = DataSettings()
        # What is as usual is in no seal, so that those of earlier versions hold.
        kept = {k: getattr(self.data, k) for k in ("cache", "cache_gb") if getattr(self.data, k) != getattr(usual, k)}
        return told | kept

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any], *, typed: bool = False) -> RunSpec:
        """The inverse of `to_dict`; values are checked, since they come from a file.

        Args:
            typed: whether somebody asked for them now. What a file says fetches nothing: there `data.download` is off.

        Raises:
            UsageError: a section is missing, or a value is not of its option's type.
        """
        for key in (*COMPONENTS, *SETTINGS):
            if not isinstance(tables.get(key, {}), Mapping):
                raise UsageError(f"{key} is {quoted(tables[key])}, but takes a table of options")
        missing = [key for key in COMPONENTS if not isinstance(tables.get(key, {}).get("name"), str)]
        if missing:
            raise UsageError(f"a run's configuration needs a name for {listing(missing)}")
        parts: dict[str, Any] = {key: Spec.from_dict(tables[key]) for key in COMPONENTS}
        for key, settings in SETTINGS.items():
            options = options_of(settings)
            given = tables.get(key, {})
            if key == "data":
                parts["data_options"] = {k: v for k, v in given.items() if k not in options}
                given = {k: v for k, v in given.items() if k in options}
            parts[key] = settings(**check_options(options, given, f"{key}.", key))
        if not typed:
            parts["data"] = dataclasses.replace(parts["data"], download=False)
        return cls(**parts)


def flatten(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"arch": {"width": 64}}` → `{"arch.width": 64}`; `arch = "conv"` is short for `arch.name = "conv"`."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif not prefix and key in (*COMPONENTS, "data"):
            flat[f"{key}.name"] = value
        else:
            flat[prefix + key] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tables: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        table = tables
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return tables


def to_toml(tables: Mapping[str, Any], notes: Mapping[str, str] | None = None, prefix: str = "") -> str:
    """Nested tables as TOML, which the standard library can read but not write.

    Args:
        notes: a comment for a dotted key, such as where its value came from.
    """
    notes = notes or {}
    lines, tails = [], []
    width = max((len(f"{k} = {_toml_value(v)}") for k, v in tables.items() if not isinstance(v, Mapping)), default=0)
    for key, value in tables.items():
        if isinstance(value, Mapping):
            body = to_toml(value, notes, f"{prefix}{key}.")
            path = [*filter(None, prefix.split(".")), key]
            tails.append(f"[{'.'.join(_toml_key(part) for part in path)}]\n{body}")
        else:
            line = f"{_toml_key(key)} = {_toml_value(value)}"
            note = notes.get(prefix + key)
            lines.append(f"{line:<{min(width, 60)}}  # {note}" if note else line)
    head = "".join(f"{line}\n" for line in lines)
    return head + "\n" * bool(head and tails) + "\n".join(tails)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(v) for v in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    # JSON's escapes are TOML's, except that TOML also forbids a raw DEL. Bytes of names that are no text are seen best as escapes.
    text = json.dumps(portable(value), ensure_ascii=False)
    return re.sub("[\x7f\uf780-\uf7ff]", lambda found: f"\\u{ord(found[0]):04x}", text)
