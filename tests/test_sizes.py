"""Images of other sizes than the one that a convolutional model was trained at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import aegen
from aegen import UsageError
from aegen.inference import sizes

CONV: dict[str, Any] = {"arch.name": "conv", "arch.width": 4, "arch.depth": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> aegen.Model:
    run = tmp_path_factory.mktemp("sizes") / "run"
    options: dict[str, Any] = {**CONV, "arch.spatial": True, "bottleneck.dim": 4}
    aegen.train(objective="ae", data="shapes", size=32, steps=30, device="cpu", run_dir=run, **options)
    return aegen.load(run, device="cpu")


def images(model: aegen.Model, *size: int) -> torch.Tensor:
    return torch.rand(2, model.image[0], *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_trained_at_32_it_encodes_48_by_80(model: aegen.Model) -> None:
    x = images(model, 48, 80)
    latent = model.encode(x)
    assert model.any_size and model.factor == 4
    assert latent.mean.shape == (2, 4, 12, 20) and model.decode(latent.mean).shape == x.shape
    wanted = model.model.decode(model.model.encode(x).mean).mean
    torch.testing.assert_close(model.reconstruct(x), wanted)
    assert model.score(x).shape == (2,) and model.interpolate(x[0], x[1], steps=3).shape == (3, *x.shape[1:])


def test_a_size_that_is_no_multiple_is_padded_and_cropped(model: aegen.Model) -> None:
    x = images(model, 45, 70)
    assert model.encode(x).mean.shape == (2, 4, 12, 18)
    again = model.reconstruct(x)
    assert again.shape == x.shape
    whole = model.reconstruct(torch.nn.functional.pad(x, (0, 2, 0, 3), mode="replicate"))
    torch.testing.assert_close(again, whole[:, :, :45, :70])
    assert model.interpolate(x[0], x[1], steps=2).shape == (2, *x.shape[1:])


def test_tiles_are_blended_to_nearly_what_no_tiles_give(model: aegen.Model) -> None:
    x = images(model, 96, 130)
    whole = model.reconstruct(x)
    errors = [float((model.reconstruct(x, tile=64, overlap=overlap) - whole).abs().mean()) for overlap in (4, 16, 32)]
    assert errors[0] > errors[1] >= errors[2] and errors[2] < 0.01, errors
    assert torch.equal(model.reconstruct(x, tile=256), whole), "one tile that holds all is no tile"


def test_tiles_of_what_changes_nothing_change_nothing() -> None:
    x = torch.rand(1, 3, 50, 90)
    torch.testing.assert_close(sizes.tiled(x, lambda part: part, 32, 8), x)
    assert sizes.starts(90, 32, 8) == [0, 24, 48, 58] and sizes.starts(30, 32, 8) == [0]


@pytest.mark.parametrize(
    ("options", "size", "told"),
    [
        (CONV, 32, "since its latent is a vector"),
        ({"arch.name": "mlp", "arch.hidden": [8]}, 32, "since its latent is a vector"),
        ({**CONV, "arch.spatial": True}, 30, "since its nets were made for that size"),
    ],
)
def test_other_nets_say_that_they_take_one_size(options: dict[str, Any], size: int, told: str, tmp_path: Path) -> None:
    aegen.train(objective="ae", data="shapes", size=size, steps=1, device="cpu", run_dir=tmp_path / "run", **options)
    model = aegen.load(tmp_path / "run", device="cpu")
    assert not model.any_size and model.factor == 1
    with pytest.raises(UsageError, match=told):
        model.encode(images(model, 48, 80))
