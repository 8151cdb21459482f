"""The importance weighted autoencoder: a bound of the evidence that rises with the number of draws.

Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, 2016, eq. 8. Doubly reparameterised gradient: Tucker,
Lawson, Gu & Maddison, Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives, 2019, eq. 8: the encoder's
gradient without the score of q, whose noise grows beside the signal as the draws become more. It needs `log_prob` of
the posterior at any point, and a posterior whose draws are reparameterised.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Range
from aegen.nn.importance import Draws, log_mean_exp, outcome, steered


class IWAE(Objective):
    """The negative importance weighted bound, in nats per image.

    Options:
        samples: draws for each image.
        gradient: standard, or doubly-reparameterised: the same for the decoder, the same with less noise for the encoder.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"density", "penalty"})

    def __init__(
        self,
        *,
        samples: Annotated[int, Range(1, 65_536)] = 5,
        gradient: Literal["standard", "doubly-reparameterised"] = "standard",
    ) -> None:
        super().__init__()
        self.samples = samples
        self.doubly = gradient == "doubly-reparameterised"

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the term `bound` (B,)."""
        latent = model.encode(x)
        doubly = self.doubly and torch.is_grad_enabled()
        draws = Draws(model, latent, x, self.samples, apart=doubly)
        bound = log_mean_exp(draws.log_w)
        if doubly:
            assert latent.posterior is not None
            weights = draws.log_w.detach().softmax(0)
            log_q = torch.stack([latent.posterior.log_prob(z) for z in draws.seen])
            path = draws.along(draws.log_p - log_q)
            bound = steered(bound, (weights * draws.log_p + weights.square() * path).sum(0))
        return outcome(bound, model, self, latent, draws)
