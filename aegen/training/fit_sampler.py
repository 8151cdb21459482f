"""Fit a sampler to a trained model: what `aegen fit-sampler` and a notebook both call.

One in closed form is fitted at once. One that learns is trained by the loop that trains models; its training is a folder beside its file,
`samplers/<name>/`, with what a run's folder has, from which it goes on.
"""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aegen import checkpoint, pictures, sampler_file, signing
from aegen.atomic import sweep, write_text
from aegen.autoencoder import build_sampler
from aegen.checkpoint import Checkpoint
from aegen.config import Layer, merge, plain, spellings
from aegen.contract.blame import named
from aegen.data.image_rows import Pictures, pick
from aegen.data.source import Data, load_data
from aegen.energy_distance import energy_distance
from aegen.errors import UsageError, counted, did_you_mean, listing
from aegen.factory import create, load_component
from aegen.factory import load as load_class
from aegen.hooks import Hooks
from aegen.inference import Model, load
from aegen.inference import fit_sampler as fit_closed_form
from aegen.inference.latent_rows import latent_rows
from aegen.inference.samplers import draw_from, options_as_checked, tell_fallback
from aegen.lock import Lock
from aegen.messages import Say, silent
from aegen.protocols import Sampler
from aegen.registry import find as find_component
from aegen.registry import trust
from aegen.rundir import RunDir, owner
from aegen.settings import SETTINGS, RunSpec, to_toml
from aegen.spec import Spec, check_options, options_of
from aegen.training import cpu
from aegen.training.distributed import World, begun_run, remember_run, world
from aegen.training.run import drive, locked, told_progress
from aegen.training.sampler_trainer import SamplerObjective, SamplerTrainer, draws_of, means_of
from aegen.training.stop_signal import Stop

_SECTIONS = ("train", "checkpoint", "log")
_COMPARED = 2000  # latents, of each kind
_RESUMABLE = ("train.epochs", "train.steps", "train.device", "train.patience", "train.on_nan")


@dataclass(frozen=True)
class Fitted:
    """What a fit came to.

    Attributes:
        sampler: its name.
        file: where it is kept.
        samples: the picture of images that it draws.
        steps: that it was trained for; 0 in closed form.
        metrics: of held-out latents: the loss and its terms, nats an image, and `energy_distance` to as many drawn ones, 0 on average where
            both are of one distribution, in the units of the latents.
    """

    sampler: str
    file: Path | None
    samples: Path | None
    steps: int
    metrics: dict[str, float]
    rank: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; the keys that `fit-sampler --json` prints."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items() if k != "rank"}


@dataclass
class _Plan:
    """What a fit begins or goes on with.

    Attributes:
        folder: of a training; nothing of it is there before one began.
        saved: its last checkpoint, to go on with.
    """

    model: Model
    sampler: Spec
    learns: bool
    spec: RunSpec
    folder: Path
    saved: Checkpoint | None = None
    data: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        """What a person types for the model."""
        with suppress(UsageError):
            return owner(self.model.path)
        return self.model.path

    @property
    def again(self) -> str:
        """The command that goes on with it."""
        return f"aegen fit-sampler {shlex.quote(str(self.place))} --sampler {shlex.quote(self.sampler.name)} --resume"


def fit_sampler(
    place: Path | str | None = None,
    sampler: str = "flow",
    layers: Sequence[Layer] = (),
    *,
    resume: bool = False,
    force: bool = False,
    data: str | None = None,
    data_root: str | None = None,
    listeners: Sequence[object] = (),
    say: Say = silent,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Fitted:
    """Fit a sampler to the latents of a trained model, and keep it beside the model.

        >>> fitted = aegen.fit_sampler("runs/digits", "flow", epochs=2, options={"depth": 2})
        >>> fitted.file.name, fitted.steps
        ('flow.safetensors', 24)
        >>> new = aegen.load("runs/digits").sample(4, sampler="flow")

    Args:
        place: run folder or checkpoint; the latest run under ./runs if not said.
        sampler: its name.
        layers: settings as (origin, flat dotted values); later ones win.
        resume: go on with its training, bit for bit.
        force: replace one that is there, and its training.
        data, data_root: where the training images are now, if they were moved.
        listeners: objects with hooks, beside the trackers of the settings.
        say: called with each line of talk, such as `print`.
        options: of the sampler.
        settings: the flags of `aegen train` with `_` for `-` (`epochs=5`, `lr=1e-4`), or a setting by its dotted key.

    Raises:
        AegenError: of whatever kind fits; see `aegen.errors`.
    """
    layers = [*layers, *_keywords(settings)]
    for name in (sampler, data):
        if name is not None:
            trust(name)
    component = load_class("sampler", sampler, Sampler)
    values, origins = merge(layers)
    device = str(values.get("train.device", "auto"))
    moved = {k: v for k, v in (("name", data), ("root", data_root)) if v is not None}
    with world(device) as here, ExitStack() as until, named():
        if here.device.type == "cpu":
            cpu.prepare()
        talk = say if here.first else silent
        model = load(place, device=str(here.device))
        model.require_encoder(f"fitting sampler {sampler}")
        model.require_run(f"fitting sampler {sampler}")
        if not component.fitted:
            raise UsageError(
                f"sampler {sampler} draws without being fitted", hint=f"aegen sample --sampler {sampler} draws from it"
            )
        learns = component.learns
        begun = here.share(begun_run() is not None if here.first and learns else False)
        folder = sampler_file.place_of(model.path, sampler)
        folder = folder.with_name(folder.name.removesuffix(".safetensors"))
        saved = _saved(model, sampler, folder, learns) if resume or begun else None
        given = Spec(sampler, options_as_checked(sampler, options or {}))
        if saved is not None:
            given = _resumed_options(saved, given)
        spec = _settings(model, component, sampler, values, origins, saved)
        plan = _Plan(model, given, learns, spec, folder, saved, moved)
        if saved is None:
            _refuse_present(plan, force)
        pictures.check_room(spec.log.images, model.image[1:], "set a smaller log.images")
        if learns:
            return _train(plan, here, force, listeners, talk, until)
        return _fit(plan, here, talk)


# ---------------------------------------------------------------------------------------------------- settings


def _keywords(given: Mapping[str, Any]) -> list[Layer]:
    known = {word: key for word, key in spellings().items() if key.partition(".")[0] in _SECTIONS}
    layers: list[Layer] = []
    for word, value in given.items():
        key = known.get(word, word)
        if "." not in key:
            hint = did_you_mean(word, known) or "aegen fit-sampler --help lists them"
            raise UsageError(f"fit_sampler() has no argument {word!r}", hint=hint)
        tracker = key == "log.trackers" and isinstance(value, str)
        layers.append((f"fit_sampler({word}=…)", {key: [value] if tracker else plain(value)}))
    return layers


def _settings(
    model: Model,
    component: type[Sampler],
    name: str,
    values: Mapping[str, Any],
    origins: Mapping[str, str],
    saved: Checkpoint | None,
) -> RunSpec:
    """The model's own run with the settings of this training: what was said, what the sampler suggests, the usual ones.

    Raises:
        UsageError: an unknown setting, an unacceptable value, or one that cannot change in mid-run.
    """
    before = {} if saved is None else {key: vars(getattr(saved.spec, key)) for key in _SECTIONS}
    found: dict[str, Any] = {}
    for key in values:
        if key.partition(".")[0] not in _SECTIONS:
            raise UsageError(
                f"{origins[key]} sets {key}, but a sampler's training takes settings of {listing(_SECTIONS)} alone",
                hint="options of the sampler are written --sampler.NAME",
            )
        if saved is not None and key.startswith("train.") and key not in _RESUMABLE:
            option = options_of(SETTINGS["train"]).get(key.removeprefix("train."))
            has = before["train"].get(key.removeprefix("train."))
            if option is not None and option.check(values[key], key) != has:
                hint = f"only {listing(_RESUMABLE)}, log.* and checkpoint.* may; or begin anew with --force"
                raise UsageError(
                    f"{origins[key]} sets {key} to {values[key]!r}, but this training has {has!r}", hint=hint
                )
    labels = {k: o if o.startswith("--") and o != "--set" else f"{k} in {o}" for k, o in origins.items()}
    for section in _SECTIONS:
        own = {k.partition(".")[2]: v for k, v in values.items() if k.startswith(section + ".")}
        first: Mapping[str, Any] = before.get(section, component.suggests if section == "train" else {})
        if section == "train" and "epochs" in own and "steps" not in own:
            first = {k: v for k, v in first.items() if k != "steps"}
        whole = {k: v for k, v in first.items() if v is not None} | own
        settings = SETTINGS[section]
        found[section] = settings(**check_options(options_of(settings), whole, f"{section}.", section, labels))
    for word in ("precision", "compile"):
        if getattr(found["train"], word) == "auto":
            raise UsageError(f"--{word} is auto, which fit-sampler does not measure", hint=f"say which: --{word} …")
    if found["train"].parallel == "fsdp":
        raise UsageError("train.parallel is fsdp, but a sampler is whole in every process", hint="leave it out")
    return replace(model.spec, **found)


def _resumed_options(saved: Checkpoint, given: Spec) -> Spec:
    had: dict[str, Any] = saved.header["trains"]["options"]
    other = {k: v for k, v in given.options.items() if had.get(k, v) != v or k not in had}
    if other:
        raise UsageError(
            f"--sampler.{next(iter(other))} is given, but {saved.path} was begun with {had or 'the usual options'}",
            hint="leave the options out, or begin anew with --force",
        )
    return Spec(given.name, had)


def _saved(model: Model, name: str, folder: Path, learns: bool) -> Checkpoint:
    """The last checkpoint of a training that goes on.

    Raises:
        UsageError: there is none, or it is that of another sampler or of other weights.
    """
    path = RunDir(folder).last
    if not learns or not path.is_file():
        why = f"sampler {name} is fitted at once" if not learns else f"{folder} holds no training"
        raise UsageError(f"--resume goes on with a training, but {why}", hint="leave --resume out")
    saved = Checkpoint(path)
    note = saved.header.get("trains")
    if note is None or note["sampler"] != name:
        raise UsageError(f"{path} is not the training of sampler {name}", hint="begin anew with --force")
    if note["weights"] != model.file.decoder_weights:
        raise UsageError(
            f"{path} is the training of a sampler for other weights than those of {model.path}",
            hint="begin anew with --force",
        )
    return saved


def _refuse_present(plan: _Plan, force: bool) -> None:
    """What is there is told before minutes of work, also what not even `force` replaces.

    Raises:
        UsageError: something is.
    """
    name = plan.sampler.name
    file = sampler_file.place_of(plan.model.path, name)
    picture = file.with_suffix(".png")
    for place in (file, picture):
        if place.is_dir():
            raise UsageError(f"{place} is a folder, where a file of the sampler is to be", hint="move it elsewhere")
    if plan.learns and os.path.lexists(plan.folder) and not (plan.folder / "config.toml").is_file():
        raise UsageError(
            f"{plan.folder} is no training of a sampler", hint="move it elsewhere; nothing else is replaced"
        )
    there = next((place for place in (file, plan.folder, picture) if os.path.lexists(place)), None)
    if there is None or force:
        return
    hint = "replace it with --force"
    with suppress(UsageError):
        _saved(plan.model, name, plan.folder, plan.learns).close()
        hint += f", or go on with its training: {plan.again}"
    raise UsageError(f"{there} exists already", hint=hint)


# ---------------------------------------------------------------------------------------------------- fitting


def _images(plan: _Plan, say: Say) -> tuple[Data, Any]:
    """The images that the model was trained on.

    Raises:
        UsageError: they are not where they were, or others.
    """
    model, moved = plan.model, plan.data
    settings = model.images(typed=tuple(moved), moved=moved)
    data = load_data(settings, model.options_of(settings), say)
    note = model.file.header["data"]
    if data.fingerprint() != note["fingerprint"]:
        raise UsageError(
            f"{settings.name} holds other images than when {model.path} was trained",
            hint="give those images with --data",
        )
    say(
        f"data {settings.name}: {counted(len(data.train), 'image')} for training, {len(data.validation):,} for validation"
    )
    return data, settings


def _fit(plan: _Plan, here: World, say: Say) -> Fitted:
    """In closed form, on all latents at once."""
    model, name, spec = plan.model, plan.sampler.name, plan.spec
    data, settings = _images(plan, say)
    sampler = build_sampler(plan.sampler, model.model)
    tell = _telling(say)
    fit_closed_form(sampler, model.model, data.train, spec.train.seed, here, tell, name)
    tell_fallback(sampler, name, say)
    rows = latent_rows(model, data, settings, here, tell).validation
    if not here.first:
        return Fitted(name, None, None, 0, {}, here.rank)
    file = sampler_file.save(model.file, plan.sampler, sampler, seed=spec.train.seed)
    numbers = _numbers(sampler, _taken(model, rows, means_of), spec.train.seed)
    return Fitted(name, file, _picture(plan, sampler, file), 0, numbers)


def _train(plan: _Plan, here: World, force: bool, listeners: Sequence[object], say: Say, until: ExitStack) -> Fitted:
    model, spec, saved = plan.model, plan.spec, plan.saved
    trackers = [(name, load_component(find_component("tracker", name))) for name in spec.log.trackers if here.first]
    lock: Lock | None = locked(plan.folder, here, say, until) if saved is not None else None
    data, settings = _images(plan, say)
    hooks = Hooks()
    for listener in listeners if here.first else ():
        hooks.add(listener, type(listener).__name__)
    rows = latent_rows(model, data, settings, here, _telling(say))
    torch.manual_seed(spec.train.seed)
    sampler = build_sampler(plan.sampler, model.model)
    if saved is None:
        _begin(sampler, model, rows.train, spec.train.seed)
    header = _header(plan, here)
    stop = Stop()

    def stops() -> bool:
        if lock is not None:
            lock.check()
        return stop()

    trainer = SamplerTrainer(
        spec, model.model, SamplerObjective(sampler), rows, here, run=None, header=header, hooks=hooks, stop=stops
    )
    checkpoint.check(trainer.described())
    size = sum(p.numel() for p in sampler.parameters())
    say(f"sampler {plan.sampler.name}, {size:,} parameters, for latents of {'×'.join(map(str, model.latent_shape))}")
    say(
        f"{counted(trainer.total, 'step')} of batch {trainer.batches.batch_size}, {trainer.batches.per_epoch:,} an epoch, "
        f"on {here.device}{f' ×{here.size}' if here.size > 1 else ''} in {spec.train.precision}"
    )
    if saved is not None:
        trainer.restore(saved)
        saved.close()
    run = _open(plan, trainer, here, force)
    if lock is None:
        lock = locked(run.path, here, say, until)
        if here.first:
            remember_run(run.path)
    trainer.run_dir = run if here.first else None
    trainer.keeper.may = partial(lock.check, now=True)
    for name, tracker in trackers:
        hooks.add(create(tracker, "tracker", Spec(name), "tracker.", {}), name)
    if saved is None:
        trainer.save("last", final=True)  # from here on there is something to go on with
    else:
        say(f"from step {trainer.progress.step}")
    found: dict[str, Any] = {"metrics": {}, "file": None}
    result = drive(trainer, run, stop, hooks, say, partial(_finish, plan, found), plan.again)
    return Fitted(
        plan.sampler.name, found["file"], result.samples, result.steps, result.metrics | found["metrics"], here.rank
    )


def _begin(sampler: Sampler, model: Model, rows: Pictures, seed: int) -> None:
    """What is not found by gradients, from the means of as many latents as the sampler wants, chosen as in closed form."""
    if type(sampler).fit is Sampler.fit:
        return
    if sampler.most is not None and len(rows) > sampler.most:
        rows = pick(rows, torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[: sampler.most])
    sampler.fit(_taken(model, rows, means_of, len(rows)), seed)


def _header(plan: _Plan, here: World) -> dict[str, Any]:
    """What every checkpoint of the training says: whose latents these are, and which sampler it is."""
    of = plan.model.file.header
    note = {"sampler": plan.sampler.name, "options": plan.sampler.options, "weights": plan.model.file.decoder_weights}
    parts = [("sampler", plan.sampler.name), *(("tracker", name) for name in plan.spec.log.trackers)]
    mark = signing.seal(plan.spec.asks) if plan.model.file.own else None
    return {
        "spec": plan.spec.to_dict(),
        **{key: of[key] for key in ("image", "latent", "data", "versions")},
        "plugins": of["plugins"] | checkpoint.origins(parts),
        "samplers": {},
        "trains": note,
        **({"seal": mark} if mark else {}),
    }


def _open(plan: _Plan, trainer: SamplerTrainer, here: World, force: bool) -> RunDir:
    """The folder of the training: rank 0 makes it, or finds it."""

    def describe(run: RunDir) -> None:
        note = {"sampler": {"name": plan.sampler.name, **plan.sampler.options}}
        write_text(run.config, to_toml({**note, **{k: v for k, v in plan.spec.to_dict().items() if k in _SECTIONS}}))

    if here.first and plan.saved is not None:
        run = RunDir(plan.folder)
        for folder in (run.path.parent, run.path, run.checkpoints, run.samples):
            sweep(folder)
        run.forget_after(trainer.progress.step)
        describe(run)
    elif here.first:
        RunDir.create(plan.folder, plan.folder.name, describe, replaces=force, points=False)
    here.barrier()
    return RunDir(plan.folder)


def _finish(plan: _Plan, found: dict[str, Any], trainer: SamplerTrainer, run: RunDir) -> Path:
    """Keep the sampler as it was best beside the model, and draw with it."""
    file = sampler_file.place_of(plan.model.path, plan.sampler.name)
    if trainer.world.first:
        told_progress(trainer, "drawing samples", 0, 1)
        best = Checkpoint(run.best if run.best.exists() else run.last)
        best.restore(trainer.objective, "ema." if best.has("ema.") else "objective.")
        sampler, seed = trainer.objective.sampler.eval(), trainer.spec.train.seed
        step = int(best.header["step"])
        sampler_file.save(plan.model.file, plan.sampler, sampler, seed=seed, step=step, may=trainer.keeper.may)
        found["file"] = file
        found["metrics"] = _numbers(sampler, _taken(plan.model, trainer.data.validation, draws_of), seed)
        picture = _picture(plan, sampler, file)
        trainer.hooks.call("aegen_images_logged", name="samples", path=picture, step=trainer.progress.step)
    trainer.world.barrier()
    return file.with_suffix(".png")


# ---------------------------------------------------------------------------------------------------- what it came to


def _taken(model: Model, rows: Pictures, how: Callable[[Any, Tensor], Tensor], most: int = _COMPARED) -> Tensor:
    """Latents of rows, as many as are compared, on the CPU."""
    torch.manual_seed(0)
    return torch.cat([how(model.model, part.to(model.device)).cpu() for part in rows[:most].split(256)])


@torch.no_grad()
def _numbers(sampler: Sampler, held_out: Tensor, seed: int) -> dict[str, float]:
    drawn = sampler.sample(len(held_out), torch.Generator().manual_seed(seed))
    apart = energy_distance(held_out, drawn) if len(held_out) > 1 else math.nan
    return {} if math.isnan(apart) else {"energy_distance": apart}


def _picture(plan: _Plan, sampler: Sampler, file: Path) -> Path:
    """Images that the sampler draws, beside its file."""
    model, count = plan.model, plan.spec.log.images
    z = draw_from(model, sampler, count, wanted=None, seed=0)
    images = torch.cat([pictures.to_uint8(part) for one in z for part in model.decode_batches(one)])
    path = file.with_suffix(".png")
    pictures.save(pictures.grid(images), path, replaces=True)
    return path


def _telling(say: Say) -> Callable[[str, int, int], None]:
    """A line when something begins, and now and then how far it is."""
    last, spoke = "", time.monotonic()

    def tell(text: str, done: int, total: int) -> None:
        nonlocal last, spoke
        if text != last or time.monotonic() - spoke > 10:
            say(text if text != last else f"{text}: {done:,}/{total:,}")
            last, spoke = text, time.monotonic()

    return tell
