"""The bound at the best pixel scale, which has a closed form.

Rybkin, Daniilidis & Levine, Simple and Effective VAE Training with Calibrated Decoders, 2021, eq. 6: the variance that
minimises a Gaussian error is the mean squared error, here of the batch.
"""

from __future__ import annotations

import math

from torch import Tensor

from aegen import AUTOENCODER, Autoencoder, Objective, Outcome, Turn, bound, mean_over_ranks

_FLOOR = (1 / 255) ** 2  # half a grey level in [-1, 1], squared


class SigmaVAE(Objective):
    """Gaussian negative log-likelihood at the batch's best scale, plus what the bottleneck charges, in nats per image.

    The scale is one number for all pixels of the batch, so the error depends on which images share a batch; validation takes
    that of its chunks. `vae` with the gaussian likelihood learns the same scale by gradient: one for all images, found
    after some steps, kept with the model. Here it is right from the first step.

    Of the likelihood only `mean` is used, so that any will do whose decoder is trained through its mean: gaussian, laplace,
    bernoulli. A scale of its own is neither used nor trained, and pixel noise drawn from it is not calibrated; read `sigma`
    in the metrics instead, or train with `vae`.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"penalty"})

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the terms `error` and `penalty`, (B,)."""
        latent = model.encode(x)
        pixels = model.decode(latent.z)
        recon = pixels.mean
        square = (x - recon).square().flatten(1)
        # At its optimum the scale has no gradient; below the floor it has none either, but the images have.
        variance = mean_over_ranks(square.detach().mean()).clamp(min=_FLOOR)
        error = 0.5 * (square.sum(1) / variance + square.shape[1] * (variance.log() + math.log(2 * math.pi)))
        watch = {"sigma": variance.sqrt()}
        if not self.training:
            # By the likelihood itself: a scale that these very images gave makes no bound of theirs.
            watch |= bound(model, self, pixels.nll(x), latent.penalty)
        return Outcome({"error": error, "penalty": latent.penalty}, recon, latent, watch)

    def turns(self) -> list[Turn]:
        """One, without the likelihood, whose parameters have no part in the loss."""
        return [Turn("autoencoder", self.loss, trains=[part for part in AUTOENCODER if part != "likelihood"])]
