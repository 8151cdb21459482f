"""Train: what `aegen train` and a notebook both call."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from aegen import checkpoint, memory, pictures, registry, sampler_file, signals
from aegen.autoencoder import Autoencoder, build_model, build_objective, build_sampler, check_room, require_typed
from aegen.checkpoint import Checkpoint, resumable
from aegen.config import Layer, keyword_layers, merge_resume, read_toml, resolve, signature
from aegen.contract.blame import blamed, named
from aegen.data.dataset_names import dataset_name
from aegen.data.source import Data, load_data
from aegen.errors import AegenError, EnvironmentFault, Interrupted, UsageError, counted, listing
from aegen.factory import create, load_component
from aegen.hooks import Hooks
from aegen.inference import ex_post, fit_sampler, load, sample_alone, statistics
from aegen.inference.loading import check_fits
from aegen.inference.samplers import fitted, tell_fallback
from aegen.lock import Lock, held
from aegen.messages import Say, silent
from aegen.model_spec import LatentStatistics
from aegen.places import locate
from aegen.rundir import RunDir, begun_in, disk_error, find_checkpoint, refuse_existing
from aegen.settings import DataSettings, RunSpec
from aegen.spec import Spec
from aegen.training import autotune, cpu
from aegen.training.distributed import World, begun_run, remember_run, world
from aegen.training.loop import Trainer
from aegen.training.metrics import NotFinite
from aegen.training.stop_signal import Stop
from aegen.training.warm_start import first_weights, followed, header_of, initialise, open_run, same_batch, same_images


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


@dataclass
class Plan:
    """What a run begins or goes on with.

    Attributes:
        init_from: whose weights to begin with.
        run_dir, force: the folder to make, and whether it may replace another run.
        home, saved: the folder of the run that goes on, and its last checkpoint, if it has one.
        places: the settings of its data with paths that hold from the current folder; the run's own are kept as they are.
        begun: where relative paths of the run begin, if that is not the current folder.
        lock: held for as long as it is trained.
        usual_map: the objective, as it was named, whose latent is usually a feature map.
    """

    spec: RunSpec
    init_from: Path | None = None
    run_dir: Path | None = None
    force: bool = False
    home: Path | None = None
    saved: Checkpoint | None = None
    places: DataSettings | None = None
    begun: Path | None = None
    lock: Lock | None = None
    usual_map: str = ""


def train(
    layers: Sequence[Layer] = (),
    *,
    resume: Path | str | None = None,
    init_from: Path | str | None = None,
    run_dir: Path | str | None = None,
    force: bool = False,
    config: Path | str | Sequence[Path | str] = (),
    dry_run: bool = False,
    listeners: Sequence[object] = (),
    say: Say = silent,
    **options: Any,
) -> Result:
    """Train a model, as `aegen train` does.

        >>> import aegen
        >>> result = aegen.train(arch="mlp", objective="vae", data="digits", latent_dim=8, steps=20, **{"data.size": 8})
        >>> result.run.name, "kl" in result.metrics
        ('mlp-vae-digits', True)
        >>> model = aegen.load(result.run)

    Args:
        layers: configuration as (origin, flat dotted values); later ones win.
        resume: run folder or checkpoint to go on with, bit for bit.
        init_from: checkpoint whose weights to begin with.
        run_dir: folder to make; `runs/<name>` by default.
        force: replace the run that stands at `run_dir`.
        config: TOML file, or several; what else is said overrides them.
        dry_run: build everything, take one step, write nothing.
        listeners: objects with hooks, beside the trackers of the configuration.
        say: called with each line of talk, such as `print`.
        options: the flags of `aegen train` with `_` for `-` (`epochs=5`, `batch_size=64`, `data="photos/"`); any other setting by
            its dotted key, `**{"arch.width": 64, "train.clip": 1.0}`; a component with its options as a table,
            `arch={"name": "mlp", "hidden": [64]}`.

    Raises:
        AegenError: of whatever kind fits; see `aegen.errors`.
    """
    _check_layers(layers)
    files = [config] if isinstance(config, str | Path) else config
    resume, init_from, run_dir = (Path(p) if p is not None else None for p in (resume, init_from, run_dir))
    spoken = keyword_layers(options)
    for _, given in spoken:
        for value in given.values():
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str):
                    registry.trust(name)
    layers = [*(read_toml(Path(file)) for file in files), *layers, *spoken]
    for _, layer in layers:
        for value in layer.values():
            if isinstance(value, str):
                registry.allow(value)
    if resume is not None and (init_from is not None or run_dir is not None or force):
        raise UsageError(
            "--resume goes on in the run's own folder", hint="leave --init-from, --run-dir and --force out"
        )
    if resume is not None:
        plan = _going_on(resume, layers)
    else:
        resolved = resolve(layers)
        init_from = None if init_from is None else locate(init_from)
        plan = Plan(resolved.spec, init_from, run_dir, force, usual_map=resolved.usual_map)
    with world(plan.spec.train.device) as here, ExitStack() as until:
        if here.device.type == "cpu":
            cpu.prepare()
        talk = say if here.first else silent
        # torchrun may have replaced workers of this very run, some of them with other words.
        begun = here.share((plan.home or begun_run()) if here.first and not dry_run else None)
        if begun is not None:
            lock = locked(begun, here, talk, until)
            # Read once more: nobody else writes there from here on. All of them read what the first one goes on with.
            place = here.share(resume if resume is not None and begun == plan.home else begun)
            mine = _going_on(place, layers if begun == plan.home else ()) if here.first else plan
            plan = replace(mine, spec=here.share(mine.spec), places=here.share(mine.places), lock=lock)
            if not here.first:
                found = resumable(place)
                plan.home, plan.saved = found.home, found.saved
                plan.init_from, plan.run_dir = first_weights(plan.home) if plan.saved is None else None, None
        with named():
            return _train(plan, here, dry_run, listeners, talk, until)


def _check_layers(layers: Any) -> None:
    """Say how settings are given to someone who gives a name, `train("mlp")`, or a table.

    Raises:
        UsageError: these are no layers.
    """
    if isinstance(layers, str):
        kinds = {
            "architecture": "arch",
            "objective": "objective",
            "bottleneck": "bottleneck",
            "likelihood": "likelihood",
        }
        fits = [word for kind, word in kinds.items() if layers in registry.names(kind)]
        fits = fits or ["data"]
        ways = " or ".join(f"train({word}={layers!r})" for word in fits)
        raise UsageError(f"train({layers!r}) does not say what {layers!r} is", hint=f"write {ways}")
    pairs = isinstance(layers, Sequence) and all(isinstance(row, tuple) and len(row) == 2 for row in layers)
    if not pairs or not all(isinstance(row[1], Mapping) for row in layers):
        raise UsageError(
            f"train() takes settings by name, not {layers!r}",
            hint='write train(arch="mlp", epochs=5) or train(**settings)',
        )


def _going_on(place: Path, layers: Sequence[Layer]) -> Plan:
    """A run's own plan, with what may change while it goes on.

    Raises:
        UsageError: it is damaged, or its data is not where it was.
    """
    found = resumable(place)
    home, saved = found.home, found.saved
    begun, own = begun_in(home), found.spec.data
    before, where = followed(found, begun, {key for _, values in layers for key in values})
    spec = merge_resume(before, layers)
    places, elsewhere = spec.data, found.own and (where.name, where.root) != (own.name, own.root)
    if elsewhere:  # what the run says of itself stays true where it began
        root = own.root if spec.data.root == where.root else spec.data.root
        spec = replace(spec, data=replace(spec.data, name=own.name, root=root))
    init_from = first_weights(home) if saved is None else None
    return Plan(spec, init_from, None, False, home, saved, places, begun if elsewhere else None)


def locked(home: Path, here: World, say: Say, until: ExitStack) -> Lock:
    """Hold a run in the first process, for all.

    Raises:
        UsageError: another process trains it, whichever of these asks.
        RunError: its folder cannot be written.
    """
    lock, trouble = Lock(home), None
    if here.first:
        try:
            lock.take(say)
            until.callback(lock.give_back)
        except AegenError as error:
            trouble = error
        except OSError as error:
            last = RunDir(home).last
            trouble = disk_error(error, lock.file, last_good=last if last.exists() else None)
    trouble = here.share(trouble)
    if trouble is not None:
        raise trouble
    return lock


def _train(plan: Plan, here: World, dry_run: bool, listeners: Sequence[object], say: Say, until: ExitStack) -> Result:
    spec, saved = plan.spec, plan.saved
    if plan.home is not None and saved is None:
        say(f"{plan.home} was stopped before its first checkpoint; it begins again")
    if saved is not None:
        spec = same_batch(spec, saved, here)
        for sentence in saved.changed():
            say(sentence)
        off = [] if saved.own else [name for name in saved.spec.log.trackers if name not in spec.log.trackers]
        if off:
            say(f"{listing(off)} is told nothing, since {plan.home} has no seal of your aegen; --track switches it on")
    if plan.run_dir is not None and here.first:  # before minutes of reading data
        refuse_existing(plan.run_dir, replaces=plan.force)
        if plan.force and plan.run_dir.exists() and not dry_run:
            with held(plan.run_dir, say):
                pass
    trackers = [(name, load_component(registry.find("tracker", name))) for name in spec.log.trackers if here.first]
    data = load_data(plan.places or spec.data, spec.data_options, say)
    _tell_data(data, spec, say)
    build = partial(build_model, spec.arch, spec.bottleneck, spec.likelihood, data.image, classes=len(data.classes))
    if saved is not None:
        require_typed(spec.objective)
        check_fits(saved, "model.")
    _check_room(build, spec, data, here)
    torch.manual_seed(spec.train.seed)
    model = build()
    if saved is None:
        spec = autotune.settle(spec, model, data, here, say)
    objective = build_objective(spec.objective, model, size=len(data.train))
    source = Checkpoint(find_checkpoint(plan.init_from)) if plan.init_from is not None else None
    if source is not None:
        source.require_model()
    if source is not None:
        initialise(model, objective, source, spec)
        source.close()
        say(f"weights from {source.path}")
    hooks = Hooks()
    for listener in listeners if here.first else ():
        hooks.add(listener, type(listener).__name__)
    kind = dataset_name((plan.places or spec.data).name)
    header = header_of(spec, model, data, data.fingerprint(), kind) | {"encodes": objective.encodes}
    if saved is not None:
        same_images(saved, data, (plan.places or spec.data).name)
    if "seal" not in header:
        say(
            "no key of yours can be kept on this machine: what this run was trained on will have to be named again to evaluate or resume it"
        )
    stop, lock = Stop(), plan.lock

    def stops() -> bool:
        if lock is not None:
            lock.check()
        return stop()

    trainer = Trainer(spec, model, objective, data, here, run=None, header=header, hooks=hooks, stop=stops)
    checkpoint.check(trainer.described())  # before the first step, not after the last
    _tell_model(trainer, say)
    _tell_vector(trainer, plan.usual_map, say)
    if saved is not None:
        trainer.restore(saved)
        saved.close()
    if dry_run:
        trainer.take_step(trainer.progress.step)
        trainer.progress.step += 1
        try:
            trainer.read_metrics()
        except NotFinite as bad:
            trainer.recover(bad)
        say("dry run: one step was taken, nothing was written")
        return Result(None, None, None, None, 1, 0, 0.0, trainer.validate(), here.rank)
    first = source.path if source is not None else None
    opened = open_run(spec, here, plan.home, plan.run_dir, trainer, first, plan.begun, replaces=plan.force)
    run = RunDir(here.share(opened.path))
    if plan.home is None:
        lock = locked(run.path, here, say, until)
        if here.first:
            remember_run(run.path)
    trainer.run_dir = run if here.first else None
    if lock is not None:
        trainer.keeper.may = partial(lock.check, now=True)
    for name, tracker in trackers:
        hooks.add(create(tracker, "tracker", Spec(name), "tracker.", {}), name)
    say(f"run {run.path}" + (f", from step {trainer.progress.step}" if saved else ""))
    return drive(trainer, run, stop, hooks, say, _finish, f"aegen train --resume {shlex.quote(str(run.path))}")


def _check_room(build: Callable[[], Autoencoder], spec: RunSpec, data: Data, here: World) -> None:
    """Refuse what could only fail later: a model larger than the memory, a picture of more samples than fit it.

    Raises:
        EnvironmentFault, UsageError: there is not so much room.
    """
    pictures.check_room(spec.log.images, data.image[1:], "set a smaller log.images")
    have = memory.most()
    if here.device.type == "cuda":
        have = torch.cuda.get_device_properties(here.device).total_memory
    share = here.size if spec.train.parallel == "fsdp" else 1
    check_room(build, None if have is None else have * share)


def drive(
    trainer: Trainer,
    run: RunDir,
    stop: Stop,
    hooks: Hooks,
    say: Say,
    finish: Callable[[Trainer, RunDir], Path],
    again: str,
) -> Result:
    """Run the loop between the first hook and the last, and turn what ends it early into advice.

    Args:
        finish: does what comes after the last step, in every process; the final picture.
        again: the command that goes on with the run.
    """
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
            if trainer.world.size == 1:
                samples = finish(trainer, run)
        if trainer.world.size > 1:  # the others wait for the first, and cannot be asked to stop
            samples = finish(trainer, run)
    except Interrupted as interrupt:
        interrupt.hint = f"go on with: {again}"
        error = interrupt
        raise
    except KeyboardInterrupt as fault:  # after the loop, or a second one in it; checkpoints are whole or not there
        if not signals.asked() and (error := blamed(fault)) is not None:
            raise error from fault
        at = f"step {trainer.progress.step} of {trainer.total}"
        kept = (
            f"the last checkpoint is {trainer.keeper.last_good}"
            if trainer.keeper.last_good
            else "there is no checkpoint yet"
        )
        error = Interrupted(f"interrupted at {at}; {kept}", hint=f"go on with: {again}")
        raise error from fault
    except OSError as fault:
        error = blamed(fault) or disk_error(fault, run.path, last_good=trainer.keeper.last_good)
        raise error from fault
    except torch.OutOfMemoryError as fault:
        error = blamed(fault) or EnvironmentFault(
            "the device ran out of memory", hint="use a smaller --batch-size or --precision bf16"
        )
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
    """Fit a sampler on the training latents, keep it beside the checkpoints, and draw the final picture with it."""
    picture = run.path / "samples.png"
    if trainer.world.first:
        device = str(trainer.world.device)
        _fit_samplers(trainer, run, device)
        _measure_latents(trainer, run, device)
        told_progress(trainer, "drawing samples", 0, 1)
        trainer.keeper.check()
        try:
            sample_alone(load(run.path, device=device), trainer.spec.log.images, picture)
        except AegenError as error:
            raise error.__cause__ if isinstance(error.__cause__, OSError) else error from None
        trainer.hooks.call("aegen_images_logged", name="samples", path=picture, step=trainer.progress.step)
    trainer.world.barrier()
    return picture


def _fit_samplers(trainer: Trainer, run: RunDir, device: str) -> None:
    """One for `best` and one for `last`, or one for both where both have the same weights; none where there is one already."""
    both = run.best.exists() and run.last.exists()
    both = both and Checkpoint(run.best).decoder_weights == Checkpoint(run.last).decoder_weights

    def notice(text: str) -> None:
        trainer.hooks.call("aegen_notice", text=text, step=trainer.progress.step)

    for path in (run.best, run.last):
        if not path.exists():
            continue
        loaded = load(path, device=device)
        name = ex_post(loaded.model) if trainer.objective.encodes else None
        if name is None or name in fitted(loaded):  # where both have the same weights, one file serves both
            continue
        sampler = build_sampler(Spec(name), loaded.model)
        whose = f"{name} of {run.best.stem} and {run.last.stem}" if both else f"{name} of {path.stem}"
        seed, tell = trainer.spec.train.seed, partial(told_progress, trainer)
        fit_sampler(sampler, loaded.model, trainer.data.train, seed, tell=tell, name=whose)
        tell_fallback(sampler, name, notice)
        sampler_file.save(loaded.file, Spec(name), sampler, seed=seed, may=trainer.keeper.may)


def _measure_latents(trainer: Trainer, run: RunDir, device: str) -> None:
    """How the latents of `best` and of `last` are spread, kept in their headers."""
    known: dict[str, LatentStatistics] = {}  # by digest of the weights
    for path in (run.best, run.last):
        if not path.exists() or not trainer.objective.encodes:
            continue
        loaded = load(path, device=device)
        if loaded.about.statistics is not None:
            continue
        weights = loaded.file.weights or str(path)
        if weights not in known:
            tell = partial(told_progress, trainer, f"measuring the latents of {path.stem}")
            known[weights] = statistics.measure(loaded.model, trainer.data.train, trainer.spec.train.seed, tell)
        statistics.keep(path, known[weights], trainer.keeper.may)


def told_progress(trainer: Trainer, text: str, done: int, total: int) -> None:
    """Show what is done after the last step.

    Raises:
        Interrupted: the user wants no more of it; what is left is done when the run is resumed.
    """
    trainer.hooks.call("aegen_progress", text=text, done=done, total=total)
    if trainer.world.size == 1 and trainer.stop():
        raise Interrupted(f"stopped while {text}; all steps are taken and the checkpoints are whole")


def _tell_data(data: Data, spec: RunSpec, say: Say) -> None:
    classes = f", {len(data.classes)} classes" if data.classes else ""
    say(
        f"data {spec.data.name}: {counted(len(data.train), 'image')} for training, {len(data.validation):,} for validation, {data.image}{classes}"
    )
    say(f"images: {data.how}")


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
        f"{counted(trainer.total, 'step')} of batch {trainer.batches.batch_size}{smaller}, "
        f"{trainer.batches.per_epoch:,} an epoch, on {where} in {spec.train.precision}"
    )
    if trainer.batches.left:
        say(
            f"{trainer.batches.left:,} of the {trainer.batches.count:,} training images do not fill a batch, and sit an epoch out: others in each"
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


# What `help(aegen.train)` and a notebook show: every word, its type and its default.
train.__signature__ = signature(train)  # type: ignore[attr-defined]
