"""Third parties: the example package, trackers and their hooks, file components."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Aegen

from aegen.errors import PluginError
from aegen.hooks import Hooks, RunHooks, hookimpl
from aegen.training.run import train

EXAMPLE = Path(__file__).parents[1] / "examples/aegen-swae"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, built and installed by pip into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "aegen-swae")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", str(folder), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def aegen_with(site: Path | None, *words: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(site) if site else ""}
    command = [sys.executable, "-m", "aegen", *words]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


def test_the_example_is_installed_listed_trained_and_gone(installed: Path, tmp_path: Path) -> None:
    rows = json.loads(aegen_with(installed, "list-plugins", "--kind", "objective", "--json", cwd=tmp_path).stdout)
    (row,) = [r for r in rows if r["name"] == "swae"]
    assert (row["package"], row["version"], row["status"]) == ("aegen-swae", "0.1.0", "ok")
    assert row["summary"].startswith("Negative log-likelihood plus")
    words = ["train", *TINY, "--objective", "swae", "--objective.weight", "5", "--steps", "4", "--run-dir", "run"]
    aegen_with(installed, *words, cwd=tmp_path)
    aegen_with(installed, "sample", "-c", "run", "-n", "4", cwd=tmp_path)
    config = (tmp_path / "run/config.toml").read_text()
    assert 'name = "swae"' in config
    # Uninstalled: its name is unknown, what it trained still decodes, resuming names the package.
    gone = aegen_with(None, "train", "--objective", "swae", cwd=tmp_path, check=False)
    assert gone.returncode == 2
    assert "pip install ./examples/aegen-swae" in gone.stderr
    aegen_with(None, "sample", "-c", "run", "-n", "4", cwd=tmp_path)
    resume = aegen_with(None, "train", "--resume", "run", "--steps", "6", cwd=tmp_path, check=False)
    assert resume.returncode == 3
    assert "pip install aegen-swae" in resume.stderr
    off = aegen_with(installed, "train", "--objective", "swae", "--no-plugins", cwd=tmp_path, check=False)
    assert off.returncode == 3
    assert "aegen-swae" in off.stderr


def test_the_examples_own_tests_pass(installed: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# -------------------------------------------------------------------------------- hooks


class Diary:
    """A tracker that writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @hookimpl
    def aegen_run_start(self, total_steps: int) -> None:
        self.lines.append(f"start {total_steps}")

    @hookimpl
    def aegen_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        assert metrics["loss"] == pytest.approx(metrics["error"] + metrics["penalty"], rel=1e-4)
        self.lines.append(f"step {step}")

    @hookimpl
    def aegen_checkpoint_saved(self, path: Path) -> None:
        assert path.is_file()
        self.lines.append(f"saved {path.stem}")

    @hookimpl
    def aegen_images_logged(self, name: str, path: Path) -> None:
        assert path.is_file()
        self.lines.append(f"drew {name}")

    @hookimpl
    def aegen_run_end(self, error: BaseException | None) -> None:
        self.lines.append(f"end {error}")


def tiny(tmp_path: Path, *listeners: object, **more: Any) -> None:
    settings = {"arch.hidden": [8], "data.size": 8, "train.steps": 6, "log.every_steps": 3, "log.images": 4}
    train(arch="mlp", run_dir=tmp_path / "run", listeners=listeners, **settings, **more)


def test_hooks_are_called_in_the_order_of_a_runs_life(tmp_path: Path) -> None:
    diary = Diary()
    tiny(tmp_path, diary)
    assert diary.lines == [
        "start 6", "step 3", "step 6", "saved best", "saved last", "drew reconstructions", "drew samples", "drew samples",
        "end None",
    ]  # fmt: skip


class Broken:
    @hookimpl
    def aegen_step_end(self) -> None:
        raise OSError("no network")


def test_a_tracker_that_fails_is_named_and_silenced_and_the_run_goes_on(tmp_path: Path) -> None:
    diary = Diary()
    with pytest.warns(UserWarning, match="'Broken' failed in aegen_step_end.*no network") as caught:
        tiny(tmp_path, Broken(), diary)
    assert len(caught) == 1
    assert diary.lines[-1] == "end None"


class Misspelt:
    @hookimpl
    def aegen_step_ended(self) -> None: ...


class WrongArgument:
    @hookimpl
    def aegen_step_end(self, stp: int) -> None: ...


@pytest.mark.parametrize("listener", [Misspelt(), WrongArgument()])
def test_a_misspelt_hook_is_an_error(listener: object) -> None:
    with pytest.raises(PluginError, match="does not fit"):
        Hooks().add(listener, "it")


class Unmarked:
    def aegen_step_end(self) -> None: ...


def test_a_tracker_that_would_hear_nothing_is_an_error() -> None:
    with pytest.raises(PluginError, match="none of its methods is marked"):
        Hooks().add(Unmarked(), "it")


def test_every_hook_is_documented() -> None:
    assert all(v.__doc__ for k, v in vars(RunHooks).items() if k.startswith("aegen_"))


def test_tensorboard_writes_curves_and_pictures(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tiny(tmp_path, **{"log.trackers": ["tensorboard"]})
    events = accumulator.EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert {"train/loss", "train/error", "train/lr", "validation/loss"} <= set(events.Tags()["scalars"])
    assert {"samples", "reconstructions"} <= set(events.Tags()["images"])
    assert [e.step for e in events.Scalars("train/loss")] == [3, 6]
    assert "tensorboard" in (tmp_path / "run/config.toml").read_text()


# -------------------------------------------------------------------------------- files

MINE = '''
"""A loss of my own."""
from aegen import Autoencoder, Objective, Outcome
from torch import Tensor


class Mine(Objective):
    """Absolute error."""

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        pixels = model.decode(model.encode(x).mean)
        error = (pixels.mean - x).abs().flatten(1).sum(1)
        return Outcome({"error": self.weight * error, "scale": pixels.nll(x) * 0.01})
'''


def test_a_file_is_tried_before_it_is_a_package(aegen: Aegen, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    words = [*TINY, "--objective", "./mine.py:Mine", "--objective.weight", "linear(0,1,4)", "--run-dir", "run"]
    aegen("train", *words, "--steps", 3).worked()
    aegen("sample", "-c", "run", "-n", 4).worked()  # decoding needs no objective, so no file is run
    aegen("train", "--resume", "run", "--steps", 5, "--objective", "./mine.py:Mine").worked()
