"""Signatures are configuration: a component's keyword-only parameters, read as a schema, and the run they describe.

The command line, the TOML file, the header of a checkpoint and the documentation are all made from what is here, so
a default stands in one place only: the signature.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from aegen.errors import UsageError, did_you_mean, listing
from aegen.schedules import Schedule


@dataclass(frozen=True)
class Range:
    """Bounds of a numeric option, both ends included: `width: Annotated[int, Range(1)] = 32`.

    `above` is an open lower end: `lr: Annotated[float, Range(above=0)]`.
    """

    min: float | None = None
    max: float | None = None
    above: float | None = None

    def __contains__(self, value: float) -> bool:
        # Written so that NaN, which fails every comparison, is outside.
        return (
            (self.min is None or value >= self.min)
            and (self.max is None or value <= self.max)
            and (self.above is None or value > self.above)
        )

    def __str__(self) -> str:
        low = f"{self.above:.10g}<" if self.above is not None else f"{self.min:.10g}≤" if self.min is not None else ""
        return f"{low}x" + (f"≤{self.max:.10g}" if self.max is not None else "")


@dataclass(frozen=True)
class Option:
    """One keyword-only parameter, as a user sees it."""

    name: str
    type: Any
    default: Any
    help: str = ""
    range: Range | None = None
    schedulable: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        """The accepted words, where the type is a `Literal`."""
        return tuple(str(a) for a in get_args(self.type)) if get_origin(self.type) is Literal else ()

    @property
    def kind(self) -> str:
        """The type in a few words, for help and for errors."""
        if self.choices:
            return "|".join(self.choices)
        name = _type_name(self.type)
        bounded = f"{name} {self.range}" if self.range else name
        return f"{bounded}|schedule" if self.schedulable else bounded

    def check(self, value: Any, key: str) -> Any:
        """`value`, converted to the option's type; text is read as the command line writes it.

        Raises:
            UsageError: naming `key`, what was given and what is accepted.
        """
        if self.schedulable and isinstance(value, str) and "(" in value:
            schedule = Schedule.parse(value)
            for end in (schedule.low, schedule.high):
                self._check_range(end, value, key)
            return str(schedule)
        try:
            checked = _adapt(self.type, value)
        except ValueError:
            word = did_you_mean(str(value), self.choices)
            raise UsageError(f"{key} is {value!r}, but takes {self.kind}", hint=word) from None
        self._check_range(checked, value, key)
        return checked

    def _check_range(self, checked: Any, value: Any, key: str) -> None:
        numbers = checked if isinstance(checked, list) else [checked]
        bad = [n for n in numbers if isinstance(n, int | float) and self.range is not None and n not in self.range]
        if bad:
            raise UsageError(f"{key} is {value!r}, but must lie in {self.range}")


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return "|".join(_type_name(a) for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is Literal:
        return "|".join(str(a) for a in get_args(annotation))
    if get_origin(annotation) is list:
        return f"[{_type_name(get_args(annotation)[0])},…]"
    return {int: "integer", float: "number", str: "text", bool: "true|false"}.get(annotation, str(annotation))


def _adapt(annotation: Any, value: Any) -> Any:
    """`value` as `annotation`, or ValueError."""
    from pydantic import ConfigDict, TypeAdapter  # 60 ms that help and listings need not spend

    branches = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    if (
        isinstance(value, str)
        and any(get_origin(b) is list for b in branches)
        and (len(branches) == 1 or value.lstrip().startswith("["))
    ):
        value = json.loads(value)
    if isinstance(value, bool) and annotation in (int, float):
        raise ValueError(value)
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False)).validate_python(value)


def options_of(cls: Any, *, schedulable: bool = False) -> dict[str, Option]:
    """The options of a component class or settings dataclass: the keyword-only parameters of its constructor.

    Args:
        cls: a class whose docstring may have an "Options:" part, one `name: help` a line.
        schedulable: whether its `float` options also take a schedule (they do for objectives).
    """
    init = cls.__init__
    if init is object.__init__:
        return {}
    hints = get_type_hints(init, include_extras=True)
    helps = _option_helps(inspect.getdoc(cls) or "")
    found = {}
    for name, parameter in inspect.signature(init).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.default is inspect.Parameter.empty or name not in hints:
            raise TypeError(f"{cls.__name__}: option {name!r} needs a type and a default")
        hint, limits = _unwrap(hints[name])
        default = parameter.default
        if type(default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":  # how dataclasses mark default_factory
            default = getattr(cls(), name)
        # `float` itself, not a union that has it: `scale: float | Literal["learned"]` is no number to anneal.
        found[name] = Option(name, hint, default, helps.get(name, ""), limits, schedulable and hint is float)
    return found


def _unwrap(hint: Any) -> tuple[Any, Range | None]:
    """A type without its `Annotated`, also inside a union, and the range that it carried."""
    if get_origin(hint) is Annotated:
        bare, *extras = get_args(hint)
        return bare, next((e for e in extras if isinstance(e, Range)), None)
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_unwrap(part) for part in get_args(hint)]
        return Union[tuple(part for part, _ in parts)], next((r for _, r in parts if r is not None), None)  # noqa: UP007
    return hint, None


def positional_of(cls: Any) -> list[str]:
    """Names of the positional parameters, those that the framework fills."""
    if cls.__init__ is object.__init__:
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return [n for n, p in inspect.signature(cls.__init__).parameters.items() if p.kind in kinds and n != "self"]


def _option_helps(doc: str) -> dict[str, str]:
    """`name: help` lines of the "Options:" part of a docstring; continued lines are indented further."""
    match = re.search(r"^Options:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    helps: dict[str, str] = {}
    name = ""
    for line in match.group(1).splitlines() if match else []:
        entry = re.match(r"^ {4}(\w+): (.*)$", line)
        if entry:
            name = entry.group(1)
            helps[name] = entry.group(2).strip()
        elif name and line.strip():
            helps[name] += " " + line.strip()
    return helps


def check_options(
    options: Mapping[str, Option],
    given: Mapping[str, Any],
    prefix: str,
    owner: str,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """`given`, each value checked, completed by the defaults.

    Args:
        prefix: how the key reads to the user, such as `arch.`.
        owner: whose options they are, for the message: `architecture conv`.
        labels: what the user wrote for a key, such as `--lr`, where that is not the key itself.

    Raises:
        UsageError: an unknown name (with a suggestion) or an unacceptable value.
    """
    labels = labels or {}
    for name in given:
        if name not in options:
            hint = did_you_mean(name, options) or f"{owner} takes {listing(options)}"
            raise UsageError(f"unknown option {prefix}{name}: {owner} has none of that name", hint=hint)
    return {
        name: option.check(given[name], labels.get(prefix + name, prefix + name)) if name in given else option.default
        for name, option in options.items()
    }


@dataclass(frozen=True)
class Spec:
    """A component by name, with its options as JSON values."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """`{"name": …, **options}`, the form of a TOML table."""
        return {"name": self.name, **self.options}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Spec:
        """The inverse of `to_dict`."""
        return cls(table["name"], {k: v for k, v in table.items() if k != "name"})


Positive = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which images, and what shape they are given.

    Options:
        name: a data set by name, or the path of a folder, .npy or .npz.
        root: where downloaded data sets live.
        download: fetch a missing data set into `root`.
        size: side of the images in pixels, one number, or [height, width]; the data's own by default.
        channels: 1 grey, 2 grey+alpha, 3 RGB, 4 RGBA; the data's own by default.
        fit: how an image of another shape is brought to size: cut the centre square, or resize and distort.
        strict: refuse a folder with files that cannot be read, instead of skipping them.
        validation: share of the images held out, where the data has no split of its own.
    """

    name: str = "digits"
    root: str = "data"
    download: bool = False
    size: Annotated[int, Range(1, 8192)] | Annotated[list[int], Range(1, 8192)] | None = None
    channels: Annotated[int, Range(1, 4)] | None = None
    fit: Literal["crop", "resize"] = "crop"
    strict: bool = False
    validation: Annotated[float, Range(above=0, max=0.5)] = 0.1


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How the weights are moved.

    Options:
        epochs: passes over the training images.
        steps: stop after this many optimizer steps, instead of counting epochs.
        batch_size: images per process and micro-batch.
        lr: learning rate.
        optimizer: the rule that moves the weights.
        precision: arithmetic of the nets; losses are always in fp32.
        device: auto takes the GPU if there is one.
        compile: compile each turn (forward, loss and backward) with torch.compile.
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
    """

    epochs: Positive = 20
    steps: Positive | None = None
    batch_size: Positive = 64
    lr: Annotated[float, Range(above=0)] = 1e-3
    optimizer: Literal["adamw", "adam", "rmsprop", "sgd"] = "adam"
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    device: str = "auto"
    compile: bool = False
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
COMPONENTS = ("arch", "objective", "bottleneck", "likelihood")
# What may differ between a run and its resumption: how far, where and how it is watched, never what is computed.
RESUMABLE = frozenset({"train.epochs", "train.steps", "train.device", "train.patience", "data.root", "data.download"})


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that determines a run; what `config.toml` and the header of a checkpoint hold."""

    arch: Spec
    objective: Spec
    bottleneck: Spec
    likelihood: Spec
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

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any]) -> RunSpec:
        """The inverse of `to_dict`; values are checked, since they come from a file.

        Raises:
            UsageError: a section is missing, or a value is not of its option's type.
        """
        for key in (*COMPONENTS, *SETTINGS):
            if not isinstance(tables.get(key, {}), Mapping):
                raise UsageError(f"{key} is {tables[key]!r}, but takes a table of options")
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
    # JSON's escapes are TOML's, except that TOML also forbids a raw DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
