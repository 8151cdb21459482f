"""A run goes on wherever it is called from and wherever its data lies now, on the very images that it began with, by one process at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, TINY, Aegen
from PIL import Image

from aegen import checkpoint, lock
from aegen.checkpoint import Checkpoint
from aegen.data.source import located
from aegen.errors import UsageError
from aegen.rundir import find_checkpoint, latest_run
from aegen.settings import DataSettings
from aegen.training.run import train


def fill(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        Image.fromarray(np.full((16, 16), 9 * n, np.uint8)).save(folder / f"{n:02d}.png")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return Checkpoint(run / "checkpoints/last.safetensors").tensors("")


def begun(aegen: Aegen, tmp_path: Path) -> None:
    """A run of two steps on the relative folder `here`, and one of four that was never stopped."""
    fill(tmp_path / "here", 12)
    for name, steps in (("r", 2), ("whole", 4)):
        aegen("train", *TINY, "--batch-size", 4, "--data", "here", "--steps", steps, "--run-dir", name).worked()


def same(tmp_path: Path) -> None:
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "r")
    for key, value in one.items():
        if not key.startswith("sampler."):
            assert torch.equal(value, other[key]), key


def test_moved_data_is_asked_for_and_then_taken(aegen: Aegen, tmp_path: Path) -> None:
    begun(aegen, tmp_path)
    (tmp_path / "here").rename(tmp_path / "there")
    for words in (["train", "--resume", "r", "--steps", 4], ["evaluate", "-c", "r", "--metric", "reconstruction"]):
        aegen(*words).refused(2, "here, is not there", "--data NEW")
    aegen("train", "--resume", "r", "--steps", 4, "--data", "./there").worked()
    same(tmp_path)
    aegen("train", "--resume", "r", "--steps", 5, "--data", "there").worked()
    assert 'name = "there"' in (tmp_path / "r/config.toml").read_text()


def test_a_run_is_resumed_and_used_from_another_folder(
    aegen: Aegen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(aegen, tmp_path)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    aegen("train", "--resume", "../r", "--steps", 4).worked()
    same(tmp_path)
    found = aegen("evaluate", "-c", "../r", "--metric", "reconstruction", "--json").worked()
    assert json.loads(found.out)["data"] | {"fingerprint": ""} == {"name": "here", "held_out": 1, "fingerprint": ""}
    aegen("sample", "-c", "../r", "--sampler", "gaussian", "-n", 2, "-o", "s.png").worked()
    # It is still known where it began, also when all of it has moved.
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-moved", symlinks=True)
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "here").rename(tmp_path / "gone")
    aegen("train", "--resume", f"{tmp_path.name}-moved/r", "--steps", 5).worked()


def test_added_images_are_counted_and_a_way_out_is_named(aegen: Aegen, tmp_path: Path) -> None:
    begun(aegen, tmp_path)
    before = weights(tmp_path / "r")
    Image.new("L", (16, 16), 3).save(tmp_path / "here/new.png")
    said = aegen("train", "--resume", "r", "--steps", 4)
    said.refused(2, "holds other images", "12 for training, and there were 11", "--init-from", "--data here")
    assert all(torch.equal(value, before[key]) for key, value in weights(tmp_path / "r").items())
    aegen("train", *TINY, "--init-from", "r", "--data", "here", "--steps", 1, "--run-dir", "next").worked()


def test_other_images_for_validation_are_refused_and_told(aegen: Aegen, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    parts = {name: draw.integers(0, 256, (8, 16, 16), np.uint8) for name in ("images", "validation_images")}
    np.savez(tmp_path / "set.npz", **parts)
    aegen("train", *TINY, "--batch-size", 4, "--data", "set.npz", "--steps", 2, "--run-dir", "r").worked()
    shutil.copytree("r", "kept")
    said = aegen("evaluate", "-c", "r", "--metric", "reconstruction").worked()
    assert "are others" not in said.err
    parts["validation_images"] = 255 - parts["validation_images"]
    np.savez(tmp_path / "set.npz", **parts)
    before = weights(tmp_path / "r")
    aegen("train", "--resume", "r", "--steps", 4).refused(
        2, "the same images for training", "validation", "--init-from"
    )
    assert all(torch.equal(value, before[key]) for key, value in weights(tmp_path / "r").items())
    said = aegen("evaluate", "-c", "r", "--metric", "reconstruction").worked()
    assert "the held-out images of set.npz are others" in said.err
    aegen("train", *TINY, "--init-from", "r", "--data", "set.npz", "--steps", 1, "--run-dir", "next").worked()


def test_another_set_under_data_is_refused_by_its_images(aegen: Aegen, tmp_path: Path) -> None:
    begun(aegen, tmp_path)
    fill(tmp_path / "other", 12)
    for n in (4, 5):
        Image.new("L", (16, 16), 3).save(tmp_path / f"other/{n:02d}.png")
    aegen("train", "--resume", "r", "--steps", 4, "--data", "other").refused(2, "holds other images", "as many, 11")
    aegen("train", "--resume", "r", "--steps", 4, "--data", "digits").refused(2, "holds other images")


def test_a_folder_called_latest_is_a_run_like_others(aegen: Aegen, tmp_path: Path) -> None:
    aegen("train", *TINY, "--steps", 1, "--run-dir", "runs/latest").worked()
    assert latest_run() == Path("runs/latest")
    aegen("train", *TINY, "--steps", 1, "--run-dir", "runs/second").worked()
    assert (tmp_path / "runs/latest/config.toml").is_file()
    assert latest_run() == Path("runs/second")
    os.utime("runs/latest/config.toml", ns=(time.time_ns(), time.time_ns() + 10**9))
    assert latest_run() == Path("runs/latest")
    aegen("train", "--resume", "runs/latest", "--steps", 2).worked()


def test_where_links_fail_a_text_called_latest_is_followed(aegen: Aegen, tmp_path: Path) -> None:
    aegen("train", *TINY, "--steps", 1, "--run-dir", "runs/mine").worked()
    (tmp_path / "runs/latest").unlink()
    (tmp_path / "runs/latest").write_text("mine\n")
    assert find_checkpoint(Path("runs/latest")).parts[:2] == ("runs", "mine")
    aegen("train", "--resume", "runs/latest", "--steps", 2).worked()
    (tmp_path / "runs/latest").write_text("../../outside")
    aegen("sample", "-c", "runs/latest", "-n", 2).refused(2, "runs/latest")


# ---------------------------------------------------------------------------------------------------- one trainer

HOLDER = """
import sys, time
from pathlib import Path
from aegen.lock import Lock
lock = Lock(Path(sys.argv[1])); lock.take(); print("held", flush=True); sys.stdin.read()
"""


def holder(run: Path) -> subprocess.Popen[str]:
    """Another process that trains a run."""
    words = [sys.executable, "-c", HOLDER, str(run)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_that_is_trained_is_refused_to_others_and_read_by_all(aegen: Aegen, tmp_path: Path) -> None:
    aegen("train", *TINY, "--steps", 1, "--run-dir", "r").worked()
    assert not (tmp_path / "r" / lock.NAME).exists()
    with holder(tmp_path / "r") as other:
        try:
            said = aegen("train", "--resume", "r", "--steps", 2)
            said.refused(2, "r is being trained by process", str(other.pid), "wait until that is done")
            aegen("train", *TINY, "--steps", 1, "--run-dir", "r", "--force").refused(2, str(other.pid))
            aegen("evaluate", "-c", "r", "--metric", "reconstruction", "--limit", 9).worked()
            aegen("train", "--resume", "r", "--dry-run", "--steps", 2).worked()
            before = (tmp_path / "r/checkpoints/best.safetensors").read_bytes()
            fitted = aegen("sample", "-c", "r", "--sampler", "gaussian", "-n", 2).worked()
            assert "fitting sampler gaussian" in fitted.err and (tmp_path / "r/samplers/gaussian.safetensors").exists()
            assert (tmp_path / "r/checkpoints/best.safetensors").read_bytes() == before
        finally:
            other.kill()
    # What a dead process left is taken over.
    assert (tmp_path / "r" / lock.NAME).exists()
    aegen("train", "--resume", "r", "--steps", 2).worked()
    assert not (tmp_path / "r" / lock.NAME).exists()


def marker(run: Path, host: str) -> None:
    """What a process of another machine leaves."""
    with lock.held(run):
        text = (run / lock.NAME).read_text()
    lines = [f"host={host}" if line.startswith("host=") else line for line in text.splitlines()]
    (run / lock.NAME).write_text("\n".join(lines) + "\n")


def test_another_machines_holder_is_dead_once_it_was_not_seen_to_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_LEASE", 1.0)
    monkeypatch.setattr(lock, "_BEAT", 0.2)
    marker(tmp_path, "elsewhere")
    said: list[str] = []
    with lock.held(tmp_path, said.append):
        assert "was trained by process" in said[0] and "on elsewhere" in said[0]


def test_another_machines_holder_that_touches_its_file_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker(tmp_path, "elsewhere")
    touched = iter(range(10))
    monkeypatch.setattr(lock.Lock, "_touched", lambda self: (1, next(touched)))
    with pytest.raises(UsageError, match=r"is being trained by process .* on elsewhere"), lock.held(tmp_path):
        pass


def test_a_lock_that_names_nobody_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / lock.NAME).write_text("")
    with pytest.raises(UsageError, match=r"training\.lock does not say who"), lock.held(tmp_path):
        pass


def test_two_trainings_in_one_process_exclude_each_other_too(tmp_path: Path) -> None:
    with lock.held(tmp_path):
        with pytest.raises(UsageError, match=f"process {os.getpid()}"), lock.held(tmp_path):
            pass
        assert (tmp_path / lock.NAME).exists()
    with lock.held(tmp_path):
        pass


# ---------------------------------------------------------------------------------------------------- one file


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_as_it_was(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train([("test", {**SMALL, "train.steps": 2})], run_dir=run)
    path = run / "checkpoints/last.safetensors"
    file = Checkpoint(path)
    own = file.tensors("model.")
    checkpoint.save(
        path, {key: value + 1 for key, value in file.tensors("").items() if value.is_floating_point()}, file.header
    )
    assert file.replaced
    again = file.tensors("model.")
    assert all(torch.equal(value, again[key]) for key, value in own.items())
    assert all(torch.equal(value, own[key] + 1) for key, value in Checkpoint(path).tensors("model.").items())
    file.close()
    with pytest.raises(UsageError, match=r"can no longer be read .*was replaced"):
        file.tensors("model.")


def test_without_names_for_open_files_the_path_must_stay_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS: safetensors opens the path twice, and between the two it may be replaced."""
    from aegen import safetensors_file

    run = tmp_path / "run"
    train([("test", {**SMALL, "train.steps": 1})], run_dir=run)
    path = run / "checkpoints/last.safetensors"
    monkeypatch.setattr(safetensors_file.os.path, "exists", lambda name: False)
    assert Checkpoint(path).tensors("model.")
    real = safetensors_file.safe_open

    def replaced(name: Path, kind: str) -> object:
        shutil.copy(path, tmp_path / "copy")
        os.replace(tmp_path / "copy", path)
        return real(name, kind)

    monkeypatch.setattr(safetensors_file, "safe_open", replaced)
    with pytest.raises(UsageError, match="was replaced while it was opened"):
        Checkpoint(path)


def test_the_home_of_a_user_whom_nobody_knows_is_no_place() -> None:
    with pytest.raises(UsageError, match="the data of r, ~no-such-user/x, is not there"):
        located(replace(DataSettings(), name="~no-such-user/x"), Path(), "r")
