"""Checks of what a model is made of."""

from __future__ import annotations

import copy
import itertools
import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from aegen.errors import UsageError
from aegen.protocols import (
    Architecture,
    Bottleneck,
    FeatureNetwork,
    Likelihood,
)
from aegen.spec import options_of, positional_of
from aegen.testing.models import BATCH, CLASSES, SHAPES, SMALL, check_options, labels


def check_architecture(cls: type[Architecture], **options: Any) -> None:
    """For images of several shapes: the encoder's channels, the decoder's shape, gradients to every parameter, and
    each image's result independent of the others in the batch."""
    check_options(cls)
    _check_map_options(cls, options)
    for image, fan_in, fan_out in itertools.product(SHAPES, (1, 4), (1, 3)):
        nets: Any = cls
        nets = nets(image, fan_in, **options)
        encoder = nets.encoder()
        x = torch.rand(3, *image) * 2 - 1
        again = copy.deepcopy(encoder)  # state may move in training, such as that of a spectral norm
        features = encoder(x)
        assert features.ndim in (2, 3, 4), f"the encoder gave {features.ndim} dimensions"
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


def _check_map_options(cls: type[Architecture], options: dict[str, Any]) -> None:
    """What it says of feature maps: its own options, and with them features (B, fan_in, h, w) of more than one position."""
    if not cls.map_options:
        return
    strange = [name for name in cls.map_options if name not in options_of(cls)]
    assert not strange, f"map_options names {strange[0]}, but it has no option {strange[0]}"
    for image in SHAPES:
        nets: Any = cls
        features = nets(image, 4, **options | dict(cls.map_options)).encoder()(torch.zeros(2, *image))
        assert features[0, 0].numel() > 1, (
            f"map_options give no feature map, but {tuple(features.shape)} for images {image}"
        )


def check_bottleneck(cls: type[Bottleneck], **options: Any) -> None:
    """For vectors, tokens in a row and feature maps: shapes, a finite penalty (B,), what it offers is there, gradients to the features.

    A bottleneck knows channels and takes any positions beside them: (B, fan_in), (B, fan_in, n) and (B, fan_in, h, w) alike. One whose
    `any_size` is not False also takes maps of other sides than it has seen.
    """
    check_options(cls)
    known = {"image": SMALL, "classes": CLASSES}
    for spatial in ((), (5,), (3, 2)):
        make: Any = cls
        neck = make(*(known[name] for name in positional_of(cls)), **options)
        assert neck.fan_in >= 1
        neck.attach(_encoder(neck.fan_in, spatial))
        features = torch.randn(BATCH, neck.fan_in, *spatial, requires_grad=True)
        latent = neck(features)
        if "labels" in neck.offers:
            told = neck(features, labels=labels(BATCH)).z
            assert told.shape == latent.z.shape
            assert torch.equal(neck.labels_of(told), labels(BATCH)), (
                "labels_of does not find the labels that were given"
            )
            assert torch.equal(neck.labels_of(neck.relabel(latent.z, labels(BATCH))), labels(BATCH))
        assert latent.z.shape[0] == BATCH
        assert latent.z.shape[2:] == spatial, f"z is {tuple(latent.z.shape)} for features {tuple(features.shape)}"
        assert latent.penalty.shape == (BATCH,), f"penalty is {tuple(latent.penalty.shape)}, not (B,)"
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
            assert log_q.shape == neck.log_prior(z).shape == (BATCH,)
        if "diagonal" in neck.offers:
            posterior: Any = latent.posterior
            assert posterior.mean.shape == posterior.std.shape == latent.z.shape
        if "charges" in neck.offers:
            assert latent.charges is not None, "it offers charges but gives none"
            torch.testing.assert_close(latent.charges.flatten(1).sum(1), latent.penalty)
        if "codes" in neck.offers:
            assert latent.codes is not None, "it offers codes but gives none"
            assert not latent.codes.is_floating_point()
            _check_lookup(neck, features)
        _check_nearest(neck, features)
        _check_statistics(neck, features)
        _check_state_is_still(neck, features)
        if len(spatial) == 2 and neck.any_size:
            _check_other_sides(neck)


@torch.no_grad()
def _check_other_sides(neck: Bottleneck) -> None:
    """A map of other sides than the last: what it gives and draws has them."""
    neck.eval()
    told = "any_size must be False where a bottleneck is made for maps of one size"
    try:
        latent = neck(torch.randn(BATCH, neck.fan_in, 4, 5))
        shape = tuple(latent.z.shape[1:])
        drawn = neck.prior(2, shape) if "prior" in neck.offers else latent.z
        density = neck.log_prior(latent.z) if "density" in neck.offers else latent.penalty
    except RuntimeError as error:
        raise AssertionError(f"{told}: it fails at others ({error})") from error
    assert shape[1:] == (4, 5), f"{told}: its latents are {shape} for a map of 4×5"
    assert tuple(drawn.shape[1:]) == shape, f"{told}: its prior gave {tuple(drawn.shape[1:])}, not {shape}"
    assert latent.penalty.shape == density.shape == (BATCH,), told
    neck.train()


@torch.no_grad()
def _check_nearest(neck: Bottleneck, features: Tensor) -> None:
    """What it gave is its own nearest, and what it could not give has one."""
    neck.eval()
    given = neck(features).mean
    assert neck.nearest(torch.randn_like(given)).shape == given.shape, "nearest gives other shapes"
    apart = float((neck.nearest(given) - given).abs().max())
    assert apart < 1e-5, f"nearest moves by {apart:.1e} what the bottleneck itself gave"
    neck.train()


@torch.no_grad()
def _check_lookup(neck: Bottleneck, features: Tensor) -> None:
    """Codes stand for the very latents that they were found with."""
    neck.eval()
    latent = neck(features)
    again = neck.lookup(latent.codes)
    assert again.shape == latent.mean.shape, f"lookup gave {tuple(again.shape)} for latents {tuple(latent.mean.shape)}"
    apart = float((again - latent.mean).abs().max())
    assert apart < 1e-5, f"lookup of the codes is {apart:.1e} off the latents that have them"
    neck.train()


@torch.no_grad()
def _check_statistics(neck: Bottleneck, features: Tensor) -> None:
    """Those of two parts, merged, are those of all images."""
    neck.eval()
    whole, first, second = (neck(part).statistics for part in (features, features[:2], features[2:]))
    for name, statistic in whole.items():
        first[name].merge(second[name])
        merged, wanted = first[name].value(), statistic.value()
        assert math.isclose(merged, wanted, rel_tol=1e-6, abs_tol=1e-9), (
            f"{name} is {merged} of two parts and {wanted} of all"
        )
    neck.train()


def _encoder(fan_in: int, spatial: tuple[int, ...]) -> nn.Module:
    """Images of SMALL → features, for bottlenecks whose prior is made of encoded images."""
    size = math.prod(spatial)
    shape = (fan_in, *spatial)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SMALL), fan_in * size), nn.Unflatten(1, shape))


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
        parameters = torch.randn(BATCH, likelihood.fan_out, *image[1:], requires_grad=True)
        x = torch.rand(BATCH, *image) * 2 - 1
        pixels = likelihood(parameters)
        for name, value in (("mean", pixels.mean), ("sample()", pixels.sample())):
            assert value.shape == x.shape, f"{name} is {tuple(value.shape)}, the images {tuple(x.shape)}"
            assert value.abs().max() <= 1, f"{name} leaves [-1, 1]"
        nll = pixels.nll(x)
        assert nll.shape == (BATCH,), f"nll is {tuple(nll.shape)}, not (B,)"
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
