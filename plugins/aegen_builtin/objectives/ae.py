"""The plain autoencoder: reconstruct, and nothing else.

Hinton & Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, 2006.
"""

from __future__ import annotations

from torch import Tensor

from aegen import Autoencoder, Objective, Outcome


class AE(Objective):
    """Negative log-likelihood of the reconstruction, in nats per image."""

    bottleneck, likelihood = "deterministic", "gaussian"

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the term `error` (B,), and the `penalty` of a codebook where there is one."""
        latent = model.encode(x)
        pixels = model.decode(latent.mean)
        terms = {"error": pixels.nll(x)}
        if latent.codes is not None:  # without its commitment a codebook drifts away from the encoder
            terms["penalty"] = latent.penalty
        return Outcome(terms, pixels, latent)
