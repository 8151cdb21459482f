"""Train: what `aegen train` and a notebook both call."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aegen import registry
from aegen.beginning import first_weights, header_of, initialise, open_run, same_batch
from aegen.checkpoint import Checkpoint, resumable
from aegen.config import Layer, merge_resume, resolve
from aegen.data.source import Data, load_data
from aegen.engine import host, trial
from aegen.engine.loop import Trainer
from aegen.engine.parallel import World, begun_run, remember_run, world
from aegen.engine.recorder import NotFinite
from aegen.engine.stop import Stop
from aegen.errors import EnvironmentFault, Interrupted, UsageError
from aegen.factory import create
from aegen.model import build_model, build_objective, build_sampler
from aegen.plugins import Hooks
from aegen.rundir import RunDir, disk_error, find_checkpoint, refuse_existing
from aegen.settings import RunSpec
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
    home, saved, usual_map = None, None, ""
    if resume is not None:
        if init_from is not None or run_dir is not None:
            raise UsageError("--resume goes on in the run's own folder", hint="leave --init-from and --run-dir out")
        home, saved, before = resumable(resume)
        spec = merge_resume(before, layers)
        init_from = first_weights(home) if saved is None else None
    else:
        resolved = resolve(layers)
        spec, usual_map = resolved.spec, resolved.usual_map
    with world(spec.train.device) as here:
        if here.device.type == "cpu":
            host.prepare()
        # torchrun may have replaced workers of this very run, some of them with other words.
        begun = here.share((home or begun_run()) if here.first and not dry_run else None)
        if begun is not None and begun != home:
            home, saved, spec = resumable(begun)
            init_from, run_dir = first_weights(home) if saved is None else None, None
        talk = say if here.first else _silent
        return _train(spec, here, home, saved, init_from, run_dir, dry_run, listeners, talk, usual_map)


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
    usual_map: str,
) -> Result:
    if home is not None and saved is None:
        say(f"{home} was stopped before its first checkpoint; it begins again")
    if saved is not None:
        spec = same_batch(spec, saved, here)
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
    header = header_of(spec, model, data, fingerprint) | {"encodes": objective.encodes}
    if saved is not None and saved.header["data"]["fingerprint"] != fingerprint:
        raise UsageError(f"--data {spec.data.name} holds other images than when {saved.path} was written")
    stop = Stop()
    trainer = Trainer(spec, model, objective, data, here, run=None, header=header, hooks=hooks, stop=stop)
    _tell_model(trainer, say)
    _tell_vector(trainer, usual_map, say)
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
    opened = open_run(spec, here, home, run_dir, trainer, source.path if source is not None else None)
    run = RunDir(here.share(opened.path))
    if here.first and home is None:
        remember_run(run.path)
    trainer.run_dir = run if here.first else None
    for name, tracker in trackers:
        hooks.add(create(tracker, "tracker", Spec(name), "tracker.", {}), name)
    say(f"run {run.path}" + (f", from step {trainer.progress.step}" if saved else ""))
    return _drive(trainer, run, stop, hooks, say)


def _drive(trainer: Trainer, run: RunDir, stop: Stop, hooks: Hooks, say: Say) -> Result:
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


def _tell_vector(trainer: Trainer, usual_map: str, say: Say) -> None:
    """Say that there is one position, where the objective `usual_map` has many, or where that leaves fewer codes than images."""
    spec, model = trainer.spec, trainer.model
    books = math.prod(model.bottleneck.codebooks)
    few = bool(model.bottleneck.codebooks) and books < len(trainer.data.train)
    if math.prod(model.latent_shape[1:]) > 1 or not (usual_map or few):
        return
    who = (
        f"objective {usual_map} usually has a feature map, but here"
        if usual_map
        else f"bottleneck {spec.bottleneck.name}:"
    )
    least = f", so that at most {books:,} different images can be decoded" if few else ""
    say(f"{who} the latent of an image is one vector{least}; --arch conv --arch.spatial --arch.depth 2 keeps a map")
