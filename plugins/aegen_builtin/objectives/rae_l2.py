"""The regularised autoencoder, its decoder held by weight decay.

Ghosh et al., From Variational to Deterministic Autoencoders, 2020, L_REG of section 3.1: latents are kept near zero by
their norm and a decoder that cannot stretch them apart, so that a density fitted to them can be sampled.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from aegen import Autoencoder, Outcome, Range
from aegen_builtin.objectives.ae import AE


class RAEL2(AE):
    """Negative log-likelihood plus the latent's norm and the decoder's weights, in nats per image.

    Options:
        beta: weight of half the latent's squared norm; 1 is a standard normal prior.
        weight: of the sum of squares of the decoder's parameters.
    """

    def __init__(self, *, beta: Annotated[float, Range(0)] = 0.1, weight: Annotated[float, Range(0)] = 1e-3) -> None:
        super().__init__()
        self.beta, self.weight = beta, weight

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms of `ae`, `norm` (B,) and `decay` ()."""
        outcome = super().loss(model, x)
        assert outcome.latent is not None
        norm = 0.5 * outcome.latent.mean.square().flatten(1).sum(1)
        decay = torch.stack([p.square().sum() for p in model.decoder.parameters()]).sum()
        return outcome.plus({"norm": self.beta * norm, "decay": self.weight * decay})
