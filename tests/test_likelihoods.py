"""Densities and masses of pixels: values against torch.distributions and scipy, totals of one, and their draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from aegen_builtin.likelihoods.continuous_bernoulli import ContinuousBernoulli
from aegen_builtin.likelihoods.discretized_logistic import DiscretizedLogistic
from aegen_builtin.likelihoods.log_cosh import LogCosh
from conftest import bent
from scipy import integrate, stats
from torch import Tensor, nn

from aegen.protocols import ImageShape, Likelihood
from aegen.testing import check_likelihood

IMAGE = ImageShape(3, 9, 10)
PIXEL = ImageShape(1, 1, 1)
LEVELS = torch.arange(256, dtype=torch.float64) * 2 / 255 - 1


@pytest.fixture(autouse=True)
def _double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(ours: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-9)


def images(count: int = 5) -> Tensor:
    return torch.rand(count, *IMAGE) * 2 - 1


def per_image(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).sum(1)


def log_density(likelihood: Likelihood, parameter: float, x: Tensor) -> Tensor:
    """log p of one pixel at each of `x` (N,), (N,)."""
    pixels = likelihood(torch.full((len(x), 1, 1, 1), parameter))
    return -pixels.nll(x.reshape(-1, 1, 1, 1))


def density(likelihood: Likelihood, parameter: float) -> Any:
    return lambda x: float(log_density(likelihood, parameter, torch.tensor([x])).exp())


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (ContinuousBernoulli, {}),
        (LogCosh, {}),
        (LogCosh, {"scale": 0.05}),
        (DiscretizedLogistic, {}),
        (DiscretizedLogistic, {"scale": 0.05}),
    ],
    ids=str,
)
def test_contract(cls: type[Likelihood], options: dict[str, Any]) -> None:
    torch.set_default_dtype(torch.float32)
    check_likelihood(cls, **options)


# ---------------------------------------------------------------------------------------- continuous Bernoulli


@pytest.mark.parametrize("spread", [1e-4, 0.3, 3.0, 20.0])
def test_continuous_bernoulli_is_torchs_as_a_density_over_minus_1_to_1(spread: float) -> None:
    logits, x = (torch.randn(5, *IMAGE) * spread).clamp(-25, 25), images()  # beyond, torch's own saturates
    pixels = ContinuousBernoulli(IMAGE)(logits)
    reference = torch.distributions.ContinuousBernoulli(logits=logits, lims=(0.4999, 0.5001))
    # Half the density over twice the width.
    close(pixels.nll(x), -per_image(reference.log_prob((x + 1) / 2)) + math.log(2) * x[0].numel())
    torch.testing.assert_close(pixels.mean, 2 * reference.mean - 1, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("logit", [-40.0, -2.0, -1.0, -1e-3, 0.0, 1e-9, 0.999, 1.001, 7.0, 200.0])
def test_continuous_bernoulli_integrates_to_one_and_has_its_mean(logit: float) -> None:
    """Named error of the cross-entropy on grey images: no normaliser, so no bound of anything."""
    likelihood = ContinuousBernoulli(PIXEL)
    p = density(likelihood, logit)
    assert math.isclose(integrate.quad(p, -1, 1, epsabs=1e-12)[0], 1, rel_tol=1e-7)
    mean = integrate.quad(lambda x: x * p(x), -1, 1, epsabs=1e-12)[0]
    ours = likelihood(torch.full((1, 1, 1, 1), logit)).mean
    torch.testing.assert_close(ours.item(), mean, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("logit", [0.0, 1e-8, -1e-4, 0.02, 0.99, 1.0, 1.01, -5.0, 120.0, -3e5])
def test_continuous_bernoulli_in_float32_near_one_half_and_far_from_it(logit: float) -> None:
    """In float32 the value, its slope and the slope of the mean are those of float64, also at logit 0 exactly."""
    got = []
    for kind in (torch.float32, torch.float64):
        l = torch.full((1, 1, 1, 1), logit, dtype=kind, requires_grad=True)  # noqa: E741
        pixels = ContinuousBernoulli(PIXEL)(l)
        nll = pixels.nll(torch.full((1, 1, 1, 1), 0.3, dtype=kind)).sum()
        slopes = [torch.autograd.grad(value, l, retain_graph=True)[0].flatten() for value in (nll, pixels.mean.sum())]
        got.append(torch.cat([nll.reshape(1), pixels.mean.flatten(), *slopes]).detach().double())
    torch.testing.assert_close(*got, rtol=1e-4, atol=3e-7)


def test_continuous_bernoulli_is_smooth_where_the_series_ends() -> None:
    from aegen_builtin.likelihoods.continuous_bernoulli import log_normaliser, mean_of

    below, above = torch.tensor(0.5 - 1e-12), torch.tensor(0.5 + 1e-12)
    for f in (log_normaliser, mean_of):
        torch.testing.assert_close(f(below), f(above), rtol=1e-8, atol=0)
        assert torch.autograd.gradcheck(f, torch.linspace(-3, 3, 14).requires_grad_())


# ---------------------------------------------------------------------------------------- log-cosh


@pytest.mark.parametrize("scale", [0.02, 0.7, "learned"])
def test_log_cosh_is_scipys_hyperbolic_secant(scale: float | str) -> None:
    likelihood = LogCosh(IMAGE, scale=scale)  # type: ignore[arg-type]
    parameters, x = torch.randn(5, *IMAGE), images()
    if scale == "learned":
        with torch.no_grad():
            likelihood.scale.raw.copy_(torch.randn(()) / 10)
    width = likelihood.scale().exp().item()
    reference = stats.hypsecant.logpdf(x.numpy(), bent(parameters).numpy(), width)
    close(likelihood(parameters).nll(x), -per_image(torch.from_numpy(reference)))


@pytest.mark.parametrize("scale", [0.05, 0.3])
def test_log_cosh_integrates_to_one(scale: float) -> None:
    p = density(LogCosh(PIXEL, scale=scale), 0.4)
    mean = 0.4
    assert math.isclose(2 * integrate.quad(p, mean, mean + 60 * scale, epsabs=1e-12)[0], 1, rel_tol=1e-7)


def test_log_cosh_does_not_overflow() -> None:
    """Named error of PyTorch-VAE LogCosh: log(1 + exp(-2 a t)) overflows where t is negative and large."""
    l = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float32, requires_grad=True)  # noqa: E741
    for x in (-1.0, 1.0, 1.1):
        nll = LogCosh(PIXEL, scale=0.004)(l).nll(torch.full((1, 1, 1, 1), x, dtype=torch.float32))
        (slope,) = torch.autograd.grad(nll.sum(), l)
        assert nll.isfinite().all()
        assert slope.isfinite().all()


# ---------------------------------------------------------------------------------------- discretised logistic


@pytest.mark.parametrize("scale", [0.004, 0.1, 2.0, "learned"])
@pytest.mark.parametrize("parameter", [-4.0, -0.3, 0.0, 0.55, 9.0])
def test_the_masses_of_256_levels_sum_to_one(scale: float | str, parameter: float) -> None:
    likelihood = DiscretizedLogistic(PIXEL, scale=scale)  # type: ignore[arg-type]
    close(log_density(likelihood, parameter, LEVELS).exp().sum(), torch.ones(()))


@pytest.mark.parametrize("scale", [0.15, 0.5])
def test_discretised_logistic_is_the_difference_of_scipys_distribution_function(scale: float) -> None:
    parameters, level = torch.randn(5, *IMAGE), torch.randint(0, 256, (5, *IMAGE))
    level[0, 0, :2] = torch.tensor([[0], [255]])
    mean = bent(parameters).numpy()
    edges = [(k.numpy() * 2 - 255) / 255 for k in (level - 0.5, level + 0.5)]
    low, high = (stats.logistic.cdf(edge, mean, scale) for edge in edges)
    low[level == 0], high[level == 255] = 0, 1
    nll = DiscretizedLogistic(IMAGE, scale=scale)(parameters).nll(level * 2 / 255 - 1)
    close(nll, -per_image(torch.from_numpy(high - low).log()))


def test_images_are_rounded_to_levels() -> None:
    likelihood = DiscretizedLogistic(PIXEL, scale=0.1)
    jitter = (torch.rand(256) - 0.5) * 2 / 255 * 0.99
    near = (LEVELS + jitter).clamp(-1, 1)
    assert torch.equal(log_density(likelihood, 0.2, near), log_density(likelihood, 0.2, LEVELS))


def test_far_levels_in_float32_have_a_finite_mass_and_a_slope() -> None:
    """A difference of distribution functions is 0 in float32 far from the mean; its logarithm needs no floor here."""
    parameter = torch.full((256, 1, 1, 1), -3.0, dtype=torch.float32, requires_grad=True)
    nll = DiscretizedLogistic(PIXEL, scale=0.004)(parameter).nll(LEVELS.float().reshape(-1, 1, 1, 1))
    (slope,) = torch.autograd.grad(nll.sum(), parameter)
    assert nll.isfinite().all()
    assert (nll >= 0).all()
    assert (slope[5:] < 0).all()  # a lighter level wants a lighter mean


# ---------------------------------------------------------------------------------------- of all


@pytest.mark.parametrize(
    ("likelihood", "parameter"),
    [
        (ContinuousBernoulli(PIXEL), -3.0),
        (ContinuousBernoulli(PIXEL), 0.0),
        (ContinuousBernoulli(PIXEL), 1.5),
        (LogCosh(PIXEL, scale=0.05), 0.3),
        (DiscretizedLogistic(PIXEL, scale=0.05), -0.2),
    ],
)
def test_draws_follow_the_density(likelihood: Likelihood, parameter: float) -> None:
    draws = likelihood(torch.full((4000, 1, 1, 1), parameter)).sample().flatten()
    if isinstance(likelihood, DiscretizedLogistic):
        assert (draws.reshape(-1, 1) - LEVELS).abs().min(1).values.max() < 1e-12
        cumulative = log_density(likelihood, parameter, LEVELS).exp().cumsum(0)
        share = (draws.reshape(-1, 1) <= LEVELS + 1e-9).double().mean(0)
    else:
        grid = torch.linspace(-1, 1, 2001)
        p = log_density(likelihood, parameter, grid).exp()
        cumulative = torch.cumulative_trapezoid(p, grid)
        share = (draws.sort().values.reshape(1, -1) <= grid[1:].reshape(-1, 1)).double().mean(1)
    assert (share - cumulative).abs().max() < 0.04  # Kolmogorov and Smirnov: 1e-5 of being above


@pytest.mark.parametrize("cls", [ContinuousBernoulli, LogCosh, DiscretizedLogistic])
def test_nats_are_summed_over_pixels_and_do_not_depend_on_the_batch(cls: Any) -> None:
    parameters, x = torch.randn(4, *IMAGE), images(4)
    likelihood = cls(IMAGE)
    nll = likelihood(parameters).nll(x)
    close(torch.cat([likelihood(parameters[:1]).nll(x[:1]), likelihood(parameters[1:]).nll(x[1:])]), nll)
    pixels = sum(
        likelihood(parameters[:, :, i : i + 1, j : j + 1]).nll(x[:, :, i : i + 1, j : j + 1])
        for i in range(IMAGE.height)
        for j in range(IMAGE.width)
    )
    close(pixels, nll)


@pytest.mark.parametrize("cls", [LogCosh, DiscretizedLogistic])
def test_the_learned_scale_settles_where_its_slope_is_zero(cls: Any) -> None:
    parameters, x = torch.randn(20, *IMAGE), images(20)
    likelihood: Any = cls(IMAGE)
    optimizer = torch.optim.Adam(likelihood.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        likelihood(parameters).nll(x).mean().backward()
        optimizer.step()
    best = likelihood.scale().exp().item()
    around = [cls(IMAGE, scale=best * by)(parameters).nll(x).mean().item() for by in (0.97, 1.0, 1.03)]
    assert around[1] < min(around[0], around[2])
    assert isinstance(likelihood.scale.raw, nn.Parameter)
