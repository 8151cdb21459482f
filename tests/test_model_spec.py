"""What a model is apart from its run: its spec, the statistics of its latents, and a header that has no run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import aegen
from aegen import UsageError, header
from aegen.checkpoint import Checkpoint
from aegen.checkpoint import save as save_checkpoint
from aegen.data.batches import normalize
from aegen.data.source import load_data
from aegen.inference import statistics
from aegen.model_spec import LatentStatistics, ModelSpec, sound

OLD = Path(__file__).parent / "checkpoints"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spec") / "run"
    options: dict[str, Any] = {
        "arch.name": "conv",
        "arch.width": 4,
        "arch.depth": 1,
        "arch.spatial": True,
        "bottleneck.dim": 2,
    }
    aegen.train(objective="vae", data="digits", size=8, steps=8, device="cpu", run_dir=folder, **options)
    return folder


def test_a_run_keeps_how_its_latents_are_spread(run: Path) -> None:
    model = aegen.load(run, device="cpu")
    found = model.latent_statistics
    data = load_data(model.images(), {}, lambda text: None)
    assert found.images == len(data.train) < statistics.MOST
    means = model.encode(normalize(data.train[torch.arange(len(data.train))])).mean.double()
    channels = means.transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.tensor(found.mean).double(), channels.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(found.std).double(), channels.std(1, correction=0), rtol=1e-4, atol=1e-5)
    assert found.shift == pytest.approx(float(means.mean()), abs=1e-5)
    assert found.scaling == pytest.approx(1 / float(means.std(correction=0)), rel=1e-4)
    z = found.standardized(means.float())
    assert float(z.mean()) == pytest.approx(0, abs=1e-4) and float(z.std()) == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(found.restored(z), means.float(), rtol=1e-4, atol=1e-5)
    assert Checkpoint(run / "checkpoints" / "last.safetensors").model_spec.statistics is not None


def test_a_file_of_before_has_them_measured(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    old = OLD / "gaussian.safetensors"
    assert Checkpoint(old).model_spec.statistics is None
    found = aegen.load(old, device="cpu").latent_statistics
    assert len(found.mean) == 3 and found.images > 1000
    assert old.read_bytes() == (OLD / "gaussian.safetensors").read_bytes()


def test_the_spec_of_a_model_makes_the_very_model(run: Path) -> None:
    model = aegen.load(run, device="cpu")
    about = model.about
    assert about.image == model.image and about.latent == model.latent_shape
    assert about.classes == model.classes and len(about.classes) == 10
    again = ModelSpec.from_dict(about.to_dict(), about.image, about.latent, about.statistics)
    assert again == about
    assert (about.arch, about.bottleneck) == (model.spec.arch, model.spec.bottleneck)


def without_run(run: Path, out: Path, **more: Any) -> Path:
    """The weights of a run as the file of a model that has none."""
    file = Checkpoint(run / "checkpoints" / "last.safetensors")
    about = file.model_spec
    plain = {
        "image": list(about.image),
        "latent": list(about.latent or ()),
        "model": about.to_dict(),
        "plugins": {k: v for k, v in file.header["plugins"].items() if not k.startswith(("objective", "dataset"))},
        "samplers": {},
        "versions": {},
        "imported": {"importer": "test", "file": "mine.safetensors"},
    }
    save_checkpoint(out, {f"model.{k}": v for k, v in file.tensors("model.").items()}, plain | more)
    return out


def test_a_model_without_a_run_is_used_like_any_other(run: Path, tmp_path: Path) -> None:
    file = without_run(run, tmp_path / "alone.safetensors")
    alone, whole = aegen.load(file, device="cpu"), aegen.load(run, device="cpu")
    x = torch.rand(3, *whole.image) * 2 - 1
    assert torch.equal(alone.reconstruct(x), whole.reconstruct(x))
    assert torch.equal(alone.sample(2, "prior", seed=1), whole.sample(2, "prior", seed=1))
    assert alone.classes == whole.classes and "imported" in repr(alone)
    assert Checkpoint(file).header["format"] == 2 and not Checkpoint(file).own
    with pytest.raises(UsageError, match="was imported and has no run here"):
        alone.spec  # noqa: B018
    with pytest.raises(UsageError, match="measuring latents needs the images"):
        alone.latent_statistics  # noqa: B018
    with pytest.raises(UsageError, match="fitting sampler gaussian needs the images"):
        alone.sample(1, "gaussian")


def test_it_is_evaluated_on_images_that_are_named(run: Path, tmp_path: Path) -> None:
    file = without_run(run, tmp_path / "alone.safetensors")
    with pytest.raises(UsageError, match="was imported and has no images of its own; name images: --data"):
        aegen.evaluate(file, metrics=["reconstruction"])
    found = aegen.evaluate(file, metrics=["reconstruction", "terms"], data={"name": "digits"}, device="cpu")
    assert found.numbers and "imported without the objective" in found.skipped["terms"]


def test_training_begins_with_its_weights(run: Path, tmp_path: Path) -> None:
    file = without_run(run, tmp_path / "alone.safetensors")
    options: dict[str, Any] = {
        "arch.name": "conv",
        "arch.width": 4,
        "arch.depth": 1,
        "arch.spatial": True,
        "bottleneck.dim": 2,
    }
    done = aegen.train(
        objective="vae",
        data="digits",
        size=8,
        steps=1,
        device="cpu",
        init_from=file,
        run_dir=tmp_path / "on",
        lr=1e-9,
        **options,
    )
    begun, now = (Checkpoint(place).tensors("model.") for place in (file, done.checkpoint))
    assert all(torch.allclose(now[k], v, atol=1e-6) for k, v in begun.items())
    with pytest.raises(UsageError, match="was imported and has no run here"):
        aegen.train(resume=file)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"spec": {}}, "spec: it is of a run"),
        ({"model": {"arch": {}}}, "a model needs a name for arch, bottleneck, likelihood"),
        ({"latents": {"scaling": 0.0, "shift": 0.0, "mean": [], "std": [], "images": 0}}, "a spread is not above 0"),
        ({"latents": {"scaling": 1.0, "shift": 0.0, "mean": [1.0], "std": [1.0], "images": 1}}, "of 2 channels"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    run: Path, tmp_path: Path, change: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "validated", lambda raw: raw)
    file = without_run(run, tmp_path / "odd.safetensors", **change)
    monkeypatch.undo()
    with pytest.raises(UsageError, match=told):
        aegen.load(file)


def test_statistics_that_cannot_be_are_known() -> None:
    good = LatentStatistics.of(2, torch.tensor([2.0, 0.0]).double(), torch.tensor([4.0, 0.0]).double(), 2)
    assert good.mean == [1, 0] and good.std == [1, 0] and not sound(good, 2)
    assert sound(dataclasses.replace(good, shift=float("nan")), 2) == "a number is not finite"
    assert float(good.standardized(torch.ones(1, 2))[0, 1]) == 1, "what never moves is left where it is"
