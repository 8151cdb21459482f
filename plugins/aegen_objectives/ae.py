"""The plain autoencoder: reconstruct, and nothing else (beyond what the bottleneck itself charges).

Hinton & Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, 2006.
"""

from __future__ import annotations

from aegen import Autoencoder, Objective, Outcome
from torch import Tensor


class AE(Objective):
    """Negative log-likelihood of the reconstruction, in nats per image."""

    bottleneck, likelihood = "deterministic", "gaussian"

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the term `error` (B,), and `penalty` where the bottleneck charges one."""
        latent = model.encode(x)
        pixels = model.decode(latent.mean)
        return Outcome({"error": pixels.nll(x)}, pixels.mean, latent)
