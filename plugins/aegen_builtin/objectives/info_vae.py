"""A lighter charge for each image's information, and a heavier one for the distance of all latents from the prior.

Zhao, Song & Ermon, InfoVAE: Balancing Learning and Inference in Variational Autoencoders, 2019, eq. 6, with the maximum mean
discrepancy for the divergence of the aggregate posterior (section 3.2). alpha = 0 and lambda = 1 is the bound; alpha = 1 is
the MMD-VAE. The defaults are not the paper's: its lambda stands beside another discrepancy.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Range, bound
from aegen.nn.kernels import Kernel, distance_to_prior


class InfoVAE(Objective):
    """Negative log-likelihood + (1 - alpha) · KL + (alpha + lambda - 1) · discrepancy.

    The discrepancy is the unbiased one of the batch and as many draws from the prior: its expectation does not depend on the
    batch size, its variance does.

    Options:
        alpha: preference for mutual information of images and latents; 1 leaves the KL divergence out.
        lambda_mmd: the paper's lambda; the discrepancy, at most 2, is weighted by alpha + lambda_mmd - 1, in nats.
        kernel: of the discrepancy, Gaussian or inverse multiquadratic, each a mean over seven scales.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"density", "penalty", "prior"})

    def __init__(
        self,
        *,
        alpha: Annotated[float, Range(0, 1)] = 0.5,
        lambda_mmd: Annotated[float, Range(1)] = 1000.0,
        kernel: Kernel = "rbf",
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.lambda_mmd = lambda_mmd
        self.kernel: Kernel = kernel

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the terms `error` and `penalty`, (B,), and `discrepancy` ()."""
        latent = model.encode(x)
        pixels = model.decode(latent.z)
        error, kl = pixels.nll(x), latent.penalty
        mmd = distance_to_prior(self.kernel, model, latent.z)
        terms = {
            "error": error,
            "penalty": (1 - self.alpha) * kl,
            "discrepancy": (self.alpha + self.lambda_mmd - 1) * mmd,
        }
        return Outcome(terms, pixels, latent, {"mmd": mmd, **bound(model, self, error, kl)})
