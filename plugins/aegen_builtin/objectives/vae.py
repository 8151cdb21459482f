"""The evidence lower bound, with what the bottleneck charges weighted by beta.

Kingma & Welling, Auto-Encoding Variational Bayes, 2014, eq. 10; beta: Higgins et al., beta-VAE, 2017. Free bits: Kingma et
al., Improved Variational Inference with Inverse Autoregressive Flow, 2016, eq. 15, each latent dimension a group.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Range, bound, mean_over_ranks


class VAE(Objective):
    """Negative log-likelihood plus `beta` times what the bottleneck charges, in nats per image.

    Options:
        beta: weight of the bottleneck's penalty; 1 is the bound itself.
        free_bits: nats that each latent dimension may carry, on average over the batch, without being charged.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"penalty"})

    def __init__(self, *, beta: Annotated[float, Range(0)] = 1.0, free_bits: Annotated[float, Range(0)] = 0.0) -> None:
        super().__init__()
        self.beta = beta
        self.free_bits = free_bits
        if free_bits:
            self.needs = self.needs | {"charges"}
        self._free = free_bits > 0  # free_bits itself may become a schedule, on the device

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the terms `error` (B,) and `penalty`, (B,) or () with free bits."""
        latent = model.encode(x)
        pixels = model.decode(latent.z)
        error, penalty = pixels.nll(x), latent.penalty
        watch = bound(model, self, error, penalty) if not self.training else {}  # training has the terms
        if self._free:
            assert latent.charges is not None
            penalty = mean_over_ranks(latent.charges.mean(0)).sub(self.free_bits).clamp(min=0).add(self.free_bits).sum()
        return Outcome({"error": error, "penalty": self.beta * penalty}, pixels, latent, watch)
