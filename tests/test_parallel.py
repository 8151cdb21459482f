"""Several processes on gloo against one: the same global batch is the same step."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from aegen import collectives, noise, registry
from aegen.autoencoder import build_model, build_objective
from aegen.checkpoint import Checkpoint
from aegen.config import resolve
from aegen.data.batches import Batches
from aegen.data.source import load_data
from aegen.errors import UsageError
from aegen.hooks import Hooks
from aegen.inference import load
from aegen.inference.loading import silent
from aegen.inference.reconstruction import _alike, _reconstruct
from aegen.inference.sampling import _sample
from aegen.protocols import Outcome
from aegen.rundir import RunDir
from aegen.settings import TrainSettings
from aegen.training import turns
from aegen.training.distributed import World, begun_run, remember_run, shards
from aegen.training.loop import Trainer
from aegen.training.progress import seed_step
from aegen.training.run import train
from aegen.training.sharding import local
from aegen.training.warm_start import same_batch

BATCH = 32  # of all processes together
BASE = {"arch.name": "mlp", "arch.hidden": [16], "data.size": 8, "train.steps": 6}
Job = Callable[..., Any]


def trainer(world: World, options: dict[str, Any]) -> Trainer:
    """As `aegen train` builds one, without a folder; `train.batch_size` is the global one."""
    torch.manual_seed(0)
    given = {**BASE, "train.batch_size": BATCH, **options}
    given["train.batch_size"] //= world.size * given.get("train.accumulate", 1)
    registry.trust(given.get("objective.name", ""))
    spec = resolve([("test", given)]).spec
    data = load_data(spec.data, spec.data_options)
    model = build_model(spec.arch, spec.bottleneck, spec.likelihood, data.image, classes=len(data.classes))
    objective = build_objective(spec.objective, model, size=len(data.train))
    return Trainer(spec, model, objective, data, world, run=None, header={}, hooks=Hooks())


@contextmanager
def double() -> Iterator[None]:
    """Everything in float64: in float32 a rounding error flips a ReLU after some dozen steps, and then runs part."""
    gather = Batches.micro

    def micro(self: Batches, step: int, part: int) -> tuple[Tensor, Tensor | None]:
        x, labels = gather(self, step, part)
        return x.double(), labels

    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Batches, "micro", micro)
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def trained(world: World, **options: Any) -> dict[str, Any]:
    """The state after some steps in double precision, and the numbers of all of them, in the first process."""
    with double():
        made = trainer(world, options)
        for step in range(made.total):
            made.take_step(step)
        numbers: dict[str, float] = {}
        for recorder in made._recorders:
            numbers.update(recorder.read(world))
        return {"state": {key: value.clone() for key, value in made.state().items()}, "numbers": numbers}


def halved(world: World, **options: Any) -> dict[str, Any]:
    """The weights after some steps in half precision, and the validation."""
    made = trainer(world, options)
    for step in range(made.total):
        made.take_step(step)
    return {"state": dict(made.state()), "validation": made.validate()}


def spoiled(world: World, folder: Path, **options: Any) -> tuple[dict[str, Tensor], list[str]]:
    """A run whose loss is NaN at the fourth step, in the last process alone, unless it has gone back: its state and what it said."""
    told: list[str] = []
    with double(), pytest.MonkeyPatch.context() as patch:
        made = trainer(world, options)
        made.header, made.run_dir = header(made), RunDir(folder) if world.first else None
        reduce, place = turns.reduce, world.rank == world.size - 1

        def poisoned(outcome: Outcome) -> tuple[Tensor, dict[str, Tensor]]:
            loss, metrics = reduce(outcome)
            spoils = place and made.progress.step == 3 and not made.progress.rollbacks
            return (loss * torch.nan, {**metrics, "loss": loss.detach() * torch.nan}) if spoils else (loss, metrics)

        patch.setattr(turns, "reduce", poisoned)
        patch.setattr(made, "notice", told.append)
        patch.setattr(made, "end_epoch", lambda epoch: False)
        patch.setattr(made, "draw", lambda epoch, over: None)
        made.run()
        return {key: value.clone() for key, value in made.state().items()}, told


# ---------------------------------------------------------------------------------------------------- processes


def serve(rank: int, size: int, meeting: str, pipe: Connection) -> None:
    """A process of a pool: does jobs, together with the others, until it is told to stop."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    world = World(torch.device("cpu"), rank, size)
    while (job := pipe.recv()) is not None:
        function, options = job
        try:
            answer: Any = ("", function(world, **options))
        except BaseException:
            answer = (traceback.format_exc(), None)
        collectives.end()  # if it failed within a step
        pipe.send(answer if rank == 0 or answer[0] else ("", None))
    dist.destroy_process_group()


@dataclass
class Pool:
    """Processes that wait for jobs."""

    pipes: list[Connection]

    def __call__(self, function: Job, **options: Any) -> Any:
        """What the first process answers."""
        for pipe in self.pipes:
            pipe.send((function, options))
        answers = [pipe.recv() for pipe in self.pipes]
        failed = [error for error, _ in answers if error]
        assert not failed, "\n".join(failed)
        return answers[0][1]


def pool_of(size: int, folder: Path) -> Iterator[Pool]:
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(size)]
    meeting = f"file://{folder}/meeting"
    workers = [context.Process(target=serve, args=(i, size, meeting, there)) for i, (_, there) in enumerate(ends)]
    for worker in workers:
        worker.start()
    yield Pool([here for here, _ in ends])
    for here, _ in ends:
        here.send(None)
    for worker in workers:
        worker.join(20)
        worker.kill()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    yield from pool_of(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    yield from pool_of(4, tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "run"
    train(
        arch="mlp",
        run_dir=run,
        **{"arch.hidden": [32], "data.size": 16, "train.epochs": 1, "log.images_every_epochs": 0},
    )
    return run


def alone(**options: Any) -> dict[str, Any]:
    return trained(World(torch.device("cpu")), **options)


# ---------------------------------------------------------------------------------------------------- the same step

SPATIAL = {"arch.name": "conv", "arch.width": 4, "arch.depth": 2, "arch.hidden": 16}
AVERAGED = {"train.ema": 0.9, "train.clip": 1.0, "train.accumulate": 2, "train.schedule": "cosine"}
# What the numbers are made of: images alone; noise; a codebook with k-means, averages and restarts; games with R1; the batch.
SAME: dict[str, dict[str, Any]] = {
    "plain": {"objective.name": "ae"},
    "noise": {"objective.name": "vae", **SPATIAL, **AVERAGED},
    "codebook": {"objective.name": "vq-vae", "bottleneck.codes": 48, "bottleneck.dim": 4, "bottleneck.restart": 2},
    "critic": {"objective.name": "vae+adversarial", "objective.adversarial.r1": 1.0, **SPATIAL},
    "gan": {
        "objective.name": "gan",
        "objective.lecam": 0.3,
        "objective.r1_every": 2,
        "objective.gradient_penalty": 1.0,
    },
    "turns": {"objective.name": "vae-gan", "train.clip": 5.0},
    "free bits": {"objective.name": "vae", "objective.free_bits": 0.1},
    "correlation": {"objective.name": "beta-tc-vae", "objective.sampling": "stratified"},
    "covariance": {"objective.name": "dip-vae"},
    "discrepancy": {"objective.name": "wae-mmd"},
    "shuffling": {"objective.name": "factor-vae", "train.lr": 1e-4},
    "capacity": {"objective.name": "capacity-vae"},
    "best scale": {"objective.name": "sigma-vae"},
    "density": {"objective.name": "sparse-ae", "objective.form": "kl"},
    "pull": {"objective.name": "ebgan"},
    "balance": {"objective.name": "began"},
    "adaptive": {"objective.name": "vae+adversarial", "objective.adversarial.adaptive": True},
    "sphere": {"objective.name": "svae"},
    "categories": {"objective.name": "categorical-vae"},
    "bits": {"objective.name": "vae", "bottleneck.name": "lfq"},
    "moved": {"objective.name": "vae+consistency", "objective.consistency.flip": True},
    "corrupted": {"objective.name": "dae", "objective.noise": "salt-and-pepper"},
    "turned": {"objective.name": "ae+equivariance", **SPATIAL, "arch.spatial": True},
}
LONG = ("plain", "noise", "codebook", "critic", "gan", "turns")


def assert_same_run(several: dict[str, Any], one: dict[str, Any]) -> None:
    """Weights, averages, moments and whatever else is state, to a few roundings of float64."""
    assert several["state"].keys() == one["state"].keys()
    for key, value in one["state"].items():
        found = several["state"][key]
        torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-12, msg=lambda m, k=key: f"{k}: {m}")
    for key, number in one["numbers"].items():
        assert math.isclose(several["numbers"][key], number, rel_tol=1e-5, abs_tol=1e-9), key


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", SAME)
def test_two_processes_take_the_steps_of_one(name: str, mode: str, two: Pool) -> None:
    if mode == "fsdp" and name not in LONG:
        return
    assert_same_run(two(trained, **SAME[name], **{"train.parallel": mode}), alone(**SAME[name]))


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
@pytest.mark.parametrize("how", ["skip", "rollback"])
def test_all_processes_drop_a_step_or_go_back_when_one_is_not_finite(
    how: str, mode: str, two: Pool, tmp_path: Path
) -> None:
    options = {"objective.name": "vae", "train.on_nan": how, "log.every_steps": 2, "checkpoint.every_steps": 2}
    for name in ("many", "one"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    state, told = two(spoiled, folder=tmp_path / "many", **options, **{"train.parallel": mode})
    expected, words = spoiled(World(torch.device("cpu")), tmp_path / "one", **options)
    assert_same_run({"state": state}, {"state": expected, "numbers": {}})
    assert told == words and len(told) == 1
    begins = {"skip": "1 of 2 steps until step 4 changed nothing", "rollback": "rollback 1 of 3"}
    assert told[0].startswith(begins[how])


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_four_processes_take_the_steps_of_one(mode: str, four: Pool) -> None:
    """More processes than some layers have rows: a few of them hold nothing of those."""
    options = {"objective.name": "vq-vae+adversarial", "objective.adversarial.r1": 1.0, "bottleneck.dim": 3, **AVERAGED}
    options |= {"train.accumulate": 1, "train.lr": 5e-4}
    assert_same_run(four(trained, **options, **{"train.parallel": mode}), alone(**options))


TWICE = '''
"""Two turns of the same weights, which therefore share an optimizer."""
from aegen import Turn
from aegen_builtin.objectives.ae import AE

class Twice(AE):
    """Options:"""
    def turns(self):
        return [Turn("autoencoder", self.loss), Turn("again", self.loss, every=2)]
'''


def test_turns_that_share_an_optimizer_share_the_parts(two: Pool, tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text(TWICE)
    options = {"objective.name": f"{tmp_path}/twice.py:Twice"}
    assert_same_run(two(trained, **options, **{"train.parallel": "fsdp"}), alone(**options))


def test_half_precision_is_sharded_too(two: Pool) -> None:
    """Weights are gathered in bf16, so that results are near to those of one process and not the same."""
    options = {"objective.name": "vae", "train.precision": "bf16", "train.clip": 1.0}
    several, one = two(halved, **options, **{"train.parallel": "fsdp"}), halved(World(torch.device("cpu")), **options)
    for key, value in one["state"].items():
        if key.startswith("model."):
            assert several["state"][key].dtype == torch.float32
            torch.testing.assert_close(several["state"][key], value, rtol=0, atol=4e-3)
    assert math.isclose(several["validation"]["loss"], one["validation"]["loss"], rel_tol=5e-3)


def parts(world: World) -> list[int]:
    made = trainer(world, {"objective.name": "vae+adversarial", "train.parallel": "fsdp", "train.ema": 0.9})
    made.take_step(0)
    held = [sum(local(p).numel() for p in made.model.parameters() if isinstance(p, DTensor))]
    held.append(sum(local(v).numel() for v in made.ema.shadow.values() if isinstance(v, DTensor)) if made.ema else 0)
    moments = made.players[0].stepper.optimizer.state.values() if made.players[0].stepper else []
    held.append(sum(slots["exp_avg"].numel() for slots in moments))
    held.append(sum(p.numel() for m in (made.model.encoder, made.model.decoder) for p in m.parameters()))
    held.append(sum(p.numel() for p in made.model.likelihood.parameters()))
    return [sum(told) for told in zip(*world.gather(held), strict=True)]


def test_each_process_holds_its_part_of_weights_averages_and_moments(two: Pool) -> None:
    held, averages, moments, twice, scale = two(parts)
    assert held == averages == twice // 2
    assert moments == twice // 2 + scale  # the scale of the likelihood is whole in both


@pytest.mark.parametrize("objective", ["rae-l2", "contractive-ae", "rae-gp"])
def test_what_cannot_be_sharded_says_so(objective: str, two: Pool) -> None:
    """They read weights outside of a forward pass, or derive them twice."""
    with pytest.raises(AssertionError, match=r"UsageError: turn 'autoencoder' cannot be sharded.*; use --parallel ddp"):
        two(trained, **{"objective.name": objective, "train.parallel": "fsdp"})


def test_compiling_does_not_go_with_sharding() -> None:
    settings = TrainSettings(parallel="fsdp", compile="on")
    with pytest.raises(UsageError, match=r"--compile does not go with --parallel fsdp"):
        shards(settings, World(torch.device("cpu"), 0, 2))
    assert not shards(settings, World(torch.device("cpu")))  # one process holds all of it


# ---------------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize("draw", [noise.normal_like, noise.uniform_like, noise.exponential_like])
@pytest.mark.parametrize("layout", ["plain", "channels last", "half of another", "draws first"])
def test_noise_is_a_part_of_what_one_process_draws(layout: str, draw: Callable[..., Tensor]) -> None:
    """In the order of memory, whatever that is; and with one process it is torch's own."""
    shape, dim = ((2, 5, 12, 3), 2) if layout == "draws first" else ((12, 4, 3, 5), 0)
    whole = torch.empty(shape)
    if layout == "channels last":
        whole = whole.to(memory_format=torch.channels_last)
    if layout == "half of another":
        whole = torch.empty(12, 8, 3, 5).chunk(2, 1)[0]
    torch.manual_seed(7)
    same = {noise.normal_like: torch.randn_like, noise.uniform_like: torch.rand_like}
    wanted = [same[draw](whole) if draw in same else torch.empty_like(whole).exponential_() for _ in range(2)]
    torch.manual_seed(7)
    assert all(torch.equal(draw(whole, dim), one) for one in wanted)
    for rank in range(3):
        collectives.begin(rank, 3, 7)
        try:
            own = whole.narrow(dim, 4 * rank, 4)
            if layout in ("plain", "channels last"):
                own = own.clone(memory_format=torch.preserve_format)
            for one in wanted:
                assert torch.equal(draw(own, dim), one.narrow(dim, 4 * rank, 4))
        finally:
            collectives.end()


def draws(world: World) -> list[list[float]]:
    """Of one step: a third party's own draw, an exported one, and a choice for all."""
    seed_step(3, world.rank, 5, world.device)
    collectives.begin(world.rank, world.size, 11)
    found = [
        torch.randn(1),
        noise.normal_like(torch.empty(1)),
        torch.rand((), generator=collectives.common_generator()),
    ]
    collectives.end()
    return list(zip(*world.gather([value.item() for value in found]), strict=True))


def test_other_draws_are_independent_and_common_ones_equal(two: Pool) -> None:
    plain, exported, common = two(draws)
    assert plain[0] != plain[1] and exported[0] != exported[1] and common[0] == common[1]


def gradients(world: World) -> dict[str, Tensor]:
    """Of functions of a global batch of 6, by its images: those of a mean over ranks, and of pairs of images."""
    x = torch.linspace(-1, 2, 12).view(6, 2)
    count = 6 // world.size
    own = x[world.rank * count : (world.rank + 1) * count].clone().requires_grad_()
    if world.size > 1:
        collectives.begin(world.rank, world.size, 0)
    try:
        mean = collectives.mean_over_ranks(own.mean(0)).exp().sum()
        pairs = torch.cdist(own, collectives.gather_rows(own)).square().sum(1).sin().mean()
        picked = collectives.take_rows(own.detach(), torch.tensor([5, 0, 3]))
        total = collectives.sum_over_ranks(own.detach().sum(0))
    finally:
        collectives.end()
    found = {"mean": mean.detach(), "picked": picked, "total": total}
    for name, loss in (("of mean", mean), ("of pairs", pairs)):
        (gradient,) = torch.autograd.grad(loss, own)
        found[name] = torch.cat(world.gather(gradient)) / world.size  # as DDP averages
    return found


def test_gradients_pass_between_processes(two: Pool) -> None:
    several, one = two(gradients), gradients(World(torch.device("cpu")))
    for key, value in one.items():
        torch.testing.assert_close(several[key], value, msg=lambda m, k=key: f"{k}: {m}")


# ---------------------------------------------------------------------------------------------------- runs


def validated(world: World, **options: Any) -> dict[str, float]:
    """The numbers of 33 images, in batches of 16: the third batch has one image, and one process none of its own."""
    made = trainer(world, {"train.batch_size": 16 * world.size, **options})
    made.data.validation = made.data.validation[:33]
    return made.validate()


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_an_odd_number_of_validation_images_counts_each_once(mode: str, two: Pool) -> None:
    one = validated(World(torch.device("cpu")))
    several = two(validated, **{"train.parallel": mode})
    assert several.keys() == one.keys()
    for key, value in one.items():
        assert math.isclose(several[key], value, rel_tol=1e-5), key


def continued(world: World, folder: Path, start: int, stop: int, **options: Any) -> dict[str, Tensor]:
    """Steps of a run whose checkpoint lies in `folder`, which is then written again."""
    with double():
        return _continued(trainer(world, {"train.steps": 9, **options}), folder, start, stop)


def _continued(made: Trainer, folder: Path, start: int, stop: int) -> dict[str, Tensor]:
    run = RunDir(folder)
    if start:
        made.restore(Checkpoint(run.last))
    assert made.progress.step == start
    for step in range(start, stop):
        made.take_step(step)
    made.progress.step = stop
    made.header = header(made)
    made.run_dir = run if made.world.first else None
    made.save("last", final=True)
    return {key: value.clone() for key, value in made.state().items()}


def header(made: Trainer) -> dict[str, Any]:
    spec, model = made.spec, made.model
    data = {"name": "digits", "count": 1, "classes": [], "fingerprint": ""}
    shapes = {"image": list(model.image), "latent": list(model.latent_shape)}
    return {"spec": spec.to_dict(), **shapes, "data": data, "plugins": {}, "samplers": {}, "versions": {}}


def test_a_checkpoint_goes_from_any_number_of_processes_to_any_other(two: Pool, four: Pool, tmp_path: Path) -> None:
    """Two with parts → one → four with parts, against one all the way: weights, averages and moments."""
    options = {"objective.name": "vae+adversarial", **AVERAGED, "train.accumulate": 1}
    for name in ("moving", "still"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    moving, here = tmp_path / "moving", World(torch.device("cpu"))
    sharded = {**options, "train.parallel": "fsdp"}
    two(continued, folder=moving, start=0, stop=3, **sharded)
    continued(here, moving, 3, 6, **options)
    last = four(continued, folder=moving, start=6, stop=9, **sharded)
    still = continued(here, tmp_path / "still", 0, 9, **options)
    assert_same_run({"state": last}, {"state": still, "numbers": {}})
    file = Checkpoint(moving / "checkpoints/last.safetensors")
    assert_same_run({"state": file.tensors("")}, {"state": still, "numbers": {}})
    assert (file.header["processes"], file.header["batch"]) == (4, BATCH)


def test_a_resumed_run_keeps_the_images_of_a_step(trained_run: Path) -> None:
    file = Checkpoint(trained_run / "checkpoints/last.safetensors")
    assert same_batch(file.spec, file, World(torch.device("cpu"))).train.batch_size == 64
    assert same_batch(file.spec, file, World(torch.device("cpu"), 1, 4)).train.batch_size == 16
    with pytest.raises(UsageError, match=r"64 images a step, which 3 processes cannot share evenly; use 1 processes"):
        same_batch(file.spec, file, World(torch.device("cpu"), 0, 3))


def drawn(world: World, run: Path, out: Path, each: bool) -> list[Path]:
    loaded = load(run, device="cpu")
    return _sample(loaded, world, 150, "gaussian", {}, None, each, out, 3, print if world.first else silent)


def mirrored(world: World, run: Path, out: Path, images: Path) -> list[Path]:
    model = load(run, device="cpu")
    return _reconstruct(model, world, [str(images)], True, out, silent, False, None, _alike(model, world, True, 3))


def test_samples_and_reconstructions_are_those_of_one_process(trained_run: Path, two: Pool, tmp_path: Path) -> None:
    """150 images are three batches, of which the last is smaller; the sampler is fitted by both."""
    here = World(torch.device("cpu"))
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        shutil.copytree(trained_run, run)
    one = drawn(here, runs[0], tmp_path / "one", True)
    several = two(drawn, run=runs[1], out=tmp_path / "several", each=True)
    assert [p.name for p in several] == [p.name for p in one] and len(one) == 150
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, several, strict=True))
    one = mirrored(here, runs[0], tmp_path / "again", tmp_path / "one")
    several = two(mirrored, run=runs[0], out=tmp_path / "more", images=tmp_path / "one")
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, several, strict=True)) and len(one) == 150


# ---------------------------------------------------------------------------------------------------- torchrun

MORTAL = '''
"""A vae of which the second process dies: before the first checkpoint, and once more in mid-epoch."""
import os, signal
from aegen_builtin.objectives.vae import VAE

class Mortal(VAE):
    """Options:"""
    def at(self, step: int) -> None:
        super().at(step)
        if os.environ.get("RANK") == "1" and (os.environ["TORCHELASTIC_RESTART_COUNT"], step) in (("0", 3), ("1", 13)):
            os.kill(os.getpid(), signal.SIGKILL)
'''


def test_a_process_that_dies_is_replaced_and_the_run_goes_on(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "mortal.py").write_text(MORTAL)
    launch = ["-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]
    options = ["--objective", "./mortal.py:Mortal", "--arch", "mlp", "--arch.hidden", "[16]", "--size", "8"]
    options += ["--steps", "30", "--set", "checkpoint.every_steps=5", "--set", "log.images_every_epochs=0"]
    command = [sys.executable, *launch, "-m", "aegen", "train", *options, "--batch-size", "32", "--run-dir", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "run was stopped before its first checkpoint; it begins again" in done.stderr
    assert "run run, from step 10" in done.stderr
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    settings = {"arch": "mlp", "arch.hidden": [16], "data.size": 8, "train.steps": 30, "train.batch_size": 64}
    train(run_dir=tmp_path / "whole", objective="vae", **settings)
    files = [
        Checkpoint(tmp_path / name / "checkpoints/last.safetensors").tensors("model.") for name in ("run", "whole")
    ]
    for key, value in files[1].items():
        torch.testing.assert_close(files[0][key], value, rtol=0, atol=2e-6, msg=key)
    command = [word.replace("max-restarts=3", "max-restarts=0") for word in command]
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode and "run exists already" in again.stderr  # another launch may not touch it


def test_what_the_first_process_goes_on_with_all_others_do(tmp_path: Path, environment: dict[str, str]) -> None:
    """As on Kubernetes, where the replacement of a machine finds the run's folder, and the others were started without it."""
    (tmp_path / "mortal.py").write_text(MORTAL)
    begin = (
        "--objective ./mortal.py:Mortal --arch mlp --arch.hidden [16] --size 8 --batch-size 32 --steps 30 --run-dir run"
    )
    begin += " --set checkpoint.every_steps=2 --set log.images_every_epochs=0"
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    asked = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 300}
    dead = subprocess.run([*launch, "-m", "aegen", "train", *begin.split()], check=False, **asked)
    assert dead.returncode and (tmp_path / "run/checkpoints/last.safetensors").exists()
    words = f'if [ "$RANK" = 0 ]; then set -- --resume run --objective ./mortal.py:Mortal; else set -- {begin}; fi; exec {sys.executable} -m aegen train "$@"'
    done = subprocess.run([*launch, "--max-restarts=2", "--no-python", "sh", "-c", words], check=False, **asked)
    assert done.returncode == 0, done.stderr
    assert "run run, from step 2" in done.stderr and "run run, from step 12" in done.stderr
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 30


def test_a_launch_remembers_the_folder_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    remember_run(Path("nowhere"))
    assert begun_run() is None
    store = dist.TCPStore("localhost", 0, is_master=True)
    for name, value in (("USE_AGENT_STORE", "True"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", str(store.port))):
        monkeypatch.setenv(name if name.startswith("MASTER") else f"TORCHELASTIC_{name}", value)
    assert begun_run() is None
    remember_run(Path("runs/mine"))
    assert begun_run() == Path("runs/mine")
