"""The training loop: for each due turn, one optimizer step on its own parts.

A step is a function of (state, step): its images follow from (seed, epoch, position), its noise from (seed, rank, step),
its schedules from the step. So a run that stops anywhere and is resumed goes on bit for bit as if it had not stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aegen import checkpoint, collectives
from aegen.autoencoder import Autoencoder
from aegen.data.augment import Augment
from aegen.data.batches import Batches, normalize
from aegen.data.source import Data
from aegen.errors import Interrupted
from aegen.hooks import Hooks
from aegen.protocols import Objective
from aegen.rundir import RunDir, reason
from aegen.settings import RunSpec
from aegen.training import optim, precision, preview, validation
from aegen.training.checkpointing import Keeper
from aegen.training.diagnostics import lasting
from aegen.training.distributed import World, shards
from aegen.training.ema import EMA
from aegen.training.gradient_reach import Example, Reach
from aegen.training.metrics import NotFinite, Recorder
from aegen.training.progress import Clock, Progress, seed_step, step_seed
from aegen.training.recovery import MOST_ROLLBACKS, failure, skipped
from aegen.training.turns import TurnOptimizer


class Trainer:
    """One run in one process.

    What is trained is an autoencoder and its objective. `SamplerTrainer` trains a part of the objective on other rows than images, by
    saying what is different: `example`, `averaged_module`, `saved_modules`, `make_batches`, `validate` and `picture_jobs`.

    Args:
        run: folder to write to, None to write nothing (a dry run, another rank).
        header: what every checkpoint says besides its progress.
        stop: asked after each step whether to save and stop.
    """

    example: Example | None = None  # of a few rows of what the losses are given, if that is no images

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
        make: type[TurnOptimizer] = TurnOptimizer
        self.sharded = shards(settings, world)
        if self.sharded:
            from aegen.training import sharding  # half a second

            self.model = model.to(world.device)
            sharding.shard(model, settings, world)
            make = sharding.ShardedPlayer
        else:
            # Kernels of convolutions are faster with channels last (1.1 to 1.5 times on a CPU); other weights do not change.
            self.model = model.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = objective.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        named = [("model", model), ("objective", objective)]
        names: dict[nn.Parameter, str] = {p: f"{k}.{n}" for k, m in named for n, p in m.named_parameters()}
        turns, reach = objective.turns(), Reach(model, objective, self.example)
        self.players = [
            make(
                model,
                objective,
                turn,
                settings,
                world,
                names,
                "" if turn is turns[0] else f"{turn.name}.",
                partial(reach.unreached, turn.name),
            )
            for turn in turns
        ]
        first: dict[tuple[nn.Parameter, ...], TurnOptimizer] = {}
        for player in self.players:
            same = first.setdefault(tuple(player.parameters), player)
            if same is not player:
                player.share(same)
        self.ema = EMA(self.averaged_module(), settings.ema, sharded=self.sharded) if settings.ema else None
        self.labelled = self.wants_labels()
        self.batches = self.make_batches()
        self.total = settings.steps or settings.epochs * self.batches.per_epoch
        self.progress = Progress()
        self.validation: dict[str, float] = {}
        self.images_per_second = 0.0
        self._recorders = [Recorder() for _ in self.players]
        self._clock = Clock()
        self.keeper = Keeper(hooks, self.notice)

    # ------------------------------------------------------------------------------------------------ what is trained

    def averaged_module(self) -> nn.Module:
        """What `train.ema` keeps an average of."""
        return self.model

    def saved_modules(self) -> dict[str, nn.Module]:
        """What a checkpoint holds besides averages and optimizers, by the prefix of its keys."""
        return {"model": self.model, "objective": self.objective}

    def wants_labels(self) -> bool:
        """Whether the losses are told the classes."""
        return self.model.labelled

    def make_batches(
        self, *, augment: Augment | None = None, prepare: Callable[[Tensor], Tensor] = normalize
    ) -> Batches:
        """The rows of `data.train` in batches; images unless told otherwise."""
        settings, data = self.spec.train, self.spec.data
        return Batches(
            self.data.train,
            settings.batch_size,
            seed=settings.seed,
            device=self.world.device,
            rank=self.world.rank,
            world=self.world.size,
            accumulate=settings.accumulate,
            labels=self.data.train_labels if self.labelled else None,
            augment=Augment(data.flip, data.crop, settings.seed) if augment is None else augment,
            prepare=prepare,
        )

    def picture_jobs(self) -> list[tuple[str, Callable[[Path | None], None]]]:
        """The pictures of an epoch by name, and how each is drawn; without a path it is only computed."""
        jobs: list[tuple[str, Callable[[Path | None], None]]] = [
            ("samples", lambda p: preview.samples(self.model, self.data.train, self.spec.log.images, p))
        ]
        if self.objective.encodes:
            jobs.insert(0, ("reconstructions", lambda p: preview.reconstructions(self.model, self.data.validation, p)))
        return jobs

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
                self.keeper.tell(wait=True)
            raise

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do: all steps are taken, or the run stopped early."""
        return self.progress.step >= self.total or 0 < self.spec.train.patience <= self.progress.waited

    def _run(self) -> None:
        checkpoints, log, progress = self.spec.checkpoint, self.spec.log, self.progress
        self.model.train()
        self.objective.train()
        if self.spec.train.on_nan == "rollback" and self.world.share(self.keeper.last_good) is None:
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
                    self.keeper.tell()
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
            collectives.begin(self.world.rank, self.world.size, step_seed(seed, 0, step))
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
        collectives.end()
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
        if skips and (text := skipped(self.players, self._recorders, self.progress)):
            self.notice(text)
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
            if self.keeper.stalled:
                extra["checkpoint_stall"], self.keeper.stalled = round(self.keeper.stalled, 6), 0.0
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

    def recover(self, bad: NotFinite) -> None:
        """Go back to the last good checkpoint with half the learning rate and other noise, where `train.on_nan` asks for it.

        Raises:
            RunError: it does not, or that was tried often enough.
        """
        what = str(bad)
        with suppress(NotFinite):  # the same trouble
            self.keeper.tell(wait=True)
        count = self.progress.rollbacks
        alone = bad.weight and self.world.size > 1  # only the process that writes has looked at the weights
        if self.spec.train.on_nan != "rollback" or count >= MOST_ROLLBACKS or alone:
            raise failure(f"{what}, after {count} rollbacks" if count else what, self.keeper.last_good)
        good = self.world.share(self.keeper.last_good)
        if good is None:
            raise failure(what, None)
        self.restore(checkpoint.Checkpoint(good))
        self.progress.rollbacks = count + 1
        self._recorders = [Recorder() for _ in self.players]
        if self.run_dir is not None and self.world.first:
            self.keeper.check()
            with suppress(OSError):  # two lines for a step are no reason to stop
                self.run_dir.forget_after(self.progress.step)
        back = f"back to step {self.progress.step}, lr {self._learning_rate(self.progress.step):.3g}"
        self.notice(f"rollback {count + 1} of {MOST_ROLLBACKS}: {what}; {back}")
        self._clock.start()

    def end_epoch(self, epoch: int) -> bool:
        """Validate and keep the best; whether to stop early."""
        progress = self.progress
        with self.averaged():
            self.validation = self.validate()
        self._log("validation", self.validation | {"epoch": epoch})
        self.hooks.call("aegen_epoch_end", epoch=epoch, step=progress.step, metrics=self.validation)
        settled = self.objective.settled(progress.step)
        if settled:  # before, a schedule may well hold the latents down
            shape, step = self.model.latent_shape, progress.step
            for text in lasting(self.validation, shape, step=step, total=self.total, low=progress.low):
                self.notice(text)
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

    def validate(self) -> dict[str, float]:
        """The objective's loss, its terms and what it watches, of all validation images; see `training/validation.py`."""
        return self._measured(None, [self.model.encoder, self.model.decoder])

    def _measured(self, prepare: Callable[[Tensor], Tensor] | None, nets: Sequence[nn.Module]) -> dict[str, float]:
        with self._evaluation():
            return validation.measure(
                self.model,
                self.objective,
                self.data,
                self.world,
                labelled=self.labelled,
                together=self.batches.batch_size,
                mode=self.spec.train.precision,
                sharded=self.sharded,
                prepare=prepare,
                nets=nets,
            )

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        self.model.eval()
        self.objective.eval()
        try:
            yield
        finally:
            self.model.train()
            self.objective.train()

    def averaged(self) -> Any:
        """The context in which what is averaged has its averaged weights, if there are any."""
        return self.ema.applied() if self.ema is not None else nullcontext()

    def draw(self, epoch: int, *, over: bool) -> None:
        """Write the pictures of an epoch, if they are due; training does not depend on them."""
        every = self.spec.log.images_every_epochs
        folder = self.run_dir.samples if self.run_dir is not None and self.world.first else None
        # Where the model is sharded, all processes run it, or none can.
        if (folder is None and not self.sharded) or not (over or (every and epoch % every == 0)):
            return
        with self.averaged(), self._evaluation():
            for name, draw in self.picture_jobs():
                path = folder / f"{name}-{epoch:04d}.png" if folder is not None else None
                try:
                    # Not made anew: where a mount has vanished it would be another one. Yet other processes may draw along.
                    gone = folder is not None and not folder.is_dir()
                    if path is not None:
                        self.keeper.check()
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
            self.keeper.check()
            try:
                self.run_dir.log({"step": self.progress.step, "split": split, **values})
            except OSError as error:
                text = f"cannot write metrics: {self.run_dir.metrics} ({reason(error)}); its lines are kept for later"
                self.notice(text)

    # ------------------------------------------------------------------------------------------------ state

    def state(self) -> dict[str, Tensor]:
        """Every tensor that a resumed run needs, by key; where the model is sharded all processes must ask, and the first has it."""
        tensors = {
            f"{name}.{k}": v for name, part in self.saved_modules().items() for k, v in part.state_dict().items()
        }
        if self.ema is not None:
            tensors |= {f"ema.{k}": v for k, v in self.ema.shadow.items()}
        for player in self.players:
            tensors |= player.state()
        if self.sharded:
            from aegen.training import sharding

            return sharding.gathered(tensors, keep=self.world.first)
        return tensors

    def described(self) -> dict[str, Any]:
        """The header of a checkpoint of now."""
        return {
            **self.header,
            **asdict(self.progress),
            "per_epoch": self.batches.per_epoch,
            "processes": self.world.size,
            "batch": self.batches.batch_size * self.world.size,
            "validation": self.validation,
            "unmoved": {player.turn.name: player.unmoved() for player in self.players},
        }

    def save(self, name: str, *, final: bool = False) -> None:
        """Have the state written to `checkpoints/<name>.safetensors`; errors are those of `Keeper.save`."""
        header = self.described()
        folder = self.run_dir.checkpoints if self.run_dir is not None and self.world.first else None
        if folder is not None or self.sharded:
            path = folder / f"{name}.safetensors" if folder is not None else None
            self.keeper.save(path, self.state, header, self.progress.step, final=final)

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Continue from a checkpoint: weights, averages, optimizers, scalers and progress."""
        for name, part in self.saved_modules().items():
            saved.restore(part, f"{name}.")
        if self.ema is not None:
            averages = saved.tensors("ema.")
            if self.sharded:
                from aegen.training import sharding

                averages = {k: sharding.part_of(v, self.ema.shadow[k]) for k, v in averages.items()}
            self.ema.restore(averages)
        header = saved.header
        for player in self.players:
            said = header.get("unmoved")  # not by earlier versions
            unmoved = None if said is None else said.get(player.turn.name, ())
            player.restore(saved.tensors(f"optim/{player.turn.name}/"), unmoved)
        for key, before in asdict(Progress()).items():
            setattr(self.progress, key, header.get(key, before))
        self.validation = header["validation"]
        self.keeper.last_good = saved.path
