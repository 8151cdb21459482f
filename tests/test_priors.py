"""Posteriors beyond the diagonal Gaussian and priors that are learned: every number against an independent float64 reference."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from aegen_builtin.latents.flow_posterior import FlowPosterior
from aegen_builtin.latents.flows import IAF, Flow, Planar, Radial
from aegen_builtin.latents.full_gaussian import FullGaussian
from aegen_builtin.latents.gaussian import Gaussian
from aegen_builtin.latents.mixture_prior import MixturePrior
from aegen_builtin.latents.vamp import Vamp
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

from aegen import registry, testing
from aegen.autoencoder import Autoencoder, build_objective, build_sampler
from aegen.nn.densities import DiagonalGaussian
from aegen.protocols import Bottleneck, ImageShape
from aegen.spec import Spec
from aegen.training.ema import EMA
from aegen.training.turns import reduce

IMAGE = ImageShape(2, 12, 12)
FLOWS = ["planar", "radial", "iaf"]
KINDS: dict[str, Callable[..., Bottleneck]] = {
    "full-gaussian": FullGaussian,
    "mixture-prior": MixturePrior,
    "vamp": lambda **options: Vamp(IMAGE, **{"components": 7, **options}),
    **{flow: lambda flow=flow, **options: FlowPosterior(flow=flow, **options) for flow in FLOWS},
}
LEARNED = ["mixture-prior", "vamp"]


@pytest.fixture(autouse=True)
def _double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(ours: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-9)


def images(count: int = 5) -> Tensor:
    return torch.rand(count, *IMAGE) * 2 - 1


def put_together(neck: Bottleneck, *, spatial: bool = False) -> Autoencoder:
    """As build_model does it, around a bottleneck that need not be registered."""
    arch = registry.get("architecture", "conv" if spatial else "mlp")
    options: dict[str, Any] = {"width": 4, "depth": 1, "spatial": True} if spatial else {"hidden": [16]}
    nets, pixels = arch(IMAGE, neck.fan_in, **options), registry.get("likelihood", "gaussian")(IMAGE)
    with torch.device("meta"), torch.no_grad():
        features = nets.encoder().eval()(torch.empty(1, *IMAGE))
        z = copy.deepcopy(neck).to("meta").eval()(features).z
    latent = tuple(z.shape[1:])
    return Autoencoder(IMAGE, nets.encoder(), neck, nets.decoder(latent, pixels.fan_out), pixels, latent).double()


def attached(neck: Bottleneck, spatial: tuple[int, ...] = ()) -> Bottleneck:
    """With an encoder of its own, where it wants one."""
    wide = neck.fan_in * math.prod(spatial)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(IMAGE), wide), nn.Unflatten(1, (neck.fan_in, *spatial)))
    neck.attach(encoder)
    return neck


# ------------------------------------------------------------------------------------------ what all of them promise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 3])
def test_contract(kind: str, dim: int) -> None:
    torch.set_default_dtype(torch.float32)
    if kind in FLOWS:
        testing.check_bottleneck(FlowPosterior, flow=kind, dim=dim, depth=2, hidden=2)
    elif kind == "full-gaussian":
        testing.check_bottleneck(FullGaussian, dim=dim)
    else:
        testing.check_bottleneck({"vamp": Vamp, "mixture-prior": MixturePrior}[kind], dim=dim, components=3)


@pytest.mark.parametrize("cls", [FullGaussian, MixturePrior, Vamp, FlowPosterior])
def test_contract_with_the_defaults(cls: type[Bottleneck]) -> None:
    torch.set_default_dtype(torch.float32)
    testing.check_bottleneck(cls)


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_vae_trains_all_that_there_is(kind: str, spatial: bool) -> None:
    model = put_together(KINDS[kind](dim=3), spatial=spatial)
    objective = build_objective(Spec("vae"), model)
    reduce(objective.loss(model, images()))[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    objective.eval()
    model.eval()
    with torch.no_grad():
        watch = objective.loss(model, images()).watch
    assert {"negative_elbo", "kl"} <= set(watch)
    assert 0 <= float(model.encode(images()).statistics["active_units"]) <= math.prod(model.latent_shape)


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_prior_sampler_works_unchanged(kind: str, spatial: bool) -> None:
    model = put_together(KINDS[kind](dim=3), spatial=spatial)
    sampler = build_sampler(Spec("prior"), model)
    z, again = (sampler.sample(6, torch.Generator().manual_seed(4)) for _ in range(2))
    assert z.shape == (6, *model.latent_shape) and torch.equal(z, again) and not z.requires_grad
    assert not sampler.state_dict(), "the model's weights would be saved twice"
    assert model.decode(z).mean.shape == (6, *IMAGE)


@pytest.mark.parametrize("kind", KINDS)
def test_any_latent_is_its_own_nearest_where_all_of_space_can_be_given(kind: str) -> None:
    z = 9 * torch.randn(6, 3)
    assert KINDS[kind](dim=3).nearest(z) is z


@pytest.mark.parametrize("kind", KINDS)
def test_no_number_depends_on_the_batch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    for spatial in ((), (3, 2)):
        neck = attached(KINDS[kind](dim=3), spatial)
        features = torch.randn(6, neck.fan_in, *spatial)
        whole, halves = neck(features), [neck(part) for part in features.split([2, 4])]
        close(whole.penalty, torch.cat([half.penalty for half in halves]))
        close(whole.z, torch.cat([half.z for half in halves]))
        close(neck.log_prior(whole.z), torch.cat([neck.log_prior(half.z) for half in halves]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "vamp"])
def test_nats_are_summed_over_the_positions_of_a_map(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named error of `autoencoders`: a mean over positions beside a sum over pixels."""
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    neck = KINDS[kind](dim=3)
    features = torch.randn(4, neck.fan_in, 3, 2)
    latent = neck(features)
    single = neck(features.permute(0, 2, 3, 1).reshape(24, neck.fan_in))
    close(latent.penalty, single.penalty.reshape(4, 6).sum(1))
    close(latent.z, single.z.reshape(4, 3, 2, 3).permute(0, 3, 1, 2))
    close(latent.mean, single.mean.reshape(4, 3, 2, 3).permute(0, 3, 1, 2))
    assert latent.posterior is not None and single.posterior is not None
    close(latent.posterior.log_prob(latent.z), single.posterior.log_prob(single.z).reshape(4, 6).sum(1))


@pytest.mark.parametrize("spatial", [(), (3, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_knows_its_density(kind: str, spatial: tuple[int, ...]) -> None:
    neck = attached(KINDS[kind](dim=3), spatial)
    latent = neck(torch.randn(5, neck.fan_in, *spatial))
    assert latent.posterior is not None
    z, log_q = latent.posterior.draw()
    close(log_q, latent.posterior.log_prob(z))
    close(log_q, latent.posterior.log_prob(z.detach()))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "full-gaussian"])
def test_what_is_charged_is_the_divergence_at_the_very_draw(kind: str) -> None:
    neck = attached(KINDS[kind](dim=3))
    latent = neck(torch.randn(5, neck.fan_in))
    assert latent.posterior is not None
    close(latent.penalty, latent.posterior.log_prob(latent.z) - neck.log_prior(latent.z))


@pytest.mark.parametrize("kind", KINDS)
def test_reconstruction_uses_no_noise(kind: str) -> None:
    """Named error of pythae's interpolate and reconstruct: the posterior is sampled even in evaluation."""
    model, x = put_together(KINDS[kind](dim=3)), images()
    assert torch.equal(model.reconstruct(x), model.reconstruct(x))
    assert not torch.equal(model.encode(x).z, model.encode(x).z)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_lowers_no_density(kind: str) -> None:
    """A loss may draw again under autocast, outside the bottleneck."""
    torch.set_default_dtype(torch.float32)
    neck = attached(KINDS[kind](dim=3).float())
    if kind == "vamp":
        neck.attach(lambda x: x.flatten(1)[:, : neck.fan_in])  # type: ignore[arg-type]  # with no arithmetic of its own
    latent = neck(torch.randn(5, neck.fan_in))
    assert latent.posterior is not None
    expected = latent.posterior.log_prob(latent.z), neck.log_prior(latent.z), latent.posterior.mean
    with torch.autocast("cpu", torch.bfloat16):
        z, log_q = latent.posterior.draw()
        got = latent.posterior.log_prob(latent.z), neck.log_prior(latent.z), latent.posterior.mean
    assert z.dtype == log_q.dtype == torch.float32
    torch.testing.assert_close(log_q, latent.posterior.log_prob(z), rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


class Means(nn.Module):
    """What is exported of an encoder."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.encode(x).mean


@pytest.mark.parametrize("kind", KINDS)
def test_a_traced_encoder_takes_batches_of_any_size(kind: str) -> None:
    model = put_together(KINDS[kind](dim=3, **({"depth": 1} if kind in FLOWS else {}))).eval()
    with torch.no_grad():
        traced = torch.export.export(
            Means(model), (images(2),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
        )
        x = images(5)
        close(traced.module()(x), model.encode(x).mean)


# ------------------------------------------------------------------------------------------ full covariance


def normals(neck: FullGaussian, features: Tensor) -> MultivariateNormal:
    """Built entry by entry, from the definition."""
    dim, factor = neck.dim, torch.zeros(len(features), neck.dim, neck.dim)
    below = iter(range(2 * dim, neck.fan_in))
    for i in range(dim):
        factor[:, i, i] = (features[:, dim + i] / 2).exp()
        for j in range(i):
            factor[:, i, j] = features[:, next(below)]
    return MultivariateNormal(features[:, :dim], scale_tril=factor)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_full_gaussian(dim: int) -> None:
    neck = FullGaussian(dim=dim)
    features = torch.randn(6, neck.fan_in)
    latent, reference = neck(features), normals(neck, features)
    standard = MultivariateNormal(torch.zeros(dim), torch.eye(dim))
    assert neck.fan_in == dim + dim * (dim + 1) // 2
    close(latent.penalty, kl_divergence(reference, standard.expand([6])))
    close(latent.posterior.log_prob(latent.z), reference.log_prob(latent.z))
    elsewhere = torch.randn(6, dim)
    close(latent.posterior.log_prob(elsewhere), reference.log_prob(elsewhere))
    close(latent.mean, reference.mean)
    close(neck.log_prior(elsewhere), standard.log_prob(elsewhere))


def test_full_gaussian_draws_with_its_covariance() -> None:
    neck = FullGaussian(dim=2)
    features = torch.tensor([[1.0, -2.0, 0.5, -1.0, 0.8]])
    z = neck(features.expand(200_000, 5)).z
    reference = normals(neck, features)
    torch.testing.assert_close(z.mean(0), reference.mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.T.cov(), reference.covariance_matrix[0], atol=0.03, rtol=0)


def test_full_gaussian_without_correlation_is_the_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    neck, features = FullGaussian(dim=4), torch.randn(3, 14, 2, 2)
    features[:, 8:] = 0
    ours, theirs = neck(features), Gaussian(dim=4)(features[:, :8])
    close(ours.z, theirs.z)
    close(ours.penalty, theirs.penalty)


# ------------------------------------------------------------------------------------------ learned priors


@pytest.mark.parametrize("components", [1, 6])
def test_mixture_prior(components: int) -> None:
    neck = MixturePrior(dim=3, components=components)
    with torch.no_grad():
        neck.logits.normal_()
        neck.logvars.normal_()
    reference = MixtureSameFamily(
        Categorical(logits=neck.logits), Independent(Normal(neck.means, (neck.logvars / 2).exp()), 1)
    )
    vectors, maps = torch.randn(5, 3) * 2, torch.randn(5, 3, 4, 2) * 2
    close(neck.log_prior(vectors), reference.log_prob(vectors))
    close(neck.log_prior(maps), reference.log_prob(maps.permute(0, 2, 3, 1)).sum((1, 2)))


def test_mixture_prior_draws_what_its_density_says() -> None:
    neck = MixturePrior(dim=1, components=2)
    with torch.no_grad():
        neck.logits.copy_(torch.tensor([0.2, 0.8]).log())
        neck.means.copy_(torch.tensor([[-3.0], [2.0]]))
        neck.logvars.copy_(torch.tensor([[0.25], [4.0]]).log())
    for shape in ((1,), (1, 2, 5)):
        z = neck.prior(200_000 // math.prod(shape), shape, torch.Generator().manual_seed(0)).flatten()
        line = torch.linspace(-20, 20, 8001)
        p = neck.log_prior(line[:, None]).exp()
        torch.testing.assert_close(torch.trapezoid(p, line), torch.ones(()), atol=1e-6, rtol=0)
        for moment in (1, 2, 3):
            exact = torch.trapezoid(p * line**moment, line)
            torch.testing.assert_close((z**moment).mean(), exact, atol=5 * float((z**moment).std()) / 447, rtol=0)


def test_the_mixture_starts_near_the_standard_normal() -> None:
    z = MixturePrior(dim=2, components=2000).prior(100_000, (2,))
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=0.1, rtol=0)
    torch.testing.assert_close(z.var(0), torch.ones(2), atol=0.1, rtol=0)


@pytest.mark.parametrize("spatial", [False, True])
def test_vamp_prior_is_the_mean_of_the_posteriors_of_its_pseudo_inputs(spatial: bool) -> None:
    neck = Vamp(IMAGE, dim=3, components=7)
    model = put_together(neck, spatial=spatial)
    z = torch.randn(5, *model.latent_shape)
    each = []
    for image in neck.pseudo_inputs:
        mean, logvar = model.encoder(image[None]).chunk(2, 1)
        each.append(Normal(mean, (logvar / 2).exp()).log_prob(z).flatten(1).sum(1))
    close(neck.log_prior(z), torch.stack(each).exp().mean(0).log())
    assert neck.pseudo_inputs.shape == (7, *IMAGE) and neck.pseudo_inputs.abs().max() <= 1


@torch.no_grad()
def test_vamp_of_one_pseudo_input_charges_the_divergence_of_two_gaussians() -> None:
    neck = Vamp(IMAGE, dim=2, components=1)
    model = put_together(neck)
    features = torch.randn(1, 4)
    q, p = (Normal(f[:, :2], (f[:, 2:] / 2).exp()) for f in (features, model.encoder(neck.pseudo_inputs)))
    charged = neck(features.expand(50_000, 4)).penalty
    exact = kl_divergence(q, p).sum()
    torch.testing.assert_close(charged.mean(), exact, atol=5 * float(charged.std()) / 223, rtol=0)


def test_vamp_draws_from_the_posteriors_of_its_pseudo_inputs() -> None:
    neck = Vamp(IMAGE, dim=2, components=3)
    neck.attach(lambda x: torch.cat([3 * x.flatten(1)[:, :2], x.flatten(1)[:, 2:4] - 3], 1))  # type: ignore[arg-type]
    parts = neck.components()
    z = neck.prior(200_000, (2,), torch.Generator().manual_seed(0))
    mean, var = parts.mean.mean(0), (parts.std.square() + parts.mean.square()).mean(0) - parts.mean.mean(0).square()
    torch.testing.assert_close(z.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(z.var(0), var, atol=0.1, rtol=0)
    own = (z[:, None] - parts.mean).div(parts.std).square().sum(2).min(1).values
    assert (own < 60).all(), "a draw belongs to no pseudo-input"


def test_vamp_teaches_the_pseudo_inputs_and_the_encoder() -> None:
    neck = Vamp(IMAGE, dim=3, components=4)
    model = put_together(neck)
    before = neck.log_prior(z := torch.randn(5, 3))
    before.sum().backward()
    moved = [neck.raw, *model.encoder.parameters()]
    assert all(p.grad is not None and p.grad.any() for p in moved)
    assert all(p.grad is None for p in model.decoder.parameters())
    with torch.no_grad():
        for p in moved:
            p.add_(p.grad, alpha=1e-4)  # type: ignore[arg-type]
    assert neck.log_prior(z).sum() > before.sum()


def test_vamp_saves_the_encoder_once() -> None:
    model = put_together(Vamp(IMAGE, dim=3, components=4))
    assert list(model.bottleneck.state_dict()) == ["raw"]
    assert list(dict(model.bottleneck.named_parameters())) == ["raw"]
    assert len(list(model.bottleneck.modules())) == 1


def test_vamp_of_a_copied_model_has_the_copied_encoder() -> None:
    model = put_together(Vamp(IMAGE, dim=3, components=4))
    twin = copy.deepcopy(model)
    neck: Any = twin.bottleneck
    assert neck._encoder[0] is twin.encoder and twin.encoder is not model.encoder
    z = torch.randn(5, 3)
    before = model.bottleneck.log_prior(z)
    close(neck.log_prior(z), before)
    with torch.no_grad():
        for parameter in twin.encoder.parameters():
            parameter.add_(0.1)
    assert torch.equal(model.bottleneck.log_prior(z), before)
    assert not torch.allclose(neck.log_prior(z), before)


def test_vamp_follows_weights_that_are_loaded_cast_or_averaged() -> None:
    model, other = (put_together(Vamp(IMAGE, dim=3, components=4)) for _ in range(2))
    z = torch.randn(5, 3)
    ours, theirs = model.bottleneck.log_prior(z), other.bottleneck.log_prior(z)
    average = EMA(model, 0.9)
    average.shadow = {name: value.clone() for name, value in other.state_dict().items()}
    with average.applied():
        close(model.bottleneck.log_prior(z), theirs)
    close(model.bottleneck.log_prior(z), ours)
    model.load_state_dict(other.state_dict())
    close(model.bottleneck.log_prior(z), theirs)
    model.float()
    assert model.bottleneck.log_prior(z.float()).dtype == torch.float32
    assert model.to("meta").bottleneck.log_prior(z.to("meta")).shape == (5,)


def test_vamp_without_an_encoder_says_so() -> None:
    neck = Vamp(IMAGE, dim=3)
    latent = neck(torch.randn(5, 6))
    assert latent.z.shape == (5, 3) and not latent.penalty.any()
    for call in (lambda: neck.log_prior(latent.z), lambda: neck.prior(2, (3,))):
        with pytest.raises(TypeError, match="attach"):
            call()


@pytest.mark.parametrize("kind", LEARNED)
def test_draws_from_a_learned_prior_carry_no_gradient(kind: str) -> None:
    """Named error of FactorVAE's and VAE-GAN's peers: a critic that is shown draws would train the autoencoder."""
    model = put_together(KINDS[kind](dim=3))
    assert not model.prior(4).requires_grad


@pytest.mark.parametrize("kind", LEARNED)
def test_a_learned_prior_costs_less_than_the_standard_normal_where_there_are_two_modes(kind: str) -> None:
    """Only the prior learns; the posteriors lie at -3 and 3."""
    torch.manual_seed(0)
    modes = torch.tensor([[-3.0, 3.0], [3.0, -3.0]]).repeat(32, 1) + 0.1 * torch.randn(64, 2)
    features = torch.cat([modes, torch.full((64, 2), -2.0)], 1)
    neck = KINDS[kind](dim=2, components=4)
    if kind == "vamp":
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(IMAGE), 4)).requires_grad_(False)
        neck.attach(encoder)
    standard = Gaussian(dim=2)(features).penalty.mean()
    optimizer = torch.optim.Adam(neck.parameters(), 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        neck(features).penalty.mean().backward()
        optimizer.step()
    with torch.no_grad():
        learned = torch.stack([neck(features).penalty.mean() for _ in range(50)]).mean()
    assert learned < standard - 5, f"{learned} nats with the learned prior, {standard} with N(0, 1)"
    assert learned > 0.5  # ln 2, the mode; the rest of the posteriors can be met exactly
    z = neck.prior(500, (2,))
    share = (z[:, 0] > 0).double().mean()
    assert 0.15 < share < 0.85 and ((z[:, 0] > 0) != (z[:, 1] > 0)).double().mean() > 0.95


# ------------------------------------------------------------------------------------------ flows


def flow_of(kind: str, dim: int, depth: int = 1) -> Flow:
    return {"planar": Planar, "radial": Radial, "iaf": IAF}[kind](dim, depth, 7)


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("kind", FLOWS)
def test_log_determinants(kind: str, dim: int, depth: int) -> None:
    flow = flow_of(kind, dim, depth)
    for scale in (0.3, 2.0):
        z, parameters = torch.randn(6, dim), torch.randn(6, flow.fan_in) * scale
        out, logdet = flow(z, parameters)
        assert out.shape == z.shape and logdet.shape == (6,)
        for one, told, ours in zip(z, parameters, logdet, strict=True):
            sign, exact = torch.linalg.slogdet(jacobian(lambda v, told=told: flow(v, told)[0], one))
            assert sign == 1 or kind == "iaf"  # reversing the order may mirror
            torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("dim", [1, 5])
@pytest.mark.parametrize("kind", FLOWS)
def test_flows_are_inverted(kind: str, dim: int, depth: int) -> None:
    flow = flow_of(kind, dim, depth)
    z, parameters = torch.randn(20, dim) * 2, torch.randn(20, flow.fan_in) * 2
    torch.testing.assert_close(flow.inverse(flow(z, parameters)[0], parameters), z, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", FLOWS)
def test_the_inverse_has_the_gradient_of_the_inverse(kind: str) -> None:
    flow = flow_of(kind, 2, 2)
    y, parameters = (torch.randn(3, n, requires_grad=True) for n in (2, flow.fan_in))
    assert torch.autograd.gradcheck(flow.inverse, (y, parameters))


@pytest.mark.parametrize("kind", FLOWS)
def test_a_wild_encoder_breaks_no_flow(kind: str) -> None:
    torch.set_default_dtype(torch.float32)
    neck = FlowPosterior(dim=3, flow=kind, depth=3)  # type: ignore[arg-type]
    for scale in (0.0, 1e-6, 30.0):
        features = (torch.randn(200, neck.fan_in) * scale).requires_grad_()
        latent = neck(features)
        latent.penalty.sum().backward()
        assert latent.penalty.isfinite().all() and features.grad is not None and features.grad.isfinite().all()


def test_planar_steps_obey_the_constraint() -> None:
    """Rezende & Mohamed, appendix A.1: w·u > -1, and u moves along w only."""
    flow = Planar(3, 1, 0)
    own = torch.randn(50, 7) * 4
    u, w, _, product = flow._constrained(own)
    close((u * w).sum(1, keepdim=True), product)
    assert product.min() > -1
    off = u - own[:, :3]
    close(off, (off * w).sum(1, keepdim=True) * w / w.square().sum(1, keepdim=True))


def test_small_planar_parameters_are_a_small_step() -> None:
    """The paper's own m sends u to infinity as w goes to 0."""
    z, own = torch.randn(50, 3), torch.randn(50, 7) * 1e-3
    assert (Planar(3, 1, 0)(z, own)[0] - z).abs().max() < 0.01


def test_planar_and_radial_steps_are_those_of_the_paper() -> None:
    z, own = torch.randn(6, 3), torch.randn(6, 7)
    flow = Planar(3, 1, 0)
    u, w, b, _ = flow._constrained(own)
    for i in range(6):
        h = math.tanh(float(w[i] @ z[i] + b[i]))
        close(flow(z, own)[0][i], z[i] + u[i] * h)
    ring = Radial(3, 1, 0)
    centre, alpha, beta = ring._constrained(own[:, :5])
    for i in range(6):
        r = (z[i] - centre[i]).norm()
        close(ring(z, own[:, :5])[0][i], z[i] + beta[i] / (alpha[i] + r) * (z[i] - centre[i]))
    assert alpha.min() > 0 and (alpha + beta).min() > 0


@pytest.mark.parametrize("hidden", [2, 7, 40])
def test_iaf_looks_back_only(hidden: int) -> None:
    """Germain et al.: dimension i is a function of those up to i, in the order of the step."""
    flow = IAF(5, 1, hidden)
    slope = jacobian(lambda v: flow(v, torch.ones(5))[0].flip(-1), torch.randn(5))
    assert torch.equal(slope, slope.tril()) and slope.diagonal().min() > 0
    if hidden >= 5:
        assert slope.tril(-1).count_nonzero() == 10, "what it may see, it sees"
    by_context = jacobian(lambda h: flow(torch.ones(5), h)[0], torch.randn(5))
    assert by_context.count_nonzero() == 25, "every dimension hears the context"


def test_iaf_step_is_that_of_the_paper() -> None:
    """Algorithm 1: z = s z + (1 - s) m, log q falls by Σ log s."""
    flow = IAF(4, 1, 9)
    z, context = torch.randn(6, 4), torch.randn(6, 4)
    m, raw = flow._net(0, z, flow.contexts[0](context))
    s = torch.sigmoid(raw)
    out, logdet = flow(z, context)
    close(out.flip(1), s * z + (1 - s) * m)
    close(logdet, s.log().sum(1))


def bent(kind: str, dim: int) -> tuple[FlowPosterior, Tensor]:
    """A posterior that is far from Gaussian."""
    torch.manual_seed(3)
    neck = FlowPosterior(dim=dim, flow=kind, depth=3, hidden=8)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in neck.parameters():
            parameter.mul_(2)
    features = torch.randn(1, neck.fan_in)
    features[:, dim : 2 * dim] -= 1
    return neck, features


def grid(dim: int, side: float = 9.0, count: int = 361) -> tuple[Tensor, float]:
    line = torch.linspace(-side, side, count if dim == 2 else 8_001)
    return torch.cartesian_prod(*[line] * dim).reshape(-1, dim), float(line[1] - line[0]) ** dim


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("kind", FLOWS)
def test_the_density_integrates_to_one_and_the_charge_is_the_divergence(kind: str, dim: int) -> None:
    neck, features = bent(kind, dim)
    points, area = grid(dim)
    with torch.no_grad():
        posterior = neck(features).posterior
        posterior.base = DiagonalGaussian(posterior.base.mean[0], posterior.base.logvar[0])
        log_q = posterior.log_prob(points)
        charged = neck(features.expand(40_000, -1)).penalty
    assert abs(float(log_q.exp().sum()) * area - 1) < 2e-3
    exact = (log_q.exp() * (log_q - neck.log_prior(points))).sum() * area
    torch.testing.assert_close(charged.mean(), exact, atol=5 * float(charged.std()) / 200 + 4e-3, rtol=0)


@pytest.mark.parametrize("kind", FLOWS)
def test_draws_fall_where_the_density_says(kind: str) -> None:
    neck, features = bent(kind, 1)
    points, area = grid(1)
    with torch.no_grad():
        q = neck(features).posterior.log_prob(points).exp() * area
        z = neck(features.expand(40_000, -1)).z.flatten()
    for edge in (-1.0, -0.3, 0.0, 0.3, 1.0):
        share = (z < edge).double().mean()
        torch.testing.assert_close(share, q[points[:, 0] < edge].sum(), atol=0.015, rtol=0)


def two_modes(z: Tensor) -> Tensor:
    return MixtureSameFamily(Categorical(torch.ones(2)), Normal(torch.tensor([-1.5, 1.5]), 0.5)).log_prob(z[:, 0])


def crescent(z: Tensor) -> Tensor:
    return Normal(0.0, 1.0).log_prob(z[:, 0]) + Normal(z[:, 0].square(), 0.5).log_prob(z[:, 1])


@pytest.mark.parametrize(
    ("kind", "dim", "target"),
    [("planar", 1, two_modes), ("radial", 1, two_modes), ("iaf", 2, crescent)],  # one dimension alone iaf only scales
)
def test_a_flow_meets_what_no_gaussian_can(kind: Any, dim: int, target: Callable[[Tensor], Tensor]) -> None:
    """Gradients have the right sign: a free posterior learns a target by its own draws."""

    def learned(neck: Bottleneck) -> float:
        torch.manual_seed(1)
        features = (0.1 * torch.randn(1, neck.fan_in)).requires_grad_()
        optimizer = torch.optim.Adam([features, *neck.parameters()], 0.03)

        def divergence(count: int) -> Tensor:
            z, log_q = neck(features.expand(count, -1)).posterior.draw()  # type: ignore[union-attr]
            return (log_q - target(z)).mean()

        for _ in range(200):
            optimizer.zero_grad()
            divergence(64).backward()
            optimizer.step()
        with torch.no_grad():
            return float(divergence(20_000))

    torch.manual_seed(1)
    ours, gaussian = learned(FlowPosterior(dim=dim, flow=kind, depth=3, hidden=16)), learned(Gaussian(dim=dim))
    assert ours < 0.7 * gaussian
