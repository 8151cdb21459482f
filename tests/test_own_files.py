"""Runs with a component of one's own file: what the file held is known, and the file may be named by any path."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from conftest import Aegen

from aegen.checkpoint import Checkpoint

_MINE = """
from aegen import Objective, Outcome


class Mine(Objective):
    \"\"\"Reconstruction alone.\"\"\"

    bottleneck = "deterministic"

    def loss(self, model, x):
        latent = model.encode(x)
        recon = model.decode(latent.z)
        return Outcome({"error": recon.nll(x)}, recon, latent)
"""

_TINY = ("--arch", "mlp", "--arch.hidden", "[8]", "--size", "8", "--set", "log.images_every_epochs=0")


@pytest.fixture
def run(aegen: Aegen, tmp_path: Path) -> Path:
    Path("mine.py").write_text(_MINE)
    aegen("train", "--objective", "./mine.py:Mine", *_TINY, "--steps", 3, "--run-dir", "r").worked()
    return tmp_path / "r"


def test_a_changed_file_is_told_when_a_run_goes_on_and_the_new_one_is_recorded(aegen: Aegen, run: Path) -> None:
    words = ("train", "--resume", "r", "--component", "./mine.py:Mine")
    before = Checkpoint(run / "checkpoints/last.safetensors").header["plugins"]["objective:./mine.py:Mine"]
    assert before["package"] == "file" and len(before["version"]) == 16
    assert "has changed" not in aegen(*words, "--steps", 4).worked().err
    Path("mine.py").write_text(_MINE.replace("recon.nll(x)}", "2 * recon.nll(x)}"))
    said = aegen(*words, "--steps", 5).worked().err
    assert said.count("has changed since") == 1 and before["version"] in said
    assert "has changed" not in aegen(*words, "--steps", 6).worked().err, "from there on it is a run of that file"


@pytest.mark.parametrize("way", ["absolute", "dotted", "linked", "elsewhere"])
def test_the_same_file_may_be_named_by_another_path(aegen: Aegen, run: Path, tmp_path: Path, way: str) -> None:
    os.symlink("mine.py", "linked.py")
    named = {
        "absolute": f"{tmp_path}/mine.py:Mine",
        "dotted": "./r/../mine.py:Mine",
        "linked": "./linked.py:Mine",
        "elsewhere": f"{tmp_path}/mine.py:Mine",
    }[way]
    if way == "elsewhere":
        Path("other").mkdir()
        os.chdir("other")
    said = aegen("sample", "-c", tmp_path / "r", "-n", 2, "--component", named)
    said.worked()
    assert (
        "has changed" not in aegen("train", "--resume", tmp_path / "r", "--component", named, "--steps", 4).worked().err
    )


def test_another_file_is_not_run_for_it(aegen: Aegen, run: Path) -> None:
    shutil.copy("mine.py", "other.py")
    aegen("evaluate", "-c", "r", "--component", "./other.py:Mine").refused(2, "never run", "--component ./mine.py:Mine")
    Path("sub").mkdir()
    shutil.copy("mine.py", "sub/mine.py")  # of the same name, but the file that the run names is there
    aegen("evaluate", "-c", "r", "--component", "sub/mine.py:Mine").refused(2, "never run")
