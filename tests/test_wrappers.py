"""What judges a reconstruction or a latent by more than pixels: values, gradients, and that validation stays the inner's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aegen_builtin.adversarial.adversarial import Adversarial
from aegen_builtin.adversarial.gan import GAN
from aegen_builtin.latents.deterministic import Deterministic
from aegen_builtin.likelihoods.gaussian import Gaussian as GaussianLikelihood
from aegen_builtin.objectives.ae import AE
from aegen_builtin.objectives.vae import VAE
from aegen_builtin.perceptual import equivariance
from aegen_builtin.perceptual.consistency import Consistency
from aegen_builtin.perceptual.equivariance import Equivariance
from aegen_builtin.perceptual.lpips import FeatureDistance, read_heads
from aegen_builtin.perceptual.ms_ssim import MSSSIM, ms_ssim
from aegen_builtin.perceptual.perceptual import Perceptual
from safetensors.torch import save_file
from scipy.ndimage import correlate1d
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torchvision.models import get_model

from aegen import Autoencoder, ImageShape, Objective, Outcome, UsageError, Wrapper, build_features, registry, testing
from aegen.autoencoder import build_model, check_needs
from aegen.spec import Spec
from aegen.training.turns import reduce

IMAGE = ImageShape(3, 12, 12)


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(ours: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-9)


def images(count: int, image: ImageShape = IMAGE) -> Tensor:
    return torch.rand(count, *image) * 2 - 1


def model(image: ImageShape = IMAGE, *, spatial: bool = False, bottleneck: str = "gaussian") -> Autoencoder:
    arch = Spec("conv", {"width": 4, "depth": 2, "spatial": True}) if spatial else Spec("mlp", {"hidden": [16]})
    built = build_model(arch, Spec(bottleneck, {"dim": 4}), Spec("gaussian"), image)
    return built.to(torch.get_default_dtype())


def train_loss(objective: Objective) -> Callable[[Autoencoder, Tensor], Outcome]:
    return objective.turns()[0].loss


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random weights of each network, and random heads for squeezenet."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for name in ("vgg16", "alexnet", "squeezenet1_1"):
        with torch.device("meta"):
            features = get_model(name, weights=None).features
        state = {}
        for key, value in features.state_dict().items():
            spread = math.sqrt(2 / max(1, value[0].numel())) if value.ndim > 1 else 0.1
            state[f"features.{key}"] = torch.randn(value.shape) * spread
        paths[name] = str(folder / f"{name}.safetensors")
        save_file(state, paths[name])
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 384, 384, 512, 512))}
    paths["heads"] = str(folder / "heads.safetensors")
    save_file(heads, paths["heads"])
    return paths


def squeeze(files: dict[str, str], *, heads: bool = True) -> dict[str, Any]:
    weights = {"features": "squeezenet1_1", "weights": files["squeezenet1_1"]}
    return weights | ({"heads": files["heads"]} if heads else {})


def distance_in(name: str, files: dict[str, str], heads: str = "") -> FeatureDistance:
    net = build_features(name, files[name])
    return FeatureDistance(net, read_heads(name, heads, net.channels, "heads") if heads else [])


def wrapped(name: str, inner: Objective, files: dict[str, str]) -> Objective:
    return {
        "ms-ssim": lambda: MSSSIM(inner, IMAGE),
        "equivariance": lambda: Equivariance(inner, (4, 3, 3)),
        "consistency": lambda: Consistency(inner),
        "perceptual": lambda: Perceptual(inner, IMAGE, **squeeze(files)),
    }[name]()


NAMES = ["ms-ssim", "equivariance", "consistency", "perceptual"]


# ---------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    ("cls", "options"),
    [(MSSSIM, {}), (Consistency, {}), (Consistency, {"flip": True, "shift": 0.2}), (Perceptual, {})],
    ids=str,
)
def test_contract(cls: type[Objective], options: dict[str, Any], files: dict[str, str]) -> None:
    testing.check_objective(cls, **options, **(squeeze(files) if cls is Perceptual else {}))


def test_contract_of_equivariance(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the models that have a feature map; the others it refuses."""
    image = ImageShape(1, 12, 12)
    monkeypatch.setattr("aegen.testing.objectives.models", lambda objective=None: iter([model(image, spatial=True)]))
    monkeypatch.setattr(equivariance, "_SHARE", 1.0)
    testing.check_objective(Equivariance)


@pytest.mark.parametrize("name", NAMES)
def test_validation_measures_the_inner_loss(name: str, files: dict[str, str]) -> None:
    net, x = model(spatial=True), images(4)
    objective = wrapped(name, VAE(), files).eval()
    found = []
    for each in (objective, VAE().eval()):
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(reduce(each.loss(net, x))[1])
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_term_pulls_on_encoder_and_decoder_and_the_inner_terms_stay(
    name: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equivariance, "_SHARE", 1.0)
    net, x = model(spatial=True), images(4)
    torch.manual_seed(3)
    inner = VAE().loss(net, x).terms
    torch.manual_seed(3)
    terms = train_loss(wrapped(name, VAE(), files))(net, x).terms
    assert all(torch.equal(terms[key], inner[key]) for key in inner)
    (added,) = set(terms) - set(inner)
    assert terms[added].shape == (4,) and (terms[added] > 0).all()
    terms[added].sum().backward()
    parts = [net.encoder] if name == "consistency" else [net.encoder, net.decoder]
    for part in parts:
        assert all(p.grad is not None and p.grad.any() for p in part.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_they_keep_what_they_wrap_whatever_the_order(name: str, files: dict[str, str]) -> None:
    """A wrapper that called the inner loss, and not the inner turn, would silence the wrappers inside it."""
    net, x = model(spatial=True), images(4)
    inside = Adversarial(MSSSIM(VAE(), IMAGE, weight=0.2) if name != "ms-ssim" else VAE(), IMAGE)
    first, judge = wrapped(name, inside, files).turns()
    assert first.name == "autoencoder" and judge.name == "judge"
    terms = first.loss(net, x).terms
    assert {"error", "penalty", "verdict"} < terms.keys()
    assert len(terms) >= 4
    two = Consistency(wrapped(name, VAE(), files), weight=0.5) if name != "consistency" else None
    if two is not None:
        assert len(train_loss(two)(net, x).terms) == 4


@pytest.mark.parametrize("name", ["ms-ssim", "perceptual"])
def test_the_weight_is_counted_per_pixel_value(name: str, files: dict[str, str]) -> None:
    net, x = model(bottleneck="deterministic"), images(4)
    recon = net.reconstruct(x)
    term = next(v for k, v in train_loss(wrapped(name, AE(), files))(net, x).terms.items() if k != "error")
    if name == "ms-ssim":
        value = 1 - ms_ssim(x, recon)
    else:
        value = distance_in("squeezenet1_1", files, files["heads"])(x, recon)
    torch.testing.assert_close(term, 0.1 * 3 * 12 * 12 * value)


# ---------------------------------------------------------------------------------------------------- MS-SSIM


def reference_ms_ssim(x: np.ndarray, y: np.ndarray, top: float) -> float:
    """Of one grey image with intensities in [0, top], from Wang's definitions."""
    side = min(x.shape)
    exponents = [w for j, w in enumerate([0.0448, 0.2856, 0.3001, 0.2363, 0.1333]) if side / 2**j >= 11 or j == 0]
    value = 1.0
    for j, exponent in enumerate(exponents):
        half = min(5, (min(x.shape) - 1) // 2)
        window = np.array([math.exp(-(k**2) / 4.5) for k in range(-half, half + 1)])
        window /= window.sum()

        def mean(a: np.ndarray, w: np.ndarray = window, half: int = half) -> np.ndarray:
            a = correlate1d(correlate1d(a, w, axis=0), w, axis=1)
            return a[half : a.shape[0] - half, half : a.shape[1] - half]

        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        c1, c2 = (0.01 * top) ** 2, (0.03 * top) ** 2
        similar = (2 * cov + c2) / (vx + vy + c2)
        if j == len(exponents) - 1:
            similar = similar * (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        value *= similar.mean() ** (exponent / sum(exponents))
        height, width = (s // 2 * 2 for s in x.shape)
        x, y = (
            (a[:height:2, :width:2] + a[1:height:2, :width:2] + a[:height:2, 1:width:2] + a[1:height:2, 1:width:2]) / 4
            for a in (x, y)
        )
    return float(value)


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 9, 10), (1, 28, 28), (3, 32, 45), (2, 90, 64), (1, 177, 180)], ids=str
)
def test_ms_ssim(shape: tuple[int, int, int], double: None) -> None:
    """Named error: SSIM with data_range=2 on [0, 1] images. Ours of [-1, 1] is that of the same images in [0, 255]."""
    x = torch.rand(3, *shape) * 2 - 1
    y = (0.7 * x + 0.3 * (torch.rand(3, *shape) * 2 - 1)).clamp(-1, 1)
    grey = [[(np.asarray(c) + 1) * 127.5 for c in image] for image in (*x, *y)]
    values = [
        np.mean([reference_ms_ssim(a, b, 255.0) for a, b in zip(grey[i], grey[i + 3], strict=True)]) for i in range(3)
    ]
    close(ms_ssim(x, y), torch.tensor(values))
    assert not torch.allclose(ms_ssim((x + 1) / 2, (y + 1) / 2), torch.tensor(values), rtol=1e-3)
    close(ms_ssim(x[:1], y[:1]), ms_ssim(x, y)[:1])


@pytest.mark.parametrize("side", [8, 28, 180])
def test_ms_ssim_is_1_for_the_image_itself_and_finite_for_its_negative(side: int) -> None:
    x = torch.rand(2, 1, side, side) * 2 - 1
    torch.testing.assert_close(ms_ssim(x, x), torch.ones(2))
    for y in (x.clone(), -x, torch.zeros_like(x), torch.full_like(x, -1)):
        y.requires_grad_()
        value = ms_ssim(x, y)
        value.sum().backward()
        assert value.isfinite().all() and (value <= 1.00001).all()
        assert y.grad is not None and y.grad.isfinite().all()


def test_ms_ssim_is_computed_in_full_precision() -> None:
    x = images(2)
    y = 0.9 * x
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ms_ssim(x, y), ms_ssim(x, y).float())
        mixed = ms_ssim(x, y)
    assert torch.equal(mixed, ms_ssim(x, y))


# ---------------------------------------------------------------------------------------------------- equivariance


class Blocks(nn.Module):
    """Every latent place is a block of 2×2 pixels: turning one turns the other."""

    def forward(self, z: Tensor) -> Tensor:
        return z.repeat_interleave(2, 2).repeat_interleave(2, 3)


def blocks(image: ImageShape) -> Autoencoder:
    latent = (image.channels, image.height // 2, image.width // 2)
    likelihood = GaussianLikelihood(image, scale=1.0)
    return Autoencoder(image, nn.AvgPool2d(2), Deterministic(dim=image.channels), Blocks(), likelihood, latent)


def test_equivariance_refuses_a_vector_and_says_what_to_choose() -> None:
    with pytest.raises(UsageError, match=r"vector of 16 dimensions.*--arch\.spatial"):
        Equivariance(VAE(), (16,))


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("side", [(8, 8), (8, 12)], ids=str)
def test_equivariance_of_an_equivariant_autoencoder_is_its_plain_error(
    quarters: int, side: tuple[int, int], double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn alone (a scale of 31/32 leaves these sizes): the error is that of the turned reconstruction, nothing more."""
    image = ImageShape(2, *side)
    draws = iter([torch.tensor(31), torch.tensor(quarters)])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: next(draws))
    monkeypatch.setattr(equivariance, "_SHARE", 1.0)
    net, x = blocks(image), images(3, image)
    terms = train_loss(Equivariance(AE(), net.latent_shape))(net, x).terms
    close(terms["equivariance"], terms["error"])


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("side", [(8, 8), (8, 12)], ids=str)
def test_equivariance_turns_and_shrinks_image_and_latent_alike(
    quarters: int, side: tuple[int, int], double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = ImageShape(2, *side)
    draws = iter([torch.tensor(16), torch.tensor(quarters)])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: next(draws))
    monkeypatch.setattr(equivariance, "_SHARE", 1.0)
    net, x = blocks(image), images(3, image)
    ours = train_loss(Equivariance(AE(), net.latent_shape, weight=2.0))(net, x).terms["equivariance"]

    def half(a: np.ndarray) -> np.ndarray:
        """Bilinear without aliasing: at each side a triangle four pixels wide, cut at the border."""
        for axis in (2, 3):
            a = np.moveaxis(a, axis, -1)
            n = a.shape[-1]
            rows = []
            for i in range(n // 2):
                w = np.array([max(0.0, 1 - abs(j + 0.5 - 2 * (i + 0.5)) / 2) for j in range(n)])
                rows.append(a @ (w / w.sum()))
            a = np.moveaxis(np.stack(rows, -1), -1, axis)
        return a

    z = np.asarray(net.encode(x).z)
    raw = np.kron(np.rot90(half(z), quarters, (2, 3)), np.ones((1, 1, 2, 2)))
    decoded = raw - 0.95 * np.sign(raw) * np.maximum(np.abs(raw) - 1, 0)
    target = np.rot90(half(np.asarray(x)), quarters, (2, 3))
    square = 0.5 * (target - decoded) ** 2 + 0.5 * math.log(2 * math.pi)
    close(ours, torch.from_numpy(2 * square.sum((1, 2, 3))))


@pytest.mark.parametrize("side", [(8, 8), (9, 14), (21, 12)], ids=str)
def test_equivariance_works_at_every_size_and_draw(side: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image = ImageShape(1, *side)
    monkeypatch.setattr(equivariance, "_SHARE", 1.0)
    net, x = model(image, spatial=True), images(2, image)
    objective = Equivariance(VAE(), net.latent_shape)
    for seed in range(20):
        torch.manual_seed(seed)
        assert train_loss(objective)(net, x).terms["equivariance"].isfinite().all()


def test_equivariance_acts_in_half_of_the_steps() -> None:
    image = ImageShape(1, 4, 4)
    net, x = blocks(image), images(2, image)
    loss = train_loss(Equivariance(AE(), net.latent_shape))
    acted = sum(bool(loss(net, x).terms["equivariance"].any()) for _ in range(300))
    assert 110 < acted < 190


# ---------------------------------------------------------------------------------------------------- consistency


@pytest.mark.parametrize("spatial", [False, True])
def test_consistency_is_the_divergence_of_the_moved_from_the_still(spatial: bool, double: None) -> None:
    net, x = model(spatial=spatial), images(4)
    objective = Consistency(VAE(), weight=2.0)
    y = images(4)
    objective.move = lambda _: y  # type: ignore[method-assign]
    ours = train_loss(objective)(net, x).terms["inconsistency"]
    moved, still = (Normal(q.mean, q.std) for q in (net.encode(y).posterior, net.encode(x).posterior))  # type: ignore[union-attr]
    close(ours, 2 * kl_divergence(moved, still).flatten(1).sum(1))


def test_consistency_needs_a_normal_posterior() -> None:
    objective = Consistency(AE())
    with pytest.raises(UsageError, match="needs a diagonal"):
        check_needs("objective 'ae+consistency'", objective.needs, model(bottleneck="deterministic").bottleneck)
    assert "penalty" in Consistency(VAE()).needs


def moved(monkeypatch: pytest.MonkeyPatch, draws: tuple[float, float, float], x: Tensor, **options: Any) -> Tensor:
    """`move` with its draws (turn, right, down) of -1 … 1 given."""
    given = (torch.tensor(draws)[:, None].expand(3, len(x)) + 1) / 2
    monkeypatch.setattr("aegen_builtin.perceptual.consistency.uniform_like", lambda *_, **__: given)
    out = Consistency(VAE(), **options).move(x)
    monkeypatch.undo()
    return out


def test_what_is_not_moved_stays(double: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(2, ImageShape(3, 7, 10))
    close(moved(monkeypatch, (1, 1, 1), x, shift=0.0, angle=0.0), x)
    close(moved(monkeypatch, (0, 0, 0), x), x)
    still = Consistency(VAE(), shift=0.0, angle=0.0)
    net = model(ImageShape(3, 7, 10))
    assert train_loss(still)(net, x).terms["inconsistency"].abs().max() < 1e-9


def test_shifts_are_shares_of_the_side_and_repeat_the_border(double: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(2, ImageShape(1, 8, 10))
    out = moved(monkeypatch, (0, 1, -1), x, shift=0.25 * 0.8, angle=0.0)  # 2 of 10 to one side, 1.6 of 8 to the other
    rows = np.clip(np.arange(8) - 1.6, 0, 7)
    columns = np.clip(np.arange(10) + 2, 0, 9)
    low = np.floor(rows).astype(int)
    part = torch.from_numpy(rows - low)[:, None]
    high = np.minimum(low + 1, 7)
    close(out, ((1 - part) * x[:, :, low] + part * x[:, :, high])[..., columns])


def test_a_quarter_turn_keeps_pixels_square(double: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(2, ImageShape(1, 8, 12))
    for sign in (1, -1):
        out = moved(monkeypatch, (sign, 0, 0), x, shift=0.0, angle=90.0)
        middle = x[..., 2:10]
        turns = [torch.rot90(middle, k, (2, 3)) for k in (1, 3)]
        assert sum(torch.allclose(out[..., 2:10], turn, atol=1e-9) for turn in turns) == 1


def test_a_mirror_image_is_one_of_two(double: None) -> None:
    x = images(200, ImageShape(1, 4, 4))
    out = Consistency(VAE(), shift=0.0, angle=0.0, flip=True).move(x)
    same = (out - x).abs().amax((1, 2, 3)) < 1e-9
    mirrored = (out - x.flip(3)).abs().amax((1, 2, 3)) < 1e-9
    assert (same ^ mirrored).all()
    assert 60 < same.sum() < 140


def test_each_image_moves_by_its_own_draw_within_the_bounds(double: None) -> None:
    ramp = torch.linspace(-1, 1, 41).expand(64, 1, 41, 41)
    out = Consistency(VAE(), shift=0.1, angle=0.0).move(ramp)[:, 0, 20, 20] * 20  # pixels from the middle
    assert out.abs().max() <= 4.1 + 1e-9
    assert out.std() > 1.5


# ---------------------------------------------------------------------------------------------------- perceptual


def reference_lpips(name: str, file: str, heads: list[Tensor] | None, x: Tensor, y: Tensor) -> list[float]:
    """One image, one layer and one place at a time, on images in [0, 1] as ImageNet's mean and deviation are given."""
    from safetensors.torch import load_file

    with torch.device("meta"):
        net = get_model(name, weights=None).features.eval()
    net.load_state_dict({k.removeprefix("features."): v for k, v in load_file(file).items()}, assign=True)
    net.double()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    # What is compared: the last rectified map before each pooling and at the end (vgg), every rectified map (alexnet),
    # the maps of squeezenet's paper layers.
    kinds = [type(layer).__name__ for layer in net]
    if name == "vgg16":
        taps = [i - 1 for i, kind in enumerate(kinds) if kind == "MaxPool2d"]
    elif name == "alexnet":
        taps = [i for i, kind in enumerate(kinds) if kind == "ReLU"]
    else:
        taps = [i - 1 for i, kind in enumerate(kinds) if kind == "MaxPool2d"] + [9, 10, 11, 12]
    found = []
    for pair in zip(x, y, strict=True):
        total, maps = 0.0, []
        for image in pair:
            h, layers = (((image + 1) / 2 - mean) / std)[None], []
            for i, layer in enumerate(net[: taps[-1] + 1]):
                h = layer(h)
                if i in taps:
                    layers.append(h[0].clone())
            maps.append(layers)
        for level, (a, b) in enumerate(zip(*maps, strict=True)):
            a, b = (f / (f.square().sum(0) + 1e-10).sqrt() for f in (a, b))
            weight = torch.full((len(a),), 0.5 / len(taps)) if heads is None else heads[level].double().flatten()
            places = [weight @ (a[:, i, j] - b[:, i, j]) ** 2 for i in range(a.shape[1]) for j in range(a.shape[2])]
            total += float(sum(places)) / len(places)
        found.append(total)
    return found


@torch.no_grad()
@pytest.mark.parametrize(("name", "side"), [("vgg16", 20), ("alexnet", 33), ("squeezenet1_1", 24)])
def test_feature_distance(name: str, side: int, files: dict[str, str], double: None) -> None:
    """Named error: LPIPS fed [0, 1] images. Ours of [-1, 1] is the reference's of [0, 1]."""
    image = ImageShape(3, side, side + 1)
    x, y = images(2, image), images(2, image)
    ours = distance_in(name, files)(x, y)
    reference = torch.tensor(reference_lpips(name, files[name], None, x, y))
    close(ours, reference)
    assert not torch.allclose(distance_in(name, files)((x + 1) / 2, (y + 1) / 2), reference, rtol=1e-2)


@torch.no_grad()
def test_feature_distance_with_heads_and_grey_images(files: dict[str, str], double: None) -> None:
    from safetensors.torch import load_file

    x, y = images(2, ImageShape(1, 24, 24)), images(2, ImageShape(1, 24, 24))
    held = load_file(files["heads"])
    heads = [held[f"lin{level}.model.1.weight"] for level in range(7)]
    name = "squeezenet1_1"
    reference = reference_lpips(name, files[name], heads, x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1))
    distance = distance_in(name, files, files["heads"])
    close(distance(x, y), torch.tensor(reference))
    close(distance(x[:1], y[:1]), distance(x, y)[:1])
    assert not distance(x, x).any()


@torch.no_grad()
@pytest.mark.parametrize("name", ["vgg16", "alexnet", "squeezenet1_1"])
@pytest.mark.parametrize("side", [(8, 8), (9, 31)], ids=str)
def test_small_images_are_enlarged(name: str, side: tuple[int, int], files: dict[str, str]) -> None:
    image = ImageShape(1, *side)
    distance = distance_in(name, files)
    assert (distance(images(2, image), images(2, image)) > 0).all()
    least = distance.net.least
    assert all(min(f.shape[2:]) >= 1 for f in distance.maps(images(1, ImageShape(3, least, least))))
    distance.net.least = 1
    with pytest.raises(RuntimeError):  # one pixel less and the last layer sees nothing
        distance.maps(images(1, ImageShape(3, least - 1, least - 1)))


@torch.no_grad()
def test_without_heads_it_is_the_mean_over_levels_of_one_minus_the_cosine(files: dict[str, str]) -> None:
    x, y = images(2), images(2)
    distance = distance_in("squeezenet1_1", files)
    x_maps, y_maps = (distance.net.maps(nn.functional.interpolate(i, (17, 17), mode="bilinear")) for i in (x, y))
    levels = [1 - torch.cosine_similarity(a, b).mean((1, 2)) for a, b in zip(x_maps, y_maps, strict=True)]
    torch.testing.assert_close(distance(x, y), torch.stack(levels).mean(0), rtol=1e-3, atol=1e-4)


def test_the_perceptual_term_has_a_gradient(files: dict[str, str]) -> None:
    """Named error: LPIPS under no_grad: no gradient for the whole run. And it trains nothing of the network."""
    net, x = model(bottleneck="deterministic"), images(3)
    objective = Perceptual(AE(), IMAGE, **squeeze(files))
    torch.optim.SGD(net.parameters(), 0.0).zero_grad()
    train_loss(objective)(net, x).terms["perceptual"].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in (*net.encoder.parameters(), *net.decoder.parameters()))
    (distance,) = objective._distance
    assert all(p.grad is None and not p.requires_grad for p in distance.parameters())
    recon = net.reconstruct(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(distance(x, recon).sum(), recon)
    with torch.no_grad():
        assert distance(x, recon - 0.01 * gradient / gradient.abs().max()).sum() < distance(x, recon).sum()


@pytest.mark.parametrize("half", [False, True])
def test_features_that_are_all_zero_have_a_finite_gradient(half: bool, tmp_path: Path, files: dict[str, str]) -> None:
    """Named error: sqrt(0) in LPIPS gives NaN gradients."""
    from safetensors.torch import load_file

    path = str(tmp_path / "dead.safetensors")
    save_file(
        {k: torch.full_like(v, -1) if k.endswith("bias") else v * 0 for k, v in load_file(files["alexnet"]).items()},
        path,
    )
    distance, x = distance_in("alexnet", {"alexnet": path}), images(2)
    y = images(2).requires_grad_()
    with torch.autocast("cpu", torch.float16 if half else torch.bfloat16, enabled=half):
        value = distance(x, y)
    assert not value.any()
    value.sum().backward()
    assert y.grad is not None and y.grad.isfinite().all()


def test_no_checkpoint_holds_the_network_and_nothing_trains_it(files: dict[str, str]) -> None:
    objective = Perceptual(VAE(), IMAGE, **squeeze(files))
    assert not objective.state_dict() and not list(objective.parameters())
    objective.train()
    (distance,) = objective._distance
    assert not any(module.training for module in distance.modules())
    before = [p.clone() for p in distance.parameters()]
    objective.to(torch.float64)
    x = images(2).double()
    distance(x, x)  # it follows the images, not the objective
    assert all(p.dtype == torch.float64 for p in distance.parameters())
    distance(x.float(), x.float())
    assert all(torch.equal(a, b) for a, b in zip(before, distance.parameters(), strict=True))


def test_building_it_draws_no_random_numbers(files: dict[str, str]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Perceptual(VAE(), IMAGE, **squeeze(files))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "vgg16"}, r"perceptual\.weights: .*vgg16 needs .*none is given.*save_file\(m\.vgg16"),
        (
            {"features": "vgg16", "weights": "nowhere.safetensors"},
            r"perceptual\.weights: .*'nowhere\.safetensors' is no file.*save_file",
        ),
        ({"features": "vgg16", "weights": "{bad}"}, r"perceptual\.weights: .*is no safetensors file"),
        (
            {"features": "vgg16", "weights": "{alexnet}"},
            r"perceptual\.weights: .*does not hold the weights of vgg16: features\.0\.weight",
        ),
        ({"weights": "{alexnet}"}, r"perceptual\.weights is .*efficientnet-lite0 has weights of its own; leave"),
        (
            {"features": "alexnet", "weights": "{alexnet}", "heads": "{heads}"},
            r"perceptual\.heads: .*does not hold LPIPS's weights for alexnet: lin1",
        ),
        ({"features": "alexnet", "weights": "{alexnet}", "heads": "{bad}"}, r"perceptual\.heads: .*is no safetensors"),
        ({"features": "alexnet", "weights": "{alexnet}", "heads": "x"}, r"perceptual\.heads is 'x', which is no file"),
        ({"features": "{tiny}", "heads": "{heads}"}, r"perceptual\.heads is given, but LPIPS has .*vgg16 alone.*Tiny"),
        ({"features": "{tiny}", "weights": "{alexnet}"}, r"perceptual\.weights is .*Tiny has weights of its own"),
        ({"features": "vgg61"}, r"perceptual\.features: unknown feature 'vgg61'.*did you mean 'vgg16'"),
        (
            {"features": "stranger.py:Net"},
            r"perceptual\.features: 'stranger\.py:Net' is a file.*--objective\.perceptual\.features stranger\.py:Net, or",
        ),
    ],
    ids=str,
)
def test_a_wrong_network_or_file_is_refused(
    options: dict[str, str], message: str, tmp_path: Path, files: dict[str, str], tiny: str
) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a tensor")
    make = partial(Perceptual, VAE(), IMAGE)
    given = {key: value.format(bad=bad, tiny=tiny, **files) for key, value in options.items()}
    with pytest.raises(UsageError, match=message):
        make(**given)  # type: ignore[arg-type]


def test_four_channels_are_refused(files: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="--channels 3"):
        Perceptual(VAE(), ImageShape(4, 12, 12), **squeeze(files))


TINY = """
from torch import nn

from aegen import FeatureNetwork


class Tiny(FeatureNetwork):
    channels, width, least = (4,), 4, 3

    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(3, 4, 3)

    def maps(self, x):
        return [self.net(x)]

    def forward(self, x):
        return self.net(x).mean((2, 3))
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A feature network in a file that the user named."""
    (tmp_path / "mine.py").write_text(TINY)
    name = f"{tmp_path / 'mine.py'}:Tiny"
    registry.trust(name)
    return name


def test_a_network_of_a_file_is_taken_frozen_and_enlarges_what_is_too_small(tiny: str) -> None:
    net = model(ImageShape(1, 2, 5), bottleneck="deterministic")
    x = images(3, ImageShape(1, 2, 5))
    objective = Perceptual(AE(), ImageShape(1, 2, 5), features=tiny)
    (distance,) = objective._distance
    assert all(f.shape == (3, 4, 1, 6) for f in distance.maps(x))
    train_loss(objective)(net, x).terms["perceptual"].sum().backward()
    assert all(p.grad is None for p in distance.parameters())
    assert all(p.grad is not None and p.grad.any() for p in net.decoder.parameters())


# ---------------------------------------------------------------------------------------------------- what they refuse


@pytest.mark.parametrize("name", NAMES)
def test_what_trains_no_encoder_is_refused_when_it_is_built(name: str, files: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=rf"'{name}' .*trains no encoder; .*vae\+{name}"):
        wrapped(name, GAN(IMAGE), files)
    inner = Wrapper(GAN(IMAGE))
    with pytest.raises(UsageError, match=rf"'{name}' .*trains no encoder"):  # through another wrapper, too
        wrapped(name, inner, files)


class Mute(Objective):
    """Encodes, but hands nothing on."""

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        return Outcome({"error": model.decode(model.encode(x).z).nll(x)})


@pytest.mark.parametrize("name", NAMES)
def test_an_inner_outcome_without_reconstruction_or_latent_is_refused_in_a_sentence(
    name: str, files: dict[str, str]
) -> None:
    with pytest.raises(UsageError, match=rf"'{name}' needs a (reconstruction|latent), which what it wraps does not"):
        train_loss(wrapped(name, Mute(), files))(model(spatial=True), images(2))
