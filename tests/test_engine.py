"""The loop: resume to the bit, turns, schedules, accumulation, averages, early stopping, processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL

from aegen import threads
from aegen.autoencoder import build_model, build_objective
from aegen.checkpoint import Checkpoint
from aegen.data.source import Data
from aegen.errors import Interrupted
from aegen.hooks import Hooks, hookimpl
from aegen.protocols import ImageShape
from aegen.settings import RunSpec, TrainSettings
from aegen.spec import Spec
from aegen.training import optim
from aegen.training.diagnostics import collapse
from aegen.training.distributed import World
from aegen.training.loop import Trainer
from aegen.training.progress import seed_step
from aegen.training.run import Result, train

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "conv": {"arch.name": "conv", "arch.width": 4, "arch.depth": 2},
    "spectral norm": {"arch.name": "conv", "arch.width": 4, "arch.depth": 2, "arch.spectral_norm": True},
    "accumulated, averaged, clipped, scheduled": {
        "train.accumulate": 3,
        "train.ema": 0.99,
        "train.clip": 1.0,
        "train.warmup": 7,
        "train.optimizer": "adamw",
        "train.weight_decay": 0.1,
        "objective.beta": "linear(0,1,20)",
    },
    "two turns": {
        "objective.name": "vae+adversarial",
        "objective.adversarial.width": 4,
        "objective.adversarial.after": 5,
    },
    "half, with a scaler": {"train.precision": "fp16"},
    "bfloat": {"train.precision": "bf16", "train.optimizer": "sgd", "train.lr": 1e-5},
    "codebook, with labels and epochs": {"objective.name": "vq-vae", "bottleneck.dim": 4, "train.batch_size": 300},
    "classes, every turn of its own": {
        "objective.name": "conditional-vae+adversarial",
        "objective.adversarial.width": 4,
        "objective.adversarial.r1_every": 4,
        "train.ema": 0.9,
        "train.accumulate": 2,
    },
    "cosine, best and early stopping": {
        "train.batch_size": 400,
        "train.warmup": 3,
        "train.patience": 50,
        "objective.beta": "linear(0,1,9)",
        "checkpoint.every_steps": 3,
    },
    "rmsprop": {"train.optimizer": "rmsprop", "train.lr": 1e-4},
}


def run(folder: Path, steps: int, values: dict[str, Any], resume: bool = False) -> Result:
    values = {k: v for k, v in {**SMALL, **values}.items() if not (k == "arch.hidden" and values.get("arch.name"))}
    layers = [("test", {"train.steps": steps, **({} if resume else values)})]
    return train(layers, resume=folder if resume else None, run_dir=None if resume else folder)


def tensors(result: Result) -> dict[str, torch.Tensor]:
    assert result.checkpoint is not None
    return Checkpoint(result.checkpoint).tensors("")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [k for k in one if not torch.equal(one[k], other[k])]
    assert not different, different


@pytest.mark.parametrize("kind", KINDS)
def test_n_and_resume_n_is_2n_to_the_bit(kind: str, tmp_path: Path) -> None:
    """13 and 13 steps: both ends are in mid-epoch (16 steps an epoch, 5 when accumulating)."""
    whole = tensors(run(tmp_path / "whole", 26, KINDS[kind]))
    run(tmp_path / "halves", 13, KINDS[kind])
    halves = tensors(run(tmp_path / "halves", 26, {}, resume=True))
    assert_same(whole, halves)


def test_twice_the_same_run_is_the_same_to_the_bit_and_another_seed_is_not(tmp_path: Path) -> None:
    one, two = (tensors(run(tmp_path / str(i), 5, {})) for i in range(2))
    assert_same(one, two)
    other = tensors(run(tmp_path / "other", 5, {"train.seed": 1}))
    assert not torch.equal(one["model.encoder.1.weight"], other["model.encoder.1.weight"])


def test_the_seed_is_set_before_the_weights(tmp_path: Path) -> None:
    """Named error of pythae: the seed is set after the weights are initialised."""
    torch.manual_seed(123)
    one = tensors(run(tmp_path / "a", 1, {}))
    torch.manual_seed(456)
    assert_same(one, tensors(run(tmp_path / "b", 1, {})))


def test_the_random_state_of_a_step_depends_on_seed_rank_and_step() -> None:
    draws = set()
    for seed, rank, step in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]:
        seed_step(seed, rank, step, torch.device("cpu"))
        draws.add(torch.rand(()).item())
    assert len(draws) == 5


def test_metrics_have_one_line_a_step_also_after_a_resume(tmp_path: Path) -> None:
    every = {"log.every_steps": 5, "checkpoint.every_steps": 8, "checkpoint.every_epochs": 0}
    run(tmp_path / "run", 12, every)
    (tmp_path / "run/checkpoints/last.safetensors").rename(tmp_path / "later")
    run(tmp_path / "other", 8, every)
    (tmp_path / "other/checkpoints/last.safetensors").rename(tmp_path / "run/checkpoints/last.safetensors")
    run(tmp_path / "run", 12, {}, resume=True)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 12


def trainer(stop_at: int | None = None, **values: Any) -> Trainer:
    """A trainer on random images, writing nothing."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    objective = values.pop("objective", Spec("vae"))
    bottleneck = values.pop("bottleneck", "gaussian")
    spec = RunSpec(
        arch=Spec("mlp", {"hidden": [16]}),
        objective=objective,
        bottleneck=Spec(bottleneck, {"dim": 3}),
        likelihood=Spec("gaussian", {"scale": 1.0}),
        train=TrainSettings(**{"batch_size": 8, **values}),
    )
    model = build_model(spec.arch, spec.bottleneck, spec.likelihood, ImageShape(1, 8, 8))
    built = build_objective(spec.objective, model)
    data = Data(pixels[:48], pixels[48:])
    made = Trainer(spec, model, built, data, World(torch.device("cpu")), run=None, header={}, hooks=Hooks())
    if stop_at is not None:
        made.stop = lambda: made.progress.step >= stop_at
    return made


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_the_short_way_to_a_step_is_the_optimizers_own_to_the_bit(name: str) -> None:
    """Also in the steps in which a parameter has no gradient, and with groups that decay and groups that do not."""
    settings = TrainSettings(optimizer=name, weight_decay=0.1)  # type: ignore[arg-type]
    torch.manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(4))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in mine]
    stepper = optim.Stepper(settings, mine, torch.device("cpu"))
    optimizer = optim.build(settings, theirs, torch.device("cpu"))
    for step in range(9):
        lr = 1e-2 / (1 + step)
        for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            a.grad = None if step in (0, 4) and i == 0 else torch.randn_like(a)
            b.grad = None if a.grad is None else a.grad.clone()
        for group in optimizer.param_groups:
            group["lr"] = lr
        stepper.step(lr)
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)), step
    mine_state, theirs_state = (o.state_dict()["state"] for o in (stepper.optimizer, optimizer))
    for position, slots in theirs_state.items():
        for slot, value in slots.items():
            assert value is None or torch.equal(mine_state[position][slot], value), slot


def test_accumulating_is_the_same_as_a_larger_batch() -> None:
    """Deterministic, so that nothing but the sum of gradients is compared."""
    small = trainer(objective=Spec("ae"), bottleneck="deterministic", steps=4, accumulate=3)
    large = trainer(objective=Spec("ae"), bottleneck="deterministic", steps=4, batch_size=24)
    for one in (small, large):
        one.run()
    for (name, a), (_, b) in zip(small.model.named_parameters(), large.model.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_turns_are_taken_when_due_and_move_only_their_parts() -> None:
    made = trainer(
        objective=Spec("ae+adversarial", {"adversarial": {"after": 3, "width": 4}}), bottleneck="deterministic"
    )
    critic = [p.clone() for p in made.objective.critic.parameters()]  # type: ignore[union-attr,operator]

    def moved() -> bool:
        return any(not torch.equal(a, b) for a, b in zip(critic, made.objective.critic.parameters(), strict=True))  # type: ignore[union-attr,operator]

    for step in range(3):
        made.take_step(step)
    assert not moved()
    made.take_step(3)
    assert moved()


def test_a_turn_every_so_often() -> None:
    made = trainer()
    from dataclasses import replace

    player = made.players[0]
    player.turn = replace(player.turn, every=4, after=2)
    assert [step for step in range(12) if player.due(step)] == [2, 6, 10]


def test_a_stop_is_asked_for_after_every_step_and_saves() -> None:
    made = trainer(stop_at=7, steps=20)
    saved = []
    made.save = lambda name, final=False: saved.append((name, final, made.progress.step))  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="step 7 of 20"):
        made.run()
    assert saved[-1] == ("last", True, 7)


def test_early_stopping_waits_for_the_kl_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(objective=Spec("vae", {"beta": "linear(0,1,20)"}), epochs=30, patience=3)
    losses = iter(range(1000))  # ever worse
    monkeypatch.setattr(made, "validate", lambda: {"loss": float(next(losses))})
    made.run()
    # 6 steps an epoch: settled from step 20, so epoch 4 is the first that counts, the best; then three that are worse.
    assert made.progress.best_epoch == 4
    assert made.progress.step == 7 * 6


def test_averages_follow_the_weights() -> None:
    made = trainer(ema=0.9)
    assert made.ema is not None
    reference = {k: v.clone() for k, v in made.model.named_parameters()}
    for step in range(5):
        made.take_step(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in made.model.named_parameters():
            reference[name] = decay * reference[name] + (1 - decay) * value.detach()
    for name, value in reference.items():
        torch.testing.assert_close(made.ema.shadow[name], value)
    own = next(made.model.parameters()).clone()
    with made.averaged():
        assert not torch.equal(next(made.model.parameters()), own)
    assert torch.equal(next(made.model.parameters()), own)


def test_masters_stay_fp32_in_half_precision() -> None:
    """Named error of tokenizers.md 4.4: trained weights cast to bf16 round small steps away."""
    made = trainer(precision="bf16", lr=1e-7)
    before = next(made.model.parameters()).clone()
    made.take_step(0)
    after = next(made.model.parameters())
    assert after.dtype == torch.float32
    assert not torch.equal(before, after)


def test_fp16_has_a_gradient_scaler_for_each_turn() -> None:
    """Named error of pythae: fp16 autocast without a scaler."""
    made = trainer(precision="fp16", objective=Spec("vae+adversarial", {"adversarial": {"width": 4}}))
    scalers = [p.scaler for p in made.players]
    assert len({id(s) for s in scalers}) == 2
    assert all(s.is_enabled() for s in scalers)
    made.take_step(0)
    assert all(s.get_scale() > 1 for s in scalers)


def test_validation_does_not_move_anything() -> None:
    made = trainer(steps=3)
    made.run()
    before = {k: v.clone() for k, v in made.state().items()}
    first, second = made.validate(), made.validate()
    assert first == second
    assert_same(before, made.state())


def test_turns_that_train_the_same_parts_share_one_optimizer() -> None:
    """Or the weight of a lazy R1, a turn of its own, would mean nothing under Adam, which divides by the gradient's size."""

    def slope(r1: float) -> tuple[Trainer, float]:
        options = {"width": 4, "r1": r1, "r1_every": 2}
        made = trainer(objective=Spec("vae+adversarial", {"adversarial": options}), lr=1e-2, steps=48)
        made.run()
        critic = made.objective.critic
        x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).sum(), x)  # type: ignore[operator]
        return made, float(gradient.square().sum())

    made, light = slope(1e-3)
    names = [player.turn.name for player in made.players]
    judges = [player for player in made.players if player.turn.name.startswith("judge")]
    assert len(judges) == 2, names
    assert judges[0].stepper is judges[1].stepper and made.players[0].stepper is not judges[0].stepper
    assert judges[0].state() and not judges[1].state()
    assert slope(100.0)[1] < light / 2


def test_validation_is_a_mean_over_images_not_over_batches() -> None:
    made = trainer(objective=Spec("ae"), bottleneck="deterministic")
    made.data.validation = made.data.validation[:11]  # a batch of 8 and one of 3
    whole = made.validate()["loss"]
    made.batches.batch_size = 11
    assert whole == pytest.approx(made.validate()["loss"], rel=1e-6)


# -------------------------------------------------------------------------------- notices


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"active_units": 0.0}, ["posterior collapse: 0 of 16"]),
        ({"active_units": 1.5}, ["posterior collapse: 1.5 of 16"]),
        ({"active_units": 9.0, "usage": 0.9}, []),
        ({"usage": 0.03}, ["codebook collapse: 3.0%"]),
        ({"kl": 0.001}, ["posterior collapse: the latents carry 0.001 nats"]),
        ({"kl": 0.001, "active_units": 5.0}, []),
        ({"kl": 0.02}, []),
        ({"loss": 1.0}, []),
    ],
)
def test_a_run_says_so_when_its_latents_collapse(metrics: dict[str, float], says: list[str]) -> None:
    found = list(collapse(metrics, (16,)))
    assert len(found) == len(says)
    assert all(text.startswith(start) for text, start in zip(found, says, strict=True))


def test_a_heavy_penalty_collapses_the_posterior_and_the_run_says_it_once(tmp_path: Path) -> None:
    class Ear:
        heard: list[str] = []  # noqa: RUF012

        @hookimpl
        def aegen_notice(self, text: str) -> None:
            self.heard.append(text)

    values = {**SMALL, "train.steps": 40, "objective.beta": 1000.0, "data.size": 8}
    train([("test", values)], run_dir=tmp_path / "run", listeners=[Ear()])
    assert len(Ear.heard) == 1 and Ear.heard[0].startswith("posterior collapse since step 16: 0 of 3")
    Ear.heard.clear()
    train([("test", {**values, "objective.beta": 0.01})], run_dir=tmp_path / "other", listeners=[Ear()])
    assert not Ear.heard


# -------------------------------------------------------------------------------- processes


def cli(*words: str, cwd: Path, processes: int = 1, **popen: Any) -> subprocess.Popen[str]:
    launcher = ["-m", "aegen"]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "aegen"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *launcher, "train", "--arch", "mlp", "--arch.hidden", "[16]", "--size", "8", *words]
    return subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.mark.parametrize("objective", ["ae", "ae+adversarial"])
def test_two_processes_equal_one(objective: str, tmp_path: Path) -> None:
    """Named error of reference trainers: unwrapping the model bypasses DDP, so gradients are never summed."""
    common = ["--objective", objective, "--steps", "12", "--set", "log.images_every_epochs=0", "--json"]
    finish(cli(*common, "--batch-size", "64", "--run-dir", "one", cwd=tmp_path))
    out = finish(cli(*common, "--batch-size", "32", "--run-dir", "two", cwd=tmp_path, processes=2))
    assert len(out.strip().splitlines()) == 1, "more than one process talks"
    one, two = (
        Checkpoint(tmp_path / name / "checkpoints/last.safetensors").tensors("model.") for name in ("one", "two")
    )
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_bit_for_bit(number: int, tmp_path: Path) -> None:
    steps = ["--steps", "3000", "--set", "log.every_steps=5", "--set", "log.images_every_epochs=0"]
    process = cli(*steps, "--run-dir", "cut", cwd=tmp_path)
    log = tmp_path / "cut/metrics.jsonl"
    while not log.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "aegen train --resume cut" in err
    stopped = Checkpoint(tmp_path / "cut/checkpoints/last.safetensors").header["step"]
    assert 0 < stopped < 3000
    further = str(stopped + 20)
    resume = [sys.executable, "-m", "aegen", "train", "--resume", "cut", "--steps", further]
    subprocess.run(resume, cwd=tmp_path, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    finish(cli("--steps", further, "--set", "log.images_every_epochs=0", "--run-dir", "whole", cwd=tmp_path))
    files = [Checkpoint(tmp_path / name / "checkpoints/last.safetensors") for name in ("cut", "whole")]
    assert_same(*(file.tensors("model.") for file in files))
    assert_same(*(file.tensors("optim/") for file in files))


def test_a_thread_beside_the_loop_computes_alone_and_others_as_before() -> None:
    """Of libraries that are known; what the thread computed makes no difference."""
    assert threads._openmp() or sys.platform != "linux"
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads.pool(1, "alone") as alone, ThreadPoolExecutor(1) as other:
            for helper, count in ((alone, 1 if threads._openmp() else 2), (other, 2)):
                helper.submit(lambda: torch.randn(400, 400).sum()).result()
                assert helper.submit(torch.get_num_threads).result() == count
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
