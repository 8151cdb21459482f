"""What the games with a variational autoencoder share: the bound that validation measures, and how a scale is learned.

A game that judges a reconstruction by something else than its pixels would leave a likelihood's learned scale where it began,
and the bound of validation with it. `decode_apart` lets the scale follow the pixels' error without telling the decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aegen import Autoencoder, Outcome, Pixels
from aegen_adversarial.latent_critic import at_least_float32


def bound(model: Autoencoder, x: Tensor, *, watching: bool) -> Outcome:
    """The terms `error` and `penalty`, (B,) nats, whose sum is the negative bound; named in `watch` if `watching`."""
    latent = model.encode(x)
    pixels = model.decode(latent.z)
    error, kl = pixels.nll(x), latent.penalty
    watch = {"negative_elbo": error + kl, "kl": kl} if watching else {}
    return Outcome({"error": error, "penalty": kl}, pixels, latent, watch)


def decode_apart(model: Autoencoder, z: Tensor) -> tuple[Pixels, Pixels]:
    """p(x|z), and the same with gradients to the likelihood's own parameters alone, for latents (B, *z)."""
    parameters = at_least_float32(model.decoder(z))
    with torch.autocast(parameters.device.type, enabled=False):
        return model.likelihood(parameters), model.likelihood(parameters.detach())
