"""Importance weighted bounds: values by brute force, the evidence where it is known, and which gradient goes where."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from aegen_builtin.adversarial.adversarial import Adversarial
from aegen_builtin.latents.gaussian import Gaussian
from aegen_builtin.objectives.ciwae import CIWAE
from aegen_builtin.objectives.iwae import IWAE
from aegen_builtin.objectives.miwae import MIWAE
from aegen_builtin.objectives.piwae import PIWAE
from conftest import SIGMA, Plain
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from aegen.autoencoder import Autoencoder, build_model
from aegen.nn.importance import Draws, importance_nll, log_mean_exp
from aegen.protocols import ImageShape, Objective, Outcome
from aegen.spec import Spec
from aegen.testing import check_objective

IMAGE = ImageShape(1, 2, 3)
PIXELS, DIM = 6, 2
DOUBLY = "doubly-reparameterised"


@pytest.fixture(autouse=True)
def _double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(ours: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-9)


# ------------------------------------------------------------------------ a model whose evidence is known


class Features(nn.Module):
    """As many features as there are images, each a parameter of its own: gradients by image, each an independent draw."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = nn.Parameter(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.features.expand(len(x), -1)


def linear(encoder: nn.Module | None = None) -> Autoencoder:
    """z ~ N(0, 1), x ~ N(W z + b, SIGMA²), the columns of W orthogonal so that the posterior is diagonal."""
    decoder = nn.Linear(DIM, PIXELS)
    with torch.no_grad():
        decoder.weight.copy_(torch.linalg.qr(torch.randn(PIXELS, DIM))[0] * torch.tensor([0.7, 0.3]))
    encoder = encoder or nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2 * DIM))
    return Autoencoder(
        IMAGE, encoder, Gaussian(dim=DIM), nn.Sequential(decoder, nn.Unflatten(1, IMAGE)), Plain(), (DIM,)
    )


def images(count: int = 5) -> Tensor:
    return torch.rand(count, *IMAGE) * 2 - 1


def evidence(net: Any, x: Tensor) -> Tensor:
    """-log p(x), (B,)."""
    weight, bias = net.decoder[0].weight, net.decoder[0].bias
    covariance = weight @ weight.T + SIGMA**2 * torch.eye(PIXELS)
    return -MultivariateNormal(bias, covariance).log_prob(x.flatten(1)).detach()


def true_posterior(net: Any, x: Tensor) -> Tensor:
    """Mean and log-variance of p(z|x), (B, 2 DIM)."""
    weight, bias = net.decoder[0].weight.detach(), net.decoder[0].bias.detach()
    variance = 1 / (1 + weight.square().sum(0) / SIGMA**2)
    mean = variance * ((x.flatten(1) - bias) @ weight) / SIGMA**2
    return torch.cat([mean, variance.log().expand_as(mean)], 1)


def exact(x: Tensor, off: float = 0.0) -> Autoencoder:
    """The linear model with its own posterior for each of `x`, each feature moved by `off`."""
    net: Any = linear(Features(torch.zeros(len(x), 2 * DIM)))
    with torch.no_grad():
        net.encoder.features.copy_(true_posterior(net, x) + off)
    return net  # type: ignore[no-any-return]


def run(objective: Objective, net: Autoencoder, x: Tensor, seed: int = 7) -> Outcome:
    torch.manual_seed(seed)
    return objective.loss(net, x)


def gradients(objective: Objective, net: Autoencoder, x: Tensor, seed: int = 7) -> dict[str, Tensor]:
    net.zero_grad()
    run(objective, net, x, seed).terms["bound"].sum().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


# ------------------------------------------------------------------------ values


def weights_one_by_one(net: Autoencoder, x: Tensor, samples: int, *, path: bool = False) -> tuple[Tensor, list[Tensor]]:
    """log w (S, B), one draw of one image at a time; with `path` q's own parameters are held still. The draws too."""
    torch.manual_seed(7)
    features = net.encoder(x)
    noise = [torch.randn(len(x), DIM) for _ in range(samples + 1)][1:]  # the first is the bottleneck's own draw
    rows, draws = [], []
    for epsilon in noise:
        row = []
        for i in range(len(x)):
            mean, std = features[i, :DIM], (features[i, DIM:] / 2).exp()
            z = mean + std * epsilon[i]
            q = Normal(mean.detach(), std.detach()) if path else Normal(mean, std)
            p = Normal(0.0, 1.0).log_prob(z).sum() + Normal(net.decoder(z[None])[0], SIGMA).log_prob(x[i]).sum()
            row.append(p - q.log_prob(z).sum())
            draws.append(z)
        rows.append(torch.stack(row))
    return torch.stack(rows), draws


@pytest.mark.parametrize("gradient", ["standard", DOUBLY])
@pytest.mark.parametrize("samples", [1, 2, 6])
def test_iwae_is_the_log_of_the_mean_weight(samples: int, gradient: Any) -> None:
    net, x = linear(), images()
    log_w, _ = weights_one_by_one(net, x, samples)
    close(run(IWAE(samples=samples, gradient=gradient), net, x).terms["bound"], -log_w.exp().mean(0).log())


def test_miwae_is_a_mean_of_bounds() -> None:
    net, x = linear(), images()
    log_w, _ = weights_one_by_one(net, x, 12)
    bounds = [log_w[m::4].exp().mean(0).log() for m in range(4)]
    close(run(MIWAE(samples=3, bounds=4), net, x).terms["bound"], -torch.stack(bounds).mean(0))


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.6, 1.0])
def test_ciwae_blends_the_two_bounds(beta: float) -> None:
    net, x = linear(), images()
    log_w, _ = weights_one_by_one(net, x, 6)
    blend = beta * log_w.mean(0) + (1 - beta) * log_w.exp().mean(0).log()
    close(run(CIWAE(samples=6, beta=beta), net, x).terms["bound"], -blend)


ONE = [
    IWAE(samples=1),
    IWAE(samples=1, gradient=DOUBLY),
    MIWAE(samples=1, bounds=1),
    PIWAE(samples=1, bounds=1),
    CIWAE(samples=1, beta=0.3),
]


@pytest.mark.parametrize("objective", ONE, ids=lambda o: type(o).__name__)
def test_one_draw_is_the_elbo_with_a_sampled_kl(objective: Objective) -> None:
    net, x = linear(), images()
    outcome = run(objective.eval(), net, x)
    torch.manual_seed(7)
    posterior = net.encode(x).posterior
    assert posterior is not None
    z, log_q = posterior.draw()
    kl = log_q - net.bottleneck.log_prior(z)
    close(outcome.terms["bound"], net.decode(z).nll(x) + kl)
    close(outcome.watch["negative_elbo"], outcome.terms["bound"])
    close(outcome.watch["kl"], kl)
    assert not objective.train().loss(net, x).watch


ALL = [IWAE(), IWAE(gradient=DOUBLY), MIWAE(samples=3, bounds=2), PIWAE(samples=3, bounds=2), CIWAE(beta=0.3)]


@pytest.mark.parametrize("objective", ALL, ids=lambda o: type(o).__name__)
def test_validation_measures_what_is_trained(objective: Objective) -> None:
    net, x = linear(), images()
    trained = run(objective.train(), net, x).terms["bound"]
    with torch.no_grad():
        close(run(objective.eval(), net, x).terms["bound"], trained)


@pytest.mark.parametrize("objective", ALL, ids=lambda o: type(o).__name__)
def test_nothing_depends_on_the_batch_size(objective: Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    net, x = linear(), images(6)
    whole = gradients(objective, net, x)
    close(
        torch.cat([objective.loss(net, part).terms["bound"] for part in x.split(2)]),
        objective.loss(net, x).terms["bound"],
    )
    parts = [gradients(objective, net, part) for part in x.split(2)]
    for name, gradient in whole.items():
        close(sum(part[name] for part in parts), gradient)  # type: ignore[arg-type]


# ------------------------------------------------------------------------ the evidence


def test_with_the_true_posterior_every_bound_is_the_evidence() -> None:
    x = images()
    net = exact(x)
    for objective in ALL:
        close(run(objective, net, x).terms["bound"], evidence(net, x))
    close(importance_nll(net, x, samples=7, chunk=3), evidence(net, x))


def test_importance_sampling_finds_the_evidence_below_the_negative_elbo() -> None:
    x = images(3)
    net = exact(x, off=0.4)
    nll = importance_nll(net, x, samples=10_000, chunk=2_000)
    torch.testing.assert_close(nll, evidence(net, x), rtol=0, atol=0.02)
    elbo = run(IWAE(samples=2_000).eval(), net, x).watch["negative_elbo"]
    assert (nll < elbo - 0.05).all()
    assert not nll.requires_grad


def test_chunks_of_importance_samples_are_one_sum() -> None:
    x = images(3)
    net = exact(x, off=0.4)
    estimates = []
    for chunk in (1, 4, 10, 99):
        torch.manual_seed(3)
        estimates.append(importance_nll(net, x, samples=10, chunk=chunk))
    for estimate in estimates[1:]:
        close(estimate, estimates[0])


def test_the_bound_rises_with_the_draws_and_stays_below_the_evidence() -> None:
    x = images(1).expand(8000, *IMAGE)
    net = exact(x, off=0.5)
    gaps = []
    for samples in (1, 4, 16):
        bound = run(IWAE(samples=samples), net, x).terms["bound"].detach()
        error = float(bound.std() / math.sqrt(len(bound)))
        gaps.append((float((bound - evidence(net, x)).mean()), error))
    assert gaps[0][0] > gaps[1][0] + 4 * gaps[0][1]
    assert gaps[1][0] > gaps[2][0] + 4 * gaps[1][1]
    assert gaps[2][0] > 4 * gaps[2][1]


# ------------------------------------------------------------------------ gradients


def test_the_best_draw_has_the_largest_weight() -> None:
    """Named error of PyTorch-VAE IWAE: softmax of +error up-weights the worst sample."""
    net, x = linear(), images()
    draws = Draws(net, net.encode(x), x, 5)
    (share,) = torch.autograd.grad(-log_mean_exp(draws.log_w).sum(), draws.nll)
    close(share, (draws.log_w.exp() / draws.log_w.exp().sum(0)))
    assert torch.equal(share.argmax(0), draws.log_w.argmax(0))
    worse = draws.nll.detach().clone().requires_grad_()  # all else equal, the larger error weighs less
    (share,) = torch.autograd.grad(-log_mean_exp(-worse).sum(), worse)
    assert torch.equal(share.argsort(0), worse.argsort(0, descending=True))


def test_gradients_of_iwae_are_those_of_the_definition() -> None:
    net, x = linear(), images()
    ours = gradients(IWAE(samples=4), net, x)
    net.zero_grad()
    (-weights_one_by_one(net, x, 4)[0].exp().mean(0).log().sum()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        close(ours[name], parameter.grad)


def test_doubly_reparameterised_gradients_are_those_of_the_definition() -> None:
    """Tucker et al., eq. 8: squared weights times the path by way of z; the decoder's are the plain ones."""
    net, x = linear(), images()
    ours, plain = gradients(IWAE(samples=4, gradient=DOUBLY), net, x), gradients(IWAE(samples=4), net, x)
    log_w, _ = weights_one_by_one(net, x, 4, path=True)
    shares = log_w.softmax(0).detach()
    encoder = list(net.encoder.named_parameters(prefix="encoder"))
    reference = torch.autograd.grad(-(shares.square() * log_w).sum(), [p for _, p in encoder])
    for (name, _), gradient in zip(encoder, reference, strict=True):
        close(ours[name], gradient)
        assert not torch.allclose(ours[name], plain[name])
    for name in ours:
        if not name.startswith("encoder"):
            close(ours[name], plain[name])


def samples_of_the_gradient(objective: Objective) -> Tensor:
    """The encoder's gradient for one image, many times, (N, 2 DIM)."""
    torch.manual_seed(11)
    x = images(1).expand(6000, *IMAGE)
    return gradients(objective, exact(x, off=0.4), x)["encoder.features"]


@pytest.mark.parametrize("samples", [1, 3, 12])
def test_doubly_reparameterised_gradients_have_the_same_mean(samples: int) -> None:
    plain = samples_of_the_gradient(IWAE(samples=samples))
    doubly = samples_of_the_gradient(IWAE(samples=samples, gradient=DOUBLY))
    error = ((plain.var(0) + doubly.var(0)) / len(plain)).sqrt()
    assert ((plain.mean(0) - doubly.mean(0)).abs() < 4.5 * error).all()
    assert (plain.mean(0).abs() > 5 * error).any()  # the comparison says something


def test_doubly_reparameterised_gradients_are_less_noisy_the_more_draws_there_are() -> None:
    def ratios(samples: int) -> tuple[Tensor, Tensor, Tensor]:
        plain = samples_of_the_gradient(IWAE(samples=samples))
        doubly = samples_of_the_gradient(IWAE(samples=samples, gradient=DOUBLY))
        signal = [(g.mean(0).norm() / g.std(0).norm()) for g in (plain, doubly)]
        return doubly.var(0).sum() / plain.var(0).sum(), signal[0], signal[1]

    few, many = ratios(3), ratios(24)
    assert many[0] < few[0] < 1
    assert many[1] < few[1]  # Rainforth et al.: the plain signal drowns
    assert many[2] > few[2]


def test_at_the_true_posterior_the_doubly_reparameterised_gradient_is_zero() -> None:
    x = images()
    net = exact(x)
    doubly, plain = (gradients(IWAE(gradient=g), net, x)["encoder.features"] for g in (DOUBLY, "standard"))  # type: ignore[arg-type]
    close(doubly, torch.zeros_like(doubly))
    assert plain.abs().max() > 0.05


def test_piwae_gives_each_side_the_gradient_of_its_own_bound() -> None:
    net, x = linear(), images()
    ours = gradients(PIWAE(samples=3, bounds=4), net, x)
    encoder, decoder = gradients(MIWAE(samples=3, bounds=4), net, x), gradients(IWAE(samples=12), net, x)
    for name, gradient in ours.items():
        mine, other = (encoder, decoder) if name.startswith("encoder") else (decoder, encoder)
        close(gradient, mine[name])
        assert not torch.allclose(gradient, other[name])
    close(
        run(PIWAE(samples=3, bounds=4), net, x).terms["bound"],
        run(IWAE(samples=12), net, x).terms["bound"],
    )


@pytest.mark.parametrize("cls", [IWAE, PIWAE])
def test_weights_that_underflow_give_no_nan(cls: Any) -> None:
    """Early in training draws differ by hundreds of nats, and a whole bound of the encoder's may weigh nothing."""
    net, x = linear(), images()
    with torch.no_grad():
        net.decoder[0].weight.mul_(200)  # type: ignore[index, union-attr]
    options = {"gradient": DOUBLY} if cls is IWAE else {}
    for gradient in gradients(cls(**options), net.float(), x.float()).values():
        assert gradient.isfinite().all()


@pytest.mark.parametrize("objective", ALL, ids=lambda o: type(o).__name__)
def test_a_wrapper_judges_the_latents_own_draw_and_reaches_the_encoder(objective: Objective) -> None:
    net, x = linear(), images()
    outcome = run(objective, net, x)
    assert outcome.latent is not None
    assert outcome.recon is not None
    close(outcome.recon, net.decode(outcome.latent.z).mean)
    parameters = list(net.encoder.parameters())
    ours = torch.autograd.grad(outcome.recon.square().sum(), parameters, retain_graph=True)
    plain = torch.autograd.grad(net.decode(outcome.latent.z).mean.square().sum(), parameters)
    for gradient, reference in zip(ours, plain, strict=True):
        close(gradient, reference)


# ------------------------------------------------------------------------ the contract


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (IWAE, {}),
        (IWAE, {"samples": 1}),
        (IWAE, {"gradient": DOUBLY}),
        (MIWAE, {"samples": 2, "bounds": 3}),
        (PIWAE, {}),
        (PIWAE, {"samples": 1, "bounds": 2}),
        (CIWAE, {"beta": 0.5}),
    ],
    ids=str,
)
def test_contract(cls: type[Objective], options: dict[str, Any]) -> None:
    torch.set_default_dtype(torch.float32)
    check_objective(cls, **options)


@pytest.mark.parametrize("inner", [IWAE, PIWAE])
def test_contract_under_a_wrapper(inner: type[Objective]) -> None:
    torch.set_default_dtype(torch.float32)
    check_objective(Adversarial, inner=inner, width=4)


def test_the_share_of_the_vaes_bound_takes_a_schedule() -> None:
    from aegen.schedules import Schedule

    net, x = linear(), images()
    objective = CIWAE(samples=4)
    objective.schedule("beta", Schedule("linear", 1.0, 0.0, 10))
    for step, beta in ((0, 1.0), (10, 0.0)):
        objective.at(step)
        close(run(objective, net, x).terms["bound"], run(CIWAE(samples=4, beta=beta), net, x).terms["bound"])


def test_feature_maps_are_decoded_as_they_are() -> None:
    shape = ImageShape(1, 12, 12)
    net = build_model(
        Spec("conv", {"width": 4, "depth": 1, "spatial": True}), Spec("gaussian", {"dim": 2}), Spec("gaussian"), shape
    ).double()
    x = torch.rand(3, *shape) * 2 - 1
    draws = Draws(net, net.encode(x), x, 4, apart=True)
    assert draws.z.shape == (4, 3, *net.latent_shape)
    for s in range(4):
        close(draws.nll[s], net.decode(draws.z[s]).nll(x))
        close(draws.log_prior[s], net.bottleneck.log_prior(draws.z[s]))
    close(draws.along(draws.log_q.detach() + draws.seen.flatten(2).sum(2)), draws.z.flatten(2).sum(2))
