"""The bound, and a covariance of the aggregate posterior that is brought to the identity.

Kumar, Sattigeri & Balakrishnan, Variational Inference of Disentangled Latent Concepts from Unlabeled Observations, 2018: eq. 6
for variant I, which looks at the posterior means alone, and eq. 7 for variant II, which adds the mean posterior variance.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Range, bound, gather_rows, mean_over_ranks


class DIPVAE(Objective):
    """Negative log-likelihood, plus what the bottleneck charges, plus the covariance's squared distance from the identity.

    The covariance is that of the batch, a mean over its images; latents with feature maps are flattened.

    Options:
        variant: i, the covariance of the posterior means; ii, that of the latents.
        lambda_diagonal: weight of (variance - 1)², summed over dimensions, in nats.
        lambda_offdiagonal: weight of the squared covariances, summed over ordered pairs of dimensions, in nats.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"diagonal", "penalty"})

    def __init__(
        self,
        *,
        variant: Literal["i", "ii"] = "ii",
        lambda_diagonal: Annotated[float, Range(0)] = 10.0,
        lambda_offdiagonal: Annotated[float, Range(0)] = 10.0,
    ) -> None:
        super().__init__()
        self.variant = variant
        self.lambda_diagonal = lambda_diagonal
        self.lambda_offdiagonal = lambda_offdiagonal

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the terms `error` and `penalty`, (B,), and `covariance` ()."""
        latent = model.encode(x)
        pixels = model.decode(latent.z)
        posterior: Any = latent.posterior
        error, kl = pixels.nll(x), latent.penalty
        between = covariance(gather_rows(posterior.mean))
        variances = between.diagonal()
        offdiagonal = between.square().sum() - variances.square().sum()
        if self.variant == "ii":  # the posterior is diagonal, so that it adds to the variances alone
            variances = variances + mean_over_ranks(posterior.std.square().flatten(1).mean(0))
        diagonal = (variances - 1).square().sum()
        spread = self.lambda_diagonal * diagonal + self.lambda_offdiagonal * offdiagonal
        watch = {"diagonal": diagonal, "offdiagonal": offdiagonal}
        if not self.training:
            watch |= bound(model, self, error, kl)
        return Outcome({"error": error, "penalty": kl, "covariance": spread}, pixels, latent, watch)


def covariance(z: Tensor) -> Tensor:
    """Of (B, *z) over the batch, divided by B: (D, D)."""
    z = z.flatten(1)
    centred = z - z.mean(0)
    with torch.autocast(z.device.type, enabled=False):  # a product of matrices would be taken in half precision
        return centred.T @ centred / len(z)
