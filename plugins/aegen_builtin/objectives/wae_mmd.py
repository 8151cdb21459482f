"""The Wasserstein autoencoder: reconstruct, and bring all latents together to the prior.

Tolstikhin et al., Wasserstein Auto-Encoders, 2018, eq. 4 and algorithm 2. Its cost is the likelihood's negative logarithm.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Range
from aegen.nn.kernels import Kernel, distance_to_prior


class WAEMMD(Objective):
    """Negative log-likelihood plus `weight` times the maximum mean discrepancy of latents and prior.

    The discrepancy is the unbiased one of the batch and as many draws from the prior: its expectation does not depend on the
    batch size, its variance does. A bottleneck that samples is compared by its samples; what it charges is not minimised.

    Options:
        weight: of the discrepancy, which is at most 2, in nats.
        kernel: inverse multiquadratic or Gaussian, each a mean over seven scales.
    """

    bottleneck, likelihood = "matched-prior", "gaussian"
    needs = frozenset({"prior"})

    def __init__(self, *, weight: Annotated[float, Range(0)] = 1000.0, kernel: Kernel = "imq") -> None:
        super().__init__()
        self.weight = weight
        self.kernel: Kernel = kernel

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the terms `error` (B,) and `discrepancy` (), and the `penalty` of a codebook."""
        latent = model.encode(x)
        pixels = model.decode(latent.z)
        mmd = distance_to_prior(self.kernel, model, latent.z)
        terms = {"error": pixels.nll(x), "discrepancy": self.weight * mmd}
        if latent.codes is not None:  # without its commitment a codebook drifts away from the encoder
            terms["penalty"] = latent.penalty
        return Outcome(terms, pixels, latent, {"mmd": mmd})
