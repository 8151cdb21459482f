"""A run that is killed, starved of disk or thrown off by a NaN loses nothing that was whole, and says what happened."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SMALL, TINY, Aegen
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import aegen.training.run
from aegen import atomic, checkpoint
from aegen.atomic import draft_of
from aegen.checkpoint import Checkpoint
from aegen.checksummed import digest
from aegen.errors import Interrupted, RunError
from aegen.hooks import hookimpl
from aegen.inference import load
from aegen.rundir import RunDir
from aegen.training import checkpoint_writer, loop, turns
from aegen.training.loop import Trainer
from aegen.training.run import Result, train


class Ear:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.saved: list[tuple[str, int]] = []

    @hookimpl
    def aegen_notice(self, text: str) -> None:
        self.notices.append(text)

    @hookimpl
    def aegen_checkpoint_saved(self, path: Path, step: int) -> None:
        assert Checkpoint(path).tensors("")  # whole, or this raises
        self.saved.append((path.stem, step))


def go(folder: Path, steps: int, values: dict[str, Any] | None = None, *listeners: object) -> Result:
    """A run of `steps` in `folder`; one that is there already is resumed."""
    resume = folder.exists()
    given = {"train.steps": steps, **({} if resume else SMALL), **(values or {})}
    return train(
        [("test", given)],
        resume=folder if resume else None,
        run_dir=None if resume else folder,
        listeners=listeners,
    )


def tensors(run: Path, name: str = "last") -> dict[str, Tensor]:
    return load_file(run / f"checkpoints/{name}.safetensors")


def samplers(run: Path) -> dict[str, dict[str, Tensor]]:
    return {path.name: load_file(path) for path in (run / "samplers").glob("*.safetensors")}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [k for k in one if not torch.equal(one[k], other[k])]
    assert not different, different


# ---------------------------------------------------------------------------------------------------- killed


class Killed(BaseException):
    """The process is no more."""


class Death:
    """Every write of the operating system is one step; at step `moment` the process dies, and nothing that it does after counts."""

    def __init__(self, moment: int, patch: pytest.MonkeyPatch) -> None:
        self.moment, self.steps, self.noted, self.dead = moment, 0, 0, False
        for name in ("replace", "rename", "fsync", "unlink", "truncate", "mkdir", "rmdir", "symlink"):
            patch.setattr(os, name, self._mortal(getattr(os, name)))
        patch.setattr(shutil, "rmtree", self._mortal(shutil.rmtree))
        patch.setattr(checkpoint, "save_file", self._half(checkpoint.save_file))
        patch.setattr(atomic, "put_text", self._half_text(atomic.put_text))
        patch.setattr(RunDir, "log", self._half_line(RunDir.log))
        # Dying in a thread would leave the loop alive.
        patch.setattr(checkpoint_writer, "threading", SimpleNamespace(Thread=self._at_once))

    def note(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        """Remember at which step a function is called."""
        function = getattr(owner, name)

        def call(*args: Any) -> Any:
            self.noted = self.steps
            return function(*args)

        patch.setattr(owner, name, call)

    def _tick(self) -> None:
        if self.dead:
            raise Killed
        self.steps += 1
        if self.steps == self.moment:
            self.dead = True
            raise Killed

    def _mortal(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._tick()
            return function(*args, **kwargs)

        return call

    def _half(self, save: Callable[..., None]) -> Callable[..., None]:
        def call(tensors: Any, path: Path, metadata: Any) -> None:
            self._tick()
            save(tensors, path, metadata)
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            self._tick()
            path.write_bytes(whole)

        return call

    def _half_text(self, write: Callable[..., None]) -> Callable[..., None]:
        def call(path: Path, text: str) -> None:
            write(path, text[: len(text) // 2])
            self._tick()
            write(path, text)

        return call

    def _half_line(self, log: Callable[..., None]) -> Callable[..., None]:
        def call(run: RunDir, line: dict[str, Any]) -> None:
            try:
                self._tick()
            except Killed:
                with open(run.metrics, "a") as file:
                    file.write(json.dumps(line)[:20])
                raise
            log(run, line)

        return call

    @staticmethod
    def _at_once(target: Callable[..., None], args: tuple[Any, ...], **options: Any) -> Any:
        class Thread:
            def start(self) -> None:
                target(*args)

            def is_alive(self) -> bool:
                return False

            def join(self) -> None:
                return

        return Thread()


KILLED = {"train.ema": 0.9, "log.every_steps": 4, "train.accumulate": 2}


PARTS = 3  # so that workers share the moments


@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_any_step_of_any_write_a_run_goes_on_to_the_same_weights(part: int, tmp_path: Path) -> None:
    wanted, count, finish = {}, 0, 0
    for name in ("first", "whole"):  # the first makes folders that outlive it
        with pytest.MonkeyPatch.context() as patch:
            death = Death(0, patch)
            death.note(patch, aegen.training.run, "_finish")
            go(tmp_path / name, 9, KILLED)
            count, finish = death.steps, death.noted
        wanted = {file: tensors(tmp_path / name, file) for file in ("last", "best")}
        fitted = samplers(tmp_path / name)
    assert 40 < finish < count - 10
    assert "mixture.safetensors" in fitted
    for moment in range(1 + part, count + 1, PARTS):
        run = tmp_path / f"at-{moment}"
        with pytest.MonkeyPatch.context() as patch:
            Death(moment, patch)
            with pytest.raises(Killed):
                go(run, 9, KILLED)
        for path in (run / "checkpoints").glob("*.safetensors"):
            assert Checkpoint(path).tensors(""), "a checkpoint was there before it was whole"
        with pytest.MonkeyPatch.context() as patch:
            if moment < finish:  # killed while it trained; fitting the sampler again and again would only take time
                patch.setattr(aegen.training.run, "_finish", lambda trainer, run: None)
            go(run, 9, None if run.exists() else KILLED)
        for file, expected in wanted.items():
            assert_same(expected, tensors(run, file))
        for file, state in fitted.items() if moment >= finish else ():
            assert_same(state, samplers(run)[file])
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        keys = [(line["step"], line["split"]) for line in lines]
        assert sorted(set(keys)) == sorted(keys), "a step has two lines"
        assert not list(tmp_path.rglob("*.tmp")), moment
        shutil.rmtree(run)


def test_a_run_killed_before_its_first_checkpoint_begins_again_with_the_weights_it_was_given(
    aegen: Aegen, monkeypatch: pytest.MonkeyPatch
) -> None:
    aegen("train", *TINY, "--steps", 3, "--run-dir", "first").worked()
    for name, words in (("whole", ()), ("begun", ())):
        aegen("train", *TINY, "--init-from", "first", "--steps", 8, "--run-dir", name, *words).worked()
    begun = Path("begun")
    shutil.rmtree(begun / "checkpoints")
    (begun / "checkpoints").mkdir()
    aegen("sample", "-c", "begun").refused(2, "begun holds no checkpoint", "aegen train --resume begun")
    said = aegen("train", "--resume", "begun").worked()
    assert "begun was stopped before its first checkpoint; it begins again" in said.err
    assert "weights from" in said.err
    assert_same(tensors(Path("whole")), tensors(begun))


def test_what_a_killed_run_left_half_written_is_swept_and_what_others_write_is_not(tmp_path: Path) -> None:
    go(tmp_path / "run", 3)
    checkpoints, own = tmp_path / "run/checkpoints", draft_of(Path("x")).name.split(".")[2].rpartition("-")[0]
    dead = 2**22 + 1  # more than there can be
    abandoned = checkpoints / f".best.safetensors.elsewhere-{dead}.tmp"
    ours = [
        checkpoints / f".last.safetensors.{own}-{dead}.tmp",
        tmp_path / "run" / f".config.toml.{own}-{dead}.tmp",
        abandoned,
    ]
    theirs = [
        checkpoints / f".last.safetensors.{own}-{os.getppid()}.tmp",
        checkpoints / f".last.safetensors.elsewhere-{dead}.tmp",  # a process of another host is not known here
    ]
    for path in (*ours, *theirs):
        path.write_text("half")
    os.utime(abandoned, (1e9, 1e9))
    go(tmp_path / "run", 4)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in theirs)


def test_an_early_stop_is_not_undone_by_a_resumption(tmp_path: Path) -> None:
    """A run killed while its sampler was fitted would otherwise take one epoch more than one that was not."""
    values = {
        "train.patience": 1,
        "train.lr": 0.5,
        "train.optimizer": "sgd",
        "train.momentum": 0.0,
        "train.on_nan": "stop",
    }
    first = go(tmp_path / "run", 400, {**values, "train.lr": 1e-12})
    assert first.steps < 400
    before = tensors(tmp_path / "run")
    assert go(tmp_path / "run", 400).steps == first.steps
    assert_same(before, tensors(tmp_path / "run"))
    assert go(tmp_path / "run", 400, {"train.patience": 2}).steps > first.steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_stops_and_the_run_goes_on_bit_for_bit(number: int, tmp_path: Path) -> None:
    class Sender:
        @hookimpl
        def aegen_step_end(self, step: int) -> None:
            if step == 6:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    values = {"log.every_steps": 3, "checkpoint.best": False}
    with pytest.raises(
        Interrupted, match=r"stopped at step 7 of 15; the state is saved; go on with: aegen train --resume"
    ):
        go(tmp_path / "run", 15, values, Sender())
    assert signal.getsignal(number) == before
    assert Checkpoint(tmp_path / "run/checkpoints/last.safetensors").header["step"] == 7
    go(tmp_path / "run", 15)
    go(tmp_path / "whole", 15, values)
    assert_same(tensors(tmp_path / "whole"), tensors(tmp_path / "run"))


# ---------------------------------------------------------------------------------------------------- checksums


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def flip(path: Path, key: str) -> None:
    """One bit in the middle of a tensor."""
    raw = bytearray(path.read_bytes())
    size = int.from_bytes(raw[:8], "little")
    begin, end = json.loads(raw[8 : 8 + size])[key]["data_offsets"]
    raw[8 + size + (begin + end) // 2] ^= 1
    path.write_bytes(raw)


MOMENT = "optim/autoencoder/model.encoder.1.weight/exp_avg"


def test_a_flipped_bit_is_found_where_it_is_read(aegen: Aegen, run: Path) -> None:
    last = run / "checkpoints/last.safetensors"
    good = last.read_bytes()
    flip(last, "model.decoder.1.weight")
    aegen("sample", "-c", last).refused(
        2, str(last), "checksum of model.decoder.1.weight", "another checkpoint of the run"
    )
    last.write_bytes(good)
    flip(last, MOMENT)
    aegen("sample", "-n", 2, "-c", last).worked()
    aegen("train", "--resume", run, "--epochs", 2).refused(2, f"checksum of {MOMENT}", "another checkpoint of the run")
    aegen("train", "--resume", run / "checkpoints/best.safetensors", "--epochs", 2).worked()


def test_a_changed_header_is_found(aegen: Aegen, run: Path) -> None:
    last = run / "checkpoints/last.safetensors"
    raw = last.read_bytes()
    assert raw.count(b'\\"step\\": 25,') == 1
    last.write_bytes(raw.replace(b'\\"step\\": 25,', b'\\"step\\": 24,'))
    aegen("train", "--resume", run, "--epochs", 2).refused(2, "damaged header", "checksum", "another checkpoint")


def test_a_checkpoint_is_a_plain_safetensors_file_and_one_without_checksums_is_read(aegen: Aegen, run: Path) -> None:
    last = run / "checkpoints/last.safetensors"
    with safe_open(last, "pt") as file:
        about = file.metadata()
    assert set(about) == {"aegen", "checksums"}
    assert json.loads(about["checksums"])["tensors"].keys() == load_file(last).keys()
    save_file(load_file(last), last, {"aegen": about["aegen"]})
    aegen("sample", "-n", 2, "-c", last).worked()
    aegen("train", "--resume", run, "--epochs", 2).worked()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
@pytest.mark.parametrize("size", [0, 1, 3, 1024, 5000])
def test_a_digest_sees_every_byte_and_where_it_is(dtype: torch.dtype, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randint(0, 2 if dtype == torch.bool else 100, (size,), generator=generator).to(dtype)
    same = digest(tensor)
    assert digest(torch.cat([tensor[:1], tensor])[1:]) == same, "wherever it begins in memory"
    assert digest(tensor.reshape(-1, 1)) == same
    for place in {0, size // 2, size - 1} if size else ():
        other = tensor.clone()
        other[place] = 1 - other[place].to(torch.int64) if dtype != torch.bool else ~other[place]
        if not torch.equal(other, tensor):
            assert digest(other) != same, place
    if size == 5000 and dtype != torch.bool:
        blocks = tensor[: 4096 // tensor.itemsize * 2].view(2, -1)
        assert digest(blocks) != digest(blocks.flip(0).contiguous())
        lost = tensor.clone()
        lost[: 4096 // tensor.itemsize] = 0
        assert digest(lost) != same


def test_a_model_that_is_loaded_has_the_weights_of_the_file_though_none_were_drawn(run: Path) -> None:
    state = torch.get_rng_state()
    loaded = load(run / "checkpoints/last.safetensors")
    assert torch.equal(state, torch.get_rng_state())
    assert_same({k: v.clone() for k, v in loaded.model.state_dict().items()}, loaded.file.tensors("model."))


# ---------------------------------------------------------------------------------------------------- written beside the loop


def test_the_loop_goes_on_while_a_checkpoint_is_written_and_the_checkpoint_is_of_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    further, real = threading.Event(), checkpoint.save

    def slow(path: Path, tensors: Any, header: Any, may: Any) -> None:
        if header["step"] == 4:
            assert further.wait(60), "the loop waits for the disk"
        real(path, tensors, header, may)
        if header["step"] == 4 and not (tmp_path / "of step 4.safetensors").exists():
            shutil.copy(path, tmp_path / "of step 4.safetensors")

    class Pace(Ear):
        @hookimpl
        def aegen_step_end(self, step: int) -> None:
            assert further.is_set() or ("last", 4) not in self.saved, "told before it was whole"
            if step == 6:
                further.set()

    monkeypatch.setattr(checkpoint, "save", slow)
    values = {"checkpoint.every_steps": 4, "log.every_steps": 1, "checkpoint.best": False}
    pace = Pace()
    go(tmp_path / "run", 8, values, pace)
    assert pace.saved == [("last", 4), ("last", 8)]
    go(tmp_path / "short", 4, values)
    assert_same(tensors(tmp_path / "short"), load_file(tmp_path / "of step 4.safetensors"))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    stalls = {line["step"]: line["checkpoint_stall"] for line in lines if "checkpoint_stall" in line}
    assert set(stalls) == {5} and stalls[5] > 0
    assert not [thread for thread in threading.enumerate() if thread.name == "aegen-writer"]


# ---------------------------------------------------------------------------------------------------- no room


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Checkpoints that there is no room for, such as `last 4`, that of step 4."""
    no_room: set[str] = set()
    save = checkpoint.save_file

    def limited_save(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
        step = json.loads(metadata["aegen"])["step"]
        if f"{path.name.split('.')[1]} {step}" in no_room:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", limited_save)
    return no_room


EVERY = {"checkpoint.every_steps": 4, "checkpoint.best": False, "log.every_steps": 2}


def test_a_checkpoint_that_cannot_be_written_is_told_and_the_next_one_is_tried(tmp_path: Path, disk: set[str]) -> None:
    disk |= {"last 8"}
    ear = Ear()
    go(tmp_path / "run", 12, EVERY, ear)
    last = tmp_path / "run/checkpoints/last.safetensors"
    assert ear.saved == [("last", 4), ("last", 12)]
    (said,) = ear.notices
    assert said.startswith(f"cannot write checkpoint: {last} (No space left on device)")
    assert said.endswith(f"the last good checkpoint is {last}")
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_last_checkpoint_that_cannot_be_written_ends_the_run_and_the_one_before_is_named(
    tmp_path: Path, disk: set[str]
) -> None:
    disk |= {"last 12"}
    last = tmp_path / "run/checkpoints/last.safetensors"
    with pytest.raises(RunError) as error:
        go(tmp_path / "run", 12, EVERY)
    assert f"cannot write {last} (No space left on device); the last good checkpoint is {last}" in str(error.value)
    assert Checkpoint(last).header["step"] == 8
    disk.clear()
    go(tmp_path / "run", 12)
    go(tmp_path / "whole", 12, EVERY)
    assert_same(tensors(tmp_path / "whole"), tensors(tmp_path / "run"))


def test_a_first_checkpoint_that_cannot_be_written_ends_the_run_at_once(tmp_path: Path, disk: set[str]) -> None:
    disk |= {"last 4"}
    with pytest.raises(RunError, match="there is no checkpoint yet"):
        go(tmp_path / "run", 400, EVERY)
    disk.clear()
    assert go(tmp_path / "run", 5).steps == 5


def test_metrics_that_cannot_be_written_are_written_later_and_never_by_halves(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.log({"step": 1})
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        for step in (2, 3):
            with pytest.raises(OSError):
                run.log({"step": step})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert run.metrics.read_text() == '{"step": 1}\n'
    run.log({"step": 4})
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_run_goes_on_without_metrics_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(RunDir, "log", refuse)
    monkeypatch.setattr("aegen.training.preview.samples", refuse)
    ear = Ear()
    assert go(tmp_path / "run", 16, {"log.images_every_epochs": 1}, ear).steps == 16
    assert any(text.startswith("cannot write metrics: ") and "Read-only" in text for text in ear.notices)
    assert any(text.startswith("cannot write pictures: ") and "samples-0001.png" in text for text in ear.notices)


# ---------------------------------------------------------------------------------------------------- not finite


class Poison:
    """Makes the loss of the steps `at` NaN, unless the run has gone back."""

    def __init__(self, at: set[int], patch: pytest.MonkeyPatch, after_rollback: bool = False) -> None:
        self.at, self.now, self.rollbacks = at, 0, 0
        reduce, take = turns.reduce, Trainer.take_step

        def take_step(trainer: Trainer, step: int) -> None:
            self.now, self.rollbacks = step, trainer.progress.rollbacks
            take(trainer, step)

        def poisoned(outcome: Any) -> Any:
            loss, metrics = reduce(outcome)
            if self.now in self.at and (after_rollback or not self.rollbacks):
                loss = loss * torch.nan
                metrics = {**metrics, "loss": loss.detach()}
            return loss, metrics

        patch.setattr(Trainer, "take_step", take_step)
        patch.setattr(turns, "reduce", poisoned)


SKIP = {"train.on_nan": "skip", "log.every_steps": 4, "checkpoint.best": False}


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"train.optimizer": "sgd", "train.lr": 1e-4},
        {"train.optimizer": "rmsprop", "train.lr": 1e-4},
        {"train.precision": "fp16"},
        {"train.clip": 1.0, "train.optimizer": "adamw", "train.weight_decay": 0.1},
        {"objective.name": "vq-vae", "bottleneck.dim": 4},
        {"arch.name": "conv", "arch.width": 4, "arch.depth": 2, "arch.spectral_norm": True},
    ],
    ids=["adam", "sgd", "rmsprop", "fp16", "clipped adamw", "codebook", "buffers"],
)
def test_a_step_that_is_not_finite_changes_nothing(
    kind: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the first step either, in which the moments are made, and not the buffers that a forward pass moves."""
    Poison({0, 4, 5}, monkeypatch)
    seen: dict[int, dict[str, Tensor]] = {}
    take = Trainer.take_step

    def watched(trainer: Trainer, step: int) -> None:
        take(trainer, step)
        state = trainer.state()
        if kind.get("train.precision") == "fp16":
            state = {k: v for k, v in state.items() if "scaler/" not in k}  # it halves its scale
        seen[step] = {k: v.clone() for k, v in state.items()}

    monkeypatch.setattr(Trainer, "take_step", watched)
    values = {k: v for k, v in {**SMALL, **SKIP, **kind}.items() if not (k == "arch.hidden" and kind.get("arch.name"))}
    ear = Ear()
    train([("test", {**values, "train.steps": 8})], run_dir=tmp_path / "run", listeners=[ear])
    assert all(not v.count_nonzero() for k, v in seen[0].items() if k.startswith("optim/")), "a first step left moments"
    assert_same(seen[3], seen[4])
    assert_same(seen[3], seen[5])
    assert any(not torch.equal(seen[5][k], seen[6][k]) for k in seen[5])
    assert any(not torch.equal(seen[0][k], seen[1][k]) for k in seen[0])
    told = [text for text in ear.notices if "changed nothing" in text]
    assert [text.partition(":")[0] for text in told] == [
        "1 of 4 steps until step 4 changed nothing",
        "2 of 4 steps until step 8 changed nothing",
    ]
    assert "'loss' of the loss became nan at step 4; 3 in all" in told[-1]


def test_skipping_costs_a_healthy_run_nothing_of_its_weights(tmp_path: Path) -> None:
    for name in ("stop", "skip"):
        go(
            tmp_path / name,
            20,
            {"train.on_nan": name, "objective.name": "vae+adversarial", "objective.adversarial.width": 4},
        )
    assert_same(tensors(tmp_path / "stop"), tensors(tmp_path / "skip"))


@pytest.mark.parametrize("how", ["skip", "rollback"])
def test_n_and_resume_n_is_2n_also_where_steps_are_not_finite(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Poison({2, 9, 10, 17}, monkeypatch)
    values = {**SKIP, "train.on_nan": how, "train.ema": 0.9, "checkpoint.every_steps": 5}
    ear = Ear()
    go(tmp_path / "whole", 22, values, ear)
    go(tmp_path / "halves", 12, values)
    before = Checkpoint(tmp_path / "halves/checkpoints/last.safetensors").header
    assert (before["skipped"], before["rollbacks"]) == ((3, 0) if how == "skip" else (0, 1))
    go(tmp_path / "halves", 22)
    assert_same(tensors(tmp_path / "whole"), tensors(tmp_path / "halves"))
    files = [Checkpoint(tmp_path / name / "checkpoints/last.safetensors").header for name in ("whole", "halves")]
    for key in ("skipped", "skipped_in_row", "rollbacks"):
        assert files[0][key] == files[1][key]  # type: ignore[literal-required]
    assert len(ear.notices) == (4 if how == "skip" else 1)


def test_too_many_steps_in_a_row_that_are_not_finite_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Poison(set(range(30, 1000)), monkeypatch)
    with pytest.raises(RunError) as error:
        go(tmp_path / "run", 200, {**SKIP, "log.every_steps": 10, "checkpoint.every_steps": 10})
    assert "the last 30 steps were not finite, nothing changed" in str(error.value)
    assert "the last good checkpoint is" in str(error.value)
    assert Checkpoint(tmp_path / "run/checkpoints/last.safetensors").header["step"] == 50


def test_a_run_goes_back_with_half_the_learning_rate_and_other_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Poison({7}, monkeypatch)
    noise: list[tuple[int, float]] = []
    seed = loop.seed_step

    def seeded(number: int, rank: int, step: int, device: torch.device) -> None:
        seed(number, rank, step, device)
        noise.append((step, torch.rand(()).item()))
        seed(number, rank, step, device)

    monkeypatch.setattr(loop, "seed_step", seeded)
    ear = Ear()
    go(tmp_path / "run", 12, {**SKIP, "train.on_nan": "rollback", "checkpoint.every_steps": 4}, ear)
    (said,) = ear.notices
    assert said.startswith(
        "rollback 1 of 3: the term 'loss' of the loss became nan at step 7; back to step 4, lr 0.0005"
    )
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["lr"] for line in lines if line["split"] == "train"}
    assert rates == {4: 1e-3, 8: 5e-4, 12: 5e-4}
    assert [step for step, _ in noise] == [*range(8), *range(4, 12)]
    assert len(set(noise)) == len(noise), "the same noise again"


def test_a_run_that_fails_from_the_first_step_goes_back_to_its_beginning_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Poison({1}, monkeypatch, after_rollback=True)
    ear = Ear()
    with pytest.raises(RunError, match="nan at step 1, after 3 rollbacks; the last good checkpoint is"):
        go(tmp_path / "run", 12, {**SKIP, "train.on_nan": "rollback"}, ear)
    assert [text[:10] for text in ear.notices] == ["rollback 1", "rollback 2", "rollback 3"]
