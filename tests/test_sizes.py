"""Images of other sizes than the one that a convolutional model was trained at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import aegen
from aegen import UsageError, memory, pictures, testing
from aegen.autoencoder import build_model
from aegen.inference import sizes
from aegen.spec import Spec

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


def test_vamp_says_that_its_prior_is_of_one_size() -> None:
    nets, image = Spec("conv", {"width": 4, "depth": 2, "spatial": True}), aegen.ImageShape(3, 32, 32)
    made = build_model(nets, Spec("vamp", {"components": 3}), Spec("gaussian"), image)
    with pytest.raises(UsageError, match="the prior of its bottleneck, Vamp, is made of maps of that size"):
        sizes.require(made, "a", "48x80")
    assert sizes.require(made, "a", 32) == (32, 32)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (None, None),
        ("own", "own"),
        (48, (48, 48)),
        ("48", (48, 48)),
        ("48x80", (48, 80)),
        ("48 × 80", (48, 80)),
        ("[48, 80]", (48, 80)),
        ([48, 80], (48, 80)),
        ((48, 80), (48, 80)),
    ],
)
def test_a_size_is_said_as_a_number_two_or_own(said: Any, meant: Any) -> None:
    assert sizes.sides(said) == meant


@pytest.mark.parametrize(
    "said", ["", "48x", "x80", "0", "9000", "-4", "4.5", "Own", 0, -1, True, [1, 2, 3], [], 4.5, "1x2x3"]
)
def test_what_is_no_size_is_one_sentence(said: Any) -> None:
    with pytest.raises(UsageError, match=r"--size is .*, but takes pixels a side"):
        sizes.sides(said)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[aegen.Model, Path]:
    """A VAE with a map, and its run."""
    run = tmp_path_factory.mktemp("drawn") / "run"
    # 512 numbers: of so many no density is fitted in passing, which takes a minute.
    options: dict[str, Any] = {**CONV, "arch.spatial": True, "bottleneck.dim": 8}
    aegen.train(objective="vae", data="shapes", size=32, steps=10, device="cpu", run_dir=run, **options)
    return aegen.load(run, device="cpu"), run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of 48×80, 45×70 and 48×80, in colour."""
    folder, chance = tmp_path_factory.mktemp("photos"), torch.Generator().manual_seed(0)
    files = []
    for number, size in enumerate([(48, 80), (45, 70), (48, 80)]):
        files.append(folder / f"{number}.png")
        pictures.save(pictures.to_pil(torch.rand(3, *size, generator=chance) * 2 - 1), files[-1])
    return files


def opened(file: Path) -> np.ndarray[Any, Any]:
    with Image.open(file) as image:
        return np.array(image)


def test_images_are_read_in_the_size_that_is_asked_for(drawn: tuple[aegen.Model, Path], photos: list[Path]) -> None:
    model = drawn[0]
    assert model.read(photos).shape == (3, 3, 32, 32)
    assert model.read(photos, size="40x24").shape == (3, 3, 40, 24)
    assert [tuple(x.shape) for x in model.read_batches(photos, size="own")] == [
        (1, 3, 48, 80),
        (1, 3, 45, 70),
        (1, 3, 48, 80),
    ]
    own = model.read([photos[0], photos[2]], size="own")
    assert own.shape == (2, 3, 48, 80)
    stored = torch.from_numpy(opened(photos[0])).permute(2, 0, 1)
    assert torch.equal(pictures.to_uint8(own[0]), stored), "of its own size an image is as it is stored"
    with pytest.raises(UsageError, match="the images are of 2 sizes, 48×80, 45×70"):
        model.read(photos, size="own")


def test_each_image_is_reconstructed_at_its_own_size(
    drawn: tuple[aegen.Model, Path], photos: list[Path], tmp_path: Path
) -> None:
    model, run = drawn
    texts = list(map(str, photos))
    files = aegen.reconstruct(texts, run, size="own", each=True, out=tmp_path / "own", device="cpu")
    for photo, file in zip(photos, files, strict=True):
        found = torch.from_numpy(opened(file)).permute(2, 0, 1)
        wanted = pictures.to_uint8(model.reconstruct(model.read(photo, size="own"))[0])
        assert found.shape == wanted.shape and int((found.int() - wanted.int()).abs().max()) <= 1
    (sheet,) = aegen.reconstruct(texts, run, size="own", out=tmp_path / "sheet.png", device="cpu")
    pixels = opened(sheet)
    assert pixels.shape == (2 * 50 + 2, 3 * 82 + 2, 3), "cells of the largest, none distorted"
    small = opened(photos[1])
    assert (pixels[2 + 1 : 2 + 46, 2 + 82 + 5 : 2 + 82 + 75] == small).all(), "in the middle of its cell"
    tiles = aegen.reconstruct(texts, run, size="own", tile=32, each=True, out=tmp_path / "tiles", device="cpu")
    assert [opened(file).shape[:2] for file in tiles] == [(48, 80), (45, 70), (48, 80)]


def test_what_is_too_large_for_the_memory_is_taken_in_tiles(
    drawn: tuple[aegen.Model, Path], photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run = drawn
    assert sizes.tile_for(model.model, (48, 80)) is None
    # In float32: 4 channels of half the side after 3 of the whole, and on the way up 4 of the whole before 3.
    assert 4 * 4 <= sizes.bytes_a_pixel(model.model) <= 4 * 16
    monkeypatch.setattr(memory, "most", lambda: int(sizes.bytes_a_pixel(model.model) * 40 * 40 * 4))
    said: list[str] = []
    (sheet,) = aegen.reconstruct(
        [str(photos[0])], run, size="own", out=tmp_path / "a.png", device="cpu", say=said.append
    )
    assert any("taken in tiles of 40 pixels" in text for text in said), said
    whole = model.reconstruct(model.read(photos[0], size="own"), tile=40)
    lower = opened(sheet)[52:100, 2:82]
    assert np.abs(lower.astype(int) - pictures.to_uint8(whole[0]).permute(1, 2, 0).numpy().astype(int)).max() <= 1


def test_the_prior_draws_other_sizes_and_fitted_densities_say_that_they_do_not(
    drawn: tuple[aegen.Model, Path], tmp_path: Path
) -> None:
    model, run = drawn
    assert model.sample(3, size="45x70").shape == (3, 3, 45, 70)
    assert torch.equal(model.sample(3, size=32), model.sample(3)), "its own size is no other"
    assert torch.equal(model.sample(3, size=48, seed=4), model.sample(3, sampler="prior", size=(48, 48), seed=4))
    with pytest.raises(UsageError, match="sampler mixture is fitted to latents of one shape"):
        model.sample(3, sampler="mixture", size=48)
    (file,) = aegen.sample(run, count=2, size="40x64", out=tmp_path / "a.png", device="cpu")
    assert opened(file).shape[:2] == (40 + 4, 2 * 66 + 2)


def test_the_way_between_images_of_another_size(
    drawn: tuple[aegen.Model, Path], photos: list[Path], tmp_path: Path
) -> None:
    run = drawn[1]
    ends = [str(photos[0]), str(photos[2])]
    (film,) = aegen.interpolate(ends, run, size="own", steps=3, out=tmp_path / "a.gif", device="cpu")
    assert opened(film).shape[:2] == (48, 80)
    with pytest.raises(UsageError, match="of 2 sizes"):
        aegen.interpolate(list(map(str, photos)), run, size="own", out=tmp_path / "b.png", device="cpu")


def test_a_bottleneck_of_one_size_has_to_say_so() -> None:
    class Fixed(aegen.Bottleneck):
        """Adds a map of its own, of the size that it saw first."""

        fan_in = 2

        def __init__(self) -> None:
            super().__init__()
            self.learnt: dict[int, torch.Tensor] = {}

        def forward(self, features: torch.Tensor) -> aegen.Latent:
            own = self.learnt.setdefault(features.ndim, torch.ones(features.shape[1:]))
            return aegen.Latent(features + own, torch.zeros(len(features)))

    with pytest.raises(AssertionError, match="any_size must be False"):
        testing.check_bottleneck(Fixed)
    Fixed.any_size = False
    testing.check_bottleneck(Fixed)
