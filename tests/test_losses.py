"""Every number against an independent float64 reference, in nats per image, on inputs drawn afresh."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import bent
from torch import Tensor
from torch.distributions import Bernoulli, Laplace, Normal, kl_divergence

from aegen import registry
from aegen.autoencoder import Autoencoder, build_model, build_objective
from aegen.protocols import ImageShape
from aegen.spec import Spec
from aegen.training.turns import reduce

IMAGE = ImageShape(3, 9, 10)


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


@pytest.mark.parametrize("scale", [0.2, 1.0, "learned"])
@pytest.mark.parametrize(("name", "family"), [("gaussian", Normal), ("laplace", Laplace)])
def test_location_scale_likelihoods(name: str, family: Any, scale: float | str) -> None:
    likelihood = registry.get("likelihood", name)(IMAGE, scale=scale)
    parameters, x = torch.randn(5, *IMAGE), images()
    if scale == "learned":
        with torch.no_grad():
            likelihood.scale.raw.copy_(torch.randn(()) / 10)
    pixels = likelihood(parameters)
    reference = family(bent(parameters), likelihood.scale().exp().expand(1))
    close(pixels.nll(x), -per_image(reference.log_prob(x)))
    if scale != "learned":
        close(likelihood.scale().exp(), torch.tensor(float(scale)))


def test_bernoulli_likelihood() -> None:
    logits, x = torch.randn(5, *IMAGE) * 3, images()
    pixels = registry.get("likelihood", "bernoulli")(IMAGE)(logits)
    coin = Bernoulli(logits=logits)
    t = (x + 1) / 2
    reference = -(t * coin.log_prob(torch.ones_like(t)) + (1 - t) * coin.log_prob(torch.zeros_like(t)))
    close(pixels.nll(x), per_image(reference))
    close(pixels.mean, 2 * coin.mean - 1)


def test_bernoulli_is_exact_on_black_and_white() -> None:
    """Named error of tokenizers.md section 4: target and logits of the cross-entropy swapped."""
    logits, bits = torch.randn(5, *IMAGE), torch.randint(0, 2, (5, *IMAGE)).double()
    nll = registry.get("likelihood", "bernoulli")(IMAGE)(logits).nll(bits * 2 - 1)
    close(nll, -per_image(Bernoulli(logits=logits).log_prob(bits)))


@pytest.mark.parametrize("shape", [(7,), (7, 3, 2)])
def test_gaussian_bottleneck(shape: tuple[int, ...]) -> None:
    neck = registry.get("bottleneck", "gaussian")(dim=shape[0])
    features = torch.randn(5, 2 * shape[0], *shape[1:])
    latent = neck(features)
    mean, logvar = features[:, : shape[0]], features[:, shape[0] :]
    q, p = Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)
    close(latent.charges, kl_divergence(q, p))
    close(latent.penalty, per_image(kl_divergence(q, p)))
    close(latent.posterior.log_prob(latent.z), per_image(q.log_prob(latent.z)))
    close(latent.mean, mean)


def test_gaussian_bottleneck_samples_its_posterior() -> None:
    neck = registry.get("bottleneck", "gaussian")(dim=2)
    features = torch.tensor([[1.0, -2.0, 0.5, -1.0]]).expand(200_000, 4)
    z = neck(features).z
    torch.testing.assert_close(z.mean(0), torch.tensor([1.0, -2.0]), atol=0.02, rtol=0)
    torch.testing.assert_close(z.std(0), torch.tensor([0.25, -0.5]).exp(), atol=0.02, rtol=0)


def model(bottleneck: str = "gaussian", likelihood: str = "gaussian") -> Autoencoder:
    built = build_model(Spec("mlp", {"hidden": [16]}), Spec(bottleneck, {"dim": 4}), Spec(likelihood), IMAGE)
    return built.double()


def loss(net: Autoencoder, x: Tensor, name: str = "vae", **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(7)
    total, metrics = reduce(build_objective(Spec(name, options), net).eval().loss(net, x))
    return total, {key: value.mean() for key, value in metrics.items()}


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_vae_is_error_plus_beta_times_kl(beta: float) -> None:
    net, x = model(), images()
    total, terms = loss(net, x, beta=beta)
    torch.manual_seed(7)
    mean, logvar = net.encoder(x).chunk(2, 1)
    z = mean + (logvar / 2).exp() * torch.randn(mean.shape)
    means = bent(net.decoder(z))
    error = -per_image(Normal(means, net.likelihood.scale().exp()).log_prob(x))
    kl = per_image(kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)))
    close(total, (error + beta * kl).mean())
    close(terms["negative_elbo"], (error + kl).mean())


def test_free_bits_leave_small_charges_free() -> None:
    net, x = model(), images()
    charges = net.encode(x).charges
    assert charges is not None
    level = float(charges.detach().mean(0).median())
    _, terms = loss(net, x, free_bits=level)
    close(terms["penalty"], charges.mean(0).clamp(min=level).sum())


def test_a_free_dimension_gets_no_gradient_from_the_penalty() -> None:
    net, x = model(), images()
    torch.manual_seed(7)
    build_objective(Spec("vae", {"free_bits": 1e6}), net).loss(net, x).terms["penalty"].backward()
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("name", ["ae", "vae"])
def test_the_loss_does_not_depend_on_the_batch_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named error of pythae's VQ-VAE and of `autoencoders`: a weight that depends on batch or image size."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    net, x = model("gaussian"), images(6)
    whole, _ = loss(net, x, name)
    twice, _ = loss(net, torch.cat([x, x]), name)
    halves = (loss(net, x[:3], name)[0] + loss(net, x[3:], name)[0]) / 2
    close(twice, whole)
    close(halves, whole)


def test_nats_are_summed_over_pixels() -> None:
    """Named error of `autoencoders`: a mean over pixels beside a sum over dimensions is beta in the thousands."""
    parameters = torch.randn(2, *IMAGE)
    x = images(2)
    pixels = registry.get("likelihood", "gaussian")(IMAGE, scale=1.0)(parameters)
    one_by_one = sum(
        -Normal(bent(parameters[:, c, i, j]), 1.0).log_prob(x[:, c, i, j])
        for c in range(3)
        for i in range(9)
        for j in range(10)
    )
    close(pixels.nll(x), one_by_one)  # type: ignore[arg-type]


def test_reconstruction_takes_the_posterior_mean() -> None:
    """Named error of pythae: interpolate and reconstruct sample the posterior even in eval mode."""
    net, x = model().eval(), images()
    assert torch.equal(net.reconstruct(x), net.reconstruct(x))
    close(net.reconstruct(x), net.decode(net.encode(x).posterior.mean).mean)  # type: ignore[union-attr]
    assert not torch.equal(net.reconstruct(x, stochastic=True), net.reconstruct(x, stochastic=True))


def test_a_schedule_is_the_step_and_not_a_counter() -> None:
    """Named errors of PyTorch-VAE: validation moves the KL weight, and uses another one than training."""
    net, x = model(), images()
    objective = build_objective(Spec("vae", {"beta": "linear(0,2,10)"}), net).eval()
    for step, beta in ((0, 0.0), (5, 1.0), (10, 2.0), (5, 1.0)):
        objective.at(step)
        for _ in range(3):  # evaluating changes nothing
            outcome = objective.loss(net, x)
            close(outcome.terms["penalty"], beta * outcome.watch["kl"])
    assert not objective.settled(9)
    assert objective.settled(10)
    assert "beta" not in objective.state_dict()


def test_the_learned_scale_finds_the_optimum() -> None:
    """Rybkin et al., 2021, eq. 6: the best shared variance is the mean squared error."""
    likelihood = registry.get("likelihood", "gaussian")(IMAGE)
    parameters, x = torch.randn(20, *IMAGE), images(20)
    optimizer = torch.optim.Adam(likelihood.parameters(), 1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        likelihood(parameters).nll(x).mean().backward()
        optimizer.step()
    variance = (x - bent(parameters)).square().mean()
    torch.testing.assert_close(likelihood.scale().exp() ** 2, variance, rtol=1e-3, atol=0)
