"""`aegen.load()` gives a handle on a trained model: tensors in, tensors out, the same numbers as the commands."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, Aegen
from PIL import Image
from torch import Tensor

import aegen as api
from aegen import pictures, registry
from aegen.data.batches import normalize
from aegen.errors import UsageError
from aegen.factory import load
from aegen.inference.coding import _Near
from aegen.nn.densities import DiagonalGaussian
from aegen.protocols import Bottleneck
from aegen.spec import options_of
from aegen.training.run import train


def picture(path: Path, seed: int, size: tuple[int, int] = (12, 9)) -> Path:
    """A file of colours that is neither of the model's size nor grey."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [picture(folder / f"{seed}.png", seed) for seed in range(5)]


def run_of(folder: Path, **settings: Any) -> Path:
    return train(**{**SMALL, "data.name": "digits", "train.steps": 4, **settings}, run_dir=folder).run


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("handle") / "vae", **{"objective.name": "vae"})


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"objective.name": "vq-vae", "bottleneck.codes": 8, "bottleneck.kmeans_iterations": 0}
    return run_of(tmp_path_factory.mktemp("handle") / "codes", **settings)


def test_a_notebook(vae: Path, photos: list[Path], tmp_path: Path) -> None:
    """Twenty lines of real work: outliers, an average face, an edit along a direction, neighbours, new images."""
    model = api.load(vae)
    x = model.read(photos)
    latent = model.encode(x)
    again = model.decode(latent.mean)
    strangest = int(model.score(x).argmax())
    mean_image = model.decode(latent.mean.mean(0, keepdim=True))
    direction = latent.mean[:2].mean(0) - latent.mean[2:].mean(0)
    moved = model.decode(latent.mean[:1] + torch.linspace(-2, 2, 7)[:, None] * direction)
    apart = torch.cdist(latent.mean, latent.mean).fill_diagonal_(torch.inf)
    nearest = apart.argmin(1)
    new = model.sample(9, seed=1)
    near = model.encode(new).mean
    way = model.interpolate(x[0], x[1], steps=5)
    pictures.save(
        pictures.grid(pictures.to_uint8(torch.cat([x, again, mean_image, moved, new, way]))), tmp_path / "all.png"
    )
    assert x.shape == again.shape == (5, *model.image)
    errors = ((again - x) / 2).square().flatten(1).mean(1)
    assert strangest == int(errors.argmax())
    assert nearest.shape == (5,) and not (nearest == torch.arange(5)).any()
    assert near.shape == (9, *model.latent_shape) and moved.shape == (7, *model.image)
    torch.testing.assert_close(way[[0, -1]], again[:2])
    with Image.open(tmp_path / "all.png") as sheet:
        assert min(sheet.size) > 3 * 8


def test_what_it_reads_is_what_commands_read(aegen: Aegen, vae: Path, photos: list[Path], tmp_path: Path) -> None:
    model = api.load(vae)
    x = model.read(photos)
    assert x.dtype == torch.float32 and x.min() >= -1 and x.max() <= 1
    assert torch.equal(x, torch.cat(list(model.read_batches(photos[0].parent, 2))))
    assert torch.equal(x[:1], model.read(str(photos[0])))
    aegen("reconstruct", photos[0].parent, "-c", vae, "--each", "-o", "again").worked()
    written = [np.asarray(Image.open(tmp_path / "again" / path.name)) for path in photos]
    ours = pictures.to_uint8(model.reconstruct(x))[:, 0]
    assert np.array_equal(np.stack(written), ours.numpy())


def test_samples_are_those_of_the_command(aegen: Aegen, vae: Path, tmp_path: Path) -> None:
    aegen("sample", "-c", vae, "-n", 6, "--each", "--seed", 3, "-o", "new").worked()
    written = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "new").iterdir())]
    assert np.array_equal(np.stack(written), pictures.to_uint8(api.load(vae).sample(6, seed=3))[:, 0].numpy())


def test_a_seed_means_the_same_images_whoever_drew_before(vae: Path) -> None:
    """A mixture of many components that is fitted now begins at random."""
    first, second = api.load(vae), api.load(vae)
    first.sample(1, "mixture", seed=7, components=20)
    found = [model.sample(4, "mixture", seed=8, components=20) for model in (first, second)]
    assert torch.equal(*found)


def test_a_way_is_that_of_the_command(aegen: Aegen, vae: Path, photos: list[Path], tmp_path: Path) -> None:
    model = api.load(vae)
    aegen("interpolate", *photos[:2], "-c", vae, "--steps", 4, "--method", "slerp", "-o", "way.png").worked()
    frames = model.interpolate(*model.read(photos[:2]), steps=4, method="slerp")
    pictures.save(pictures.strip([frames]), tmp_path / "ours.png")
    assert (tmp_path / "way.png").read_bytes() == (tmp_path / "ours.png").read_bytes()


def test_nothing_is_written_and_nothing_moves(vae: Path, photos: list[Path]) -> None:
    model = api.load(vae)
    before = {path: path.stat().st_mtime_ns for path in vae.rglob("*")}
    weights = {name: value.clone() for name, value in model.model.state_dict().items()}
    torch.manual_seed(5)
    noise = torch.get_rng_state()
    x = model.read(photos).requires_grad_()
    found = [
        model.encode(x).z,
        model.sample(2),
        model.sample(2, "gaussian"),
        model.score(x, "nll"),
        model.reconstruct(x),
    ]
    assert not any(tensor.requires_grad for tensor in found)
    assert torch.equal(noise, torch.get_rng_state())
    assert before == {path: path.stat().st_mtime_ns for path in vae.rglob("*")}
    assert all(torch.equal(value, weights[name]) for name, value in model.model.state_dict().items())
    assert model.samplers == ["mixture", "gaussian", "prior"]


def test_what_does_not_fit_into_memory_comes_in_batches(vae: Path, photos: list[Path]) -> None:
    model = api.load(vae)
    latents = torch.cat([latent.mean for latent in model.encode_batches(model.read_batches(photos, 2))])
    torch.testing.assert_close(latents, model.encode(model.read(photos)).mean)
    assert torch.equal(torch.cat(list(model.decode_batches(latents))), model.decode(latents))
    assert torch.equal(torch.cat(list(model.sample_batches(300, seed=2))), model.sample(300, seed=2))
    draws = [latent.z for latent in model.encode_batches([model.read(photos)] * 2)]
    assert not torch.equal(*draws), "two batches have the same noise"
    assert torch.equal(model.encode(model.read(photos), seed=4).z, model.encode(model.read(photos), seed=4).z)


def test_scores_are_those_of_the_formulas(vae: Path, photos: list[Path]) -> None:
    model = api.load(vae)
    x = model.read(photos)
    latent = model.encode(x)
    pixels = model.model.decode(latent.mean)
    torch.testing.assert_close(model.score(x), ((pixels.mean - x).double() / 2).square().flatten(1).mean(1).float())
    torch.testing.assert_close(model.score(x, "nll"), pixels.nll(x) + latent.penalty)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_other_floating_point_is_taken(vae: Path, kind: torch.dtype) -> None:
    model = api.load(vae)
    x = torch.linspace(-1, 1, 128).view(2, *model.image).to(kind)
    latent, z = model.encode(x), torch.ones(2, *model.latent_shape, dtype=kind)
    assert torch.equal(latent.mean, model.encode(x.float()).mean)
    assert torch.equal(model.decode(z), model.decode(z.float()))
    for score in ("pixel", "nll"):
        found = model.score(x, score)
        assert found.dtype == torch.float32 and torch.equal(found, model.score(x.float(), score))
    assert model.interpolate(x[0], x[1], steps=3).dtype == torch.float32


def test_no_gradient_is_kept_of_batches(vae: Path) -> None:
    model = api.load(vae)
    z = torch.zeros(2, *model.latent_shape, requires_grad=True)
    assert not any(images.requires_grad for images in model.decode_batches(z))


def test_a_mean_lies_where_the_draws_lie() -> None:
    """The posterior stays on the model's device; a mean of it that stayed too could not be subtracted from the images' own."""
    stays = DiagonalGaussian(torch.zeros(2, 3), torch.zeros(2, 3))
    there = torch.empty(2, 3, device="meta")
    assert _Near(there, there[:, 0], stays).mean.device == there.device


def test_a_folder_with_a_broken_image_is_read_without_it(
    vae: Path, photos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in photos:
        shutil.copy(path, tmp_path)
    (tmp_path / "0a.png").write_bytes(b"no image")
    model = api.load(vae)
    for batch in (1, 2, 100):
        caplog.clear()
        assert torch.equal(torch.cat(list(model.read_batches(tmp_path, batch))), model.read(photos))
        assert "0a.png" in caplog.text
    for path in photos:
        (tmp_path / path.name).unlink()
    with pytest.raises(UsageError, match=r"0a\.png cannot be read"):
        model.read(tmp_path)


def test_codes_are_looked_up(codes: Path, photos: list[Path]) -> None:
    model = api.load(codes)
    latent = model.encode(model.read(photos))
    assert latent.codes is not None
    assert torch.equal(model.lookup(latent.codes), latent.mean)
    with pytest.raises(UsageError, match="codes must lie in 0…7, but are"):
        model.lookup(latent.codes + 8)
    for wrong in (latent.codes.float(), latent.codes.tolist()):
        with pytest.raises(UsageError, match=r"but the model's are integers \(B, "):
            model.lookup(wrong)  # type: ignore[arg-type]
    assert model.samplers == ["mixture"]


@pytest.mark.parametrize("neck", sorted(registry.names("bottleneck")))
def test_every_bottleneck_has_the_whole_handle(neck: str, tmp_path: Path) -> None:
    cls = load("bottleneck", neck, Bottleneck)
    offers = cls.offers
    objective = "conditional-vae" if "labels" in offers else "vae" if "penalty" in offers else "ae"
    small = {key: value for key, value in SMALL.items() if key != "bottleneck.dim"}
    small |= {"bottleneck.dim": 4} if "dim" in options_of(cls) else {}
    named = {"objective.name": objective, "bottleneck.name": neck, "data.name": "digits", "train.steps": 1}
    model = api.load(train(**{**small, **named}, run_dir=tmp_path / "run").run)
    x = normalize(torch.randint(0, 256, (3, *model.image), dtype=torch.uint8))
    latent = model.encode(x)
    assert latent.z.shape == latent.mean.shape == (3, *model.latent_shape)
    torch.testing.assert_close(model.decode(latent.mean), model.reconstruct(x))
    assert model.sample(2).shape == (2, *model.image)
    assert model.interpolate(x[:2], x[1:], steps=3).shape == (2, 3, *model.image)
    assert model.score(x).shape == model.score(x, "nll").shape == (3,)
    if latent.codes is not None:
        torch.testing.assert_close(model.lookup(latent.codes), latent.mean)


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (
            lambda m, x: m.encode(x[0]),
            r"images are \(1, 8, 8\), but must be \(B, 1, 8, 8\) in \[-1, 1\]; a single image is x\[None\]",
        ),
        (lambda m, x: m.encode(x.numpy()), "images are a ndarray, but must be a tensor"),
        (lambda m, x: m.encode(x * 127.5 + 127.5), r"but must lie in \[-1, 1\]; of 0…255 make x / 127.5 - 1"),
        (lambda m, x: m.encode(x * torch.nan), "images reach from nan to nan"),
        (lambda m, x: m.encode((x * 127).to(torch.uint8)), r"images are torch.uint8, .* bytes become x / 127.5 - 1"),
        (lambda m, x: m.encode(x[:0]), "at least one"),
        (lambda m, x: m.encode(x, labels=[1, 2]), "which reads none"),
        (lambda m, x: m.decode(x), r"latents are torch.float32 \(2, 1, 8, 8\), but must be floating point \(B, 3\)"),
        (
            lambda m, x: m.lookup(torch.zeros(2, 3, dtype=torch.int64)),
            "are no codes, but those of a gaussian bottleneck",
        ),
        (lambda m, x: m.sample(0), "n is 0, but must be at least 1"),
        (lambda m, x: m.sample(2, "mixtur"), "did you mean 'mixture'"),
        (lambda m, x: m.sample(2, depth=3), "unknown option sampler.depth"),
        (lambda m, x: m.sample(2, label=3), "needs a model that was told classes"),
        (lambda m, x: m.interpolate(x[0], x), "take the same shape"),
        (lambda m, x: m.interpolate(x[0], x[1], steps=1), "steps is 1, but must be at least 2"),
        (lambda m, x: m.interpolate(x[0], x[1], method="arc"), "'arc', but takes lerp"),
        (lambda m, x: m.score(x, "lpips"), "takes pixel or nll"),
        (lambda m, x: m.read("no.png"), "no.png does not exist"),
        (lambda m, x: m.read([]), "no image was named"),
        (lambda m, x: next(m.read_batches("no.png", batch=-1)), "batch is -1, but must be at least 1"),
    ],
)
def test_a_mistake_is_one_sentence(vae: Path, use: Any, told: str) -> None:
    model = api.load(vae)
    x = torch.zeros(2, *model.image)
    with pytest.raises(UsageError, match=told) as caught:
        use(model, x)
    assert "\n" not in str(caught.value)


def test_one_finds_ones_way(vae: Path) -> None:
    """The page of `load` has an example that runs, every public name a sentence, and every parameter a type."""
    model = api.load(vae)
    assert ">>> new = model.sample(16, seed=1)" in (inspect.getdoc(api.load) or "")
    for name in (name for name in dir(model) if not name.startswith("_")):
        member = inspect.getattr_static(type(model), name, None)
        if inspect.isfunction(member):
            assert inspect.getdoc(member), name
            hints = inspect.get_annotations(member)
            assert set(inspect.signature(member).parameters) - {"self"} <= set(hints) and "return" in hints, name
    assert "mlp" in repr(model) and "8×8×1" in repr(model)


def test_classes_are_told_and_asked_for(tmp_path: Path) -> None:
    settings = {"objective.name": "conditional-vae", "bottleneck.name": "conditional", "train.steps": 2}
    model = api.load(run_of(tmp_path / "run", **settings))
    x = torch.zeros(2, *model.image)
    neck: Any = model.model.bottleneck
    assert neck.labels_of(model.encode(x, labels=[3, 7]).mean).tolist() == [3, 7]
    drawn: list[Tensor] = []
    model.decode_batches = lambda z: drawn.append(z) or iter([z])  # type: ignore[method-assign, func-returns-value]
    model.sample(4, label=7)
    assert neck.labels_of(torch.cat(drawn)).tolist() == [7] * 4
    for labels in ([3], [3, 10], [-1, 2]):
        with pytest.raises(UsageError, match=r"labels (are|lie in) .* 0…9"):
            model.encode(x, labels=labels)


def test_the_readmes_python_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "aegen.load" in code]
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        picture(tmp_path / f"{name}.png", ord(name))
    found: dict[str, Any] = {}
    exec(code.replace("epochs=5", "steps=3"), found)  # noqa: S102 - the page is ours
    assert found["new"].shape == (16, *found["model"].image)
    assert found["way"].shape == (9, *found["model"].image) and found["strange"].shape == (2,)
