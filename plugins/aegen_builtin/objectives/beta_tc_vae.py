"""The bound's KL divergence taken apart, with a weight of its own for the total correlation of the latent dimensions.

Chen et al., Isolating Sources of Disentanglement in Variational Autoencoders, 2018, eq. 2 and 4. The density of the aggregate
posterior is estimated in the batch: "minibatch-weighted" is eq. 5 without its factor 1/N, "stratified" is appendix C.2. That
factor has no gradient, but it would add (D - 1) · log N nats to every total correlation; without it a posterior that equals
the prior has a total correlation of 0 under both estimates.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Range, bound, gather_rows, own_rows


class BetaTCVAE(Objective):
    """Negative log-likelihood plus the three parts of the KL divergence, each by one draw and with its weight.

    With all weights 1 the sum is the bound. The estimates compare the images of a batch and so depend on its size;
    memory grows with its square.

    Options:
        alpha: weight of the mutual information of images and latents.
        beta: weight of the total correlation.
        gamma: weight of the divergence of each single dimension from the prior.
        sampling: how a batch stands for all images: minibatch-weighted (biased, little variance) or stratified (weights
            from the number of training images, unbiased inside the logarithm).
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"density", "diagonal", "penalty"})

    def __init__(
        self,
        size: int,
        *,
        alpha: Annotated[float, Range(0)] = 1.0,
        beta: Annotated[float, Range(0)] = 6.0,
        gamma: Annotated[float, Range(0)] = 1.0,
        sampling: Literal["minibatch-weighted", "stratified"] = "minibatch-weighted",
    ) -> None:
        super().__init__()
        self.size = size
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.sampling = sampling

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the terms `error` and `penalty`, (B,)."""
        latent = model.encode(x)
        pixels = model.decode(latent.z)
        posterior: Any = latent.posterior
        error = pixels.nll(x)
        densities = pairwise(latent.z, gather_rows(posterior.mean), gather_rows(posterior.std))
        weights = self.log_weights(densities)
        log_q = torch.logsumexp(densities.sum(2) + weights, 1)
        log_product = torch.logsumexp(densities + weights[:, :, None], 1).sum(1)
        information = posterior.log_prob(latent.z) - log_q
        correlation = log_q - log_product
        single = log_product - model.log_prior(latent.z)
        penalty = self.alpha * information + self.beta * correlation + self.gamma * single
        watch = {"mutual_information": information, "total_correlation": correlation, "dimension_kl": single}
        if not self.training:
            watch |= bound(model, self, error, latent.penalty)
        return Outcome({"error": error, "penalty": penalty}, pixels, latent, watch)

    def log_weights(self, densities: Tensor) -> Tensor:
        """log of what image j counts for at the draw of image i, (B, images of all processes); a draw's add up to 1."""
        batch = densities.shape[1]
        others = batch - 1
        if self.sampling == "minibatch-weighted" or not others:
            return densities.new_full(densities.shape[:2], -math.log(batch))
        size = max(self.size, batch)
        own = torch.eye(batch, dtype=densities.dtype, device=densities.device)
        last = own.roll(1, 1)  # any one of the others makes up for those that are not in the batch
        return own_rows((own / size + last * (size - others) / (size * others) + (1 - own - last) / others).log())


def pairwise(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(z of image i; mean and std of image j) by dimension in nats, (B, *z), (N, *z) → (B, N, D)."""
    z, mean, std = z.flatten(1)[:, None], mean.flatten(1)[None], std.flatten(1)[None]
    return -0.5 * ((z - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
