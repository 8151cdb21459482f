"""Objectives that shape the aggregate posterior: values by brute force, units, direction, and the errors of others."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from aegen_builtin.latents.gaussian import Gaussian
from aegen_builtin.latents.matched_prior import MatchedPrior
from aegen_builtin.likelihoods.bernoulli import Bernoulli
from aegen_builtin.likelihoods.gaussian import Gaussian as GaussianPixels
from aegen_builtin.objectives.beta_tc_vae import BetaTCVAE, pairwise
from aegen_builtin.objectives.beta_vae import BetaVAE
from aegen_builtin.objectives.capacity_vae import CapacityVAE
from aegen_builtin.objectives.dip_vae import DIPVAE, covariance
from aegen_builtin.objectives.info_vae import InfoVAE
from aegen_builtin.objectives.sigma_vae import SigmaVAE
from aegen_builtin.objectives.vae import VAE
from aegen_builtin.objectives.wae_mmd import WAEMMD
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from aegen.autoencoder import Autoencoder
from aegen.nn.densities import DiagonalGaussian
from aegen.nn.kernels import SCALES, discrepancy
from aegen.protocols import Bottleneck, ImageShape, Latent, Likelihood, Objective, Outcome
from aegen.testing import check_bottleneck, check_objective
from aegen.training.turns import reduce

IMAGE = ImageShape(2, 3, 4)
PIXELS = math.prod(IMAGE)


@pytest.fixture(autouse=True)
def _double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(ours: Any, reference: Any, rtol: float = 1e-6) -> None:
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(reference), rtol=rtol, atol=1e-9)


def images(count: int = 6) -> Tensor:
    return torch.rand(count, *IMAGE) * 2 - 1


def autoencoder(
    neck: Bottleneck, likelihood: Likelihood | None = None, spatial: tuple[int, ...] = (), image: ImageShape = IMAGE
) -> Autoencoder:
    """Linear encoder and decoder around a bottleneck with 3 dimensions or channels."""
    shape, pixels = (3, *spatial), math.prod(image)
    features = (neck.fan_in, *spatial)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, math.prod(features)), nn.Unflatten(1, features))
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), pixels), nn.Unflatten(1, image))
    return Autoencoder(image, encoder, neck, decoder, likelihood or GaussianPixels(image), shape)


def run(objective: Objective, model: Autoencoder, x: Tensor, seed: int = 3) -> Outcome:
    torch.manual_seed(seed)
    return objective.loss(model, x)


def encoded(model: Autoencoder, x: Tensor, seed: int = 3) -> Latent:
    """The very draw that `run` takes with this seed, if nothing is drawn before it."""
    torch.manual_seed(seed)
    return model.encode(x)


def total(objective: Objective, model: Autoencoder, x: Tensor) -> Tensor:
    return reduce(run(objective, model, x))[0]


EVERY: list[tuple[type[Objective], dict[str, Any]]] = [
    (BetaVAE, {}),
    (CapacityVAE, {}),
    (CapacityVAE, {"capacity": 0.0}),
    (BetaTCVAE, {}),
    (BetaTCVAE, {"sampling": "stratified", "alpha": 2.0}),
    (DIPVAE, {}),
    (DIPVAE, {"variant": "i"}),
    (InfoVAE, {}),
    (InfoVAE, {"kernel": "imq", "alpha": 1.0}),
    (WAEMMD, {}),
    (WAEMMD, {"kernel": "rbf"}),
    (SigmaVAE, {}),
]


@pytest.mark.parametrize(("cls", "options"), EVERY, ids=str)
def test_contract(cls: type[Objective], options: dict[str, Any]) -> None:
    torch.set_default_dtype(torch.float32)
    check_objective(cls, **options)


def test_the_matched_prior_keeps_the_contract() -> None:
    torch.set_default_dtype(torch.float32)
    check_bottleneck(MatchedPrior)


def make(cls: type[Objective], options: dict[str, Any]) -> Objective:
    build: Any = cls
    return build(100, **options) if cls is BetaTCVAE else build(**options)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("cls", "options"), EVERY, ids=str)
@pytest.mark.parametrize("spatial", [(), (2, 2)])
def test_vectors_and_feature_maps_one_image_and_float64(
    cls: type[Objective], options: dict[str, Any], spatial: tuple[int, ...]
) -> None:
    objective, model = make(cls, options), autoencoder(Gaussian(dim=3), spatial=spatial)
    trained = [p for name in objective.turns()[0].trains for p in getattr(model, str(name)).parameters()]
    for count in (1, 2, 5):
        loss = total(objective, model, images(count))
        assert loss.dtype == torch.float64
        assert loss.isfinite()
        gradients = torch.autograd.grad(loss, trained)
        assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(("cls", "options"), EVERY, ids=str)
def test_validation_watches_the_bound(cls: type[Objective], options: dict[str, Any]) -> None:
    if cls is WAEMMD:
        return  # it has none
    objective, model, x = make(cls, options).eval(), autoencoder(Gaussian(dim=3)), images()
    outcome = run(objective, model, x)
    latent = encoded(model, x)
    if cls is SigmaVAE:  # the likelihood's own scale is not trained, so that there is no bound
        assert "kl" not in outcome.watch and "negative_elbo" not in outcome.watch
        close(outcome.watch["charge"], latent.penalty)
        return
    close(outcome.watch["kl"], latent.penalty)
    close(outcome.watch["negative_elbo"], outcome.terms["error"] + latent.penalty)
    assert outcome.terms["error"].shape == (len(x),)


# ------------------------------------------------------------------------------------------------ beta, capacity


def test_beta_vae_is_the_vae_with_a_beta_of_4() -> None:
    model, x = autoencoder(Gaussian(dim=3)), images()
    assert torch.equal(total(BetaVAE(), model, x), total(VAE(beta=4.0), model, x))
    outcome = run(BetaVAE(beta=2.5), model, x)
    posterior: Any = encoded(model, x).posterior
    reference = kl_divergence(Normal(posterior.mean, posterior.std), Normal(0.0, 1.0)).sum(1)
    close(outcome.terms["penalty"], 2.5 * reference)


def test_nats_are_summed_over_pixels_and_dimensions() -> None:
    """Named error of `autoencoders`: a mean over pixels beside a sum over dimensions is beta in the thousands."""
    model, x = autoencoder(Gaussian(dim=3), GaussianPixels(IMAGE, scale=0.5)), images()
    mean = model.decode(encoded(model, x).z).location
    outcome = run(BetaVAE(), model, x)
    error = [
        sum(-Normal(m, 0.5).log_prob(p) for m, p in zip(*pair, strict=True))
        for pair in zip(_flat(mean), _flat(x), strict=True)
    ]
    close(outcome.terms["error"], torch.stack(error))  # type: ignore[arg-type]


def _flat(x: Tensor) -> list[Tensor]:
    return list(x.detach().flatten(1))


@pytest.mark.parametrize("capacity", [0.1, 30.0])
def test_capacity_charges_the_deviation_of_the_mean_kl(capacity: float) -> None:
    model, x = autoencoder(Gaussian(dim=3)), images()
    kl = encoded(model, x).penalty
    outcome = run(CapacityVAE(capacity=capacity, gamma=7.0), model, x)
    close(outcome.terms["penalty"], 7.0 * abs(sum(kl.tolist()) / len(x) - capacity))


def test_below_the_capacity_the_kl_is_raised_and_above_it_is_lowered() -> None:
    model, x = autoencoder(Gaussian(dim=3)), images()
    mean_kl = float(encoded(model, x).penalty.detach().mean())
    weights = list(model.encoder.parameters())
    kl = torch.autograd.grad(encoded(model, x).penalty.mean(), weights)
    for capacity, sign in ((mean_kl + 1, -1.0), (mean_kl - 0.1, 1.0)):
        penalty = run(CapacityVAE(capacity=capacity, gamma=2.0), model, x).terms["penalty"]
        for ours, reference in zip(torch.autograd.grad(penalty, weights), kl, strict=True):
            close(ours, 2.0 * sign * reference)


def test_the_capacity_takes_a_schedule() -> None:
    from aegen.schedules import Schedule

    model, x = autoencoder(Gaussian(dim=3)), images()
    kl = float(encoded(model, x).penalty.detach().mean())
    objective = CapacityVAE(gamma=1.0)
    objective.schedule("capacity", Schedule.parse("linear(0,25,10000)"))
    for step, capacity in ((0, 0.0), (5000, 12.5), (20000, 25.0)):
        objective.at(step)
        close(run(objective, model, x).terms["penalty"].item(), abs(kl - capacity), rtol=1e-5)


# ------------------------------------------------------------------------------------------------ beta-TC


def one_by_one(objective: BetaTCVAE, latent: Latent) -> list[tuple[float, float, float]]:
    """The three parts of each image, by loops over draws, images and dimensions."""
    posterior: Any = latent.posterior
    z, mean, std = (t.detach().flatten(1) for t in (latent.z, posterior.mean, posterior.std))
    count, dims = z.shape
    big, others = max(objective.size, count), count - 1

    def weight(i: int, j: int) -> float:
        if objective.sampling == "minibatch-weighted":
            return 1 / count
        if i == j:
            return 1 / big
        return (big - others) / (big * others) if j == (i + 1) % count else 1 / others

    def density(i: int, j: int, d: int) -> float:
        return float(Normal(mean[j, d], std[j, d]).log_prob(z[i, d]).exp())

    parts = []
    for i in range(count):
        own = math.prod(density(i, i, d) for d in range(dims))
        q = sum(weight(i, j) * math.prod(density(i, j, d) for d in range(dims)) for j in range(count))
        product = math.prod(sum(weight(i, j) * density(i, j, d) for j in range(count)) for d in range(dims))
        prior = math.prod(float(Normal(0.0, 1.0).log_prob(z[i, d]).exp()) for d in range(dims))
        parts.append((math.log(own / q), math.log(q / product), math.log(product / prior)))
    return parts


@pytest.mark.parametrize("sampling", ["minibatch-weighted", "stratified"])
@pytest.mark.parametrize("spatial", [(), (1, 2)])
def test_the_three_parts_equal_loops_over_the_definition(sampling: Any, spatial: tuple[int, ...]) -> None:
    model, x = autoencoder(Gaussian(dim=3), spatial=spatial), images(5)
    objective = BetaTCVAE(50, alpha=0.5, beta=3.0, gamma=2.0, sampling=sampling)
    outcome = run(objective, model, x)
    parts = torch.tensor(one_by_one(objective, encoded(model, x)))
    names = ("mutual_information", "total_correlation", "dimension_kl")
    for name, reference in zip(names, parts.T, strict=True):
        close(outcome.watch[name], reference)
    close(outcome.terms["penalty"], parts @ torch.tensor([0.5, 3.0, 2.0]))


@pytest.mark.parametrize("sampling", ["minibatch-weighted", "stratified"])
def test_with_equal_weights_the_parts_are_the_kl_by_one_draw(sampling: Any) -> None:
    model, x = autoencoder(Gaussian(dim=3)), images()
    objective = BetaTCVAE(50, alpha=1.0, beta=1.0, gamma=1.0, sampling=sampling)
    latent = encoded(model, x)
    assert latent.posterior is not None
    by_one_draw = latent.posterior.log_prob(latent.z) - model.bottleneck.log_prior(latent.z)
    close(run(objective, model, x).terms["penalty"], by_one_draw)
    with torch.no_grad():
        draws = torch.stack([run(objective, model, x, seed).terms["penalty"] for seed in range(400)])
    bound = 5 * draws.std(0) / math.sqrt(400)
    assert ((draws.mean(0) - latent.penalty).abs() < bound).all()


@pytest.mark.parametrize("batch", [2, 3, 8, 40])
def test_stratified_weights_stand_for_all_images(batch: int) -> None:
    """Appendix C.2: each row adds up to 1, the own image counts 1/N, and no image counts for nothing."""
    weights = BetaTCVAE(30, sampling="stratified").log_weights(torch.zeros(batch, batch, 1)).exp()
    close(weights.sum(1), torch.ones(batch))
    close(weights.diagonal(), torch.full((batch,), 1 / max(30, batch)))
    assert (weights > 0).all()


def test_stratified_sampling_is_unbiased() -> None:
    """The mean over all batches around an image is the density under all N images, which plain weighting is not."""
    count, batch = 6, 3
    mean, std = torch.randn(count, 2), torch.rand(count, 2) + 0.5
    z = mean[:1] + 0.3
    everything = pairwise(z, mean, std).sum(2).exp().mean()
    stratified, plain = [], []
    for others in itertools.permutations(range(1, count), batch - 1):
        chosen = [0, *others]
        densities = pairwise(z.expand(batch, -1), mean[chosen], std[chosen]).sum(2)
        for sampling, found in (("stratified", stratified), ("minibatch-weighted", plain)):
            objective = BetaTCVAE(count, sampling=sampling)  # type: ignore[arg-type]
            found.append((densities + objective.log_weights(densities[:, :, None])).exp().sum(1)[0])
    close(torch.stack(stratified).mean(), everything)
    assert abs(torch.stack(plain).mean() - everything) > 1e-3 * everything


@pytest.mark.parametrize("sampling", ["minibatch-weighted", "stratified"])
@pytest.mark.parametrize("batch", [4, 16])
def test_a_posterior_equal_to_the_prior_has_no_total_correlation(sampling: Any, batch: int) -> None:
    """Named error of PyTorch-VAE: without a batch size in the estimate, (1 - D) · log B nats appear from nowhere."""
    model = autoencoder(Gaussian(dim=3))
    for parameter in model.encoder.parameters():
        nn.init.zeros_(parameter)
    watch = run(BetaTCVAE(100, sampling=sampling), model, images(batch)).watch
    for part in ("mutual_information", "total_correlation", "dimension_kl"):
        close(watch[part], torch.zeros(batch))


def test_the_paper_s_factor_has_no_gradient() -> None:
    """Equation 5 divides by N · B and not by B: other values, the same training."""
    model, x = autoencoder(Gaussian(dim=3)), images()
    ours = run(BetaTCVAE(1000, beta=5.0), model, x).terms["penalty"].mean()
    latent = encoded(model, x)
    posterior: Any = latent.posterior
    densities = Normal(posterior.mean[None], posterior.std[None]).log_prob(latent.z[:, None])
    constant = math.log(1000 * len(x))
    log_q = densities.sum(2).logsumexp(1) - constant
    log_product = (densities.logsumexp(1) - constant).sum(1)
    own, prior = posterior.log_prob(latent.z), model.bottleneck.log_prior(latent.z)
    paper = (own - log_q + 5 * (log_q - log_product) + log_product - prior).mean()
    weights = list(model.encoder.parameters())
    for a, b in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(paper, weights), strict=True):
        close(a, b)
    close(paper - ours, math.log(1000) * (1 + 5 * (3 - 1) - 3))


def test_training_and_validation_weigh_the_parts_alike() -> None:
    """Named error of PyTorch-VAE: its annealing counts training calls, so validation uses another weight than training."""
    model, x = autoencoder(Gaussian(dim=3)), images()
    for objective in (BetaTCVAE(50), InfoVAE(), DIPVAE()):
        before = total(objective.train(), model, x)
        for _ in range(3):
            assert torch.equal(total(objective.eval(), model, x), before)
        assert torch.equal(total(objective.train(), model, x), before)


# ------------------------------------------------------------------------------------------------ DIP


@pytest.mark.parametrize("variant", ["i", "ii"])
@pytest.mark.parametrize("spatial", [(), (2, 1)])
def test_dip_equals_loops_over_the_covariance(variant: Any, spatial: tuple[int, ...]) -> None:
    model, x = autoencoder(Gaussian(dim=3), spatial=spatial), images()
    posterior: Any = encoded(model, x).posterior
    mean, std = posterior.mean.detach().flatten(1).tolist(), posterior.std.detach().flatten(1).tolist()
    count, dims = len(mean), len(mean[0])
    centre = [sum(row[d] for row in mean) / count for d in range(dims)]
    diagonal = offdiagonal = 0.0
    for a, b in itertools.product(range(dims), repeat=2):
        entry = sum((row[a] - centre[a]) * (row[b] - centre[b]) for row in mean) / count
        if a != b:
            offdiagonal += entry**2
            continue
        if variant == "ii":
            entry += sum(row[a] ** 2 for row in std) / count
        diagonal += (entry - 1) ** 2
    outcome = run(DIPVAE(variant=variant, lambda_diagonal=3.0, lambda_offdiagonal=5.0), model, x)
    close(outcome.terms["covariance"].item(), 3 * diagonal + 5 * offdiagonal)
    close(outcome.terms["penalty"], encoded(model, x).penalty)


def test_dip_ii_matches_the_law_of_total_covariance() -> None:
    posterior = DiagonalGaussian(torch.randn(4, 2), torch.randn(4, 2))
    draws = torch.cat([posterior.sample() for _ in range(50_000)])
    expected = covariance(posterior.mean) + torch.diag(posterior.std.square().mean(0))
    torch.testing.assert_close(torch.cov(draws.T), expected, atol=0.05, rtol=0.03)


def test_the_covariance_does_not_grow_with_the_batch() -> None:
    """Named errors of PyTorch-VAE's DIP-VAE: it centres over the dimensions and sums over the batch."""
    z = torch.randn(7, 3) + 5
    close(covariance(z), torch.cov(z.T, correction=0))
    close(covariance(torch.cat([z, z, z])), covariance(z))


# ------------------------------------------------------------------------------------------------ kernels, WAE, InfoVAE


def kernel_of(kernel: str, a: list[float], b: list[float]) -> float:
    square = sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
    widths = [s * 2 * len(a) for s in SCALES]
    return sum(math.exp(-square / c) if kernel == "rbf" else c / (c + square) for c in widths) / len(widths)


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_the_discrepancy_equals_loops_over_pairs(kernel: Any) -> None:
    a, b = torch.randn(6, 3), torch.randn(6, 3) * 2 + 1
    x, y = a.tolist(), b.tolist()
    pairs = list(itertools.permutations(range(6), 2))
    within = sum(kernel_of(kernel, x[i], x[j]) + kernel_of(kernel, y[i], y[j]) for i, j in pairs) / len(pairs)
    across = sum(kernel_of(kernel, p, q) for p, q in itertools.product(x, y)) / 36
    close(discrepancy(kernel, a, b).item(), within - 2 * across)


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_the_discrepancy_expects_the_same_for_every_batch_size(kernel: Any) -> None:
    """Named error of PyTorch-VAE's WAE and InfoVAE: a weight over B(B - 1), a kernel width that is B, diagonals left in."""
    a, b = torch.randn(6, 2), torch.randn(6, 2) + 1
    # Over all pairs of subsets, a U-statistic's mean is that of the whole, exactly.
    subsets = [list(s) for s in itertools.combinations(range(6), 3)]
    parts = torch.stack([discrepancy(kernel, a[s], b[t]) for s in subsets for t in subsets])
    close(parts.mean(), discrepancy(kernel, a, b))


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_equal_distributions_have_no_discrepancy_on_average(kernel: Any) -> None:
    found = torch.stack([discrepancy(kernel, torch.randn(8, 3), torch.randn(8, 3)) for _ in range(800)])
    assert abs(found.mean()) < 5 * found.std() / math.sqrt(800)
    assert found.min() < 0, "an unbiased estimate of 0 is sometimes below it"
    apart = torch.stack([discrepancy(kernel, torch.randn(8, 3) + 2, torch.randn(8, 3)) for _ in range(50)])
    assert apart.mean() > 0.1


def test_equal_latents_have_a_finite_gradient() -> None:
    """A distance has none at 0; the square has."""
    z = torch.ones(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(discrepancy("imq", z, torch.randn(4, 3)), z)
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("neck", [MatchedPrior, Gaussian])
@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_wae_is_the_error_plus_the_weighted_discrepancy(neck: Any, kernel: Any) -> None:
    model, x = autoencoder(neck(dim=3)), images()
    latent = encoded(model, x)
    prior = torch.randn(len(x), 3)  # drawn after the posterior's noise
    outcome = run(WAEMMD(weight=50.0, kernel=kernel), model, x)
    close(outcome.terms["error"], model.decode(latent.z).nll(x))
    close(outcome.terms["discrepancy"], 50 * discrepancy(kernel, latent.z, prior))
    assert outcome.terms.keys() == {"error", "discrepancy"}


def test_wae_s_own_bottleneck_is_the_matched_prior_and_its_discrepancy_trains_the_encoder_alone() -> None:
    assert WAEMMD.bottleneck == "matched-prior"
    model, x = autoencoder(MatchedPrior(dim=3)), images()
    run(WAEMMD(), model, x).terms["discrepancy"].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.encoder.parameters())
    assert all(p.grad is None for p in [*model.decoder.parameters(), *model.likelihood.parameters()])


def test_a_deterministic_latent_without_a_prior_is_refused() -> None:
    from aegen_builtin.latents.deterministic import Deterministic

    from aegen.autoencoder import check_needs
    from aegen.errors import UsageError

    for objective in (WAEMMD(), InfoVAE()):
        with pytest.raises(UsageError, match="prior"):
            check_needs("objective", objective.needs, Deterministic())
    check_needs("objective", WAEMMD().needs, MatchedPrior())
    with pytest.raises(UsageError, match="density"):
        check_needs("objective", InfoVAE().needs, MatchedPrior())


@pytest.mark.parametrize(("alpha", "lambda_mmd"), [(0.0, 1.0), (0.3, 20.0), (1.0, 5.0)])
def test_info_vae_weighs_kl_and_discrepancy(alpha: float, lambda_mmd: float) -> None:
    model, x = autoencoder(Gaussian(dim=3)), images()
    latent = encoded(model, x)
    prior = torch.randn(len(x), 3)
    outcome = run(InfoVAE(alpha=alpha, lambda_mmd=lambda_mmd), model, x)
    close(outcome.terms["penalty"], (1 - alpha) * latent.penalty)
    close(outcome.terms["discrepancy"], (alpha + lambda_mmd - 1) * discrepancy("rbf", latent.z, prior))
    if lambda_mmd == 1:  # the bound itself
        close(reduce(outcome)[0], total(VAE(), model, x))


# ------------------------------------------------------------------------------------------------ sigma


def test_sigma_vae_is_the_gaussian_error_at_its_best_scale() -> None:
    from scipy.optimize import minimize_scalar

    model, x = autoencoder(Gaussian(dim=3)), images()
    recon = model.decode(encoded(model, x).z).mean.detach()

    def error(scale: float) -> float:
        return float(-Normal(recon, scale).log_prob(x).sum() / len(x))

    best: Any = minimize_scalar(error, bounds=(1e-3, 10), method="bounded", options={"xatol": 1e-12})
    outcome = run(SigmaVAE(), model, x)
    close(outcome.terms["error"].mean().item(), best.fun)
    close(outcome.watch["sigma"].item(), best.x, rtol=1e-5)
    reference = -Normal(recon, outcome.watch["sigma"]).log_prob(x).flatten(1).sum(1)
    close(outcome.terms["error"], reference)
    outcome.terms["error"].mean().backward()


def test_its_gradient_is_that_of_the_logarithm_of_the_mean_squared_error() -> None:
    """At its optimum the scale passes no gradient on, so it makes no difference that it is a constant."""
    model, x = autoencoder(Gaussian(dim=3)), images()
    weights = list(model.decoder.parameters())
    ours = torch.autograd.grad(run(SigmaVAE(), model, x).terms["error"].mean(), weights)
    error = (x - model.decode(encoded(model, x).z).mean).square().mean()
    for a, b in zip(ours, torch.autograd.grad(PIXELS / 2 * error.log(), weights), strict=True):
        close(a, b)


def test_it_equals_the_vae_whose_learned_scale_has_arrived() -> None:
    model, x = autoencoder(Gaussian(dim=3)), images()
    with torch.no_grad():  # inside [-1, 1], where a picture is what the likelihood's location says
        for parameter in model.decoder.parameters():
            parameter.mul_(0.3)
    sigma = float(run(SigmaVAE(), model, x).watch["sigma"])
    fixed = autoencoder(Gaussian(dim=3), GaussianPixels(IMAGE, scale=sigma))
    fixed.encoder, fixed.decoder = model.encoder, model.decoder
    close(total(SigmaVAE(), model, x), total(VAE(), fixed, x))
    weights = [*model.encoder.parameters(), *model.decoder.parameters()]
    ours = torch.autograd.grad(total(SigmaVAE(), model, x), weights)
    for a, b in zip(ours, torch.autograd.grad(total(VAE(), fixed, x), weights), strict=True):
        close(a, b)


@pytest.mark.parametrize("likelihood", [GaussianPixels, Bernoulli])
def test_it_takes_only_the_likelihood_s_mean_and_trains_no_scale(likelihood: Any) -> None:
    model, x = autoencoder(Gaussian(dim=3), likelihood(IMAGE)), images()
    assert list(SigmaVAE().turns()[0].trains) == ["encoder", "bottleneck", "decoder"]
    total(SigmaVAE(), model, x).backward()
    assert all(p.grad is None for p in model.likelihood.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.decoder.parameters())


def test_images_learned_by_heart_do_not_drive_the_scale_to_0() -> None:
    model = autoencoder(Gaussian(dim=3))
    for parameter in model.decoder.parameters():
        nn.init.zeros_(parameter)
    x = torch.full((4, *IMAGE), 1e-4)
    outcome = run(SigmaVAE(), model, x)
    close(outcome.watch["sigma"].item(), 1 / 255)
    outcome.terms["error"].mean().backward()
    bias: Any = model.decoder[1].bias  # type: ignore[index]
    assert (bias.grad < 0).all(), "below the floor, the images still learn"


# ------------------------------------------------------------------------------------------------ units


@pytest.mark.parametrize(
    "objective", [BetaVAE(), CapacityVAE(), DIPVAE(), DIPVAE(variant="i"), SigmaVAE()], ids=lambda o: type(o).__name__
)
def test_images_that_come_twice_change_nothing(objective: Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named error of pythae's VQ-VAE and of PyTorch-VAE: a weight that depends on the batch size."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    model, x = autoencoder(Gaussian(dim=3)), images()
    close(total(objective, model, torch.cat([x, x, x])), total(objective, model, x))


def test_the_beta_vae_of_a_split_batch_is_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    model, x = autoencoder(Gaussian(dim=3)), images(6)
    parts = [total(BetaVAE(), model, x[:2]) * 2 / 6, total(BetaVAE(), model, x[2:]) * 4 / 6]
    close(sum(parts), total(BetaVAE(), model, x))


# ------------------------------------------------------------------------------------------------ what they do


PAIR = ImageShape(1, 1, 2)
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)


class Linear(nn.Module):
    """Two pixels, correlated, → a posterior mean by a matrix, and a given log-variance, if any."""

    def __init__(self, logvar: float | None) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(2))
        self.shift = nn.Parameter(torch.full((2,), 0.0 if logvar is not None else 1.5))
        self.logvar = logvar

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1) @ self.matrix.T + self.shift
        return mean if self.logvar is None else torch.cat([mean, torch.full_like(mean, self.logvar)], 1)

    def aggregate(self) -> MultivariateNormal:
        """Linear in Gaussian images, so the aggregate posterior is known."""
        noise = 0.0 if self.logvar is None else math.exp(self.logvar)
        spread = self.matrix @ COVARIANCE @ self.matrix.T + noise * torch.eye(2)
        return MultivariateNormal(self.shift.detach(), spread.detach())


def pairs(encoder: Linear, neck: Bottleneck) -> tuple[Autoencoder, MultivariateNormal]:
    decoder = nn.Sequential(nn.Linear(2, 2), nn.Unflatten(1, PAIR))
    return Autoencoder(PAIR, encoder, neck, decoder, GaussianPixels(PAIR), (2,)), MultivariateNormal(
        torch.zeros(2), COVARIANCE
    )


def descend(objective: Objective, model: Autoencoder, source: MultivariateNormal, key: str, steps: int) -> None:
    """Only one term or watched part, over the encoder."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.encoder.parameters(), 2e-2)
    for _ in range(steps):
        outcome = objective.loss(model, source.sample((64,)).reshape(64, *PAIR))
        optimizer.zero_grad()
        {**outcome.terms, **outcome.watch}[key].mean().backward()
        optimizer.step()


@pytest.mark.parametrize("sampling", ["minibatch-weighted", "stratified"])
def test_minimising_the_total_correlation_over_the_encoder_lowers_it(sampling: Any) -> None:
    """Named error of pythae's FactorVAE, here for the estimate without a critic: the encoder raises what it should lower."""

    def correlation(encoder: Linear) -> float:
        spread = encoder.aggregate().covariance_matrix
        return float(0.5 * (spread.diagonal().log().sum() - spread.logdet()))

    encoder = Linear(math.log(0.25))
    model, source = pairs(encoder, Gaussian(dim=2))
    before = correlation(encoder)
    estimate = run(BetaTCVAE(10_000, sampling=sampling), model, source.sample((600,)).reshape(600, *PAIR))
    close(estimate.watch["total_correlation"].mean().item(), before, rtol=0.25)  # the estimate means what it says
    descend(BetaTCVAE(10_000, sampling=sampling), model, source, "total_correlation", 200)
    assert correlation(encoder) < 0.1 * before


@pytest.mark.parametrize(
    "objective",
    [WAEMMD(), WAEMMD(kernel="rbf"), InfoVAE(kernel="imq"), InfoVAE()],
    ids=lambda o: f"{type(o).__name__}-{o.kernel}",
)
def test_minimising_the_discrepancy_brings_the_aggregate_posterior_to_the_prior(objective: Objective) -> None:
    sampled = isinstance(objective, InfoVAE)
    encoder = Linear(math.log(0.1) if sampled else None)
    model, source = pairs(encoder, Gaussian(dim=2) if sampled else MatchedPrior(dim=2))
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    before = float(kl_divergence(encoder.aggregate(), prior))
    descend(objective, model, source, "discrepancy", 300)
    assert float(kl_divergence(encoder.aggregate(), prior)) < 0.15 * before


def test_dip_brings_the_covariance_to_the_identity() -> None:
    encoder = Linear(math.log(0.25))
    model, source = pairs(encoder, Gaussian(dim=2))
    descend(DIPVAE(), model, source, "covariance", 300)
    torch.testing.assert_close(encoder.aggregate().covariance_matrix, torch.eye(2), atol=0.15, rtol=0)


def test_the_class_moves_and_stretches_the_mean_of_the_style_and_is_charged_for_it() -> None:
    from aegen_builtin.latents.conditional import Conditional

    neck = Conditional(classes=4, dim=3).double()
    with torch.no_grad():
        neck.shift.normal_()
        neck.stretch.normal_()
    features, labels = torch.randn(5, neck.fan_in, dtype=torch.float64), torch.tensor([3, 0, 2, 2, 1])
    latent = neck(features, labels=labels)
    logits = features[:, 6:]
    for i, label in enumerate(labels.tolist()):
        mean = features[i, :3] * neck.stretch[label].exp() + neck.shift[label]
        torch.testing.assert_close(latent.mean[i, :3], mean)
        own = Normal(mean, torch.exp(0.5 * features[i, 3:6]))
        kl = kl_divergence(own, Normal(torch.zeros_like(mean), 1.0)).sum()
        torch.testing.assert_close(latent.penalty[i], kl - logits[i].log_softmax(0)[label], rtol=1e-6, atol=0)
    latent.penalty.sum().backward()
    assert neck.shift.grad is not None and neck.shift.grad.abs().min() > 0
    assert neck.stretch.grad is not None and neck.stretch.grad.abs().min() > 0
