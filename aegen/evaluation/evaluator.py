"""Look at a trained model by a protocol: held-out images, generated ones, and the numbers that metrics make of them."""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aegen import memory, registry, sampler_file
from aegen.atomic import write_text
from aegen.autoencoder import build_objective, require_typed
from aegen.autoencoder import there as there_of
from aegen.data.batches import normalize
from aegen.data.dataset_names import dataset_name
from aegen.data.image_rows import pick
from aegen.data.source import Data, read_data, split, whole, without_word
from aegen.errors import AegenError, EnvironmentFault, PluginError, UsageError, counted, listing
from aegen.evaluation.batch import Seen
from aegen.evaluation.feature_cache import Kept
from aegen.evaluation.features import FeatureSpace
from aegen.evaluation.per_image import Number, Rows
from aegen.evaluation.protocol import Protocol, protocol
from aegen.factory import create, load
from aegen.filenames import portable
from aegen.inference.loading import Output, Say, silent
from aegen.inference.model import Model
from aegen.inference.model import load as load_model
from aegen.inference.samplers import default_sampler, draw_latents, require_drawable
from aegen.protocols import Metric, Objective
from aegen.rundir import owner, reason
from aegen.settings import PARTS, DataSettings
from aegen.spec import Spec, options_of
from aegen.training.distributed import World, world

BATCH = 100
_LIKELIHOOD = "likelihood"
_ENCODER, _OBJECTIVE, _LABELS, _FEATURES, _SAMPLER = "encoder", "objective", "labels", "features", "sampler"
_FACTORS = "factors"


@dataclass
class Evaluation:
    """Everything that was found, and how.

    Attributes:
        protocol: every knob; with `sampler`, `features_checksum` and the counts of images as they really were.
        skipped: metrics that do not apply, with the reason.
        options: of metrics, by their names, where they are not the usual ones.
        notes: what a reader should know.
        rank: of this process among those of `torchrun`; only the first has numbers.
    """

    checkpoint: str
    model: dict[str, Any]
    data: dict[str, Any]
    protocol: dict[str, Any]
    numbers: list[Number] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    rank: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; a number that is not finite is null."""
        found = asdict(self)
        del found["rank"]
        for number in found["numbers"]:
            number |= {key: _json(number[key]) for key in ("value", "low", "high")}
        return found


def _json(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@dataclass
class Subject:
    """A model under examination."""

    loaded: Model
    objective: Objective
    data: Data
    protocol: Protocol
    space: FeatureSpace | None
    sampler: str
    there: dict[str, str]


def evaluate(
    place: Path | str | None = None,
    *,
    metrics: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    by: str = "aegen-1",
    changes: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    device: str = "auto",
    quiet: bool = False,
    say: Say = silent,
) -> Evaluation:
    """Measure a model on held-out images and on images that it generates.

        >>> found = aegen.evaluate("runs/digits", metrics=["reconstruction", "mmd"], changes={"samples": 100})
        >>> [(number.name, number.better) for number in found.numbers][:2]
        [('mse', 'lower'), ('mae', 'lower')]

    Under `torchrun` each process looks at its share of the images; the numbers are made by the first.

    Args:
        metrics: by name; all that are installed by default.
        options: of metrics, by their names.
        by: name of a protocol.
        changes: of its knobs.
        data: settings of other data than the run's, such as its `name`.
        quiet: metrics that cannot be had are skipped with their reason also where they are named.

    Raises:
        UsageError: unknown names or options; there is no such model or data.
    """
    registry.allow(str((changes or {}).get("weights", "")))
    began = time.monotonic()
    rules = protocol(by, dict(changes or {}))
    chosen = _metrics(metrics or registry.names("metric"), options or {}, quiet=quiet or not metrics)
    with world(device) as here, memory.reused():
        loaded = load_model(place, device=str(here.device))
        found = _evaluate(loaded, rules, chosen, data or {}, here, say if here.first else silent)
    found.options = _unusual(chosen, options or {})
    found.seconds = round(time.monotonic() - began, 1)
    return found


def _evaluate(
    loaded: Model,
    rules: Protocol,
    chosen: Mapping[str, Metric | str],
    data: Mapping[str, Any],
    here: World,
    say: Say,
) -> Evaluation:
    subject, missing = _subject(loaded, rules, data, chosen, say)
    applies = {name: m for name, m in chosen.items() if isinstance(m, Metric)}
    skipped = {name: m for name, m in chosen.items() if isinstance(m, str)}
    for name, metric in list(applies.items()):
        lacking = [need for need in sorted(metric.needs) if need not in subject.there]
        if lacking:
            skipped[name] = "; ".join(missing.get(need, f"the bottleneck offers no {need}") for need in lacking)
            del applies[name]
    rows = Rows()
    for source in _sources(subject, applies):
        rows.sweep(_batches(subject, source, here, say), applies, skipped)
    rows.gather(here, skipped)
    evaluation = Evaluation(
        checkpoint=str(loaded.path),
        model={
            **{part: getattr(loaded.about, part).name for part in PARTS},
            "objective": loaded.trained_as,
            "image": list(loaded.model.image),
            "latent": list(loaded.model.latent_shape),
            "parameters": sum(p.numel() for p in loaded.model.parameters()),
            "steps": loaded.file.header.get("step", 0),
            "weights": loaded.file.weights,
        },
        data={
            "name": subject.data.name,
            "held_out": len(subject.data.validation),
            "fingerprint": subject.data.fingerprint(),
        },
        protocol=rules.to_dict() | {"sampler": subject.sampler},
        skipped=skipped,
        rank=here.rank,
    )
    drew = sampler_file.kept(loaded.file).get(subject.sampler)  # it may have been fitted just now
    if drew is not None and any(_SAMPLER in metric.needs for metric in applies.values()):
        evaluation.model["sampler"] = drew.fit
    if subject.space is not None:
        evaluation.protocol |= {"features_checksum": subject.space.checksum, "features_side": subject.space.side}
    for name, metric in applies.items() if here.first else ():
        if name in skipped:
            continue
        try:
            evaluation.numbers += rows.numbers(name, metric, rules.seed)
        except UsageError as error:
            skipped[name] = str(error)
        else:
            evaluation.notes += [note for note in metric.notes(rows.of(name)) if note not in evaluation.notes]
    return evaluation


def save(evaluation: Evaluation, out: Path | None, say: Say = silent, *, force: bool = False) -> Path:
    """Write it as JSON: to `out`, or beside the checkpoint's run, or where that cannot be written here, under the first free name.

    Args:
        force: replace what stands at `out`.

    Raises:
        UsageError: something stands there, or it cannot be written.
    """
    text = json.dumps(portable(evaluation.to_dict()), indent=1) + "\n"
    usual = f"{evaluation.protocol['name'].replace(' with ', '-changed ').partition(' ')[0]}.json"

    def put(path: Path, replaces: bool) -> None:
        write_text(path, text, replaces=replaces)

    folder = Path()
    if out is None:
        with suppress(UsageError):  # a checkpoint without a run
            folder = owner(Path(evaluation.checkpoint)) / "evaluations"
            try:
                folder.mkdir(exist_ok=True)
                return Output(None, folder / usual).write(put)
            except (OSError, UsageError) as error:
                told = reason(error) if isinstance(error, OSError) else error.message
                say(f"the numbers cannot be kept in {folder} ({told}), and are written into the current folder")
    return Output(out, usual, force).write(put)


def check_place(out: Path) -> None:
    """Refuse, before minutes of work, a place where nothing can be written.

    Raises:
        UsageError: it is a folder, or its folder does not exist or may not be written into.
    """
    if out.is_dir():
        raise UsageError(f"cannot write {out} (it is a folder)", hint="give another place with -o")
    if not out.parent.is_dir():
        raise UsageError(f"cannot write {out} (there is no folder {out.parent})", hint="give another place with -o")
    if not os.access(out.parent, os.W_OK):
        raise UsageError(
            f"cannot write {out} ({out.parent} may not be written into)", hint="give another place with -o"
        )


def _metrics(names: Sequence[str], options: Mapping[str, Mapping[str, Any]], *, quiet: bool) -> dict[str, Metric | str]:
    """Each metric, or the reason why it cannot be had, which is an error if it was asked for by name."""
    found: dict[str, Metric | str] = {}
    strange = [name for name in options if name not in names]
    if strange:
        raise UsageError(f"options are given for {listing(strange)}, but the metrics are {listing(names)}")
    for name in names:
        try:
            cls = load("metric", name, Metric)
            found[name] = create(cls, "metric", Spec(name, dict(options.get(name, {}))), f"{name}.", {})
        except (PluginError, EnvironmentFault) as error:
            if not quiet:
                raise
            found[name] = str(error)
    return found


def _unusual(chosen: Mapping[str, Metric | str], options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each metric the options that were given another value than their default, as they were understood."""
    found: dict[str, dict[str, Any]] = {}
    for name, metric in chosen.items():
        declared = options_of(type(metric)) if isinstance(metric, Metric) and options.get(name) else {}
        given = {
            key: declared[key].check(value, key) for key, value in options.get(name, {}).items() if key in declared
        }
        unusual = {key: value for key, value in given.items() if value != declared[key].default}
        if unusual:
            found[name] = unusual
    return found


def _subject(
    loaded: Model,
    rules: Protocol,
    data: Mapping[str, Any],
    chosen: Mapping[str, Metric | str],
    say: Say,
) -> tuple[Subject, dict[str, str]]:
    """What is examined, and why something that metrics may need is not there."""
    model, header = loaded.model, loaded.file.header
    named, own, settings = _named(loaded, data)
    if data:
        size = [model.image.height, model.image.width]
        settings = replace(
            settings,
            **{"size": size, "channels": model.image.channels, **data, "name": settings.name if own else named},
        )
    options = loaded.options_of(settings) if own or dataset_name(named) == _kind(loaded) else {}
    read = read_data(settings, options, say)
    images = split(read, settings)
    note = header.get("data")
    if note is None:
        images = whole(read, settings)
        say(f"the model was imported, so that some images of {named} may be ones that it was trained on")
    elif images.fingerprint() != note["fingerprint"] and not (own and "validation" in data):
        if set(data) <= {"root"}:  # a checkpoint's word is not enough to look at images that are none of its own
            raise UsageError(
                f"{named} holds other images than when the model was trained",
                hint=f"if it is these that you mean, name them: --data {shlex.quote(named)}",
            )
        # None of these were held out of its training, or nobody knows which.
        images = whole(read, settings)
        used = (
            f"all of its {len(images.validation):,} images are used"
            if read.validation is None
            else "its own split is used"
        )
        say(
            f"{named} is another set than the one that the model was trained on, though some of its images may be in that too; {used}"
        )
    elif note.get("held_out") not in (None, images.held_out_fingerprint()) and "validation" not in data:
        say(
            f"the held-out images of {named} are others than when the model was trained; the numbers are of those that are there now"
        )
    images.name = named
    if images.image != model.image:
        raise UsageError(
            f"the images of {settings.name} are {images.image}, but the model's are {model.image}",
            hint="leave --size and --channels out, and they are brought to the model's",
        )
    if rules.limit:
        limit = rules.limit
        images.validation = pick(images.validation, torch.arange(min(limit, len(images.validation))))
        images.validation_labels = None if images.validation_labels is None else images.validation_labels[:limit]
        images.validation_factors = None if images.validation_factors is None else images.validation_factors[:limit]
    there = dict.fromkeys(model.bottleneck.offers, "")
    missing: dict[str, str] = {}

    def know(what: str, yes: bool, reason: str) -> None:
        if yes:
            there[what] = ""
        else:
            missing[what] = reason

    know(_ENCODER, loaded.about.encodes, f"objective {loaded.trained_as} trains no encoder")
    same = not loaded.about.classes or images.classes == loaded.about.classes
    know(_LABELS, images.validation_labels is not None and same, f"{settings.name} has no class labels of the model's")
    know(
        _FACTORS,
        images.validation_factors is not None,
        f"what the images of {settings.name} were made from is not known",
    )
    objective = _objective(loaded)
    know(_OBJECTIVE, loaded.file.has_run, "the model was imported without the objective that it was trained by")
    scaled = _LIKELIHOOD in there_of(model, objective)
    know(_LIKELIHOOD, scaled, f"objective {loaded.trained_as} trains no scale of the pixels")
    space = None
    if any(isinstance(metric, Metric) and _FEATURES in metric.needs for metric in chosen.values()):
        try:
            space = FeatureSpace(rules, loaded.device)
        except PluginError:
            raise
        except AegenError as error:
            missing[_FEATURES] = str(error)
        else:
            there[_FEATURES] = ""
    sampler = rules.sampler or default_sampler(loaded)
    drawable = "prior" in there or _ENCODER in there
    know(_SAMPLER, drawable, f"sampler {sampler} cannot draw from this model")
    if drawable and any(isinstance(metric, Metric) and _SAMPLER in metric.needs for metric in chosen.values()):
        require_drawable(loaded, sampler)
    return Subject(loaded, objective, images, rules, space, sampler, there), missing


def _named(loaded: Model, data: Mapping[str, Any]) -> tuple[str, bool, DataSettings]:
    """The name of the images that are looked at, whether they are the run's own, and the settings that they are read with.

    Raises:
        UsageError: the model has no run, and nobody named images.
    """
    if not loaded.file.has_run:
        if not data.get("name"):
            hint = "name images: --data digits, or a folder of them"
            raise UsageError(f"{loaded.path} was imported and has no images of its own", hint=hint)
        return data["name"], False, DataSettings(fit=loaded.about.fit, white=loaded.about.white)
    named = data.get("name") or loaded.spec.data.name
    if named == loaded.spec.data.name:
        return named, True, loaded.images(typed=data)
    return named, False, loaded.spec.data if loaded.file.own else without_word(loaded.spec.data, data)


def _objective(loaded: Model) -> Objective:
    """That of the run, in its last step; of a model without a run one that says nothing and trained everything."""
    if not loaded.file.has_run:
        return Objective()
    loaded.file.require_plugins(("objective",))
    require_typed(loaded.spec.objective)
    header = loaded.file.header
    build = partial(build_objective, loaded.spec.objective, loaded.model, size=header["data"]["count"])
    loaded.file.fits(build, "objective.")
    objective = build()
    loaded.file.restore(objective, "objective.")
    objective.to(loaded.device).eval().requires_grad_(False)
    objective.at(header["step"])
    return objective


def _kind(loaded: Model) -> str:
    """The registered name of the data set that the run was trained on."""
    return next((key.partition(":")[2] for key in loaded.file.header["plugins"] if key.startswith("dataset:")), "")


def _sources(subject: Subject, metrics: Mapping[str, Metric]) -> Iterator[str]:
    """What must be looked at, for these metrics."""
    yield "held-out"
    if any(_SAMPLER in metric.needs for metric in metrics.values()):
        if subject.protocol.reference == "train":
            yield "reference"
        yield "samples"


def _batches(subject: Subject, source: str, here: World, say: Say) -> Iterator[Seen]:
    """What a metric is shown of a source, a batch at a time: every so-many-th batch of this process."""
    loaded, data, rules = subject.loaded, subject.data, subject.protocol

    def seen(start: int, x: Tensor, labels: Tensor | None = None, **more: Any) -> Seen:
        told = None if labels is None else labels.to(loaded.device)
        x = x.to(loaded.device)
        return Seen(source, loaded.model, subject.objective, x, told, rules, subject.space, start, **more)

    if source == "samples":
        start = 0
        drawn = draw_latents(loaded, rules.samples, sampler=subject.sampler, seed=rules.seed, say=say, here=here)
        for index, z in enumerate(drawn):
            if index % here.size == here.rank:
                one = seen(start, loaded.decode(z), z=z, total=rules.samples)
                one.x = one.rounded(one.x)
                yield one
            start += len(z)
        return
    pixels, labels, factors = data.train, data.train_labels, None
    if source == "held-out":
        pixels, labels, factors = data.validation, data.validation_labels, data.validation_factors
    kept = None if subject.space is None else Kept(subject.space, pixels)
    for start in range(here.rank * BATCH, len(pixels), here.size * BATCH):
        stop = start + BATCH
        told = labels[start:stop] if labels is not None and _LABELS in subject.there else None
        made = None if factors is None else factors[start:stop].to(loaded.device)
        known = {"factors": made, "factor_names": data.factor_names}
        yield seen(start, normalize(pixels[start:stop]), told, kept=kept, total=len(pixels), **known)
    place = None if kept is None else kept.close()
    if place is not None:
        say(f"features of {counted(len(pixels), f'{source} image')} come from the cache, {place}")
