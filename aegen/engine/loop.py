"""The training loop: for each due turn, one optimizer step on its own parts.

A step is a function of (state, step): its images follow from (seed, epoch, position), its noise from (seed, rank, step),
its schedules from the step. So a run that stops anywhere and is resumed goes on bit for bit as if it had not stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aegen import checkpoint, ranks
from aegen.data.augment import Augment
from aegen.data.batches import Batches, normalize
from aegen.data.source import Data
from aegen.engine import optim, precision, preview
from aegen.engine.ema import EMA
from aegen.engine.notices import collapse
from aegen.engine.parallel import World, shards
from aegen.engine.recorder import NotFinite, Recorder
from aegen.engine.stage import Player, reduce
from aegen.engine.writer import Writer
from aegen.errors import Interrupted, RunError
from aegen.model import Autoencoder, lifted
from aegen.plugins import Hooks
from aegen.protocols import Objective
from aegen.rundir import RunDir, disk_error, reason
from aegen.settings import RunSpec


@dataclass
class Progress:
    """What a run knows of itself besides its tensors; saved in the header.

    Attributes:
        step: optimizer steps taken.
        best: lowest validation loss so far, None before the first.
        best_epoch: when that was.
        waited: epochs since, for early stopping.
        skipped: steps that were dropped because they were not finite, and how many of them were the last ones.
        rollbacks: how often the run went back because a step was not finite; each halves the learning rate.
    """

    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    rollbacks: int = 0


_MOST_SKIPPED = 25  # in a row
_MOST_ROLLBACKS = 3


def step_seed(seed: int, rank: int, step: int) -> int:
    """One number of three; odd multipliers keep them apart."""
    return (seed * 0x9E3779B97F4A7C15 + rank * 0xBF58476D1CE4E5B9 + step * 0x94D049BB133111EB) % 2**63


def seed_step(seed: int, rank: int, step: int, device: torch.device) -> None:
    """Set torch's random state for one step.

    The generators are set one by one: `torch.manual_seed` also queues a call for devices that are not there, which costs a
    small net a tenth of its step.
    """
    number = step_seed(seed, rank, step)
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


class Trainer:
    """One run in one process.

    Args:
        run: folder to write to, None to write nothing (a dry run, another rank).
        header: what every checkpoint says besides its progress.
        stop: asked after each step whether to save and stop.
    """

    def __init__(
        self,
        spec: RunSpec,
        model: Autoencoder,
        objective: Objective,
        data: Data,
        world: World,
        *,
        run: RunDir | None,
        header: Mapping[str, Any],
        hooks: Hooks,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        settings = spec.train
        precision.prepare(settings.precision, world.device)
        self.spec, self.data, self.world, self.run_dir, self.hooks, self.stop = (
            spec,
            data,
            world,
            run,
            hooks,
            stop,
        )
        self.header = header
        make: type[Player] = Player
        self.sharded = shards(settings, world)
        if self.sharded:
            from aegen.engine import sharding  # half a second

            self.model = model.to(world.device)
            sharding.shard(model, settings, world)
            make = sharding.ShardedPlayer
        else:
            # Kernels of convolutions are faster with channels last (1.1 to 1.5 times on a CPU); other weights do not change.
            self.model = model.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = objective.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        named = [("model", model), ("objective", objective)]
        names: dict[nn.Parameter, str] = {p: f"{k}.{n}" for k, m in named for n, p in m.named_parameters()}
        turns = objective.turns()
        self.players = [
            make(model, objective, turn, settings, world, names, "" if turn is turns[0] else f"{turn.name}.")
            for turn in turns
        ]
        first: dict[tuple[nn.Parameter, ...], Player] = {}
        for player in self.players:
            same = first.setdefault(tuple(player.parameters), player)
            if same is not player:
                player.share(same)
        self.ema = EMA(model, settings.ema, sharded=self.sharded) if settings.ema else None
        self.labelled = "labels" in model.bottleneck.offers
        self.batches = Batches(
            data.train,
            settings.batch_size,
            seed=settings.seed,
            device=world.device,
            rank=world.rank,
            world=world.size,
            accumulate=settings.accumulate,
            labels=data.train_labels if self.labelled else None,
            augment=Augment(spec.data.flip, spec.data.crop, settings.seed),
        )
        self.total = settings.steps or settings.epochs * self.batches.per_epoch
        self.progress = Progress()
        self.last_good: Path | None = None
        self.validation: dict[str, float] = {}
        self.images_per_second = 0.0
        self._recorders = [Recorder() for _ in self.players]
        self._clock = _Clock()
        self._writer = Writer()
        self._stalled = 0.0

    # ------------------------------------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Train from `progress.step` to `total`, or until early stopping.

        Raises:
            RunError: a loss is not finite, or the last checkpoint cannot be written.
            Interrupted: `stop` said so; the state is saved.
        """
        try:
            self._run()
        except Exception:
            with suppress(Exception):  # what went wrong first is what matters
                self._tell_written(wait=True)
            raise

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do: all steps are taken, or the run stopped early."""
        return self.progress.step >= self.total or 0 < self.spec.train.patience <= self.progress.waited

    def _run(self) -> None:
        checkpoints, log, progress = self.spec.checkpoint, self.spec.log, self.progress
        self.model.train()
        self.objective.train()
        if self.spec.train.on_nan == "rollback" and self.world.share(self.last_good) is None:
            self.save("last")  # something to go back to
        self._clock.start()
        while progress.step < self.total:
            self.take_step(progress.step)
            progress.step += 1
            position = progress.step % self.batches.per_epoch
            over = progress.step == self.total
            reads = progress.step % log.every_steps == 0
            saves = bool(checkpoints.every_steps) and progress.step % checkpoints.every_steps == 0
            # Processes may agree only where all of them come together: at log points.
            interrupted = self.world.any(self.stop()) if self.world.size == 1 or reads else False
            ends = over or position == 0
            if not (reads or saves or interrupted or ends):
                continue
            try:
                self.read_metrics()
                with self._clock.paused():
                    self._tell_written()
                    if ends:
                        epoch = math.ceil(progress.step / self.batches.per_epoch)
                        over = self.end_epoch(epoch) or over
                        saves = saves or (bool(checkpoints.every_epochs) and epoch % checkpoints.every_epochs == 0)
                    if saves or over or interrupted:
                        self.save("last", final=over or interrupted)
                    if ends:
                        self.draw(epoch, over=over)
            except NotFinite as bad:
                self.recover(bad)
                continue
            if over:
                break
            if interrupted:
                raise Interrupted(f"stopped at step {progress.step} of {self.total}; the state is saved")

    def take_step(self, step: int) -> None:
        """One step of every due turn, on the same images. Nothing here waits for the device."""
        settings = self.spec.train
        # Other noise after a rollback. The number is odd because torch's generator on the CPU looks at the lower 32 bits alone.
        seed = settings.seed + self.progress.rollbacks * 0x632BE5AB
        seed_step(seed, self.world.rank, step, self.world.device)
        if self.world.size > 1:
            ranks.begin(self.world.rank, self.world.size, step_seed(seed, 0, step))
        self.objective.at(step)
        lr = self._learning_rate(step)
        with self._clock.waiting():
            parts = [self.batches.micro(step, part) for part in range(settings.accumulate)]
        for player, recorder in zip(self.players, self._recorders, strict=True):
            if not player.due(step):
                continue
            if len(self.players) > 1:
                player.seats()
            if player.guard is not None:
                player.guard.keep(step)
            metrics = [
                player.accumulate(x, labels, share=1 / len(parts), last=i == len(parts) - 1)
                for i, (x, labels) in enumerate(parts)
            ]
            player.step(lr)
            recorder.add(step, metrics)
        ranks.end()
        if self.ema is not None:
            self.ema.update(step)

    # ------------------------------------------------------------------------------------------------ log points

    def read_metrics(self) -> None:
        """Read what the recorders hold, tell the hooks and the log.

        Raises:
            NotFinite: a term is not, and the step was not skipped.
        """
        step, metrics = self.progress.step, {}
        skips = self.spec.train.on_nan == "skip"
        for recorder in self._recorders:
            metrics.update(recorder.read(self.world, tolerate=skips))
        if skips:
            self._count_skipped()
        taken, seconds, waited = self._clock.read()
        if taken and metrics:
            self.images_per_second = (
                taken * self.batches.batch_size * self.spec.train.accumulate * self.world.size / seconds
            )
            extra = {
                "lr": self._learning_rate(step - 1),
                "images_per_second": round(self.images_per_second, 1),
                "data_wait": round(waited / seconds, 4),
            }
            if self._stalled:
                extra["checkpoint_stall"], self._stalled = round(self._stalled, 6), 0.0
            self._log("train", metrics | extra)
            self.hooks.call("aegen_step_end", step=step, metrics=metrics | extra)

    def recorded(self) -> dict[str, float]:
        """The metrics since the last log point, means over steps and processes; this waits for the device.

        Raises:
            NotFinite: one of them is not.
        """
        return {name: value for recorder in self._recorders for name, value in recorder.read(self.world).items()}

    def _learning_rate(self, step: int) -> float:
        return optim.learning_rate(self.spec.train, step, self.total) * 0.5**self.progress.rollbacks

    def notice(self, text: str) -> None:
        """Tell a person something, in one sentence; what stands before its first colon is said once in a row."""
        self.hooks.call("aegen_notice", text=text, step=self.progress.step)

    def _count_skipped(self) -> None:
        """Tell of the steps that changed nothing since the last log point, and stop when all of them do."""
        progress = self.progress
        verdicts: dict[int, bool] = {}
        for player in self.players:
            for step, bad in player.guard.read() if player.guard is not None else ():
                verdicts[step] = verdicts.get(step, False) or bad
        for step in sorted(verdicts):
            progress.skipped_in_row = progress.skipped_in_row + 1 if verdicts[step] else 0
        dropped = [step for step, bad in verdicts.items() if bad]
        progress.skipped += len(dropped)
        if not dropped:
            return
        found = [recorder.found for recorder in self._recorders if recorder.found is not None]
        what = str(found[0]) if found else f"a gradient was not finite at step {min(dropped)}"
        if progress.skipped_in_row >= _MOST_SKIPPED:
            self._tell_written(wait=True)
            raise self._failure(f"the last {progress.skipped_in_row} steps were not finite, nothing changed ({what})")
        many = f"{len(dropped)} of {len(verdicts)} steps until step {progress.step} changed nothing"
        self.notice(f"{many}: {what}; {progress.skipped} in all")

    def recover(self, bad: NotFinite) -> None:
        """Go back to the last good checkpoint with half the learning rate and other noise, where `train.on_nan` asks for it.

        Raises:
            RunError: it does not, or that was tried often enough.
        """
        what = str(bad)
        with suppress(NotFinite):  # the same trouble
            self._tell_written(wait=True)
        count = self.progress.rollbacks
        alone = bad.weight and self.world.size > 1  # only the process that writes has looked at the weights
        if self.spec.train.on_nan != "rollback" or count >= _MOST_ROLLBACKS or alone:
            raise self._failure(f"{what}, after {count} rollbacks" if count else what)
        good = self.world.share(self.last_good)
        if good is None:
            raise self._failure(what)
        self.restore(checkpoint.Checkpoint(good))
        self.progress.rollbacks = count + 1
        self._recorders = [Recorder() for _ in self.players]
        if self.run_dir is not None and self.world.first:
            with suppress(OSError):  # two lines for a step are no reason to stop
                self.run_dir.forget_after(self.progress.step)
        back = f"back to step {self.progress.step}, lr {self._learning_rate(self.progress.step):.3g}"
        self.notice(f"rollback {count + 1} of {_MOST_ROLLBACKS}: {what}; {back}")
        self._clock.start()

    def _failure(self, what: str) -> RunError:
        """What is no longer finite as advice, with the last good checkpoint."""
        good, start = "there is no checkpoint yet", ""
        if self.last_good:
            good, start = f"the last good checkpoint is {self.last_good}", f"--init-from {self.last_good} and "
        return RunError(f"{what}; {good}", hint=f"try {start}a lower --lr, --set train.clip=1 or --precision fp32")

    def end_epoch(self, epoch: int) -> bool:
        """Validate and keep the best; whether to stop early."""
        progress = self.progress
        with self.averaged():
            self.validation = self.validate()
        self._log("validation", self.validation | {"epoch": epoch})
        self.hooks.call("aegen_epoch_end", epoch=epoch, step=progress.step, metrics=self.validation)
        settled = self.objective.settled(progress.step)
        for text in collapse(self.validation, self.model.latent_shape) if settled else ():
            self.hooks.call("aegen_notice", text=text, step=progress.step)
        loss = self.validation.get("loss", math.nan)
        # While a schedule moves, losses of different epochs measure different things.
        if settled and math.isfinite(loss):
            if progress.best is None or loss < progress.best:
                progress.best, progress.best_epoch, progress.waited = loss, epoch, 0
                if self.spec.checkpoint.best:
                    self.save("best")
            else:
                progress.waited += 1
        return 0 < self.spec.train.patience <= progress.waited

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean of every term over the validation images: evaluation mode, the same noise each time."""
        images, size = self.data.validation, self.batches.batch_size
        starts = list(range(0, len(images), size))
        mine = starts[self.world.rank :: self.world.size]
        # Where the model is sharded, its processes must run it equally often; one more that does not count.
        spare = math.ceil(len(starts) / self.world.size) - len(mine)
        total: Tensor | None = None
        names: list[str] = []
        with self._evaluation():
            for weight, start in [*((1.0, start) for start in mine), *[(0.0, starts[0])] * spare]:
                torch.manual_seed(start + 1)
                x = normalize(images[start : start + size].to(self.world.device))
                self.model.labels = self._validation_labels(start, size)
                with precision.autocast(self.spec.train.precision, self.world.device):
                    _, metrics = reduce(self.objective.loss(self.model, x))
                names = list(metrics)
                means = [lifted(value).mean() for value in metrics.values()]
                row = torch.stack([*means, torch.ones((), device=x.device)]) * (len(x) * weight)
                total = row if total is None else total + row
        assert total is not None
        *sums, count = self.world.sum(total).cpu().double().tolist()  # there is no double on MPS
        return {name: value / count for name, value in zip(names, sums, strict=True)}

    def _validation_labels(self, start: int, size: int) -> Tensor | None:
        labels = self.data.validation_labels if self.labelled else None
        return None if labels is None else labels[start : start + size].to(self.world.device)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        self.model.eval()
        self.objective.eval()
        try:
            yield
        finally:
            self.model.labels = None
            self.model.train()
            self.objective.train()

    def averaged(self) -> Any:
        """The context in which the model has its averaged weights, if there are any."""
        return self.ema.applied() if self.ema is not None else nullcontext()

    def draw(self, epoch: int, *, over: bool) -> None:
        """Write the pictures of an epoch, if they are due; training does not depend on them."""
        every = self.spec.log.images_every_epochs
        folder = self.run_dir.samples if self.run_dir is not None and self.world.first else None
        # Where the model is sharded, all processes run it, or none can.
        if (folder is None and not self.sharded) or not (over or (every and epoch % every == 0)):
            return
        jobs: list[tuple[str, Callable[[Path | None], None]]] = [
            ("samples", lambda p: preview.samples(self.model, self.data.train, self.spec.log.images, p))
        ]
        if self.objective.encodes:
            jobs.insert(0, ("reconstructions", lambda p: preview.reconstructions(self.model, self.data.validation, p)))
        with self.averaged(), self._evaluation():
            for name, draw in jobs:
                path = folder / f"{name}-{epoch:04d}.png" if folder is not None else None
                try:
                    # Not made anew: where a mount has vanished it would be another one. Yet other processes may draw along.
                    gone = folder is not None and not folder.is_dir()
                    if self.sharded or not gone:
                        draw(None if gone else path)
                    if gone:
                        raise FileNotFoundError("the folder is gone")
                except OSError as error:
                    self.notice(f"cannot write pictures: {path} ({reason(error)}); training goes on without")
                    continue
                if path is not None:
                    self.hooks.call("aegen_images_logged", name=name, path=path, step=self.progress.step)

    def _log(self, split: str, values: Mapping[str, float]) -> None:
        if self.run_dir is not None and self.world.first:
            try:
                self.run_dir.log({"step": self.progress.step, "split": split, **values})
            except OSError as error:
                text = f"cannot write metrics: {self.run_dir.metrics} ({reason(error)}); its lines are kept for later"
                self.notice(text)

    # ------------------------------------------------------------------------------------------------ state

    def state(self) -> dict[str, Tensor]:
        """Every tensor that a resumed run needs, by key; where the model is sharded all processes must ask, and the first has it."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"objective.{k}": v for k, v in self.objective.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{k}": v for k, v in self.ema.shadow.items()}
        for player in self.players:
            tensors |= player.state()
        if self.sharded:
            from aegen.engine import sharding

            return sharding.gathered(tensors, keep=self.world.first)
        return tensors

    def save(self, name: str, *, final: bool = False) -> None:
        """Copy the state and have it written to `checkpoints/<name>.safetensors`.

        Args:
            final: wait until it is whole, since nothing comes after it.

        Raises:
            RunError: it cannot be written, and it is the final one or there is none before it.
            NotFinite: a weight is not.
        """
        begin = time.perf_counter()
        writes = self.run_dir is not None and self.world.first
        state = self.state() if writes or self.sharded else {}
        if self.run_dir is None or not writes:
            return
        self._tell_written(wait=True)
        header = {
            **self.header,
            **asdict(self.progress),
            "per_epoch": self.batches.per_epoch,
            "processes": self.world.size,
            "batch": self.batches.batch_size * self.world.size,
            "validation": self.validation,
        }
        path = self.run_dir.checkpoints / f"{name}.safetensors"
        self._writer.begin(path, state, header, self.progress.step)
        self._stalled += time.perf_counter() - begin
        if final:
            self._tell_written(wait=True, final=True)

    def _tell_written(self, *, wait: bool = False, final: bool = False) -> None:
        """Tell of the last write, once it is over."""
        write = self._writer.outcome(wait=wait)
        if write is None:
            return
        if write.weight is not None:
            text = f"the weight {write.weight.removeprefix('model.')} is no longer finite at step {write.step}"
            raise NotFinite(text, weight=True)
        if isinstance(write.error, OSError):
            if final or self.last_good is None:
                raise disk_error(write.error, write.path, last_good=self.last_good) from write.error
            good = f"training goes on, the last good checkpoint is {self.last_good}"
            self.notice(f"cannot write checkpoint: {write.path} ({reason(write.error)}); {good}")
        elif write.error is not None:
            raise write.error
        else:
            self.last_good = write.path
            self.hooks.call("aegen_checkpoint_saved", path=write.path, step=write.step)

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Continue from a checkpoint: weights, averages, optimizers, scalers and progress."""
        saved.restore(self.model, "model.")
        saved.restore(self.objective, "objective.")
        if self.ema is not None:
            averages = saved.tensors("ema.")
            if self.sharded:
                from aegen.engine import sharding

                averages = {k: sharding.part_of(v, self.ema.shadow[k]) for k, v in averages.items()}
            self.ema.restore(averages)
        for player in self.players:
            player.restore(saved.tensors(f"optim/{player.turn.name}/"))
        header = saved.header
        for key, before in asdict(Progress()).items():
            setattr(self.progress, key, header.get(key, before))
        self.validation = header["validation"]
        self.last_good = saved.path


class _Clock:
    """Steps, seconds and seconds waited for data since the last reading; validation and saving do not count."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._begin, self._steps, self._waited = time.perf_counter(), 0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin
        self._steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._begin += time.perf_counter() - begin

    def read(self) -> tuple[int, float, float]:
        now = (self._steps, max(time.perf_counter() - self._begin, 1e-9), self._waited)
        self.start()
        return now
