"""The training loop: for each due turn, one optimizer step on its own parts.

A step is a function of (state, step): its images follow from (seed, epoch, position), its noise from (seed, rank, step),
its schedules from the step. So a run that stops anywhere and is resumed goes on bit for bit as if it had not stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aegen import checkpoint
from aegen.data.batches import Batches, normalize
from aegen.data.source import Data
from aegen.engine import optim, precision, preview
from aegen.engine.ema import EMA
from aegen.engine.notices import collapse
from aegen.engine.parallel import World
from aegen.engine.recorder import NotFinite, Recorder
from aegen.engine.stage import Player, reduce
from aegen.errors import Interrupted, RunError
from aegen.model import Autoencoder, lifted
from aegen.plugins import Hooks
from aegen.protocols import Objective
from aegen.rundir import RunDir, disk_error
from aegen.settings import RunSpec


@dataclass
class Progress:
    """What a run knows of itself besides its tensors; saved in the header.

    Attributes:
        step: optimizer steps taken.
        best: lowest validation loss so far, None before the first.
        best_epoch: when that was.
        waited: epochs since, for early stopping.
    """

    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0


def seed_step(seed: int, rank: int, step: int, device: torch.device) -> None:
    """Set torch's random state for one step; odd multipliers keep the three numbers apart.

    The generators are set one by one: `torch.manual_seed` also queues a call for devices that are not there, which costs a
    small net a tenth of its step.
    """
    number = (seed * 0x9E3779B97F4A7C15 + rank * 0xBF58476D1CE4E5B9 + step * 0x94D049BB133111EB) % 2**63
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
        # Kernels of convolutions are faster with channels last (1.1 to 1.5 times on a CPU); other weights do not change.
        self.model = model.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = objective.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        named = [("model", model), ("objective", objective)]
        names: dict[nn.Parameter, str] = {p: f"{k}.{n}" for k, m in named for n, p in m.named_parameters()}
        turns = objective.turns()
        self.players = [
            Player(model, objective, turn, settings, world, names, "" if turn is turns[0] else f"{turn.name}.")
            for turn in turns
        ]
        first: dict[tuple[nn.Parameter, ...], Player] = {}
        for player in self.players:
            same = first.setdefault(tuple(player.parameters), player)
            if same is not player:
                player.share(same)
        self.ema = EMA(model, settings.ema) if settings.ema else None
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
        )
        self.total = settings.steps or settings.epochs * self.batches.per_epoch
        self.progress = Progress()
        self.last_good: Path | None = None
        self.validation: dict[str, float] = {}
        self.images_per_second = 0.0
        self._recorders = [Recorder() for _ in self.players]
        self._clock = _Clock()

    # ------------------------------------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Train from `progress.step` to `total`.

        Raises:
            RunError: a loss is not finite, or the disk is full.
            Interrupted: `stop` said so; the state is saved.
        """
        checkpoints, log, progress = self.spec.checkpoint, self.spec.log, self.progress
        self.model.train()
        self.objective.train()
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
            self.read_metrics()
            with self._clock.paused():
                if ends:
                    epoch = math.ceil(progress.step / self.batches.per_epoch)
                    over = self.end_epoch(epoch) or over
                    saves = saves or (bool(checkpoints.every_epochs) and epoch % checkpoints.every_epochs == 0)
                if saves or over or interrupted:
                    self.save("last")
                if ends:
                    self.draw(epoch, over=over)
            if over:
                break
            if interrupted:
                raise Interrupted(f"stopped at step {progress.step} of {self.total}; the state is saved")

    def take_step(self, step: int) -> None:
        """One step of every due turn, on the same images. Nothing here waits for the device."""
        settings = self.spec.train
        seed_step(settings.seed, self.world.rank, step, self.world.device)
        self.objective.at(step)
        lr = optim.learning_rate(settings, step, self.total)
        with self._clock.waiting():
            parts = [self.batches.micro(step, part) for part in range(settings.accumulate)]
        for player, recorder in zip(self.players, self._recorders, strict=True):
            if not player.due(step):
                continue
            if len(self.players) > 1:
                player.seats()
            metrics = [
                player.accumulate(x, labels, share=1 / len(parts), last=i == len(parts) - 1)
                for i, (x, labels) in enumerate(parts)
            ]
            player.step(lr)
            recorder.add(step, metrics)
        if self.ema is not None:
            self.ema.update(step)

    # ------------------------------------------------------------------------------------------------ log points

    def read_metrics(self) -> None:
        """Read what the recorders hold, refuse NaN, tell the hooks and the log."""
        step, metrics = self.progress.step, {}
        for recorder in self._recorders:
            try:
                metrics.update(recorder.read(self.world))
            except NotFinite as bad:
                good = (
                    f"the last good checkpoint is {self.last_good}" if self.last_good else "there is no checkpoint yet"
                )
                start = f"--init-from {self.last_good} and " if self.last_good else ""
                raise RunError(
                    f"the term {bad.term!r} of the loss became {bad.value} at step {bad.step}; {good}",
                    hint=f"try {start}a lower --lr, --set train.clip=1 or --precision fp32",
                ) from None
        taken, seconds, waited = self._clock.read()
        if taken and metrics:
            self.images_per_second = (
                taken * self.batches.batch_size * self.spec.train.accumulate * self.world.size / seconds
            )
            lr = optim.learning_rate(self.spec.train, step - 1, self.total)
            extra = {
                "lr": lr,
                "images_per_second": round(self.images_per_second, 1),
                "data_wait": round(waited / seconds, 4),
            }
            self._log("train", metrics | extra)
            self.hooks.call("aegen_step_end", step=step, metrics=metrics | extra)

    def recorded(self) -> dict[str, float]:
        """The metrics since the last log point, means over steps and processes; this waits for the device.

        Raises:
            NotFinite: one of them is not.
        """
        return {name: value for recorder in self._recorders for name, value in recorder.read(self.world).items()}

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
        mine = starts[self.world.rank :: self.world.size] or starts[:1]
        weight = 1.0 if len(starts) > self.world.rank else 0.0  # a rank without images still joins the sum
        total: Tensor | None = None
        names: list[str] = []
        with self._evaluation():
            for start in mine:
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
        """Write the pictures of an epoch, if they are due.

        Raises:
            RunError: they cannot be written.
        """
        every = self.spec.log.images_every_epochs
        if self.run_dir is None or not self.world.first or not (over or (every and epoch % every == 0)):
            return
        folder = self.run_dir.samples
        jobs: list[tuple[str, Callable[[Path], None]]] = [
            ("samples", lambda p: preview.samples(self.model, self.data.train, self.spec.log.images, p))
        ]
        if self.objective.encodes:
            jobs.insert(0, ("reconstructions", lambda p: preview.reconstructions(self.model, self.data.validation, p)))
        with self.averaged(), self._evaluation():
            for name, draw in jobs:
                path = folder / f"{name}-{epoch:04d}.png"
                try:
                    draw(path)
                except OSError as error:
                    raise disk_error(error, path, last_good=self.last_good) from error
                self.hooks.call("aegen_images_logged", name=name, path=path, step=self.progress.step)

    def _log(self, split: str, values: Mapping[str, float]) -> None:
        if self.run_dir is not None and self.world.first:
            try:
                self.run_dir.log({"step": self.progress.step, "split": split, **values})
            except OSError as error:
                raise disk_error(error, self.run_dir.metrics, last_good=self.last_good) from error

    # ------------------------------------------------------------------------------------------------ state

    def state(self) -> dict[str, Tensor]:
        """Every tensor that a resumed run needs, by key."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"objective.{k}": v for k, v in self.objective.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{k}": v for k, v in self.ema.shadow.items()}
        for player in self.players:
            tensors |= player.state()
        return tensors

    def save(self, name: str) -> None:
        """Write `checkpoints/<name>.safetensors`.

        Raises:
            RunError: the weights are not finite, or the file cannot be written.
        """
        if self.run_dir is None or not self.world.first:
            return
        bad = [k for k, v in self.model.state_dict().items() if v.is_floating_point() and not v.isfinite().all()]
        if bad:
            good = f"the last good checkpoint is {self.last_good}" if self.last_good else "there is no checkpoint yet"
            raise RunError(
                f"the weight {bad[0]} is no longer finite at step {self.progress.step}; {good}",
                hint="try a lower --lr, --set train.clip=1 or --precision fp32",
            )
        path = self.run_dir.checkpoints / f"{name}.safetensors"
        header = {
            **self.header,
            **asdict(self.progress),
            "per_epoch": self.batches.per_epoch,
            "validation": self.validation,
        }
        try:
            checkpoint.save(path, self.state(), header)
        except OSError as error:
            raise disk_error(error, path, last_good=self.last_good) from error
        self.last_good = path
        self.hooks.call("aegen_checkpoint_saved", path=path, step=self.progress.step)

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Continue from a checkpoint: weights, averages, optimizers, scalers and progress."""
        saved.restore(self.model, "model.")
        saved.restore(self.objective, "objective.")
        if self.ema is not None:
            self.ema.restore(saved.tensors("ema."))
        for player in self.players:
            player.restore(saved.tensors(f"optim/{player.turn.name}/"))
        header = saved.header
        self.progress = Progress(header["step"], header["best"], header["best_epoch"], header["waited"])
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
