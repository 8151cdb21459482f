"""A charge that is held at a given number of nats instead of being pressed towards zero.

Burgess et al., Understanding disentangling in beta-VAE, 2018, eq. 8. The paper raises the capacity from 0 to 25 nats while
it trains: `--objective.capacity "linear(0,25,10000)"`.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Range, bound, mean_over_ranks


class CapacityVAE(Objective):
    """Negative log-likelihood plus `gamma` times the distance of the batch's mean charge from `capacity`.

    The deviation is that of the mean over the batch, as in the paper: images may be charged differently, and the term
    depends on which images share a batch.

    Options:
        capacity: nats that an image is to carry through the bottleneck, on average; a number or a schedule, such as
            "linear(0,25,10000)".
        gamma: weight of a nat too many or too few; above 1, or the charge falls short of the capacity.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"penalty"})

    def __init__(
        self, *, capacity: Annotated[float, Range(0)] = 25.0, gamma: Annotated[float, Range(0)] = 30.0
    ) -> None:
        super().__init__()
        self.capacity = capacity
        self.gamma = gamma

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the terms `error` (B,) and `penalty` ()."""
        latent = model.encode(x)
        pixels = model.decode(latent.z)
        error, kl = pixels.nll(x), latent.penalty
        penalty = self.gamma * (mean_over_ranks(kl.mean()) - self.capacity).abs()
        return Outcome({"error": error, "penalty": penalty}, pixels, latent, bound(model, self, error, kl))
