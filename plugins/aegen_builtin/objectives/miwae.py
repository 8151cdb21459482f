"""Several importance weighted bounds, averaged: between the VAE (one draw each) and the IWAE (one bound).

Rainforth, Kosiorek, Le, Maddison, Igl, Wood & Teh, Tighter Variational Bounds are Not Necessarily Better, 2018, eq. 10:
more draws in one bound bury the encoder's gradient in noise, more bounds do not.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Range
from aegen.nn.importance import Draws, log_mean_exp, outcome


class MIWAE(Objective):
    """The negative mean of `bounds` importance weighted bounds of `samples` draws each, in nats per image.

    Options:
        samples: draws in each bound.
        bounds: number of bounds for each image.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"density", "penalty"})

    def __init__(self, *, samples: Annotated[int, Range(1, 65_536)] = 5, bounds: Annotated[int, Range(1)] = 4) -> None:
        super().__init__()
        self.samples = samples
        self.bounds = bounds

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the term `bound` (B,)."""
        latent = model.encode(x)
        draws = Draws(model, latent, x, self.samples * self.bounds)
        bound = log_mean_exp(draws.log_w.unflatten(0, (self.samples, self.bounds))).mean(0)
        return outcome(bound, model, self, latent, draws)
