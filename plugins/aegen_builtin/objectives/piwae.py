"""The encoder learns from several bounds, the decoder from one tight bound, of the same draws.

Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, 2018, section 5, PIWAE: the encoder is given the
gradient of the MIWAE, the decoder that of the IWAE with all the draws. Both are taken at the same weights, in one turn.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Range
from aegen.nn.importance import Draws, log_mean_exp, outcome, steered


class PIWAE(Objective):
    """The negative importance weighted bound of all `samples` · `bounds` draws, in nats per image.

    The encoder is given the gradient of the mean of `bounds` bounds of `samples` draws each.

    Options:
        samples: draws in each of the encoder's bounds.
        bounds: number of the encoder's bounds for each image.
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
        learns = torch.is_grad_enabled()
        draws = Draws(model, latent, x, self.samples * self.bounds, apart=learns)
        bound = log_mean_exp(draws.log_w)
        if learns:
            log_w = draws.log_w.detach()
            of_all = log_w.softmax(0)
            of_one = log_w.unflatten(0, (self.samples, self.bounds)).softmax(0).flatten(0, 1) / self.bounds
            encoder = of_one * (draws.along(draws.log_p) - draws.log_q)
            bound = steered(bound, (of_all * draws.log_p + encoder).sum(0))
        return outcome(bound, model, self, latent, draws)
