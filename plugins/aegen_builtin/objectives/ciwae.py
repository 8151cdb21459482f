"""A blend of the evidence lower bound and the importance weighted bound, of the same draws.

Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018, section 5, CIWAE.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Range
from aegen.nn.importance import Draws, log_mean_exp, outcome


class CIWAE(Objective):
    """The negative of `beta` times the VAE's bound plus 1 - `beta` times the importance weighted one, in nats per image.

    Options:
        samples: draws for each image.
        beta: share of the VAE's bound; 1 is the VAE, 0 the IWAE.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"density", "penalty"})

    def __init__(
        self, *, samples: Annotated[int, Range(1, 65_536)] = 5, beta: Annotated[float, Range(0, 1)] = 0.05
    ) -> None:
        super().__init__()
        self.samples = samples
        self.beta = beta

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the term `bound` (B,)."""
        latent = model.encode(x)
        draws = Draws(model, latent, x, self.samples)
        bound = self.beta * draws.log_w.mean(0) + (1 - self.beta) * log_mean_exp(draws.log_w)
        return outcome(bound, model, self, latent, draws)
