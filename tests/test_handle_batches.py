"""The handle works batch by batch, and refuses what cannot be before it works."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import aegen as package
from aegen import memory, registry
from aegen.autoencoder import build_model
from aegen.errors import EnvironmentFault, UsageError
from aegen.inference import samplers
from aegen.inference.concatenation import joined
from aegen.noise import seeded
from aegen.protocols import ImageShape, Latent, Posterior, Statistic
from aegen.spec import Spec


@pytest.fixture
def model(trained: Path, monkeypatch: pytest.MonkeyPatch) -> package.Model:
    """One that encodes four images at a time."""
    loaded = package.load(trained)
    monkeypatch.setattr(type(loaded), "batch", 4)
    return loaded


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_bottleneck_gets_a_batch_at_a_time(model: package.Model) -> None:
    sizes: list[int] = []
    model.model.bottleneck.register_forward_pre_hook(lambda neck, given: sizes.append(len(given[0])))
    x = images(10)
    latent = model.encode(x, seed=3)
    assert sizes == [4, 4, 2]
    assert latent.z.shape == latent.mean.shape == (10, *model.latent_shape) and latent.penalty.shape == (10,)
    assert latent.posterior is not None
    for i in (0, 4, 8):
        alone = model.encode(x[i : i + 4])
        assert torch.equal(alone.mean, latent.mean[i : i + 4])
        assert torch.equal(alone.penalty, latent.penalty[i : i + 4])
    assert torch.equal(model.encode(x[:4], seed=3).z, latent.z[:4])  # the first batch draws as if it were alone
    parts = [model.encode(x[i : i + 4]).posterior for i in (0, 4, 8)]
    expected = [part.log_prob(z) for part, z in zip(parts, latent.z.split(4), strict=True) if part is not None]
    torch.testing.assert_close(latent.posterior.log_prob(latent.z), torch.cat(expected), rtol=0, atol=0)
    z, log_prob = latent.posterior.draw()
    assert z.shape == latent.z.shape and torch.equal(log_prob, latent.posterior.log_prob(z))
    assert latent.posterior.sample().shape == z.shape


def test_labels_go_with_their_images(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    loaded = package.load(trained)
    net = build_model(
        Spec("mlp", {"hidden": [8]}), Spec("conditional"), Spec("bernoulli"), ImageShape(1, 16, 16), classes=10
    )
    loaded.model = net.eval().requires_grad_(False)
    labels, x = list(range(10)), images(10)
    whole = loaded.encode(x, labels=labels).mean
    monkeypatch.setattr(type(loaded), "batch", 4)
    torch.testing.assert_close(loaded.encode(x, labels=labels).mean, whole)
    assert net.labels is None
    with pytest.raises(UsageError, match=r"must be \(10,\)"):
        loaded.encode(x, labels=labels[:4])


class _Count(Statistic):
    def __init__(self, count: int) -> None:
        self.count = count

    def merge(self, other: _Count) -> None:
        self.count += other.count

    def value(self) -> float:
        return float(self.count)


def test_what_is_watched_is_of_all_images() -> None:
    def part(count: int, watched: float) -> Latent:
        watch = {"each": torch.full((count,), watched), "all": torch.tensor(watched)}
        z = torch.full((count, 2), watched)
        return Latent(z, z[:, 0], None, z.long(), z, watch, {"seen": _Count(count)})

    whole = joined([part(3, 1.0), part(1, 5.0)])
    assert whole.watch["each"].tolist() == [1, 1, 1, 5] and float(whole.watch["all"]) == 2.0
    assert float(whole.statistics["seen"]) == 4 and whole.posterior is None
    assert whole.codes is not None and whole.codes.tolist() == [[1, 1]] * 3 + [[5, 5]]
    assert whole.charges is not None and whole.charges.shape == (4, 2)
    alone = part(3, 1.0)
    assert joined([alone]) is alone


@pytest.mark.parametrize("neck", registry.names("bottleneck"))
def test_latents_of_every_bottleneck_can_be_joined(neck: str) -> None:
    try:
        net = build_model(Spec("mlp", {"hidden": [8]}), Spec(neck), Spec("gaussian"), ImageShape(1, 8, 8), classes=3)
    except UsageError:
        return  # one that takes maps
    net.eval()
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        parts = [net.encode(part) for part in x.split(3)]
        whole = joined(parts)
        assert torch.equal(whole.mean, torch.cat([part.mean for part in parts]))
        assert whole.penalty.shape == (5,) and (whole.posterior is None) == (parts[0].posterior is None)
        if "diagonal" in net.bottleneck.offers:
            spreads = torch.cat([part.posterior.std for part in parts])  # type: ignore[union-attr]
            assert torch.equal(whole.posterior.std, spreads)  # type: ignore[union-attr]
        if isinstance(whole.posterior, Posterior) and "density" in net.bottleneck.offers:
            assert whole.posterior.log_prob(whole.z).shape == (5,)


def test_more_latents_than_the_memory_holds_are_refused_before_anything_is_fitted(
    model: package.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "most", lambda: 1_000)
    monkeypatch.setattr(samplers, "prepare_sampler", _never)
    with pytest.raises(EnvironmentFault, match="drawing 1,000 images at once"):
        next(model.sample_batches(1_000))


def test_a_class_is_checked_before_anything_is_fitted(model: package.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "prepare_sampler", _never)
    with pytest.raises(UsageError, match="needs a model that was told classes"):
        model.sample(2, sampler="gaussian", label=3)


def _never(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("it was fitted first")


def test_only_generators_that_are_used_are_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the CPU, and of the device that computes; each is put back. The device is a stand-in that notes what is asked of it."""
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: asked.append(seed))
    monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: asked.append(seed))
    monkeypatch.setattr(torch.xpu, "manual_seed_all", lambda seed: asked.append(seed))
    before = torch.get_rng_state()
    with seeded(5, torch.device("cpu")):
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(before, torch.get_rng_state()) and asked == []
    fake = SimpleNamespace(
        get_rng_state=lambda: "before",
        manual_seed=lambda seed: asked.append(("seed", seed)),
        set_rng_state=lambda state: asked.append(("put back", state)),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: fake)
    with pytest.raises(KeyError), seeded(6, torch.device("mps")):
        raise KeyError
    assert asked == [("seed", 6), ("put back", "before")] and torch.equal(before, torch.get_rng_state())
