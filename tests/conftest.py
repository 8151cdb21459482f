"""The command line, called in this process, and one small trained run that every test may read."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from aegen import Likelihood, Pixels, descriptions, registry
from aegen.cli import main
from aegen.training.run import train

# Whoever starts the tests in the background may have these ignored, which aegen, and so every process that a test interrupts, would leave as it is.
for _name in ("SIGINT", "SIGHUP", "SIGTERM", "SIGUSR1"):
    _number = getattr(signal, _name, None)
    if (
        _number is not None
        and signal.getsignal(_number) is signal.SIG_IGN
        and threading.current_thread() is threading.main_thread()
    ):
        signal.signal(_number, signal.default_int_handler if _name == "SIGINT" else signal.SIG_DFL)

torch.set_num_threads(1)  # tiny nets are faster so, and workers of pytest-xdist share the cores


@dataclass(frozen=True)
class Said:
    """What a command line did: its exit code, its results on stdout, its talk on stderr."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *pieces: str) -> None:
        """The exit code is `code` and every piece stands in one sentence on stderr, an error unless somebody stopped it."""
        assert self.code == code, f"exit {self.code}, not {code}: {self.err}"
        *talk, last = self.err.splitlines() or [""]
        assert last.startswith("error: ") != (code == 130), self.err
        assert not [line for line in talk if line.startswith("error: ")], self.err
        sentence = last.removeprefix("error: ")
        missing = [piece for piece in pieces if piece not in sentence]
        assert not missing, f"{missing} not in: {sentence}"

    def worked(self) -> Said:
        """The exit code is 0."""
        assert self.code == 0, self.err
        return self


def bent(parameters: Tensor) -> Tensor:
    """Where a location-scale likelihood puts a pixel: as told, but at a twentieth of the way beyond black and white."""
    beyond = (parameters.abs() - 1).clamp(min=0)
    return parameters - parameters.sign() * 0.95 * beyond


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder of settings for the tests alone: their runs are one user's, who is not the one that tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("settings")))
        yield


SIGMA = 0.4


class Plain(Likelihood):
    """N(parameters, SIGMA²), without a tanh, so that a linear decoder is a linear-Gaussian model."""

    fan_out = 1

    def forward(self, parameters: Tensor) -> Pixels:
        return PlainPixels(parameters)


class PlainPixels(Pixels):
    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    def nll(self, x: Tensor) -> Tensor:
        return -Normal(self.mean, SIGMA).log_prob(x).flatten(1).sum(1)

    def sample(self) -> Tensor:
        return self.mean


# A run of a second, as keywords of `train()`.
SMALL: dict[str, Any] = {
    "arch.name": "mlp",
    "arch.hidden": [16],
    "data.size": 8,
    "bottleneck.dim": 3,
    "train.batch_size": 100,
    "train.device": "cpu",
    "log.images_every_epochs": 0,
    "log.images": 4,
}

Aegen = Callable[..., Said]


@pytest.fixture
def aegen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Aegen]:
    """`aegen("train", "--epochs", 1)`: the command line in this process, in an empty folder, as a stranger finds it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AEGEN_DISABLE_PLUGINS", "")  # set, so that it is put back: --no-plugins writes it
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("AEGEN_CACHE", str(tmp_path / "cache"))
    registry.forget()
    descriptions.forget()

    def call(*words: object) -> Said:
        capsys.readouterr()
        monkeypatch.setattr(registry, "_trusted_files", set())  # as in a new process
        monkeypatch.setattr(registry, "_typed_files", set())
        code: object = 0
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        assert isinstance(code, int)
        assert "Traceback" not in err
        assert "should not have happened" not in err, err
        assert not list(tmp_path.rglob("*.tmp")), "a temporary file was left behind"
        return Said(code, out, err)

    yield call
    registry.forget()


TINY = ("--arch", "mlp", "--arch.hidden", "[32]", "--size", "16", "--set", "log.images_every_epochs=0")
"""Options of a run that takes a fraction of a second."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: an mlp vae on 16×16 digits, one epoch. Copy it to alter it."""
    run = tmp_path_factory.mktemp("trained") / "run"
    settings = {"arch.hidden": [32], "data.size": 16, "train.epochs": 1, "log.images_every_epochs": 0}
    train(arch="mlp", run_dir=run, **settings)
    return run


@pytest.fixture
def environment() -> dict[str, str]:
    """For a subprocess: one thread, no colours, nothing switched off."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "AEGEN_DISABLE_PLUGINS": ""}
