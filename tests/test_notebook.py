"""A notebook's afternoon: what one does with a trained model in a few lines, on real digits, and what must come of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor

import aegen

SETTINGS: dict[str, Any] = {
    "arch": "mlp",
    "arch.hidden": [128],
    "data.size": 8,
    "batch_size": 64,
    "lr": 3e-3,
    "device": "cpu",
    "log.images_every_epochs": 0,
}
COUNT = 300
CHANCE = 0.1  # ten classes, about as many of each


def run_of(tmp_path_factory: pytest.TempPathFactory, objective: str, **more: Any) -> Path:
    folder = tmp_path_factory.mktemp("notebook") / objective
    return aegen.train(objective=objective, run_dir=folder, **{**SETTINGS, **more}).run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory, "vae", latent_dim=8, epochs=20)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """A folder of image files as anybody has them, in order, and the class of each."""
    folder, data = tmp_path_factory.mktemp("digits"), load_digits()
    for i in range(COUNT):
        Image.fromarray((data.images[i] * 255 / 16).round().astype("uint8")).save(folder / f"{i:03d}.png")
    return folder, torch.tensor(data.target[:COUNT])


def named(images: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """The class of the real image that each of these looks most like."""
    return labels[torch.cdist(images.flatten(1), x.flatten(1)).argmin(1)]


def test_reading_neighbours_and_ways(run: Path, digits: tuple[Path, Tensor]) -> None:
    model = aegen.load(run)
    folder, labels = digits
    x = model.read(folder)
    z = model.encode(x).mean
    again = model.reconstruct(x)
    apart = torch.cdist(z, z).fill_diagonal_(torch.inf)
    alike = (labels[apart.argmin(1)] == labels).float().mean()
    way = model.interpolate(x[0], x[1], steps=7)  # from a 0 to a 1
    steps = (way[1:] - way[:-1]).flatten(1).norm(dim=1)
    assert x.shape == (COUNT, 1, 8, 8) and z.shape == (COUNT, 8)
    assert ((again - x) / 2).square().mean() < 0.3 * ((x.mean(0) - x) / 2).square().mean()
    assert alike > 0.8, "neighbours of another class"
    torch.testing.assert_close(way[[0, -1]], again[:2])
    assert steps.max() < 0.6 * (way[-1] - way[0]).flatten().norm(), "a jump"
    assert named(way[[0, -1]], x, labels).tolist() == labels[:2].tolist()


def test_a_traversal_by_hand_and_a_direction(run: Path, digits: tuple[Path, Tensor]) -> None:
    model = aegen.load(run)
    folder, labels = digits
    x = model.read(folder)
    z = model.encode(x).mean
    busiest = int(z.var(0).argmax())
    walk = z.mean(0).repeat(9, 1)
    walk[:, busiest] = torch.linspace(-2, 2, 9) * z[:, busiest].std()
    frames = model.decode(walk)
    zero, six = (z[labels == digit].mean(0) for digit in (0, 6))
    turned = model.decode(z[labels == 0] + six - zero)
    from_the_first = (frames - frames[0]).flatten(1).norm(dim=1)
    assert from_the_first[-1] > 1 and (from_the_first[1:] > from_the_first[:-1] - 0.1).all(), "it leads nowhere"
    assert (named(turned, x, labels) == 6).float().mean() > 0.7


def test_strange_images_score_higher(run: Path, digits: tuple[Path, Tensor]) -> None:
    model = aegen.load(run)
    x = model.read(digits[0])
    noise = torch.rand(COUNT, *model.image, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for kind in ("pixel", "nll"):
        usual = model.score(x, kind)
        for strange in (-x, noise, x.flip(-2).roll(2, -1)):
            scores = torch.cat([usual, model.score(strange, kind)])
            assert roc_auc_score([0] * COUNT + [1] * COUNT, scores) > 0.9, kind


def test_new_images_by_the_fitted_sampler(run: Path, digits: tuple[Path, Tensor]) -> None:
    model = aegen.load(run)
    x = model.read(digits[0])
    assert model.samplers[0] == "mixture"
    new = model.sample(200, sampler="mixture", seed=1)
    assert torch.equal(new[:5], model.sample(200, seed=1)[:5]), "it is the one that is taken unasked"
    grey = torch.zeros(200, *model.image)
    near, far = (torch.cdist(some.flatten(1), x.flatten(1)).amin(1).mean() for some in (new, grey))
    real = torch.cdist(x[:100].flatten(1), x[100:].flatten(1)).amin(1).mean()
    assert near < 1.5 * real < far
    assert len(named(new, x, digits[1]).unique()) == 10, "classes are missing"


def test_the_class_that_is_asked_for(tmp_path_factory: pytest.TempPathFactory, digits: tuple[Path, Tensor]) -> None:
    model = aegen.load(run_of(tmp_path_factory, "conditional-vae", epochs=20))
    folder, labels = digits
    x = model.read(folder)
    found = [(named(model.sample(40, label=digit, seed=2), x, labels) == digit).float().mean() for digit in range(10)]
    assert model.classes == [str(digit) for digit in range(10)]
    assert torch.stack(found).mean() > 0.7 and min(found) > 3 * CHANCE, found


def test_codes_there_and_back(tmp_path_factory: pytest.TempPathFactory, digits: tuple[Path, Tensor]) -> None:
    model = aegen.load(run_of(tmp_path_factory, "vq-vae", epochs=20, **{"bottleneck.codes": 64}))
    folder, labels = digits
    x = model.read(folder)
    latent = model.encode(x)
    codes = latent.codes
    assert codes is not None and codes.dtype == torch.int64 and len(codes.unique()) > 10
    torch.testing.assert_close(model.decode(model.lookup(codes)), model.reconstruct(x))
    same = codes[:, None].eq(codes[None]).view(COUNT, COUNT, -1).all(2).fill_diagonal_(False)
    pairs = labels[:, None] == labels[None]
    assert pairs[same].float().mean() > 5 * CHANCE, "images of one code are of any class"
