"""What the games with a variational autoencoder share: the bound that validation measures, and how a scale is learned.

A game that judges a reconstruction by something else than its pixels would leave a likelihood's learned scale where it began,
and the bound of validation with it. `decode_apart` lets the scale follow the pixels' error without telling the decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Pixels
from aegen import bound as named
from aegen.nn.precision import at_least_float32


def bound(model: Autoencoder, objective: Objective, x: Tensor) -> Outcome:
    """The terms `error` and `penalty`, (B,) nats, whose sum is the negative bound where there is one; evaluation says so in `watch`."""
    latent = model.encode(x)
    pixels = model.decode(latent.z)
    error, penalty = pixels.nll(x), latent.penalty
    watch = {} if objective.training else named(model, objective, error, penalty)
    return Outcome({"error": error, "penalty": penalty}, pixels, latent, watch)


def decode_apart(model: Autoencoder, z: Tensor) -> tuple[Pixels, Pixels]:
    """p(x|z), and the same with gradients to the likelihood's own parameters alone, for latents (B, *z)."""
    parameters = at_least_float32(model.decoder(z))
    with torch.autocast(parameters.device.type, enabled=False):
        return model.likelihood(parameters), model.likelihood(parameters.detach())
