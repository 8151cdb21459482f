"""What comes after the last step: samplers are fitted once, it is said, it can be stopped, and what is too little is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aegen_builtin.samplers.gaussian import Gaussian
from aegen_builtin.samplers.mixture import Mixture
from conftest import SMALL, TINY, Aegen

from aegen import checkpoint, hookimpl, sampler_file, threads
from aegen.checkpoint import Checkpoint
from aegen.training.run import train


class Ear:
    """Hears what takes time, and what a person should know."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []
        self.notices: list[str] = []

    @hookimpl
    def aegen_progress(self, text: str, done: int, total: int) -> None:
        self.told.append((text, done, total))

    @hookimpl
    def aegen_notice(self, text: str) -> None:
        self.notices.append(text)


class Fits:
    """Counts the fits of mixtures."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.before, fit = 0, lambda: None, Mixture.fit

        def counted(sampler: Mixture, latents: torch.Tensor, seed: int = 0) -> None:
            self.count += 1
            self.before()
            fit(sampler, latents, seed)

        monkeypatch.setattr(Mixture, "fit", counted)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    return Fits(monkeypatch)


def test_what_is_done_after_the_last_step_is_said_with_its_progress(fits: Fits, tmp_path: Path) -> None:
    ear = Ear()
    train(objective="vae", run_dir=tmp_path / "r", listeners=[ear], **SMALL, **{"train.steps": 3})
    texts = list(dict.fromkeys(text for text, _, _ in ear.told))
    assert texts == [
        "encoding 1,617 training images for sampler mixture of best and last",
        "fitting sampler mixture of best and last on 1,617 latents",
        "measuring the latents of best",
        "drawing samples",
    ]
    encoded = [done for text, done, total in ear.told if text == texts[0] and total == 1617]
    assert encoded[0] == 0 and encoded[-1] == 1617 and encoded == sorted(encoded)
    assert ear.notices == []


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return Checkpoint(path).tensors("")


def test_where_best_is_last_one_fit_serves_both(fits: Fits, tmp_path: Path) -> None:
    run = tmp_path / "r"
    train(objective="vae", run_dir=run, **SMALL, **{"train.steps": 3})
    best, last = (Checkpoint(run / f"checkpoints/{name}.safetensors") for name in ("best", "last"))
    assert fits.count == 1 and best.same_weights(last)
    found = [sampler_file.find(file, "mixture") for file in (best, last)]
    assert [file and file.path for file in found] == [run / "samplers/mixture.safetensors"] * 2
    assert found[0] is not None and set(found[0].tensors("sampler.")) == {"weights", "means", "factors"}
    assert not best.has("sampler.") and not last.has("sampler."), "fitting wrote the model's file again"


def test_where_best_is_another_it_has_a_fit_of_its_own(fits: Fits, tmp_path: Path) -> None:
    ear = Ear()
    train(objective="vae", run_dir=tmp_path / "r", listeners=[ear], **SMALL, **{"train.epochs": 3, "train.lr": 2.0})
    best, last = (Checkpoint(tmp_path / f"r/checkpoints/{name}.safetensors") for name in ("best", "last"))
    assert fits.count == 2 and not best.same_weights(last)
    for file, name in ((best, "mixture"), (last, "mixture.last")):
        found = sampler_file.find(file, "mixture")
        assert found is not None and found.path == tmp_path / f"r/samplers/{name}.safetensors"
    texts = list(dict.fromkeys(text for text, _, _ in ear.told if text.startswith("fitting")))
    assert texts == [f"fitting sampler mixture of {which} on 1,617 latents" for which in ("best", "last")]


def test_the_same_weights_are_told_by_every_tensor_that_a_sampler_depends_on(trained: Path, tmp_path: Path) -> None:
    path = trained / "checkpoints/last.safetensors"
    file = Checkpoint(path)
    assert file.same_weights(Checkpoint(path))
    held = tensors(path)
    weight = next(key for key in held if key.startswith("model.encoder") and held[key].is_floating_point())

    def other(name: str, changed: dict[str, torch.Tensor]) -> Checkpoint:
        checkpoint.save(tmp_path / name, changed, file.header)
        return Checkpoint(tmp_path / name)

    nudged = held[weight].clone()
    nudged.view(-1)[0] += 1e-3
    assert not file.same_weights(other("a.safetensors", held | {weight: nudged}))
    assert not file.same_weights(other("b.safetensors", {key: v for key, v in held.items() if key != weight}))
    sampler = {key: v + 1 if key.startswith("sampler.") else v for key, v in held.items()}
    assert file.same_weights(other("c.safetensors", sampler)), "a fitted sampler is none of the model's weights"


def test_ctrl_c_during_the_fit_is_130_and_resuming_finishes_it(aegen: Aegen, fits: Fits, tmp_path: Path) -> None:
    fits.before = lambda: os.kill(os.getpid(), signal.SIGINT)
    said = aegen("train", *TINY, "--objective", "vae", "--steps", 3, "--run-dir", "r")
    said.refused(130, "stopped while fitting sampler mixture", "all steps are taken", "aegen train --resume r")
    last = tmp_path / "r/checkpoints/last.safetensors"
    before = tensors(last)
    assert not sampler_file.kept(Checkpoint(last)) and not (tmp_path / "r/samples.png").exists()
    fits.before = lambda: None
    aegen("train", "--resume", "r").worked()
    after = tensors(last)
    assert sampler_file.find(Checkpoint(last), "mixture") and (tmp_path / "r/samples.png").exists()
    assert all(torch.equal(after[key], value) for key, value in before.items() if key.startswith("model."))


def test_blas_has_one_thread_inside_and_as_many_as_before_outside() -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    def counts() -> list[int]:
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(2, user_api="blas"):
        outside = counts()
        with threads.one_blas():
            assert counts() and set(counts()) == {1}
        assert counts() == outside


# ------------------------------------------------------------------------------------------------ too few latents


def test_a_sampler_says_what_it_does_instead_of_what_was_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    mixture = Mixture((3,))
    for count, told in ((1, "1 component instead of 10"), (2, "2 components instead of 10"), (40, "")):
        mixture.fit(torch.randn(count, 3, generator=generator))
        assert mixture.fallback().partition(",")[0] == told
    gaussian = Gaussian((3,))
    for count, told in ((1, "0 of 3 dimensions"), (3, "2 of 3 dimensions"), (4, "")):
        gaussian.fit(torch.randn(count, 3, generator=generator))
        assert told in gaussian.fallback() and bool(told) == bool(gaussian.fallback())


def test_tiny_data_is_told_of_in_one_line_by_train_and_by_sample(aegen: Aegen, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", images=np.random.default_rng(0).integers(0, 255, (4, 8, 8), dtype=np.uint8))
    said = aegen("train", *TINY, "--data", "two.npz", "--objective", "vae", "--steps", 2, "--run-dir", "r").worked()

    def lines(err: str, name: str) -> list[str]:
        return [line for line in err.splitlines() if f"sampler {name}: " in line]

    (told,) = lines(said.err, "mixture")
    assert "instead of 10" in told
    for _ in range(2):  # kept in the checkpoint
        (again,) = lines(aegen("sample", "-c", "r", "-n", 4).worked().err, "mixture")
        assert again in told
    (other,) = lines(aegen("sample", "-c", "r", "-n", 4, "--sampler", "gaussian").worked().err, "gaussian")
    assert "dimensions" in other
    assert lines(aegen("sample", "-c", "r", "-n", 4, "--sampler", "prior").worked().err, "prior") == []


def test_what_a_third_partys_sampler_says_is_held_to_the_contract() -> None:
    from aegen.errors import PluginError
    from aegen.inference.samplers import tell_fallback

    class Silent(Gaussian):
        def fallback(self) -> Any:
            return None

    with pytest.raises(PluginError, match="fallback"):
        tell_fallback(Silent((2,)), "silent", print)
