"""Every built-in component passes through the contract that plugins are held to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aegen import Dataset, DataSettings, Exporter, Images, Metric, Seen, registry, testing
from aegen.autoencoder import build_model, build_objective
from aegen.combinations import expand
from aegen.descriptions import describe
from aegen.objective_name import ObjectiveName
from aegen.protocols import Architecture, Bottleneck, ImageShape, Latent, Objective, Outcome, Turn, Wrapper
from aegen.spec import Spec

CHECKS: dict[str, Callable[..., None]] = {
    "architecture": testing.check_architecture,
    "bottleneck": testing.check_bottleneck,
    "likelihood": testing.check_likelihood,
    "objective": testing.check_objective,
    "sampler": testing.check_sampler,
    "metric": testing.check_metric,
    "command": testing.check_command,
    "exporter": testing.check_exporter,
    "tracker": testing.check_tracker,
}
METRICS: dict[str, dict[str, Any]] = {
    "ms-ssim": {"image": ImageShape(1, 176, 176), "count": 4},
    "nll": {"samples": 4, "chunk": 3},
    "probe": {"folds": 2, "iterations": 5, "ordered": True},
    **{name: {"ordered": True} for name in ("inception-score", "kid", "rkid", "path-length")},
    **{name: {"ordered": True} for name in ("beta-vae-score", "factor-vae-score", "dci", "modularity")},
}
BUILTIN = [c for kind in CHECKS for c in registry.components(kind) if c.builtin]


@pytest.mark.parametrize("component", BUILTIN, ids=lambda c: f"{c.kind}-{c.name}")
def test_contract(component: registry.Component) -> None:
    cls = registry.load(component)
    if component.kind == "objective" and cls.stands_for:
        assert expand(ObjectiveName((component.name,))) == expand(ObjectiveName.parse(cls.stands_for))
        return
    if (component.kind, component.name) == ("objective", "perceptual"):
        return  # it needs weights; tests/test_wrappers.py holds it to the contract with random ones
    CHECKS[component.kind](cls, **(METRICS.get(component.name, {}) if component.kind == "metric" else {}))


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("architecture", "conv", {"spatial": True}),
        ("architecture", "conv", {"depth": 1, "hidden": 0, "blocks": 2}),
        ("architecture", "mlp", {"hidden": []}),
        ("architecture", "mlp", {"spectral_norm": True}),
        ("architecture", "conv", {"spectral_norm": True, "blocks": 1}),
        ("likelihood", "gaussian", {"scale": 0.3}),
        ("likelihood", "laplace", {"scale": 0.3}),
        ("objective", "vae", {"free_bits": 0.5, "beta": 4.0}),
        ("objective", "adversarial", {"form": "non-saturating"}),
        ("objective", "adversarial", {"form": "least-squares", "after": 3}),
        ("sampler", "mixture", {"components": 3}),
    ],
    ids=str,
)
def test_contract_with_options(kind: str, name: str, options: dict[str, Any]) -> None:
    CHECKS[kind](registry.get(kind, name), **options)


def test_every_builtin_documents_its_options() -> None:
    for component in registry.every_component():
        if component.builtin:
            for option in describe(component).options:
                assert option.help, f"{component.kind} {component.name}: option {option.name} has no help"


@pytest.mark.parametrize("side", [(8, 8), (9, 31), (28, 28), (33, 8), (64, 48)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("spatial", [False, True])
def test_conv_takes_any_size_from_8(side: tuple[int, int], channels: int, spatial: bool) -> None:
    image = ImageShape(channels, *side)
    model = build_model(Spec("conv", {"width": 2, "spatial": spatial}), Spec("gaussian"), Spec("gaussian"), image)
    x = torch.rand(2, *image) * 2 - 1
    assert model.decode(model.encode(x).z).mean.shape == x.shape


# -------------------------------------------------------------------------------- the checks can fail


class IdlePart(Objective):
    """Says that it trains a head, which its loss forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1)

    def loss(self, model: Any, x: torch.Tensor) -> Outcome:
        return Outcome({"error": model.decode(model.encode(x).mean).nll(x)})

    def turns(self) -> list[Turn]:
        return [Turn("autoencoder", self.loss, trains=("decoder", self.head))]


def test_the_contract_catches_a_part_that_no_gradient_reaches() -> None:
    with pytest.raises(AssertionError, match=r"no gradient reaches objective.head"):
        testing.check_objective(IdlePart)


class LeakyCritic(Wrapper):
    """The error of pythae's VAE-GAN: the critic's loss reaches the decoder."""

    def __init__(self, inner: Objective, image: ImageShape) -> None:
        super().__init__(inner)
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(image.height * image.width * image.channels, 1))

    def turns(self) -> list[Turn]:
        return [*self.inner.turns(), Turn("judge", self.judge, trains=(self.critic,))]

    def judge(self, model: Any, x: torch.Tensor) -> Outcome:
        return Outcome({"critic": self.critic(model.reconstruct(x)).mean(1)})


def test_the_contract_catches_a_critic_that_trains_the_autoencoder() -> None:
    with pytest.raises(AssertionError, match="judge: a gradient leaks into encoder"):
        testing.check_objective(LeakyCritic)


class SummedOverBatch(Objective):
    """A term of the wrong shape."""

    def loss(self, model: Any, x: torch.Tensor) -> Outcome:
        return Outcome({"error": model.decode(model.encode(x).mean).nll(x)[:2]})


def test_the_contract_catches_a_term_of_the_wrong_shape() -> None:
    with pytest.raises(AssertionError, match="term error is"):
        testing.check_objective(SummedOverBatch)


class RestlessNeck(Bottleneck):
    """A counter that validation would move."""

    def __init__(self) -> None:
        super().__init__()
        self.fan_in = 4
        self.register_buffer("count", torch.zeros(()))

    def forward(self, features: torch.Tensor) -> Latent:
        self.count += 1
        return Latent(features, features.new_zeros(len(features)))


def test_the_contract_catches_state_that_moves_without_gradients() -> None:
    with pytest.raises(AssertionError, match="moved without gradients"):
        testing.check_bottleneck(RestlessNeck)


class ShapelessNets(Architecture):
    """Forgets the image's size."""

    def __init__(self, image: ImageShape, fan_in: int) -> None:
        self.fan_in = fan_in

    def encoder(self) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(self.fan_in))

    def decoder(self, latent: tuple[int, ...], fan_out: int) -> nn.Module:
        return nn.Sequential(nn.Linear(latent[0], fan_out * 16), nn.Unflatten(1, (fan_out, 4, 4)))


def test_the_contract_catches_a_decoder_of_the_wrong_shape() -> None:
    with pytest.raises(AssertionError, match="the decoder gave"):
        testing.check_architecture(ShapelessNets)


class Fickle(Metric):
    """Brightness against that of the batch."""

    def collect(self, seen: Seen) -> dict[str, torch.Tensor]:
        bright = seen.x.flatten(1).mean(1)
        return {"bright": bright - bright.mean()} if seen.held_out else {}


class FirstCome(Metric):
    """Counts the first image most."""

    def collect(self, seen: Seen) -> dict[str, torch.Tensor]:
        return {"bright": seen.x.flatten(1).mean(1)} if seen.held_out else {}

    def compute(self, rows: Any) -> dict[str, float]:
        return {"bright": float(rows["bright"][0])}


class Outside(FirstCome):
    """A number with an error, and far from both."""

    def compute(self, rows: Any) -> dict[str, Any]:
        return {"bright": (float(rows["bright"].mean()), -1.0)}


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Fickle, "row bright depends on the other images"),
        (FirstCome, "bright depends on the order"),
        (Outside, "outside its interval"),
    ],
)
def test_the_contract_catches_a_metric(cls: type[Metric], reason: str) -> None:
    if cls is FirstCome:
        cls.resamples = 0  # its interval may well hold
    with pytest.raises(AssertionError, match=reason):
        testing.check_metric(cls)


# -------------------------------------------------------------------------------- needs and offers


def test_free_bits_need_charges_and_the_refusal_says_what_to_choose() -> None:
    from aegen.errors import UsageError

    model = build_model(Spec("mlp"), Spec("deterministic"), Spec("gaussian"), ImageShape(1, 8, 8))
    with pytest.raises(UsageError, match=r"'vae' needs a penalty.*deterministic.*--bottleneck gaussian \(or"):
        build_objective(Spec("vae"), model)
    with pytest.raises(UsageError, match=r"needs a charges.*deterministic.*--bottleneck gaussian"):
        build_objective(Spec("vae", {"free_bits": 0.5}), model)
    with pytest.raises(UsageError, match=r"needs a charges"):  # wrappers forward the needs of what they wrap
        build_objective(Spec("vae+adversarial", {"free_bits": 0.5}), model)


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_contract_of_a_data_set_that_needs_no_download(name: str) -> None:
    testing.check_dataset(registry.get("dataset", name))


class Blind(Exporter):
    """Says that everything is alike."""

    suffix = ".txt"

    def export(self, model: Any, path: Path, header: Any) -> list[Path]:
        path.write_text("a model")
        return [path]

    def parity(self, model: Any, path: Path, x: torch.Tensor) -> dict[str, float]:
        return {"decoder": 0.0}


def test_the_contract_catches_an_exporter_that_compares_nothing() -> None:
    with pytest.raises(AssertionError, match="finds no difference"):
        testing.check_exporter(Blind)


class Unsized(Dataset):
    """Ignores the size."""

    def load(self, settings: DataSettings) -> Images:
        return Images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))


def test_the_contract_catches_a_data_set_of_another_size() -> None:
    with pytest.raises(AssertionError, match="16×16 were asked for"):
        testing.check_dataset(Unsized)
