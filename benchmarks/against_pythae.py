"""The objectives that pythae has too, on the same weights, images and noise: both values, and why they differ.

    PYTHONPATH=DIR/pythae python benchmarks/against_pythae.py

pythae's own models are built around the encoder and decoder of an aegen model and run forward. A row is explained if pythae's value and its
gradient for all weights follow from aegen's parts by the relation that the row names, to 1e-6 in float64. Rows without a value to compare
measure a gradient that should not be there. Anything unexplained ends the script with 1.

aegen's values are shown without the constant n/2 · log 2π of a Gaussian with scale 1, which pythae leaves out.
"""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from aegen_builtin.adversarial import factor_vae
from aegen_builtin.adversarial.aae import AAE
from aegen_builtin.adversarial.adversarial import Adversarial
from aegen_builtin.adversarial.gan_losses import critic_loss
from aegen_builtin.latents.deterministic import Deterministic
from aegen_builtin.latents.flow_posterior import FlowPosterior
from aegen_builtin.latents.flows import IAF, Planar, Radial
from aegen_builtin.latents.gaussian import Gaussian
from aegen_builtin.latents.matched_prior import MatchedPrior
from aegen_builtin.latents.poincare import Poincare
from aegen_builtin.latents.sphere import Sphere
from aegen_builtin.latents.vamp import Vamp
from aegen_builtin.latents.von_mises_fisher import VonMisesFisher
from aegen_builtin.latents.vq import VQ
from aegen_builtin.likelihoods.bernoulli import Bernoulli
from aegen_builtin.likelihoods.gaussian import Gaussian as GaussianPixels
from aegen_builtin.nets.conv import Conv
from aegen_builtin.nets.mlp import MLP
from aegen_builtin.objectives import kernels
from aegen_builtin.objectives.ae import AE
from aegen_builtin.objectives.beta_tc_vae import BetaTCVAE
from aegen_builtin.objectives.beta_vae import BetaVAE
from aegen_builtin.objectives.capacity_vae import CapacityVAE
from aegen_builtin.objectives.ciwae import CIWAE
from aegen_builtin.objectives.info_vae import InfoVAE
from aegen_builtin.objectives.iwae import IWAE
from aegen_builtin.objectives.miwae import MIWAE
from aegen_builtin.objectives.piwae import PIWAE
from aegen_builtin.objectives.rae_gp import RAEGP
from aegen_builtin.objectives.rae_l2 import RAEL2
from aegen_builtin.objectives.vae import VAE
from aegen_builtin.objectives.wae_mmd import WAEMMD
from aegen_builtin.perceptual.ms_ssim import ms_ssim
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from aegen.autoencoder import Autoencoder
from aegen.nn.importance import Draws, log_mean_exp
from aegen.protocols import Bottleneck, ImageShape, Likelihood, Objective, Outcome

try:
    from pythae import models, trainers
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.msssim_vae.msssim_vae_utils import MSSSIM
    from pythae.models.nn import BaseDecoder, BaseDiscriminator, BaseEncoder
    from pythae.models.pvae.pvae_utils import WrappedNormal
except ImportError as problem:
    sys.exit(f"{problem}; benchmarks/README.md says how to get pythae")

IMAGE, DIM, BATCH, SEED = ImageShape(1, 8, 8), 3, 12, 7
PIXELS = math.prod(IMAGE)
LIMIT, COARSE = 1e-6, 1e-4  # in float64, in float32


class Row(NamedTuple):
    """A line of the table."""

    name: str
    ours: float
    theirs: float
    left: str  # of the difference, once it is explained
    why: str
    explained: bool


# ------------------------------------------------------------------------------------------ the same net on both sides


def model_of(neck: Bottleneck, likelihood: Likelihood | None = None, *, spatial: bool = False) -> Autoencoder:
    """A small net with the same weights every time, far enough from its initialisation for the terms to matter.

    `spatial`: its latents are maps of 4×4, not vectors.
    """
    torch.manual_seed(SEED)
    nets: Any = MLP(IMAGE, neck.fan_in, hidden=[24])
    if spatial:
        nets = Conv(IMAGE, neck.fan_in, width=4, depth=1, spatial=True)
    shape = (DIM, 4, 4) if spatial else (DIM,)
    likelihood = likelihood or GaussianPixels(IMAGE, scale=1.0)
    model = Autoencoder(IMAGE, nets.encoder(), neck, nets.decoder(shape, 1), likelihood, shape)
    for parameter in [*model.encoder.parameters(), *model.decoder.parameters()]:
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    for (
        parameter
    ) in model.decoder.parameters():  # pictures inside [-1, 1], where the likelihood's location is the picture
        parameter.data.mul_(0.4)
    return model


def images() -> Tensor:
    """(B, C, H, W) in [-1, 1]."""
    torch.manual_seed(SEED + 1)
    return torch.rand(BATCH, *IMAGE) * 2 - 1


class Encoder(BaseEncoder):  # type: ignore[misc]
    """aegen's, as pythae calls it; `unit`: it is given images in [0, 1]."""

    def __init__(self, model: Autoencoder, unit: bool) -> None:
        super().__init__()
        self.net, self.unit = model.encoder, unit

    def forward(self, x: Tensor) -> Any:
        """Mean and, where there is one, log-variance."""
        features = self.net(2 * x - 1 if self.unit else x)
        return ModelOutput(embedding=features[:, :DIM], log_covariance=features[:, DIM : 2 * DIM])


class Decoder(BaseDecoder):  # type: ignore[misc]
    """aegen's, as pythae calls it."""

    def __init__(self, model: Autoencoder, unit: bool) -> None:
        super().__init__()
        self.net, self.likelihood, self.unit = model.decoder, model.likelihood, unit

    def forward(self, z: Tensor) -> Any:
        """The image's mean."""
        mean = self.likelihood(self.net(z)).mean
        return ModelOutput(reconstruction=(mean + 1) / 2 if self.unit else mean)


def peer(name: str, model: Autoencoder, *, unit: bool = False, **options: Any) -> Any:
    """pythae's model of that name around the nets of `model`."""
    config = getattr(models, f"{name}Config", None) or getattr(models, f"{name}_Config")
    made = config(input_dim=tuple(IMAGE), latent_dim=DIM, **options)
    return getattr(models, name)(made, Encoder(model, unit), Decoder(model, unit))


def forward(theirs: Any, x: Tensor, noise: Tensor | None = None, **options: Any) -> Any:
    """pythae's own forward pass; with `noise` for its draws, else from the seed that aegen's pass began with."""
    if noise is not None:
        theirs._sample_gauss = lambda mean, std: (mean + noise * std, noise)
    torch.manual_seed(SEED)
    return theirs({"data": x}, **options)


def outcome(objective: Objective, model: Autoencoder, x: Tensor) -> Outcome:
    """aegen's loss, the constant of the Gaussian taken off."""
    torch.manual_seed(SEED)
    found = objective.train().loss(model, x)
    first = next(iter(found.terms))
    if isinstance(model.likelihood, GaussianPixels):
        found.terms[first] = found.terms[first] - 0.5 * PIXELS * math.log(2 * math.pi)
    return found


def total(found: Outcome) -> Tensor:
    """As the engine adds it up."""
    return torch.stack([term.mean() for term in found.terms.values()]).sum()


def slope(value: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """All of a gradient in one vector."""
    parameters = list(parameters)
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
    )


def apart(a: Tensor, b: Tensor) -> float:
    """Relative difference of two numbers or vectors."""
    return float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-12))


def beside(name: str, model: nn.Module, ours: Tensor, theirs: Tensor, why: str, explained: Tensor | None = None) -> Row:
    """`explained`: what pythae's loss must be if the relation holds; aegen's own, if none is given."""
    explained = ours if explained is None else explained
    value, gradient = apart(theirs, explained), apart(*(slope(v, model.parameters()) for v in (theirs, explained)))
    left = f"{value:.0e}, {gradient:.0e}"
    limit = LIMIT if theirs.dtype == torch.float64 else COARSE
    return Row(name, ours.item(), theirs.item(), left, why, max(value, gradient) < limit)


def measured(name: str, ours: Tensor | float, theirs: Tensor | float, why: str, holds: bool) -> Row:
    """A number of its own, and whether it shows what `why` says."""
    return Row(name, float(ours), float(theirs), "", why, holds)


# ------------------------------------------------------------------------------------------------- one row or more each


def plain(x: Tensor) -> Iterator[Row]:
    """ae, vae, beta-vae."""
    model = model_of(Deterministic(dim=DIM))
    ours = total(outcome(AE(), model, x))
    theirs = forward(peer("AE", model), x).loss
    yield beside("ae", model, ours, theirs, "½ of the squared error, the Gaussian's; pythae all of it", 2 * ours)
    model = model_of(Gaussian(dim=DIM))
    yield beside("vae", model, total(outcome(VAE(), model, x)), forward(peer("VAE", model), x).loss, "equal")
    coins = model_of(Gaussian(dim=DIM), Bernoulli(IMAGE))
    theirs = forward(peer("VAE", coins, unit=True, reconstruction_loss="bce"), (x + 1) / 2).loss
    yield beside("vae, bernoulli", coins, total(outcome(VAE(), coins, x)), theirs, "equal")
    ours, theirs = total(outcome(BetaVAE(beta=4.0), model, x)), forward(peer("BetaVAE", model, beta=4.0), x).loss
    yield beside("beta-vae", model, ours, theirs, "equal")


def coins(x: Tensor) -> Iterator[Row]:
    """Other objectives with pixels that are coins; pythae is given images in [0, 1]."""
    model, unit = model_of(Gaussian(dim=DIM), Bernoulli(IMAGE)), (x + 1) / 2

    def theirs(name: str, noise: Tensor | None = None, at: dict[str, Any] | None = None, **options: Any) -> Tensor:
        options["reconstruction_loss"] = "bce"
        loss: Tensor = forward(peer(name, model, unit=True, **options), unit, noise, **(at or {})).loss
        return loss

    ours = total(outcome(BetaVAE(beta=4.0), model, x))
    yield beside("beta-vae, bernoulli", model, ours, theirs("BetaVAE", beta=4.0), "equal")
    weights = {"alpha": 1.5, "beta": 6.0, "gamma": 2.0}
    ours = total(outcome(BetaTCVAE(1000, **weights), model, x))
    found = theirs("BetaTCVAE", at={"dataset_size": 1000}, use_mss=False, **weights)
    constant = (weights["alpha"] + (DIM - 1) * weights["beta"] - DIM * weights["gamma"]) * math.log(1000)
    why = "(α + (D-1)·β - D·γ)·log N more, no gradient"
    yield beside("beta-tc-vae, bernoulli", model, ours, found, why, ours + constant)
    torch.manual_seed(SEED)
    log_w = Draws(model, model.encode(x), x, 4).log_w
    torch.manual_seed(SEED)
    noise = torch.stack([torch.randn(BATCH, DIM) for _ in range(5)])[1:]  # the first is for the latent itself
    ours, found = total(outcome(IWAE(samples=4), model, x)), theirs("IWAE", noise.transpose(0, 1), number_samples=4)
    why = "gradient equal; pythae's value is the weighted mean of log w, no bound"
    yield beside("iwae, bernoulli", model, ours, found, why, weighted(log_w).mean())


def capacity(x: Tensor) -> Iterator[Row]:
    """Above all charges, and amid them."""
    model = model_of(Gaussian(dim=DIM))
    kl = outcome(VAE(), model, x).terms["penalty"].detach()
    for where, nats in (("far", float(2 * kl.max())), ("near", float(kl.mean()))):
        found = outcome(CapacityVAE(capacity=nats, gamma=10.0), model, x)
        theirs = forward(peer("DisentangledBetaVAE", model, C=nats, beta=10.0, warmup_epoch=0), x, epoch=1).loss
        assert found.latent is not None
        each = found.terms["error"].mean() + 10.0 * (found.latent.penalty - nats).abs().mean()
        why = "equal" if where == "far" else "distance of the mean charge; pythae the mean of each image's"
        yield beside(f"capacity-vae, {where}", model, total(found), theirs, why, each)


def correlation(x: Tensor) -> Iterator[Row]:
    """Both samplings of beta-tc-vae."""
    model, size = model_of(Gaussian(dim=DIM)), 1000
    weights = {"alpha": 1.5, "beta": 6.0, "gamma": 2.0}
    ours = total(outcome(BetaTCVAE(size, **weights), model, x))
    theirs = forward(peer("BetaTCVAE", model, use_mss=False, **weights), x, dataset_size=size).loss
    constant = (weights["alpha"] + (DIM - 1) * weights["beta"] - DIM * weights["gamma"]) * math.log(size)
    why = "(α + (D-1)·β - D·γ)·log N more, no gradient"
    yield beside("beta-tc-vae, weighted", model, ours, theirs, why, ours + constant)
    objective = BetaTCVAE(size, sampling="stratified", **weights)
    ours, pythae = total(outcome(objective, model, x)), peer("BetaTCVAE", model, use_mss=True, **weights)
    theirs = forward(pythae, x, dataset_size=size).loss
    columns = pythae._log_importance_weight_matrix(BATCH, size)
    objective.log_weights = lambda densities: columns  # type: ignore[method-assign]
    why = "named error: an image's own weight stands in the first column, not on the diagonal"
    off = not torch.allclose(columns.diagonal().exp(), columns.new_tensor(1 / size))
    row = beside("beta-tc-vae, stratified", model, ours, theirs, why, total(outcome(objective, model, x)))
    yield row._replace(explained=row.explained and off)


def discrepancies(x: Tensor) -> Iterator[Row]:
    """wae-mmd and info-vae with both kernels."""
    scales = len(kernels.SCALES)
    for kernel in ("imq", "rbf"):
        why = "mean over seven scales, not sum" if kernel == "imq" else "mean over seven scales, not one"

        def theirs_of(found: Outcome, one: Outcome, kernel: str = kernel) -> Tensor:
            return scales * found.terms["discrepancy"] if kernel == "imq" else one.terms["discrepancy"]

        objective: Objective = WAEMMD(weight=50.0, kernel=kernel)  # type: ignore[arg-type]
        model = model_of(MatchedPrior(dim=DIM))
        found = outcome(objective, model, x)
        with patch.object(kernels, "SCALES", (1.0,)):
            one = outcome(objective, model, x)
        theirs = forward(peer("WAE_MMD", model, kernel_choice=kernel, reg_weight=50.0), x).loss
        explained = 2 * found.terms["error"].mean() + theirs_of(found, one)
        yield beside(f"wae-mmd, {kernel}", model, total(found), theirs, f"{why}; ½ of the squared error", explained)

        objective = InfoVAE(alpha=0.3, lambda_mmd=20.0, kernel=kernel)  # type: ignore[arg-type]
        model = model_of(Gaussian(dim=DIM))
        found = outcome(objective, model, x)
        with patch.object(kernels, "SCALES", (1.0,)):
            one = outcome(objective, model, x)
        theirs = forward(peer("INFOVAE_MMD", model, kernel_choice=kernel, alpha=0.3, lbd=20.0), x).loss
        explained = (found.terms["error"] + found.terms["penalty"]).mean() + theirs_of(found, one)
        yield beside(f"info-vae, {kernel}", model, total(found), theirs, why, explained)


def weighted(log_w: Tensor) -> Tensor:
    """pythae's loss of draws (K, …): the negative bound with its gradient, and the entropy of the weights for its value."""
    log_share = log_w.detach().log_softmax(0)
    return -log_mean_exp(log_w) - (log_share.exp() * log_share).sum(0) - math.log(len(log_w))


def importance(x: Tensor) -> Iterator[Row]:
    """iwae, ciwae, miwae, piwae."""
    model, (samples, bounds) = model_of(Gaussian(dim=DIM)), (2, 3)
    constant = 0.5 * PIXELS * math.log(2 * math.pi)
    torch.manual_seed(SEED)
    latent = model.encode(x)
    draws = Draws(model, latent, x, samples * bounds)
    torch.manual_seed(SEED)
    torch.randn(BATCH, DIM)  # for the latent itself
    noise = torch.stack([torch.randn(BATCH, DIM) for _ in range(samples * bounds)])
    log_w = draws.log_w + constant
    entropy = "gradient equal; pythae's value is the weighted mean of log w, no bound"

    ours = total(outcome(IWAE(samples=samples * bounds), model, x))
    theirs = forward(peer("IWAE", model, number_samples=samples * bounds), x, noise.transpose(0, 1)).loss
    yield beside("iwae", model, ours, theirs, entropy, weighted(log_w).mean())

    ours = total(outcome(CIWAE(samples=samples * bounds, beta=0.3), model, x))
    theirs = forward(peer("CIWAE", model, number_samples=samples * bounds, beta=0.3), x, noise.transpose(0, 1)).loss
    yield beside("ciwae", model, ours, theirs, entropy, (0.7 * weighted(log_w) - 0.3 * log_w.mean(0)).mean())

    ours = total(outcome(MIWAE(samples=samples, bounds=bounds), model, x))
    several = noise.unflatten(0, (samples, bounds)).permute(2, 1, 0, 3)  # (B, bounds, samples, D), as pythae has it
    pythae = peer("MIWAE", model, number_gradient_estimates=bounds, number_samples=samples)
    swapped = weighted(log_w.unflatten(0, (samples, bounds)).transpose(0, 1)).mean()
    why = "named error: samples and bounds are swapped; beside it, as with iwae"
    yield beside("miwae", model, ours, forward(pythae, x, several).loss, why, swapped)

    ours = total(outcome(PIWAE(samples=samples, bounds=bounds), model, x))
    pythae = peer("PIWAE", model, number_gradient_estimates=bounds, number_samples=samples)
    output = forward(pythae, x, several)
    yield beside("piwae, decoder", model.decoder, ours, output.decoder_loss, entropy, weighted(log_w).mean())
    step = trainers.CoupledOptimizerTrainer._optimizers_step
    moved = after(step, output, encoder=model.encoder, decoder=model.decoder)["encoder"]
    leaked = slope(-log_mean_exp(log_w).mean(), model.encoder.parameters())
    left = apart(moved, slope(swapped, model.encoder.parameters()) + leaked)
    mine = slope(ours, model.encoder.parameters())
    why = "named error: the decoder's bound reaches the encoder as well (and miwae's)"
    yield measured("piwae, gradient of the encoder", mine.norm(), moved.norm(), why, left < LIMIT)._replace(
        left=f"{left:.0e}"
    )


def after(step: Callable[..., None], output: Any, **players: nn.Module) -> dict[str, Tensor]:
    """The gradients that pythae's own step leaves to each player's optimizer."""
    still = {f"{n}_optimizer": SimpleNamespace(zero_grad=m.zero_grad, step=lambda: None) for n, m in players.items()}
    for player in players.values():
        player.zero_grad()
    step(SimpleNamespace(**still), output)
    found = {n: torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]) for n, m in players.items()}
    for player in players.values():
        player.zero_grad()
    return found


def regularised(x: Tensor) -> Iterator[Row]:
    """rae-l2 and rae-gp."""
    model = model_of(Deterministic(dim=DIM))
    found = outcome(RAEL2(beta=0.7, weight=0.01), model, x)
    theirs = forward(peer("RAE_L2", model, embedding_weight=0.7), x).loss
    explained = (2 * found.terms["error"] + found.terms["norm"]).mean()
    why = "½ of the squared error; weight decay in the loss, pythae's in the optimizer"
    yield beside("rae-l2", model, total(found), theirs, why, explained)

    found = outcome(RAEGP(beta=0.7, weight=0.5, probes=0), model, x)
    theirs = forward(peer("RAE_GP", model, embedding_weight=0.7, reg_weight=0.5), x.clone()).loss
    pixels = x.clone().requires_grad_()
    (direction,) = torch.autograd.grad(model.reconstruct(pixels).sum(), pixels, create_graph=True)
    explained = (2 * found.terms["error"] + found.terms["norm"]).mean() + 0.5 * direction.square().sum() / BATCH
    why = "named error: derivative of the pixels' sum by the input, not of the image by the latent"
    yield beside("rae-gp", model, total(found), theirs, f"{why}; ½ of the squared error", explained)


def codebooks(x: Tensor) -> Iterator[Row]:
    """vq-vae with maps, in float32: pythae's quantiser knows no other, and makes a code of every single number of a vector."""
    torch.set_default_dtype(torch.float32)
    for spatial, shape in ((True, "4×4 map"),):
        torch.manual_seed(SEED)
        neck = VQ(dim=DIM, codes=6, update="gradient", kmeans_iterations=0, restart=0)
        model = model_of(neck, spatial=spatial)
        found = outcome(AE(), model, x.float())
        pythae = peer("VQVAE", model, num_embeddings=6)
        pythae.quantizer.embeddings.weight = neck.book.vectors
        count = math.prod(model.latent_shape)
        explained = (2 * found.terms["error"] + found.terms["penalty"] / count).mean()
        why = (
            f"named error: mean over {count} values, so a weight that falls with the map's size; ½ of the squared error"
        )
        yield beside(f"vq-vae, {shape}", model, total(found), forward(pythae, x.float()).loss, why, explained)
    torch.set_default_dtype(torch.float64)


def structure(x: Tensor) -> Iterator[Row]:
    """ms-ssim: what a batch makes of its images."""
    x, theirs = x.float(), MSSSIM()
    y = (x + torch.linspace(0, 1, BATCH).float().view(-1, 1, 1, 1) * torch.randn_like(x)).clamp(-1, 1)
    pairs = list(zip(x.split(1), y.split(1), strict=True))
    ours = (ms_ssim(x, y) - torch.cat([ms_ssim(a, b) for a, b in pairs])).mean()
    units = [((a + 1) / 2, (b + 1) / 2) for a, b in [(x, y), *pairs]]
    batch, *each = [theirs(a, b) for a, b in units]
    mixed = batch - torch.stack(each).mean()
    why = "named error: the powers are of means over the batch"
    yield measured("ms-ssim, a batch less its images", ours, mixed, why, bool(ours.abs() < 1e-6 < 1e-4 < mixed.abs()))


class Given(nn.Module):
    """Pseudo-inputs of aegen where pythae has its own."""

    def __init__(self, neck: Vamp) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, idle: Tensor) -> Tensor:
        """(K, C · H · W)."""
        return self.neck.pseudo_inputs.flatten(1)


def spaces(x: Tensor) -> Iterator[Row]:
    """vamp, sphere, poincare: `vae` with other latents."""
    torch.manual_seed(SEED)
    vamp = Vamp(IMAGE, dim=DIM, components=5)
    model = model_of(vamp)
    pythae = peer("VAMP", model, number_components=5)
    pythae.pseudo_inputs = Given(vamp)
    ours = total(outcome(VAE(), model, x))
    yield beside("vae, vamp", model, ours, forward(pythae, x).loss, "equal")

    model = model_of(Sphere(dim=DIM))
    found = outcome(VAE(), model, x)
    assert found.latent is not None and found.recon is not None
    posterior: Any = found.latent.posterior
    theirs = peer("SVAE", model).loss_function(found.recon, x, posterior.mean, posterior.kappa, found.latent.z)[0]
    why = "equal, given the same draw and concentration"
    yield beside("vae, sphere", model, total(found), theirs, why)
    yield by_concentration()

    model = model_of(Poincare(dim=DIM))
    found = outcome(VAE(), model, x)
    assert found.latent is not None and found.recon is not None
    posterior = found.latent.posterior
    pythae = peer("PoincareVAE", model)
    q = WrappedNormal(posterior.mean, posterior.std, pythae.latent_manifold)
    theirs = pythae.loss_function(found.recon, x, found.latent.z[None], q)[0]
    yield beside("vae, poincare", model, total(found), theirs, "equal, given the same draw, mean and spread")


class Alike(nn.Module):
    """An encoder whose flow parameters are the same for every image, as pythae's are."""

    def __init__(self, encoder: nn.Module, count: int) -> None:
        super().__init__()
        self.encoder, self.shared = encoder, nn.Parameter(0.7 * torch.randn(count))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2·D + count)."""
        return torch.cat([self.encoder(x), self.shared.expand(len(x), -1)], 1)


def bent(kind: str) -> tuple[Autoencoder, FlowPosterior, Tensor]:
    """A model with a flow posterior of two steps, its bottleneck, and the parameters that its images share."""
    torch.manual_seed(SEED)
    neck: Any = FlowPosterior(dim=DIM, flow=kind, depth=2, hidden=8)  # type: ignore[arg-type]
    count, neck.fan_in = neck.fan_in - 2 * DIM, 2 * DIM
    model = model_of(neck)
    neck.fan_in += count
    torch.manual_seed(SEED)
    model.encoder = Alike(model.encoder, count)
    return model, neck, model.encoder.shared


def put(layer: nn.Module, **values: Tensor) -> None:
    """Aegen's tensors, with their gradients, in the place of pythae's parameters."""
    for name, value in values.items():
        delattr(layer, name)
        setattr(layer, name, value)


class Masked(nn.Module):
    """aegen's masked net of one step, as pythae's has its results: a shift and a log-scale."""

    def __init__(self, flow: IAF, index: int, shared: Tensor) -> None:
        super().__init__()
        self.step, self.shared = lambda z: flow._net(index, z, flow.contexts[index](shared)), [shared]

    def forward(self, z: Tensor) -> Tensor:
        """(B, 2·D)."""
        m, s = self.step(z)
        return torch.cat([(-s).sigmoid() * m, logsigmoid(s)], 1)


def flows(x: Tensor) -> Iterator[Row]:
    """`vae` with each flow posterior, one flow for all images."""
    model, neck, shared = bent("planar")
    planar: Any = neck.flow
    assert isinstance(planar, Planar)
    pythae = peer("VAE_LinNF", model, flows=["Planar", "Planar"])
    for layer, own in zip(pythae.net, planar.shares(shared[None]), strict=True):
        u, w, b, _ = planar._constrained(own)
        put(layer, u=u, w=w, b=b)
    found = outcome(VAE(), model, x)
    assert found.latent is not None
    posterior: Any = found.latent.posterior
    torch.manual_seed(SEED)
    z, excess = posterior.base.sample(), torch.zeros(BATCH)
    for index, own in enumerate(planar.shares(posterior.parameters)):
        z, logdet = planar.step(index, z, own)
        excess = excess + torch.log1p(1e-4 * (-logdet).exp())
    why = "1e-4 is added to every determinant; for its unconstrained u stands aegen's constrained one"
    ours = total(found)
    yield beside("vae, planar flow", model, ours, forward(pythae, x).loss, why, ours - excess.mean())
    yield folded()

    model, neck, shared = bent("radial")
    radial: Any = neck.flow
    assert isinstance(radial, Radial)
    pythae = peer("VAE_LinNF", model, flows=["Radial", "Radial"])
    for layer, own in zip(pythae.net, radial.shares(shared[None]), strict=True):
        centre, alpha, beta = radial._constrained(own)
        put(layer, x0=centre, log_alpha=alpha.log(), beta=torch.expm1(alpha + beta).log())
    ours = total(outcome(VAE(), model, x))
    yield beside("vae, radial flow", model, ours, forward(pythae, x).loss, "equal, given the same steps")

    model, neck, shared = bent("iaf")
    iaf: Any = neck.flow
    pythae = peer("VAE_IAF", model, n_made_blocks=2)
    for index, layer in enumerate(reversed(pythae.iaf_flow.net)):
        layer.net = Masked(iaf, index, shared)
    inverse = pythae.iaf_flow.inverse

    def turned(y: Tensor) -> Any:
        """pythae reverses the dimensions before a step, aegen after it."""
        output = inverse(y.flip(1))
        return ModelOutput(out=output.out.flip(1), log_abs_det_jac=output.log_abs_det_jac)

    pythae.iaf_flow.inverse = turned
    ours = total(outcome(VAE(), model, x))
    why = "equal, given the same masked nets; the order is reversed before a step, not after"
    yield beside("vae, inverse autoregressive flow", model, ours, forward(pythae, x).loss, why)


def folded(count: int = 2000) -> Row:
    """The share of new planar steps that fold space, where a density by the determinant is none."""
    torch.manual_seed(SEED)
    pythae = peer("VAE_LinNF", model_of(Gaussian(dim=DIM)), flows=["Planar"] * count)
    theirs = torch.stack([(layer.w * layer.u).sum() for layer in pythae.net])
    own = torch.stack([torch.cat([layer.u[0], layer.w[0], layer.b]) for layer in pythae.net])
    product = Planar(DIM, 1, 0)._constrained(own)[3]
    shares = [float((value <= -1).double().mean()) for value in (product, theirs)]
    why = "the constraint w·u > -1 (Rezende & Mohamed, appendix A.1) is left out: these steps cannot be inverted"
    return measured("planar flow, share of new steps that fold", *shares, why, shares[0] == 0 < 0.1 < shares[1])


def by_concentration(kappa: float = 2.0, draws: int = 200_000) -> Row:
    """The derivative of a draw's mean cosine by the concentration: 1 - A² - (D-1)/κ · A, with A the mean cosine."""
    mean = torch.zeros(draws, DIM)
    mean[:, 0] = 1

    def derivative(sample: Callable[[Tensor, Tensor], Tensor]) -> float:
        torch.manual_seed(SEED)
        concentration = torch.tensor(kappa, requires_grad=True)
        cosine = sample(mean, concentration.expand(draws, 1))[:, 0].mean()
        return float(torch.autograd.grad(cosine, concentration)[0])

    def pythae(mean: Tensor, kappa: Tensor) -> Tensor:
        return models.SVAE._acc_rej_steps(SimpleNamespace(), DIM, kappa)  # type: ignore[no-any-return]

    ours, theirs = derivative(lambda mean, kappa: VonMisesFisher(mean, kappa).sample()), derivative(pythae)
    assert DIM == 3
    a = 1 / math.tanh(kappa) - 1 / kappa
    truth = 1 - a * a - 2 / kappa * a
    why = f"named error: the derivative passes a rejection as if nothing were rejected; it is {truth:.4f}"
    holds = abs(ours / truth - 1) < 0.01 < 0.1 < abs(theirs / truth - 1)
    return measured(f"sphere, mean cosine by κ at {kappa:g}", ours, theirs, why, holds)


def critics(x: Tensor) -> Iterator[Row]:
    """What a critic's loss does to those that it judges."""
    model = model_of(Gaussian(dim=DIM))
    torch.manual_seed(SEED)
    wrapper = Adversarial(VAE(), IMAGE, form="non-saturating", width=8)
    judged = outcome_of(wrapper.judge, model, x)
    mine = slope(judged.terms["critic"].mean(), model.decoder.parameters())
    pythae, share = peer("VAEGAN", model), 0.5
    pythae.adversarial_loss_scale = share
    output = forward(pythae, x)
    leak = slope(output.discriminator_loss, model.decoder.parameters())
    name = "vae-gan, critic's gradient in the decoder"
    yield measured(name, mine.norm(), leak.norm(), "named error: leaks", not mine.any() and bool(leak.any()))

    # Which way the decoder goes: the cosine of the adversarial part of its gradient and the gradient of the critic's loss.
    fooled = outcome_of(wrapper.turns()[0].loss, model, x)
    assert fooled.recon is not None
    verdict = slope(fooled.terms["verdict"].mean(), model.decoder.parameters())
    against = critic_loss("non-saturating", wrapper.critic(x), wrapper.critic(fooled.recon)).mean()
    ours = torch.cosine_similarity(verdict, slope(against, model.decoder.parameters()), dim=0)
    recon = slope(output.recon_loss, model.decoder.parameters())
    step = trainers.CoupledOptimizerAdversarialTrainer._optimizers_step
    players = {"encoder": model.encoder, "decoder": model.decoder, "discriminator": pythae.discriminator}
    moved = after(step, output, **players)["decoder"]
    theirs = torch.cosine_similarity(moved - (1 - share) * recon, leak, dim=0)
    why = "named error: the decoder helps the critic; it should go against it, below 0"
    yield measured("vae-gan, decoder along the critic's loss", ours, theirs, why, bool(ours < 0 < theirs))


class Odds(BaseDiscriminator):  # type: ignore[misc]
    """aegen's critic, as pythae's adversarial autoencoder calls it."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, z: Tensor) -> Any:
        """A probability each."""
        return ModelOutput(embedding=self.critic(z).sigmoid())


class TwoLogits(nn.Module):
    """aegen's critic, as pythae's FactorVAE calls it."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, z: Tensor) -> Tensor:
        """(B, 2), whose difference is the log-odds."""
        odds = self.critic(z)
        return torch.cat([odds, torch.zeros_like(odds)], 1)


def latent_critics(x: Tensor) -> Iterator[Row]:
    """aae and factor-vae."""
    model = model_of(Gaussian(dim=DIM))
    torch.manual_seed(SEED)
    aae = AAE((DIM,), width=16, depth=1)
    both = nn.ModuleList([model, aae.critic])
    pythae = peer("Adversarial_AE", model, adversarial_loss_scale=0.3, reconstruction_loss_scale=0.7)
    pythae.set_discriminator(Odds(aae.critic))
    output = forward(pythae, x)
    error = total(outcome(aae, model, x))
    verdict, judged = (outcome_of(turn, model, x) for turn in (aae.fool, aae.judge))
    fooled = verdict.terms["verdict"].mean()
    why = "one weighted sum (here 0.7 and 0.3) for one optimizer; two turns"
    yield beside("aae, autoencoder", model, error + fooled, output.autoencoder_loss, why, 0.7 * error + 0.3 * fooled)
    yield beside("aae, critic", both, judged.terms["critic"].mean(), output.discriminator_loss, "equal")

    torch.manual_seed(SEED)
    objective = factor_vae.FactorVAE((DIM,), gamma=3.0, width=16, depth=2)
    pythae = peer("FactorVAE", model, gamma=3.0)
    pythae.discriminator = TwoLogits(objective.critic)
    torch.manual_seed(SEED)
    output = forward(pythae, x, torch.randn(BATCH // 2, DIM))
    half = x[output.recon_x_indices]
    found = outcome(objective, model, half)
    why = "equal, on the half of the batch that pythae takes"
    yield beside("factor-vae, autoencoder", model, total(found), output.autoencoder_loss, why)
    with patch.object(factor_vae, "shuffle_dimensions", lambda z: output.z_bis_permuted):
        judged = outcome_of(objective.judge, model, half)
    ours = judged.terms["critic"].mean()
    why = "half of it; what is shuffled is the other half of the batch"
    yield beside("factor-vae, critic", objective.critic, ours, output.discriminator_loss, why, ours / 2)

    # What the critic's loss does to the encoder: a step goes against the gradient, so here along the total correlation.
    encoder = list(model.encoder.parameters())
    mine, leak = slope(ours, encoder), slope(output.discriminator_loss, encoder)
    expected = slope(output.autoencoder_loss, encoder) + leak
    step = trainers.AdversarialTrainer._optimizers_step
    moved = after(step, output, autoencoder=model.encoder, discriminator=objective.critic)["autoencoder"]
    left = apart(moved, expected)
    why = "named error: D(z) is not detached in the critic's loss"
    row = measured("factor-vae, critic's gradient in the encoder", mine.norm(), leak.norm(), why, left < LIMIT)
    yield row._replace(left=f"{left:.0e}", explained=row.explained and not mine.any() and bool(leak.any()))
    up = slope(found.watch["total_correlation"].mean(), encoder)
    along = torch.cosine_similarity(-leak, up, dim=0)
    why = "named error: that part of the step raises the total correlation, above 0"
    yield measured("factor-vae, that gradient's step along the TC", -mine @ up, along, why, bool(along > 0))


def outcome_of(loss: Callable[[Autoencoder, Tensor], Outcome], model: Autoencoder, x: Tensor) -> Outcome:
    """A turn's loss from the common seed."""
    torch.manual_seed(SEED)
    return loss(model, x)


CASES: Sequence[Callable[[Tensor], Iterator[Row]]] = (
    plain,
    coins,
    capacity,
    correlation,
    discrepancies,
    importance,
    regularised,
    codebooks,
    structure,
    spaces,
    flows,
    critics,
    latent_critics,
)


def main() -> None:
    """Print the table in markdown."""
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", module="pythae")
    torch.set_default_dtype(torch.float64)
    x = images()
    rows = [row for case in CASES for row in case(x)]
    print("| objective | aegen | pythae | relative difference | left unexplained: value, gradient | why |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        difference = f"{abs(row.theirs - row.ours) / abs(row.ours):.1e}" if row.ours else "–"
        mark = "" if row.explained else "UNEXPLAINED, not: "
        print(f"| {row.name} | {row.ours:.6g} | {row.theirs:.6g} | {difference} | {row.left} | {mark}{row.why} |")
    if unexplained := [row.name for row in rows if not row.explained]:
        sys.exit(f"unexplained: {', '.join(unexplained)}")


if __name__ == "__main__":
    main()
