"""The contract, for authors of plugins: one line in a test gives a component everything that aegen promises of it.

    from aegen.testing import check_objective
    from my_package import MyLoss

    def test_my_loss() -> None:
        check_objective(MyLoss)

Each check builds tiny models on the CPU and raises AssertionError with what does not hold.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aegen import checkpoint, registry
from aegen.engine.optim import build as build_optimizer
from aegen.engine.progress import Progress
from aegen.engine.stage import reduce
from aegen.errors import UsageError
from aegen.evaluation.features import FeatureSpace
from aegen.evaluation.protocol import Protocol
from aegen.evaluation.rows import Rows
from aegen.evaluation.seen import Seen
from aegen.factory import load
from aegen.model import Autoencoder, build_model, check_needs
from aegen.protocols import (
    Architecture,
    Bottleneck,
    FeatureNetwork,
    ImageShape,
    Likelihood,
    Metric,
    Objective,
    Sampler,
    Turn,
    Wrapper,
)
from aegen.settings import TrainSettings
from aegen.spec import Spec, options_of, positional_of

SHAPES = [ImageShape(1, 8, 8), ImageShape(3, 9, 13), ImageShape(2, 16, 11), ImageShape(4, 12, 12)]
_SMALL = ImageShape(1, 12, 12)
_BATCH = 6
_CLASSES = 3
_HEADER: dict[str, Any] = {
    "spec": {},
    "image": list(_SMALL),
    "latent": [1],
    "data": {"name": "", "count": 0, "classes": [], "fingerprint": ""},
    "plugins": {},
    "samplers": {},
    "versions": {},
    **asdict(Progress()),
    "per_epoch": 1,
    "validation": {},
}
_ARCH = Spec("mlp", {"hidden": [24]})


def check_options(cls: type) -> None:
    """Every option has a type and a default that is a JSON value and that its own check accepts."""
    for option in options_of(cls, schedulable=issubclass(cls, Objective)).values():
        again = json.loads(json.dumps(option.default))
        assert again == option.default, f"default of {option.name} is no JSON value: {option.default!r}"
        if option.default is not None:
            assert option.check(option.default, option.name) == option.default, f"default of {option.name} is refused"


def check_architecture(cls: type[Architecture], **options: Any) -> None:
    """For images of several shapes: the encoder's channels, the decoder's shape, gradients to every parameter, and
    each image's result independent of the others in the batch."""
    check_options(cls)
    for image, fan_in, fan_out in itertools.product(SHAPES, (1, 4), (1, 3)):
        nets: Any = cls
        nets = nets(image, fan_in, **options)
        encoder = nets.encoder()
        x = torch.rand(3, *image) * 2 - 1
        again = copy.deepcopy(encoder)  # state may move in training, such as that of a spectral norm
        features = encoder(x)
        assert features.ndim in (2, 4), f"the encoder gave {features.ndim} dimensions"
        assert features.shape[:2] == (3, fan_in), f"the encoder gave {tuple(features.shape)}, not (3, {fan_in}, …)"
        decoder = nets.decoder(tuple(features.shape[1:]), fan_out)
        again = nn.Sequential(again, copy.deepcopy(decoder))
        out = decoder(features)
        assert out.shape == (3, fan_out, *image[1:]), f"the decoder gave {tuple(out.shape)} for images {image}"
        out.square().mean().backward()
        for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
            assert parameter.grad is not None, f"no gradient reaches {name}"
        with torch.no_grad():
            one = again(x[:1])
        torch.testing.assert_close(one, out[:1].detach(), rtol=1e-4, atol=1e-5)


def check_bottleneck(cls: type[Bottleneck], **options: Any) -> None:
    """For vectors and feature maps: shapes, a finite penalty (B,), what it offers is there, gradients to the features."""
    check_options(cls)
    known = {"image": _SMALL, "classes": _CLASSES}
    for spatial in ((), (3, 2)):
        make: Any = cls
        neck = make(*(known[name] for name in positional_of(cls)), **options)
        assert neck.fan_in >= 1
        neck.attach(_encoder(neck.fan_in, spatial))
        features = torch.randn(_BATCH, neck.fan_in, *spatial, requires_grad=True)
        latent = neck(features)
        if "labels" in neck.offers:
            told = neck(features, labels=_labels(_BATCH)).z
            assert told.shape == latent.z.shape
            assert torch.equal(neck.labels_of(told), _labels(_BATCH)), (
                "labels_of does not find the labels that were given"
            )
            assert torch.equal(neck.labels_of(neck.relabel(latent.z, _labels(_BATCH))), _labels(_BATCH))
        assert latent.z.shape[0] == _BATCH
        assert latent.z.shape[2:] == spatial, f"z is {tuple(latent.z.shape)} for features {tuple(features.shape)}"
        assert latent.penalty.shape == (_BATCH,), f"penalty is {tuple(latent.penalty.shape)}, not (B,)"
        assert latent.penalty.isfinite().all(), "the penalty is not finite"
        (latent.z.square().sum() + latent.penalty.sum()).backward()
        assert features.grad is not None, "no gradient reaches the features"
        assert features.grad.isfinite().all(), "a gradient is not finite"
        if "penalty" not in neck.offers:
            assert not latent.penalty.any(), "it charges something, but does not offer a penalty"
        shape = tuple(latent.z.shape[1:])
        if "prior" in neck.offers:
            generator = torch.Generator().manual_seed(1)
            drawn = neck.prior(5, shape, generator)
            assert drawn.shape == (5, *shape), f"the prior gave {tuple(drawn.shape)}"
            assert torch.equal(drawn, neck.prior(5, shape, generator.manual_seed(1))), "the prior ignores its generator"
        if "density" in neck.offers:
            assert latent.posterior is not None, "it offers a density but gives no posterior"
            z, log_q = latent.posterior.draw()
            assert z.shape == latent.z.shape
            assert log_q.shape == neck.log_prior(z).shape == (_BATCH,)
        if "diagonal" in neck.offers:
            posterior: Any = latent.posterior
            assert posterior.mean.shape == posterior.std.shape == latent.z.shape
        if "charges" in neck.offers:
            assert latent.charges is not None, "it offers charges but gives none"
            torch.testing.assert_close(latent.charges.flatten(1).sum(1), latent.penalty)
        if "codes" in neck.offers:
            assert latent.codes is not None, "it offers codes but gives none"
            assert not latent.codes.is_floating_point()
        _check_nearest(neck, features)
        _check_state_is_still(neck, features)


@torch.no_grad()
def _check_nearest(neck: Bottleneck, features: Tensor) -> None:
    """What it gave is its own nearest, and what it could not give has one."""
    neck.eval()
    given = neck(features).mean
    assert neck.nearest(torch.randn_like(given)).shape == given.shape, "nearest gives other shapes"
    apart = float((neck.nearest(given) - given).abs().max())
    assert apart < 1e-5, f"nearest moves by {apart:.1e} what the bottleneck itself gave"
    neck.train()


def _encoder(fan_in: int, spatial: tuple[int, ...]) -> nn.Module:
    """Images of _SMALL → features, for bottlenecks whose prior is made of encoded images."""
    size = math.prod(spatial)
    shape = (fan_in, *spatial)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(_SMALL), fan_in * size), nn.Unflatten(1, shape))


def _labels(count: int) -> Tensor:
    return torch.arange(count) % _CLASSES


def _check_state_is_still(neck: Bottleneck, features: Tensor) -> None:
    """State moves with gradients only, or validation would train."""
    for training in (True, False):
        neck.train(training)
        before = {k: v.clone() for k, v in neck.state_dict().items()}
        with torch.no_grad():
            neck.nearest(neck(features).z)
        for key, value in neck.state_dict().items():
            assert torch.equal(value, before[key]), f"{key} moved without gradients"


def check_likelihood(cls: type[Likelihood], **options: Any) -> None:
    """Images in [-1, 1], a finite nll (B,) that is summed over pixels, and gradients."""
    check_options(cls)
    for image in SHAPES:
        make: Any = cls
        likelihood = make(image, **options)
        parameters = torch.randn(_BATCH, likelihood.fan_out, *image[1:], requires_grad=True)
        x = torch.rand(_BATCH, *image) * 2 - 1
        pixels = likelihood(parameters)
        for name, value in (("mean", pixels.mean), ("sample()", pixels.sample())):
            assert value.shape == x.shape, f"{name} is {tuple(value.shape)}, the images {tuple(x.shape)}"
            assert value.abs().max() <= 1, f"{name} leaves [-1, 1]"
        nll = pixels.nll(x)
        assert nll.shape == (_BATCH,), f"nll is {tuple(nll.shape)}, not (B,)"
        assert nll.isfinite().all(), "nll is not finite"
        torch.testing.assert_close(nll[:1], likelihood(parameters[:1]).nll(x[:1]))
        nll.sum().backward()
        assert parameters.grad is not None, "no gradient reaches the decoder"
        assert parameters.grad.isfinite().all(), "a gradient is not finite"


def check_features(cls: type[FeatureNetwork], **options: Any) -> None:
    """For images of its least size and larger: as many maps as channels, pooled features, gradients to the image, each
    image's features its own; nothing in it moves, and building it draws no random numbers."""
    check_options(cls)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    make: Any = cls
    net: FeatureNetwork = make(**options).eval().requires_grad_(False)
    assert torch.equal(torch.get_rng_state(), state), "building it draws random numbers"
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for height, width in ((net.least, net.least), (net.least + 5, 2 * net.least)):
        x = (torch.rand(2, 3, height, width) * 2 - 1).requires_grad_()
        maps = net.maps(x)
        shapes = [tuple(found.shape[:2]) for found in maps]
        assert shapes == [(2, c) for c in net.channels], f"maps are {shapes}, not (2, c) for c in {net.channels}"
        for level, found in enumerate(maps):
            assert found.ndim == 4, f"map {level} is {tuple(found.shape)}"
            _check_gradient(found, x, f"map {level}")
        pooled = net(x)
        assert pooled.shape == (2, net.width), f"pooled features are {tuple(pooled.shape)}, not (2, {net.width})"
        _check_gradient(pooled, x, "pooled features")
        assert not torch.equal(*pooled), "two images have the same features"
        torch.testing.assert_close(net(x[:1]), pooled[:1], rtol=1e-3, atol=1e-4)
        with suppress(UsageError):  # it has no classes, as it may
            logits = net.logits(pooled)
            assert logits.ndim == 2 and len(logits) == 2, f"logits are {tuple(logits.shape)}, not (2, classes)"
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} moved"


def _check_gradient(found: Tensor, x: Tensor, what: str) -> None:
    """What was found of the images is finite, and moves with every one of them."""
    assert found.isfinite().all(), f"{what}: not finite"
    assert found.requires_grad, f"{what}: no gradient passes to the images"
    (gradient,) = torch.autograd.grad(found.square().sum(), x, retain_graph=True, allow_unused=True)
    assert gradient is not None, f"{what}: no gradient passes to the images"
    assert gradient.isfinite().all(), f"{what}: a gradient is not finite"
    assert gradient.flatten(1).any(1).all(), f"{what}: a gradient is 0"


def check_sampler(cls: type[Sampler], **options: Any) -> None:
    """Fitted on latents, saved and loaded, it draws the same latents for the same seed; a need unmet is refused."""
    check_options(cls)
    for model in _models():
        try:
            check_needs("sampler", cls.needs, model.bottleneck)
        except UsageError:
            continue
        sampler, again = (_positional(cls, model, {}, options) for _ in range(2))
        latents = torch.randn(40, *model.latent_shape) * 2 + 1
        if cls.fitted:
            sampler.fit(latents, 0)
        again.load_state_dict(sampler.state_dict())
        draws = [s.sample(7, torch.Generator().manual_seed(3)) for s in (sampler, again)]
        assert draws[0].shape == (7, *model.latent_shape), f"sample gave {tuple(draws[0].shape)}"
        assert draws[0].isfinite().all(), "a sample is not finite"
        assert torch.equal(*draws), "a saved and loaded sampler draws other latents"


_KNOWN = {"encoder", "objective", "likelihood", "labels", "factors", "features", "sampler"}


def check_metric(
    cls: type[Metric], *, image: ImageShape = _SMALL, count: int = 40, ordered: bool = False, **options: Any
) -> None:
    """Rows of every image, the same however images are batched unless noise is drawn; numbers that do not depend on the
    order of the images and lie in their intervals; no state moves. A model that it does not apply to is refused.

    Args:
        image: shape of the images, where it takes larger ones; then one model is enough.
        count: of the images, an even number.
        ordered: the order of the images may matter, since some are drawn from them or their neighbours count.
        options: of the constructor.
    """
    check_options(cls)
    assert set(cls.better.values()) <= {"lower", "higher"}, f"better is {dict(cls.better)}"
    worked = 0
    metric: Any = cls
    metric = metric(**options)
    for model in _models(image=image, needs=metric.needs - _KNOWN):
        name = "vae" if "penalty" in model.bottleneck.offers else "ae"
        objective = load("objective", name, Objective)()
        players = nn.ModuleDict({"model": model, "objective": objective}).eval()
        before = {key: value.clone() for key, value in players.state_dict().items()}
        rows = _rows(metric, model, objective, count)
        if rows is None:
            continue  # refused with a reason, as it should be
        for key, value in players.state_dict().items():
            assert torch.equal(value, before[key]), f"{key} moved while it was looked at"
        _check_batches(metric, model, objective, rows, count)
        worked += _check_numbers(metric, rows, ordered)
        if worked and image != _SMALL:
            return
    assert worked, f"{cls.__name__} applies to no installed bottleneck"


def _check_batches(metric: Metric, model: Autoencoder, objective: Objective, rows: Rows, count: int) -> None:
    """Without noise, rows are of each image alone."""
    found = rows.of("it")
    assert found, "it keeps no rows"
    again = _rows(metric, model, objective, count, seed=1)
    halves = _rows(metric, model, objective, count, parts=4)
    assert again is not None and halves is not None, "it refuses by the seed or the batch"
    for key, value in found.items():
        if torch.equal(value, again.of("it")[key]):
            why = f"row {key} depends on the other images of a batch"
            torch.testing.assert_close(halves.of("it")[key], value, rtol=1e-4, atol=1e-5, msg=why)


def _check_numbers(metric: Metric, rows: Rows, ordered: bool) -> bool:
    """Values and intervals; whether it does not refuse."""
    found = rows.of("it")
    try:
        numbers = {number.name: number for number in rows.numbers("it", metric, 0)}
    except UsageError:
        return False
    assert numbers, "it computes no number"
    for name, number in numbers.items():
        assert type(number.value) is float, f"{name} is a {type(number.value).__name__}"
        if number.low is not None and number.high is not None:
            assert number.low <= number.value <= number.high, f"{name} is {number.value}, outside its interval"
    assert all(isinstance(note, str) for note in metric.notes(found))
    if ordered:
        return True
    orders = {len(value): torch.randperm(len(value)) for value in found.values()}
    for name, value in metric.compute({key: rows_[orders[len(rows_)]] for key, rows_ in found.items()}).items():
        one, other = value[0] if isinstance(value, tuple) else value, numbers[name].value
        assert math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6), f"{name} depends on the order of the images"
    return True


def _rows(
    metric: Metric, model: Autoencoder, objective: Objective, count: int, *, parts: int = 2, seed: int = 0
) -> Rows | None:
    """What a metric keeps of held-out images and of generated ones; nothing if it refuses."""
    rows, skipped = Rows(), dict[str, str]()
    x = torch.randint(0, 256, (count, *model.image), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    with torch.no_grad():
        model.labels = None
        z = model.encode(x.flip(0)).mean
        generated = model.decode(z).mean
    labels, rules, size = torch.arange(count) % _CLASSES, Protocol(seed=seed), count // parts
    for source, images in (("held-out", x), ("samples", generated)):
        own = source == "held-out"
        batches = []
        for start in range(0, count, size):
            part = slice(start, start + size)
            told, drawn = (labels[part], None) if own else (None, z[part])
            one = Seen(source, model, objective, images[part], told, rules, _Space(), start, drawn, total=count)
            if own:
                one.factors = torch.stack([labels[part], labels[part] // 2], 1)
                one.factor_names = ["number", "last"]
            batches.append(one)
        rows.sweep(batches, {"it": metric}, skipped)
    return None if skipped else rows


class _Looks(FeatureNetwork):
    """Brightness and contrast, whole and by halves."""

    channels = (3, 3)
    width = 9
    least = 1

    def maps(self, x: Tensor) -> list[Tensor]:
        return [x, nn.functional.avg_pool2d(x, 2)]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.std((2, 3)), x[:, :, ::2].mean((2, 3))], 1)

    def logits(self, features: Tensor) -> Tensor:
        return 5 * features


class _Space(FeatureSpace):
    """Features of no weights, of images as they are."""

    def __init__(self) -> None:
        self.protocol, self.net, self.checksum, self.side = Protocol(), _Looks(), "", _SMALL.height


def check_objective(cls: type[Objective], *, inner: type[Objective] | None = None, **options: Any) -> None:
    """Terms are finite and (B,) or (); every turn's gradients reach all that it trains and nothing else; one step moves
    only that; a schedule drives every float option; save → load → the same number; each bottleneck works or is refused.

    Args:
        inner: for a wrapper, the objective that it wraps; `vae` by default.
        options: of the constructor.
    """
    check_options(cls)
    worked = 0
    for model in _models(cls):
        torch.manual_seed(0)
        extra = {"inner": (inner or load("objective", "vae", Objective))()} if issubclass(cls, Wrapper) else {}
        try:
            objective = _positional(cls, model, extra, options)
            check_needs("objective", objective.needs, model.bottleneck)
        except UsageError:
            continue  # refused with a hint, as it should be
        worked += 1
        objective.at(0)
        x = torch.rand(_BATCH, *model.image) * 2 - 1
        for turn in objective.turns():
            _check_turn(objective, model, turn, x)
        _check_saved(objective, model, x)
    assert worked, f"{cls.__name__} works with no installed bottleneck"
    _check_schedules(cls, options, inner)


def _check_turn(objective: Objective, model: Autoencoder, turn: Turn, x: Tensor) -> None:
    """Terms, then gradients, then one step."""
    players = nn.ModuleDict({"model": model, "objective": objective})
    parts = [getattr(model, part) if isinstance(part, str) else part for part in turn.trains]
    mine = {p for part in parts for p in part.parameters()}
    if mine and not mine & set(model.parameters()):
        # A player beside the autoencoder must not reach into it, even where nothing but the loss keeps them apart.
        _take_seats(players, set(players.parameters()))
        reduce(turn.loss(model, x))[0].backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None, f"{turn.name}: a gradient leaks into {name}, which it does not train"
    _take_seats(players, mine)
    outcome = turn.loss(model, x)
    for name, term in outcome.terms.items():
        assert term.shape in ((len(x),), ()), f"{turn.name}: term {name} is {tuple(term.shape)}, not (B,) or ()"
        assert term.isfinite().all(), f"{turn.name}: term {name} is not finite"
    if not mine:
        return
    reduce(outcome)[0].backward()
    for name, parameter in players.named_parameters():
        # A prior's own weights learn only from what the bottleneck charges, which not every objective asks for.
        idle = name.startswith("model.bottleneck.") and "penalty" not in objective.needs
        if parameter in mine and not (idle and parameter.grad is None):
            assert parameter.grad is not None, f"{turn.name}: no gradient reaches {name}, which it trains"
            assert parameter.grad.isfinite().all(), f"{turn.name}: the gradient of {name} is not finite"
    before = {n: p.detach().clone() for n, p in players.named_parameters()}
    build_optimizer(TrainSettings(), list(mine), torch.device("cpu")).step()
    for name, parameter in players.named_parameters():
        if parameter not in mine:
            assert torch.equal(parameter, before[name]), f"{turn.name}: {name} moved, which it does not train"


def _take_seats(players: nn.Module, mine: set[nn.Parameter]) -> None:
    """Only `mine` require gradients, and none has one yet."""
    for parameter in players.parameters():
        parameter.requires_grad_(parameter in mine)
        parameter.grad = None


@torch.no_grad()
def _check_saved(objective: Objective, model: Autoencoder, x: Tensor) -> None:
    """The state dictionary is all there is: after noise and reload the loss is the same number."""

    def loss() -> Tensor:
        torch.manual_seed(5)
        return reduce(objective.loss(model, x))[0]

    model.eval()
    objective.eval()
    parts = {"model.": model, "objective.": objective}
    before = loss()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        tensors = {prefix + k: v for prefix, part in parts.items() for k, v in part.state_dict().items()}
        checkpoint.save(path, tensors, _HEADER)
        for parameter in itertools.chain(model.parameters(), objective.parameters()):
            parameter.add_(1.0)
        file = checkpoint.Checkpoint(path)
        for prefix, part in parts.items():
            file.restore(part, prefix)
    after = loss()
    assert torch.equal(before, after), f"the loss was {before.item()} before saving and {after.item()} after loading"


def _check_schedules(cls: type[Objective], options: Mapping[str, Any], inner: type[Objective] | None) -> None:
    """Every float option is kept as an attribute of its name, which is what a schedule drives."""
    extra = {"inner": (inner or load("objective", "vae", Objective))()} if issubclass(cls, Wrapper) else {}
    objective = _first_that_works(cls, extra, options)
    for name, option in options_of(cls, schedulable=True).items():
        assert not option.schedulable or hasattr(objective, name), (
            f"option {name} takes a schedule, but the objective keeps no attribute self.{name}"
        )


def _first_that_works(cls: type[Objective], extra: Mapping[str, Any], options: Mapping[str, Any]) -> Objective:
    for model in _models(cls):
        with suppress(UsageError):  # it refuses this bottleneck, as it may
            found: Objective = _positional(cls, model, extra, options)
            return found
    raise AssertionError(f"{cls.__name__} works with no installed bottleneck")


def _models(
    objective: type[Objective] | None = None, image: ImageShape = _SMALL, needs: frozenset[str] = frozenset()
) -> Iterator[Autoencoder]:
    """A tiny model with each bottleneck, a vector and (with `conv`) a feature map."""
    likelihood = Spec(objective.likelihood if objective is not None else "gaussian")
    for name in registry.names("bottleneck"):
        if needs and not needs <= load("bottleneck", name, Bottleneck).offers:
            continue
        torch.manual_seed(0)
        model = build_model(_ARCH, Spec(name), likelihood, image, classes=_CLASSES)
        model.labels = _labels(_BATCH)
        yield model
    if not needs <= load("bottleneck", "gaussian", Bottleneck).offers:
        return
    spatial = Spec("conv", {"width": 4, "depth": 1, "spatial": True})
    yield build_model(spatial, Spec("gaussian", {"dim": 2}), likelihood, image)


def _positional(cls: Any, model: Autoencoder, extra: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    known = {"image": model.image, "latent": model.latent_shape, "size": 100, "model": model, **extra}
    return cls(*(known[name] for name in positional_of(cls)), **options)
