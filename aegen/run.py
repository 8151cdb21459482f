"""Train: what `aegen train` and a notebook both call."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from aegen import registry
from aegen.atomic import sweep, write_text
from aegen.checkpoint import Checkpoint, origins, resumable
from aegen.config import Layer, merge_resume, resolve
from aegen.data.source import Data, dataset_name, load_data
from aegen.engine import host, trial
from aegen.engine.loop import Trainer
from aegen.engine.parallel import World, begun_run, remember_run, world
from aegen.engine.recorder import NotFinite
from aegen.errors import EnvironmentFault, Interrupted, UsageError
from aegen.factory import create
from aegen.model import Autoencoder, build_model, build_objective, build_sampler
from aegen.plugins import Hooks
from aegen.protocols import ImageShape, Objective
from aegen.rundir import RUNS, RunDir, disk_error, find_checkpoint, refuse_existing
from aegen.settings import RunSpec, to_toml
from aegen.spec import Spec
from aegen.use import ex_post, fit_sampler, load, sample_alone, save_sampler

Say = Callable[[str], None]


def _silent(text: str) -> None:
    """Talk that nobody listens to."""


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        metrics: validation terms by name, nats per image.
    """

    run: Path | None
    checkpoint: Path | None
    best: Path | None
    samples: Path | None
    steps: int
    epochs: int
    images_per_second: float
    metrics: dict[str, float]
    rank: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; the keys that `train --json` prints."""
        paths = ("run", "checkpoint", "best", "samples")
        return {k: str(v) if k in paths and v is not None else v for k, v in vars(self).items() if k != "rank"}


def train(
    layers: Sequence[Layer] = (),
    *,
    resume: Path | None = None,
    init_from: Path | None = None,
    run_dir: Path | None = None,
    dry_run: bool = False,
    listeners: Sequence[object] = (),
    say: Say = _silent,
    **options: Any,
) -> Result:
    """Train a model, `aegen.train(objective="vae", arch="conv", **{"train.epochs": 5})`.

    Args:
        layers: configuration as (origin, flat dotted values); later ones win.
        resume: run folder or checkpoint to go on with, bit for bit.
        init_from: checkpoint whose weights to begin with.
        run_dir: folder to make; `runs/<name>` by default.
        dry_run: build everything, take one step, write nothing.
        listeners: objects with hooks, beside the trackers of the configuration.
        say: called with each line of talk.
        options: a last layer, dotted keys with their values.

    Raises:
        AegenError: of whatever kind fits; see `aegen.errors`.
    """
    if options:
        given = {
            f"{k}.name" if k in ("arch", "objective", "bottleneck", "likelihood", "data") else k: v
            for k, v in options.items()
        }
        for value in given.values():
            if isinstance(value, str):
                registry.trust(value)
        layers = [*layers, ("train()", given)]
    home, saved = None, None
    if resume is not None:
        if init_from is not None or run_dir is not None:
            raise UsageError("--resume goes on in the run's own folder", hint="leave --init-from and --run-dir out")
        home, saved, before = resumable(resume)
        spec = merge_resume(before, layers)
        init_from = _beginning(home) if saved is None else None
    else:
        spec = resolve(layers).spec
    with world(spec.train.device) as here:
        if here.device.type == "cpu":
            host.prepare()
        begun = here.share(begun_run() if here.first and resume is None and not dry_run else None)
        if begun is not None:  # torchrun has replaced workers of this very run
            home, saved, spec = resumable(begun)
            init_from, run_dir = _beginning(home) if saved is None else None, None
        return _train(spec, here, home, saved, init_from, run_dir, dry_run, listeners, say if here.first else _silent)


def _train(
    spec: RunSpec,
    here: World,
    home: Path | None,
    saved: Checkpoint | None,
    init_from: Path | None,
    run_dir: Path | None,
    dry_run: bool,
    listeners: Sequence[object],
    say: Say,
) -> Result:
    if home is not None and saved is None:
        say(f"{home} was stopped before its first checkpoint; it begins again")
    if saved is not None:
        spec = _same_batch(spec, saved, here)
    if run_dir is not None and here.first:
        refuse_existing(run_dir)  # before minutes of reading data
    trackers = [(name, registry.get("tracker", name)) for name in spec.log.trackers if here.first]
    data = load_data(spec.data, spec.data_options, say)
    _tell_data(data, spec, say)
    torch.manual_seed(spec.train.seed)
    model = build_model(spec.arch, spec.bottleneck, spec.likelihood, data.image, classes=len(data.classes))
    if saved is None:
        spec = trial.settle(spec, model, data, here, say)
    objective = build_objective(spec.objective, model, size=len(data.train))
    source = Checkpoint(find_checkpoint(init_from)) if init_from is not None else None
    if source is not None:
        initialise(model, objective, source, spec)
        say(f"weights from {source.path}")
    hooks = Hooks()
    for listener in listeners if here.first else ():
        hooks.add(listener, type(listener).__name__)
    fingerprint = data.fingerprint()
    header = _header(spec, model, data, fingerprint) | {"encodes": objective.encodes}
    if saved is not None and saved.header["data"]["fingerprint"] != fingerprint:
        raise UsageError(f"--data {spec.data.name} holds other images than when {saved.path} was written")
    stop = _Stop()
    trainer = Trainer(spec, model, objective, data, here, run=None, header=header, hooks=hooks, stop=stop)
    _tell_model(trainer, say)
    if saved is not None:
        trainer.restore(saved)
    if dry_run:
        trainer.take_step(trainer.progress.step)
        trainer.progress.step += 1
        try:
            trainer.read_metrics()
        except NotFinite as bad:
            trainer.recover(bad)
        say("dry run: one step was taken, nothing was written")
        return Result(None, None, None, None, 1, 0, 0.0, trainer.validate(), here.rank)
    opened = _open_run(spec, here, home, run_dir, trainer, source.path if source is not None else None)
    run = RunDir(here.share(opened.path))
    if here.first and home is None:
        remember_run(run.path)
    trainer.run_dir = run if here.first else None
    for name, tracker in trackers:
        hooks.add(create(tracker, "tracker", Spec(name), "tracker.", {}), name)
    say(f"run {run.path}" + (f", from step {trainer.progress.step}" if saved else ""))
    return _drive(trainer, run, stop, hooks, say)


def _drive(trainer: Trainer, run: RunDir, stop: _Stop, hooks: Hooks, say: Say) -> Result:
    """Run the loop between the first hook and the last, and turn what ends it early into advice."""
    spec, progress = trainer.spec, trainer.progress
    error: BaseException | None = None
    begin = {"run": run.path, "config": spec.to_dict(), "total_steps": trainer.total, "step": progress.step}
    hooks.call("aegen_run_start", **begin)
    done = trainer.done
    if done and progress.step < trainer.total:
        say(f"nothing to do: it stopped early at step {progress.step}; a larger --set train.patience goes further")
    elif done:
        say(f"nothing to do: {progress.step} of {trainer.total} steps are taken; --epochs or --steps goes further")
    try:
        with stop.listening():
            if not done:
                trainer.run()
            samples = _finish(trainer, run)
    except Interrupted as interrupt:
        interrupt.hint = f"go on with: aegen train --resume {shlex.quote(str(run.path))}"
        error = interrupt
        raise
    except OSError as fault:
        error = disk_error(fault, run.path, last_good=trainer.keeper.last_good)
        raise error from fault
    except torch.OutOfMemoryError as fault:
        error = EnvironmentFault("the device ran out of memory", hint="use a smaller --batch-size or --precision bf16")
        raise error from fault
    except BaseException as fault:
        error = fault
        raise
    finally:
        hooks.call("aegen_run_end", run=run.path, step=trainer.progress.step, error=error)
    return Result(
        run.path,
        run.last,
        run.best if run.best.exists() else None,
        samples,
        trainer.progress.step,
        trainer.progress.step // trainer.batches.per_epoch,
        round(trainer.images_per_second, 1),
        trainer.validation,
        trainer.world.rank,
    )


def _finish(trainer: Trainer, run: RunDir) -> Path:
    """Fit a sampler on the training latents, keep it in the checkpoints, and draw the final picture with it."""
    picture = run.path / "samples.png"
    if trainer.world.first:
        device = str(trainer.world.device)
        for path in (run.best, run.last):
            if not path.exists():
                continue
            loaded = load(path, device=device)
            name = ex_post(loaded.model) if trainer.objective.encodes else None
            if name is not None:
                sampler = build_sampler(Spec(name), loaded.model)
                fit_sampler(sampler, loaded.model, trainer.data.train, trainer.spec.train.seed)
                save_sampler(path, Spec(name), sampler)
        try:
            sample_alone(load(run.path, device=device), trainer.spec.log.images, picture)
        except UsageError as error:
            raise error.__cause__ if isinstance(error.__cause__, OSError) else error from None
        trainer.hooks.call("aegen_images_logged", name="samples", path=picture, step=trainer.progress.step)
    trainer.world.barrier()
    return picture


# ---------------------------------------------------------------------------------------------------- beginnings


def initialise(model: Autoencoder, objective: Objective, source: Checkpoint, spec: RunSpec) -> None:
    """Begin with another run's weights: its averaged ones if it has them, and its objective's if that is the same.

    Raises:
        UsageError: the architectures differ.
    """
    theirs = source.spec
    for key in ("arch", "bottleneck", "likelihood"):
        mine, other = getattr(spec, key), getattr(theirs, key)
        if mine != other:
            raise UsageError(
                f"--init-from {source.path} has {key} {other.name} {other.options}, this run {mine.name} {mine.options}",
                hint="give the same --arch, --bottleneck and --likelihood with the same options",
            )
    image = ImageShape(*source.header["image"])
    if image != model.image:
        raise UsageError(
            f"--init-from {source.path} is for images of {image}, this run's are {model.image}",
            hint="give that model's --size and --channels",
        )
    source.restore(model, "ema." if source.has("ema.") else "model.")
    if spec.objective.name == theirs.objective.name and source.has("objective."):
        source.restore(objective, "objective.")


def _open_run(
    spec: RunSpec, here: World, home: Path | None, run_dir: Path | None, trainer: Trainer, source: Path | None
) -> RunDir:
    """The run's folder: rank 0 makes it, or finds it, and writes what the run is made of, `source` being its first weights."""

    def describe(run: RunDir) -> None:
        write_text(run.config, to_toml(spec.to_dict()))
        about = environment(here)
        if source is not None:
            about["init_from"] = os.path.relpath(source, home or run_dir or RUNS / "any")
        write_text(run.environment, json.dumps(about, indent=2) + "\n")

    if not here.first:
        return RunDir(home or run_dir or RUNS)
    try:
        if home is not None:
            run = RunDir(home)
            for folder in (run.path.parent, run.path, run.checkpoints, run.samples):
                sweep(folder)
            run.forget_after(trainer.progress.step)
            describe(run)
            return run
        data = re.sub(r"[^A-Za-z0-9]+", "-", Path(spec.data.name).stem).strip("-") or "data"
        stem = re.sub(r"[^A-Za-z0-9+.-]+", "-", f"{spec.arch.name}-{spec.objective.name}-{data}").strip("-.")
        return RunDir.create(run_dir, stem, describe)
    except OSError as error:
        raise disk_error(error, home or run_dir or RUNS, last_good=trainer.keeper.last_good) from error


def _same_batch(spec: RunSpec, saved: Checkpoint, here: World) -> RunSpec:
    """With the images of a step shared by another number of processes, so that the run goes on as it began.

    Raises:
        UsageError: they cannot be shared evenly.
    """
    before, batch = saved.header.get("processes", here.size), saved.header.get("batch", 0)
    if before == here.size or not batch:
        return spec
    if batch % here.size:
        raise UsageError(
            f"{saved.path} was written by a run with {batch} images a step, which {here.size} processes cannot share evenly",
            hint=f"use {before} processes, or another number that divides {batch}",
        )
    return replace(spec, train=replace(spec.train, batch_size=batch // here.size))


def _beginning(home: Path) -> Path | None:
    """The weights that a run began with, if they were another run's."""
    try:
        about = json.loads((home / "environment.json").read_text(encoding="utf-8"))
        return home / about["init_from"] if "init_from" in about else None
    except (OSError, ValueError, TypeError) as error:
        hint = "it took no step that was saved; begin a new one"
        raise UsageError(f"{home / 'environment.json'} cannot be read ({error})", hint=hint) from error


def _header(spec: RunSpec, model: Autoencoder, data: Data, fingerprint: str) -> dict[str, Any]:
    parts = [
        ("architecture", spec.arch.name),
        ("bottleneck", spec.bottleneck.name),
        ("likelihood", spec.likelihood.name),
        *(("objective", name) for name in spec.objective.name.split("+")),
        ("dataset", dataset_name(spec.data.name)),
        *(("tracker", name) for name in spec.log.trackers),
    ]
    return {
        "spec": spec.to_dict(),
        "image": list(model.image),
        "latent": list(model.latent_shape),
        "data": {
            "name": spec.data.name,
            "count": len(data.train),
            "classes": data.classes,
            "fingerprint": fingerprint,
        },
        "plugins": origins(parts),
        "samplers": {},
        "versions": {"aegen": version("aegen"), "torch": torch.__version__},
    }


def environment(here: World) -> dict[str, Any]:
    """What the run ran on: versions and device, and the command; nothing that names a person."""
    names = ("aegen", "torch", "torchvision", "numpy", "pillow", "scikit-learn", "safetensors")
    device: dict[str, Any] = {
        "type": here.device.type,
        "processes": here.size,
        "threads": torch.get_num_threads(),
    }
    if here.device.type == "cuda":
        device["name"] = torch.cuda.get_device_name(here.device)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in names},
        "plugins": sorted({f"{c.package} {c.version}" for c in registry.every_component() if not c.builtin}),
        "device": device,
        "command": sys.argv[1:],
    }


def _tell_data(data: Data, spec: RunSpec, say: Say) -> None:
    classes = f", {len(data.classes)} classes" if data.classes else ""
    say(
        f"data {spec.data.name}: {len(data.train):,} images for training, {len(data.validation):,} for validation, {data.image}{classes}"
    )
    say(f"images: {data.how}")
    if data.skipped:
        from aegen.data.source import skipped_text

        say(f"{skipped_text(data.skipped, spec.data.name)}; training goes on without them")


def _tell_model(trainer: Trainer, say: Say) -> None:
    spec, model = trainer.spec, trainer.model
    size = sum(p.numel() for p in model.parameters())
    latent = "×".join(str(n) for n in model.latent_shape)
    say(
        f"model {spec.arch.name} with {spec.bottleneck.name} bottleneck of {latent} and {spec.likelihood.name} likelihood, "
        f"{size:,} parameters; objective {spec.objective.name}"
    )
    where = str(trainer.world.device) + (f" ×{trainer.world.size}" if trainer.world.size > 1 else "")
    where += " with a part of the model each" if trainer.sharded else ""
    smaller = (
        f" (fewer than the {spec.train.batch_size} asked for)"
        if trainer.batches.batch_size < spec.train.batch_size
        else ""
    )
    say(
        f"{trainer.total:,} steps of batch {trainer.batches.batch_size}{smaller}, "
        f"{trainer.batches.per_epoch:,} an epoch, on {where} in {spec.train.precision}"
    )
    if spec.train.parallel == "fsdp" and not trainer.sharded:
        say("--parallel fsdp: there is one process, which holds the whole model")


class _Stop:
    """Ctrl-C, SIGTERM and SIGUSR1 ask the loop to save and stop; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals, in the main thread, where Python allows it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        named = ("SIGINT", "SIGTERM", "SIGUSR1")  # the last is not known everywhere
        before = {s: signal.signal(s, self._catch) for s in signal.Signals if s.name in named}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
