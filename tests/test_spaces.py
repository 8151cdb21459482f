"""Latents other than Gaussian: spheres, hyperbolic balls, categories, classes. Values against scipy and quadrature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from aegen_builtin.latents.bessel import log_partition
from aegen_builtin.latents.categorical import Categorical
from aegen_builtin.latents.conditional import Conditional
from aegen_builtin.latents.joint import Joint
from aegen_builtin.latents.poincare import Poincare
from aegen_builtin.latents.sphere import Sphere
from aegen_builtin.latents.von_mises_fisher import VonMisesFisher, depths, log_area, slope
from aegen_builtin.latents.wrapped_normal import Ball, WrappedNormal
from aegen_builtin.objectives.ae import AE
from aegen_builtin.objectives.conditional_vae import ConditionalVAE
from aegen_builtin.objectives.vae import VAE
from scipy import integrate, special, stats
from torch import Tensor
from torch.distributions import Normal, OneHotCategorical, kl_divergence
from torch.nn.functional import normalize

from aegen import autoencoder as models
from aegen import registry
from aegen.autoencoder import Autoencoder, build_model
from aegen.errors import UsageError
from aegen.inference import samplers
from aegen.inference.latents import path
from aegen.protocols import Bottleneck, ImageShape
from aegen.spec import Spec
from aegen.testing import check_bottleneck, check_objective

IMAGE = ImageShape(1, 12, 12)
SPACES: list[tuple[type[Bottleneck], dict[str, Any]]] = [
    (Sphere, {}),
    (Sphere, {"dim": 2}),
    (Sphere, {"dim": 3}),
    (Sphere, {"dim": 80}),
    (Poincare, {}),
    (Poincare, {"dim": 1}),
    (Poincare, {"dim": 2, "curvature": 0.3}),
    (Categorical, {}),
    (Categorical, {"variables": 1, "categories": 2, "temperature": 2.0, "hard": True}),
    (Joint, {}),
    (Joint, {"dim": 2, "variables": 3, "categories": 4}),
    (Conditional, {}),
    (Conditional, {"dim": 2, "label_weight": 0.0}),
]


@pytest.fixture(autouse=True)
def _double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(ours: Tensor, reference: Any, rtol: float = 1e-6, atol: float = 1e-9) -> None:
    torch.testing.assert_close(ours, torch.as_tensor(reference, dtype=ours.dtype).expand_as(ours), rtol=rtol, atol=atol)


def per_image(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).sum(1)


def make(cls: Any, **options: Any) -> Any:
    return cls(3, **options) if cls is Conditional else cls(**options)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Autoencoder]:
    """A model with a bottleneck that need not be registered; the contract's models then have it too."""
    load = models.load

    def build(cls: type[Bottleneck], arch: Spec | None = None, **options: Any) -> Autoencoder:
        monkeypatch.setattr(models, "load", lambda kind, name, base: cls if name == "mine" else load(kind, name, base))
        names = registry.names
        monkeypatch.setattr(registry, "names", lambda kind: ["mine"] if kind == "bottleneck" else names(kind))
        net = build_model(
            arch or Spec("mlp", {"hidden": [16]}), Spec("mine", options), Spec("gaussian"), IMAGE, classes=3
        )
        return net.to(torch.get_default_dtype())

    return build


# -------------------------------------------------------------------------------- the contract, and what all of them do


@pytest.mark.parametrize(("cls", "options"), SPACES, ids=str)
def test_contract(cls: type[Bottleneck], options: dict[str, Any]) -> None:
    torch.set_default_dtype(torch.float32)
    check_bottleneck(cls, **options)


@pytest.mark.parametrize("objective", [AE, VAE, ConditionalVAE])
@pytest.mark.parametrize("cls", [Sphere, Poincare, Categorical, Joint, Conditional])
def test_contract_of_an_objective_with_each(cls: Any, objective: Any, built: Any) -> None:
    torch.set_default_dtype(torch.float32)
    built(cls)
    check_objective(objective)


@pytest.mark.parametrize(("cls", "options"), SPACES, ids=str)
@pytest.mark.parametrize("spatial", [False, True])
def test_reconstruction_is_not_random(cls: Any, options: dict[str, Any], spatial: bool, built: Any) -> None:
    """Named error of pythae: interpolate and reconstruct sample the posterior even in eval mode."""
    net = built(cls, Spec("conv", {"width": 4, "depth": 1, "spatial": True}) if spatial else None, **options).eval()
    x = torch.rand(4, *IMAGE) * 2 - 1
    assert torch.equal(net.reconstruct(x), net.reconstruct(x))
    assert net.reconstruct(x).shape == x.shape
    assert net.encode(x).z.shape == net.prior(4).shape == (4, *net.latent_shape)


@pytest.mark.parametrize(("cls", "options"), SPACES, ids=str)
@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_a_charge_does_not_depend_on_the_batch(
    cls: Any, options: dict[str, Any], spatial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)  # the ball charges for its draw
    neck = make(cls, **options)
    features = torch.randn(6, neck.fan_in, *spatial)
    whole = neck(features).penalty
    close(torch.cat([neck(part).penalty for part in features.split([1, 3, 2])]), whole)
    flat = features.movedim(1, -1).reshape(-1, neck.fan_in)  # every position a latent of its own
    close(whole, per_image(neck(flat).penalty.view(6, -1)))


@pytest.mark.parametrize(("cls", "options"), SPACES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wild_features_stay_finite(cls: Any, options: dict[str, Any], dtype: torch.dtype) -> None:
    neck = make(cls, **options).to(dtype).eval()
    for scale in (0.0, 1e-20, 1.0, 30.0, 1e4):
        features = (torch.randn(64, neck.fan_in, dtype=dtype) * scale).requires_grad_()
        latent = neck(features)
        assert latent.z.dtype == latent.penalty.dtype == latent.mean.dtype == dtype
        (latent.z.sum() + latent.penalty.sum()).backward()
        for value in (latent.z, latent.mean, latent.penalty, features.grad):
            assert value.isfinite().all(), scale


@pytest.mark.parametrize(("cls", "options"), SPACES, ids=str)
def test_a_loss_compiles_in_one_graph(cls: Any, options: dict[str, Any]) -> None:
    torch.compiler.reset()
    neck = make(cls, **options)

    def charge(features: Tensor) -> tuple[Tensor, Tensor]:
        latent = neck(features)
        return latent.z, latent.penalty

    compiled = torch.compile(charge, backend="eager", fullgraph=True)
    z, penalty = compiled(torch.randn(4, neck.fan_in, requires_grad=True))
    (z.sum() + penalty.sum()).backward()


# -------------------------------------------------------------------------------- nearest


@pytest.mark.parametrize("spatial", [(), (2, 3)])
@pytest.mark.parametrize(("cls", "options"), SPACES, ids=str)
def test_nothing_that_reconstructs_is_nearer_than_nearest(
    cls: Any, options: dict[str, Any], spatial: tuple[int, ...]
) -> None:
    neck = make(cls, **options).eval()
    given = neck(torch.randn(200, neck.fan_in, *spatial)).mean.detach()
    close(neck.nearest(given), given)
    asked = given.flip(0) + torch.randn_like(given)
    found = neck.nearest(asked)
    assert found.shape == asked.shape and found.dtype == asked.dtype
    close(neck.nearest(found), found)
    apart = (asked - found).flatten(1).norm(dim=1)
    assert (apart <= torch.cdist(asked.flatten(1), given.flatten(1)).min(1).values + 1e-9).all()


def test_nearest_is_on_the_sphere_in_the_ball_and_one_hot() -> None:
    z = 2 * torch.randn(50, 6, 2)
    on_sphere = Sphere(dim=6).nearest(z)
    close(on_sphere, z / z.norm(dim=1, keepdim=True))
    ball = Poincare(dim=6, curvature=0.04)  # of radius 5
    far = z.norm(dim=1, keepdim=True) > 5
    assert 10 < far.sum() < 90
    close(ball.nearest(z), torch.where(far, 5 * z / z.norm(dim=1, keepdim=True), z), rtol=1e-5)
    assert ball.nearest(z).norm(dim=1).max() < 5
    codes = Categorical(variables=2, categories=3).nearest(z).view(50, 2, 3, 2)
    assert torch.equal(codes.sum(2), torch.ones(50, 2, 2))
    assert torch.equal(codes.argmax(2), z.view(50, 2, 3, 2).argmax(2))
    both = Joint(dim=2, variables=2, categories=2).nearest(z)
    assert torch.equal(both[:, :2], z[:, :2])
    assert torch.equal(both[:, 2:], Categorical(variables=2, categories=2).nearest(z[:, 2:]))
    neck = make(Conditional, dim=3)
    assert torch.equal(neck.nearest(z), neck.relabel(z, neck.labels_of(z)))


class _Anywhere:
    """A sampler fitted ex post, which knows nothing of the space."""

    def __init__(self, latent: int) -> None:
        self.latent = latent

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.latent, generator=generator)


@pytest.mark.parametrize(("cls", "options"), SPACES, ids=str)
def test_a_decoder_is_shown_only_what_its_bottleneck_can_give(cls: Any, options: dict[str, Any]) -> None:
    neck = make(cls, **options).eval()
    latent = neck(torch.randn(1, neck.fan_in)).z.shape[1]
    loaded: Any = SimpleNamespace(
        model=SimpleNamespace(bottleneck=neck, latent_shape=(latent,)),
        device=torch.device("cpu"),
        path="run",
        batch=64,
    )
    parts = list(samplers.draw_from(loaded, _Anywhere(latent), 150, wanted=None, seed=4))
    shown = torch.cat(parts)
    raw = torch.randn(150, latent, generator=torch.Generator().manual_seed(4))
    assert torch.equal(shown, neck.nearest(raw))
    assert [len(part) for part in parts] == [64, 64, 22]


def test_the_way_between_two_latents_stays_in_the_space_and_ends_where_it_should() -> None:
    a, b = torch.randn(2, 3)  # not on the sphere: what a file's image gave is not touched
    neck = Sphere(dim=3)
    way = path(a, b, 7, nearest=neck.nearest)
    assert torch.equal(way[0], a) and torch.equal(way[-1], b)
    close(way[1:-1].norm(dim=1), 1.0)
    assert torch.equal(path(a, b, 2, nearest=neck.nearest), torch.stack([a, b]))


# -------------------------------------------------------------------------------- Bessel functions

DIMS = [2, 3, 4, 5, 16, 33, 64, 128]
KAPPAS = [1e-3, 0.1, 1.0, 5.0, 20.0, 100.0, 1e3, 1e4, 1e5]


def partition(kappa: Any, dim: int) -> Any:
    """log of the mean of exp(kappa · cosine), by scipy's Bessel function."""
    v = dim / 2 - 1
    return special.gammaln(v + 1) - v * np.log(kappa / 2) + np.log(special.ive(v, kappa)) + kappa


def ratio(kappa: Any, dim: int) -> Any:
    return special.ive(dim / 2, kappa) / special.ive(dim / 2 - 1, kappa)


@pytest.mark.parametrize("dim", DIMS)
def test_bessel_functions_are_those_of_scipy(dim: int) -> None:
    kappa = torch.tensor(KAPPAS) * (1 + torch.rand(()))
    log, first = log_partition(kappa, dim)
    keep = np.isfinite(partition(kappa.numpy(), dim))  # scipy underflows where kappa is small and dim large
    assert keep.sum() >= 6
    close(log[keep], partition(kappa.numpy(), dim)[keep], atol=1e-8)
    close(first[keep], ratio(kappa.numpy(), dim)[keep])
    single = log_partition(kappa.float(), dim)
    close(single[0], log.float(), rtol=1e-5, atol=1e-6)
    close(single[1], first.float(), rtol=1e-5)


@pytest.mark.parametrize("dim", DIMS)
def test_bessel_functions_have_their_gradients(dim: int) -> None:
    kappa = (torch.tensor([0.05, 0.5, 3.0, 30.0, 300.0]) * (1 + torch.rand(()))).requires_grad_()
    assert torch.autograd.gradcheck(lambda k: log_partition(k, dim), (kappa,))
    _, first = log_partition(kappa, dim)
    (second,) = torch.autograd.grad(first.sum(), kappa)
    close(second, 1 - first**2 - (dim - 1) / kappa * first, rtol=1e-5)


def test_bessel_functions_are_quiet_at_0_and_in_thousands_of_dimensions() -> None:
    for dim in (2, 3, 50):
        kappa = torch.zeros(1, requires_grad=True)
        log, first = log_partition(kappa, dim)
        close(log, 0.0, atol=1e-15)
        close(first, 0.0)
        close(torch.autograd.grad(first.sum(), kappa)[0], 1 / dim)
    log, first = log_partition(torch.tensor([1.0, 4000.0], dtype=torch.float32), 4000)
    close(first[1], ((math.sqrt(5) - 1) / 2), rtol=1e-3)  # the limit of many dimensions
    assert log.isfinite().all()


# -------------------------------------------------------------------------------- the sphere


def vmf(dim: int, kappa: float, count: int = 1, mean: Tensor | None = None) -> VonMisesFisher:
    mean = normalize(torch.randn(1, dim), dim=1) if mean is None else mean
    return VonMisesFisher(mean.expand(count, dim), torch.full((count, 1), kappa))


def test_vmf_density_on_the_circle_and_the_ordinary_sphere() -> None:
    for kappa in (0.3, 4.0, 60.0):
        angles = torch.rand(20) * 2 * math.pi
        points = torch.stack([angles.cos(), angles.sin()], 1)
        circle = vmf(2, kappa, 20, torch.tensor([[0.6, 0.8]]))
        close(circle.log_prob(points), stats.vonmises(kappa, loc=math.atan2(0.8, 0.6)).logpdf(angles.numpy()))
        points = normalize(torch.randn(20, 3), dim=1)
        ordinary = vmf(3, kappa, 20)
        reference = math.log(kappa / (4 * math.pi * math.sinh(kappa))) + kappa * (points * ordinary.mean).sum(1)
        close(ordinary.log_prob(points), reference)


@pytest.mark.parametrize("dim", [3, 5, 16, 40])
def test_vmf_density_is_that_of_scipy(dim: int) -> None:
    kappa = 1 + 50 * torch.rand(()).item()
    q, points = vmf(dim, kappa, 20), normalize(torch.randn(20, dim), dim=1)
    reference = stats.vonmises_fisher(q.mean[0].numpy(), kappa)
    close(q.log_prob(points), reference.logpdf(points.numpy()))


@pytest.mark.parametrize("dim", [2, 3, 5, 16, 64])
@pytest.mark.parametrize("kappa", [0.05, 2.0, 30.0, 1000.0])
def test_vmf_kl_is_the_integral_and_so_is_its_gradient(dim: int, kappa: float) -> None:
    """KL(q ‖ uniform) = ∫ q log q + log area, over the angle to the mean; Davidson et al., 2018."""

    def charge(k: float) -> float:
        def density(angle: float) -> float:
            log = k * (math.cos(angle) - 1) + (dim - 2) * math.log(math.sin(angle))
            return math.exp(log)

        places = [min(1, i / math.sqrt(k + 1)) for i in (1, 2, 4, 8)]
        whole = integrate.quad(density, 0, math.pi, points=places, epsabs=0, epsrel=1e-12, limit=400)[0]
        cosine = integrate.quad(
            lambda a: (1 - math.cos(a)) * density(a), 0, math.pi, points=places, epsabs=0, epsrel=1e-12, limit=400
        )[0]
        belt = log_area(dim - 1) if dim > 2 else math.log(2)
        return -k * cosine / whole - math.log(whole) - belt + log_area(dim)

    k = torch.full((1, 1), kappa, requires_grad=True)
    kl = VonMisesFisher(normalize(torch.randn(1, dim), dim=1), k).kl()
    close(kl, charge(kappa), rtol=1e-6, atol=1e-10)
    step = 1e-4 * kappa
    (gradient,) = torch.autograd.grad(kl.sum(), k)
    close(gradient, (charge(kappa + step) - charge(kappa - step)) / (2 * step), rtol=2e-5, atol=1e-8)
    single = k.detach().float().requires_grad_()
    kl = VonMisesFisher(normalize(torch.randn(1, dim, dtype=torch.float32), dim=1), single).kl()
    close(torch.autograd.grad(kl.sum(), single)[0], gradient.float(), rtol=1e-5)


def test_the_area_of_spheres() -> None:
    close(torch.tensor([log_area(2), log_area(3), log_area(4)]).exp() / math.pi, [2, 4, 2 * math.pi])


@pytest.mark.parametrize("dim", [2, 3, 5, 16, 64])
@pytest.mark.parametrize("kappa", [0.1, 3.0, 50.0])
def test_draws_follow_the_distribution_function(dim: int, kappa: float) -> None:
    cosines = 1 - depths(torch.full((4000,), kappa), dim)
    angles = np.linspace(0, math.pi, 4001)[1:-1]
    with np.errstate(divide="ignore"):
        mass = np.exp(kappa * (np.cos(angles) - 1) + (dim - 2) * np.log(np.sin(angles)))
    below = np.cumsum(mass) / mass.sum()
    distance = stats.kstest(np.arccos(cosines.numpy()), lambda a: np.interp(a, angles, below)).statistic
    assert distance < 2.6 / math.sqrt(4000)  # chance: 3e-6


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_draws_lie_around_their_mean_wherever_it_points(dim: int) -> None:
    axis = torch.eye(dim)[:1]
    for mean in (axis, -axis, normalize(torch.randn(1, dim), dim=1)):
        q = vmf(dim, 4.0, 40_000, mean)
        z = q.sample()
        close(z.norm(dim=1), 1.0)
        close(z.mean(0, keepdim=True), ratio(4.0, dim) * mean, rtol=0, atol=0.03)
        across = 1 - (dim - 1) / 4.0 * ratio(4.0, dim)  # the mean square of the cosine
        share = torch.full((dim,), (1 - across) / (dim - 1))
        reference = torch.diag(share) + (across - share[0]) * mean.T @ mean
        close(z.T @ z / len(z), reference, rtol=0, atol=0.03)


def test_a_proposal_is_nearly_always_accepted() -> None:
    """Wood, 1994: at least 0.65 of them; of sixteen none with a probability under 5e-8."""
    worst = 1.0
    for dim, kappa in itertools.product((2, 3, 8, 64), (1.0, 30.0, 1e3, 1e5)):
        b = (dim - 1) / (2 * kappa + math.sqrt(4 * kappa**2 + (dim - 1) ** 2))
        x = (1 - b) / (1 + b)
        angle = torch.arange(0.5, 4000) / 4000 * math.pi  # of the proposals' uniform direction
        weight = angle.sin() ** (dim - 2)
        w = (x + angle.cos()) / (1 + x * angle.cos())
        log_share = kappa * (w - x) + (dim - 1) * torch.log((1 - x * w) / (1 - x * x))
        assert log_share.max() < 1e-6
        worst = min(worst, float((weight * log_share.exp()).sum() / weight.sum()))
    assert (1 - worst) ** 16 < 5e-8


def test_the_first_proposal_stands_where_none_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    rand = torch.rand

    def unlucky(*shape: int, **how: Any) -> Tensor:
        drawn = rand(*shape, **how)
        drawn[2] = 1.0  # only a proposal at the very best place passes
        return drawn

    monkeypatch.setattr(torch, "rand", unlucky)
    close(vmf(3, 50.0, 100).sample().norm(dim=1), 1.0)


@pytest.mark.parametrize("dim", [2, 3, 5, 64])
@pytest.mark.parametrize("kappa", [0.01, 1.0, 40.0, 3000.0])
def test_a_draw_moves_with_kappa_as_the_distribution_function_says(dim: int, kappa: float) -> None:
    """Figurnov et al., 2018, by scipy's quadrature."""
    k = torch.full((5,), kappa)
    drawn = depths(k, dim)
    mean = torch.full((5,), float(ratio(kappa, dim)))
    for value, depth in zip(slope(k, drawn, mean, dim), drawn.tolist(), strict=True):
        end = math.acos(1 - depth)

        def integrand(a: float, end: float = end) -> float:
            relative = (math.sin(a) / math.sin(end)) ** (dim - 2)
            return (math.cos(a) - mean[0].item()) * math.exp(kappa * (math.cos(a) - math.cos(end))) * relative

        reference = integrate.quad(integrand, 0, end, epsabs=0, epsrel=1e-10, limit=400)[0] * math.sin(end)
        close(value, -reference, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize(("dim", "kappa"), [(2, 1.0), (3, 1.0), (3, 8.0), (12, 15.0)])
def test_the_gradient_of_a_mean_over_draws_is_unbiased(dim: int, kappa: float) -> None:
    """The error of samplers that let gradients through the accepted proposal alone: 44 % too small on the circle."""
    k = torch.full((60_000, 1), kappa, requires_grad=True)
    mean = torch.eye(dim)[1:2].expand(60_000, dim)
    z = VonMisesFisher(mean, k).sample()
    (slopes,) = torch.autograd.grad(z[:, 1].sum(), k, retain_graph=True)
    true = 1 - ratio(kappa, dim) ** 2 - (dim - 1) / kappa * ratio(kappa, dim)
    assert abs(slopes.mean().item() - true) < 6 * slopes.std().item() / math.sqrt(60_000)
    assert abs(slopes.mean().item() / true - 1) < 0.03
    assert (slopes >= 0).all()


def test_the_gradient_to_the_direction_is_that_of_the_mean() -> None:
    mean = normalize(torch.tensor([[0.3, -1.0, 0.5, 0.2]]), dim=1).requires_grad_()
    target = torch.tensor([1.0, 0.5, -0.3, 0.2])
    z = VonMisesFisher(mean.expand(100_000, 4), torch.full((100_000, 1), 6.0)).sample()
    (gradient,) = torch.autograd.grad((z @ target).mean(), mean)
    # Along the sphere the mean of z is A(kappa) times the direction.
    along = target - (target @ mean[0].detach()) * mean[0].detach()
    ours = gradient[0] - (gradient[0] @ mean[0].detach()) * mean[0].detach()
    close(ours, ratio(6.0, 4) * along, rtol=0, atol=0.03)


@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_sphere_bottleneck(spatial: tuple[int, ...]) -> None:
    neck = Sphere(dim=5)
    features = torch.randn(4, 6, *spatial)
    latent = neck(features)
    close(latent.z.norm(dim=1), 1.0)
    close(latent.mean, normalize(features[:, :5], dim=1))
    kappa = 5 * torch.log1p(features[:, 5].exp())
    positions = math.prod(spatial)
    log, first = (torch.from_numpy(f(kappa.numpy(), 5)) for f in (partition, ratio))
    close(latent.penalty, per_image(kappa * first - log))
    log_q = (latent.z * latent.mean).sum(1) * kappa - log - log_area(5)
    close(latent.posterior.log_prob(latent.z), per_image(log_q))
    close(neck.log_prior(latent.z), -positions * log_area(5))
    assert not neck.train()(features).watch
    close(neck.eval()(features).watch["concentration"], per_image(kappa) / positions)


def test_the_sphere_charges_the_mean_of_its_log_densities() -> None:
    neck = Sphere(dim=4)
    latent = neck(torch.randn(1, 5).expand(60_000, 5))
    charge = latent.posterior.log_prob(latent.z) - neck.log_prior(latent.z)
    assert abs(charge.mean() - latent.penalty[0]) < 6 * charge.std() / math.sqrt(60_000)


def test_the_prior_of_the_sphere_is_uniform() -> None:
    z = Sphere(dim=3).prior(20_000, (3,), torch.Generator().manual_seed(torch.randint(1000, ()).item()))
    close(z.norm(dim=1), 1.0)
    assert stats.kstest(z[:, 0].numpy(), lambda t: (t + 1) / 2).statistic < 2.6 / math.sqrt(20_000)  # Archimedes


# -------------------------------------------------------------------------------- the Poincaré ball


@pytest.mark.parametrize("curvature", [0.4, 1.0, 3.0])
def test_the_wrapped_normal_has_a_mass_of_1(curvature: float) -> None:
    """By quadrature over the disc, in polar coordinates of the ball's own metric around the origin."""
    ball = Ball(curvature)
    mean = ball.out(torch.tensor([[0.7, -0.4]]))
    q = WrappedNormal(ball, mean, torch.tensor([[0.5, 0.8]]))
    p = WrappedNormal(ball, torch.zeros(1, 2), torch.ones(1, 2))
    steps, turns = 600, 240
    r = (torch.arange(steps) + 0.5) / steps * 9 / math.sqrt(curvature)  # distance from the origin
    angle = torch.arange(turns) / turns * 2 * math.pi
    direction = torch.stack([angle.cos(), angle.sin()], 1)
    z = (torch.tanh(ball.root * r / 2) / ball.root).view(-1, 1, 1) * direction
    jacobian = torch.sinh(ball.root * r) / ball.root  # of the volume
    cell = jacobian.unsqueeze(1) * (r[1] - r[0]) * (2 * math.pi / turns)
    masses = {}
    for name, law in (("q", q), ("p", p)):
        masses[name] = law.log_prob(z.view(-1, 2)).view(steps, turns)
        close((masses[name].exp() * cell).sum(), 1.0, rtol=1e-4)
    kl = (masses["q"].exp() * (masses["q"] - masses["p"]) * cell).sum()
    many = WrappedNormal(ball, mean.expand(40_000, 2), q.std.expand(40_000, 2))
    drawn, log_q = many.draw()
    charge = log_q - Poincare(dim=2, curvature=curvature).log_prior(drawn)
    assert abs(charge.mean() - kl) < 6 * charge.std() / math.sqrt(40_000)


@pytest.mark.parametrize("spatial", [(), (2, 3)])
@pytest.mark.parametrize("curvature", [0.5, 2.0])
def test_the_density_is_that_of_the_paper(spatial: tuple[int, ...], curvature: float) -> None:
    """Mathieu et al., 2019: logarithm and frame at the mean, one latent at a time, and the distance by arcosh."""
    neck = Poincare(dim=3, curvature=curvature)
    features = torch.randn(4, 6, *spatial)
    latent = neck(features)
    q = latent.posterior
    z, log_q = q.draw()
    close(q.log_prob(z), log_q)

    def one(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        c = curvature
        xx, yy, xy = mean @ mean, z @ z, -(mean @ z)
        step = ((1 + 2 * c * xy + c * yy) * -mean + (1 - c * xx) * z) / (1 + 2 * c * xy + c * c * xx * yy)
        size = step.norm()
        factor = 2 / (1 - c * xx)
        log_map = 2 / (math.sqrt(c) * factor) * torch.atanh(math.sqrt(c) * size) * step / size
        v = factor * log_map  # in an orthonormal frame
        gap = 1 + 2 * c * (z - mean).square().sum() / ((1 - c * xx) * (1 - c * yy))
        distance = torch.acosh(gap) / math.sqrt(c)
        close(v.norm(), distance)
        volume = torch.log(torch.sinh(math.sqrt(c) * distance) / (math.sqrt(c) * distance))
        return Normal(0.0, std).log_prob(v).sum() - 2 * volume

    def rows(value: Tensor) -> Tensor:
        return value.movedim(1, -1).reshape(-1, 3)

    each = [one(*row) for row in zip(rows(z), rows(q.mean), rows(q.std), strict=True)]
    close(log_q, per_image(torch.stack(each).view(4, -1)))
    origin = [one(a, torch.zeros(3), torch.ones(3)) for a in rows(z)]
    close(neck.log_prior(z), per_image(torch.stack(origin).view(4, -1)))
    assert (latent.z.square().sum(1) * curvature < 1).all()


def test_a_draw_is_as_far_from_its_mean_as_its_tangent_vector_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.randn(50, 4)
    monkeypatch.setattr(torch, "randn_like", lambda _: noise)
    ball = Ball(0.7)
    mean, std = ball.out(torch.randn(50, 4)), torch.rand(50, 4) + 0.1
    z = WrappedNormal(ball, mean, std).sample()
    gap = (z - mean).square().sum(1) / ((1 - 0.7 * mean.square().sum(1)) * (1 - 0.7 * z.square().sum(1)))
    close(torch.acosh(1 + 1.4 * gap) / math.sqrt(0.7), (std * noise).norm(dim=1))


def test_a_flat_ball_is_a_gaussian() -> None:
    """With the curvature near 0, z is half the Gaussian's, and the charge is the Gaussian's KL on average."""
    neck = Poincare(dim=3, curvature=1e-10)
    features = torch.randn(1, 6)
    latent = neck(features.expand(40_000, 6))
    mean, std = features[:, :3], (features[:, 3:] / 2).exp()
    close(latent.posterior.mean[:1], mean / 2, rtol=1e-5)
    close(latent.posterior.log_prob(latent.z), Normal(mean, std).log_prob(2 * latent.z).sum(1), rtol=1e-5)
    kl = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum()
    assert abs(latent.penalty.mean() - kl) < 6 * latent.penalty.std() / math.sqrt(40_000)


def test_the_prior_of_the_ball_is_a_normal_by_distance() -> None:
    z = Poincare(dim=2, curvature=2.0).prior(20_000, (2,), torch.Generator().manual_seed(1))
    distance = 2 / math.sqrt(2) * torch.atanh(math.sqrt(2) * z.norm(dim=1))
    assert stats.kstest(distance.numpy(), stats.rayleigh.cdf).statistic < 2.6 / math.sqrt(20_000)


def test_a_prior_at_the_rim_is_refused() -> None:
    with pytest.raises(UsageError, match=r"256 dimensions and a curvature of 1 .* at most 0.39"):
        Poincare(dim=256)
    z = Poincare(dim=256, curvature=0.39).prior(100, (256,))
    assert (z.norm(dim=1) * math.sqrt(0.39) < 1).all()


# -------------------------------------------------------------------------------- categories


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_categorical_bottleneck(spatial: tuple[int, ...], hard: bool) -> None:
    neck = Categorical(variables=3, categories=4, hard=hard)
    features = torch.randn(5, 12, *spatial) * 2
    latent = neck(features)
    logits = features.view(5, 3, 4, *spatial).movedim(2, -1)
    q = OneHotCategorical(logits=logits)
    close(latent.penalty, per_image(kl_divergence(q, OneHotCategorical(logits=torch.zeros_like(logits)))))
    assert torch.equal(latent.codes, logits.argmax(-1))
    z = latent.z.view(5, 3, 4, *spatial).movedim(2, -1)
    close(z.sum(-1), 1.0)
    close(latent.mean.view(5, 3, 4, *spatial).movedim(2, -1), torch.eye(4)[latent.codes])
    if hard:
        close(z.max(-1).values, 1.0)
        close(latent.posterior.log_prob(latent.z), per_image(q.log_prob(z.round())))


def test_the_draws_of_a_category_are_as_frequent_as_it_is_likely() -> None:
    features = torch.tensor([[0.0, 1.0, -1.0, 0.5]])
    z = Categorical(variables=1, categories=4)(features.expand(50_000, 4)).z
    close(torch.bincount(z.argmax(1), minlength=4) / 50_000, features[0].softmax(0), rtol=0, atol=0.015)


def test_the_relaxed_draw_is_the_concrete_distribution() -> None:
    """Maddison et al., 2017, of two categories: logit(z) = (logit + logistic noise) / temperature."""
    features = torch.tensor([[0.7, -0.2]])
    z = Categorical(variables=1, categories=2, temperature=0.5)(features.expand(5000, 2)).z
    noise = 0.5 * (z[:, 0].log() - z[:, 1].log()) - 0.9
    assert stats.kstest(noise.numpy(), "logistic").statistic < 2.6 / math.sqrt(5000)


def test_a_lower_temperature_is_nearer_to_one_hot() -> None:
    features = torch.randn(2000, 40)
    peaks = [
        Categorical(variables=4, categories=10, temperature=t)(features).z.unflatten(1, (4, 10)).amax(2).mean()
        for t in (0.1, 0.67, 5.0)
    ]
    assert peaks[0] > peaks[1] > peaks[2]


@pytest.mark.parametrize("hard", [False, True])
def test_gradients_reach_the_logits_through_draw_mean_and_charge(hard: bool) -> None:
    neck = Categorical(variables=2, categories=3, hard=hard)
    weights = torch.randn(6)
    for part in ("z", "mean", "penalty"):
        features = torch.randn(4, 6, requires_grad=True)
        value = getattr(neck(features), part)
        (value @ weights if part != "penalty" else value).sum().backward()
        assert features.grad.abs().min() > 0, part  # type: ignore[union-attr]
    probabilities = features.detach().unflatten(1, (2, 3)).softmax(2)
    features = features.detach().requires_grad_()
    (straight,) = torch.autograd.grad((neck(features).mean @ weights).sum(), features)
    weighted = weights.view(2, 3)
    close(straight.view(4, 2, 3), probabilities * (weighted - (probabilities * weighted).sum(2, keepdim=True)))


def test_the_prior_of_categories_is_uniform_and_one_hot() -> None:
    neck = Categorical(variables=2, categories=5)
    for shape in ((10,), (10, 2, 3)):
        z = neck.prior(8000, shape, torch.Generator().manual_seed(2)).unflatten(1, (2, 5))
        assert torch.equal(z.sum(2), torch.ones_like(z[:, :, 0]))
        assert set(z.unique().tolist()) == {0.0, 1.0}
        close(z.mean(0), 0.2, rtol=0, atol=0.03)


@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_joint_is_a_gaussian_beside_categories(spatial: tuple[int, ...]) -> None:
    neck = Joint(dim=3, variables=2, categories=4).eval()
    features = torch.randn(5, 14, *spatial)
    latent = neck(features)
    mean, logvar, rest = features.split([3, 3, 8], 1)
    logits = rest.view(5, 2, 4, *spatial).movedim(2, -1)
    kl = per_image(kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)))
    kl = kl + per_image(
        kl_divergence(OneHotCategorical(logits=logits), OneHotCategorical(logits=torch.zeros_like(logits)))
    )
    close(latent.penalty, kl)
    close(latent.mean[:, :3], mean)
    close(latent.mean[:, 3:].view(5, 2, 4, *spatial).movedim(2, -1), torch.eye(4)[logits.argmax(-1)])
    close(latent.z[:, 3:].reshape(5, 2, 4, -1).sum(2), 1.0)
    z = torch.cat([latent.z[:, :3], latent.mean[:, 3:]], 1)
    log_q = per_image(Normal(mean, (logvar / 2).exp()).log_prob(z[:, :3]))
    close(latent.posterior.log_prob(z), log_q + per_image(logits.log_softmax(-1).amax(-1)))
    drawn = neck.prior(4000, (11, *spatial), torch.Generator().manual_seed(3))
    close(drawn[:, :3].std(), 1.0, rtol=0.05)
    close(drawn[:, 3:].mean(0), 0.25, rtol=0, atol=0.05)


# -------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_conditional_bottleneck(spatial: tuple[int, ...]) -> None:
    neck = Conditional(3, dim=4, label_weight=0.7).eval()
    features, labels = torch.randn(6, 11, *spatial), torch.tensor([0, 2, 1, 1, 0, 2])
    mean, logvar, logits = features.split([4, 4, 3], 1)
    logits = logits.reshape(6, 3, -1).mean(2)
    kl = per_image(kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)))
    untold, told = neck(features), neck(features, labels=labels)
    close(untold.penalty, kl)
    close(told.penalty, kl - 0.7 * logits.log_softmax(1)[range(6), labels])
    for latent, classes in ((untold, logits.argmax(1)), (told, labels)):
        close(latent.mean[:, :4], mean)
        for part in (latent.z, latent.mean):
            marks = torch.eye(3)[classes].view(6, 3, *[1] * len(spatial)).expand(6, 3, *spatial)
            assert torch.equal(part[:, 4:], marks)
            assert torch.equal(neck.labels_of(part), classes)
    close(told.watch["label_accuracy"], (logits.argmax(1) == labels).double())
    assert "label_accuracy" not in untold.watch
    close(told.posterior.log_prob(told.z), per_image(Normal(mean, (logvar / 2).exp()).log_prob(told.z[:, :4])))
    assert not neck.train()(features, labels=labels).watch


def test_the_style_is_drawn_and_the_class_is_not() -> None:
    neck = Conditional(2, dim=1)
    features = torch.tensor([[1.0, -2.0, 0.3, 0.1]]).expand(50_000, 4)
    z = neck(features).z
    assert torch.equal(z[:, 1:], torch.tensor([[1.0, 0.0]]).expand(50_000, 2))
    close(z[:, 0].mean(), 1.0, rtol=0, atol=0.01)
    close(z[:, 0].std(), math.exp(-1), rtol=0.03)


def test_the_class_logits_learn_from_the_labels_alone() -> None:
    neck = Conditional(3, dim=2)
    features, labels = torch.randn(4, 7, requires_grad=True), torch.tensor([0, 1, 2, 1])
    latent = neck(features)
    (gradient,) = torch.autograd.grad(latent.z.square().sum() + latent.penalty.sum(), features)
    assert not gradient[:, 4:].any()
    (gradient,) = torch.autograd.grad(neck(features, labels=labels).penalty.sum(), features)
    close(gradient[:, 4:], features[:, 4:].softmax(1) - torch.eye(3)[labels])


@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_the_prior_takes_labels(spatial: tuple[int, ...]) -> None:
    neck = Conditional(3, dim=2)
    labels = torch.tensor([2, 0, 1, 1])
    z = neck.prior(4, (5, *spatial), torch.Generator().manual_seed(1), labels)
    assert torch.equal(neck.labels_of(z), labels)
    free = neck.prior(4, (5, *spatial), torch.Generator().manual_seed(1))
    assert torch.equal(free[:, :2], z[:, :2])  # the same styles
    assert torch.equal(neck.relabel(free, labels), z)
    many = neck.prior(6000, (5, *spatial), torch.Generator().manual_seed(1))
    close(torch.bincount(neck.labels_of(many), minlength=3) / 6000, 1 / 3, rtol=0, atol=0.04)


def test_labels_of_a_blurred_mark_and_a_new_mark() -> None:
    """What a mixture of Gaussians draws is near a mark, and not one."""
    neck = Conditional(3, dim=2)
    for shape in ((5,), (5, 2, 3)):
        labels = torch.randint(3, (40,))
        z = neck.prior(40, shape, labels=labels)
        blurred = z + 0.2 * torch.rand_like(z) - 0.1
        assert torch.equal(neck.labels_of(blurred), labels)
        again = neck.relabel(blurred, labels)
        assert torch.equal(again[:, 2:], z[:, 2:])
        assert torch.equal(again[:, :2], blurred[:, :2])


def test_the_model_passes_its_labels(built: Any) -> None:
    net = built(Conditional, dim=4).eval()
    x, labels = torch.rand(6, *IMAGE) * 2 - 1, torch.tensor([0, 1, 2, 2, 1, 0])
    guessed = net.encode(x)
    told = net.encode(x, labels)
    assert torch.equal(net.bottleneck.labels_of(told.z), labels)
    assert (told.penalty > guessed.penalty).all()
    for objective in (ConditionalVAE().eval(), VAE().eval()):
        outcome = objective.loss(net.given(labels), x)
        close(outcome.watch["charge"], told.penalty)  # with a cross-entropy of labels, so that it is no KL
        assert "negative_elbo" not in outcome.watch
    assert not torch.equal(net.decode(net.bottleneck.relabel(told.z, (labels + 1) % 3)).mean, net.decode(told.z).mean)


def test_data_without_labels_is_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"the data has no labels; take data with labels.*a folder a class"):
        Conditional(0)
    assert ConditionalVAE.bottleneck == "conditional"
