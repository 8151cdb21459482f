"""The adversarial autoencoder: a critic tells draws from the prior from codes, and the encoder is trained to deceive it.

Makhzani et al., Adversarial Autoencoders, 2016, section 2: the reconstruction step, then the critic's, then the encoder's.
Three optimizers keep error and verdict from being weighed against each other: Adam's steps do not depend on the scale of a
loss. (The same game as one weighted sum is `wae-gan`.) Losses: Goodfellow et al., 2014, the encoder's non-saturating.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Range, Turn
from aegen_builtin.adversarial.gan_losses import critic_loss, fooling_loss
from aegen_builtin.adversarial.latent_critic import LatentCritic, draw_prior


class AAE(Objective):
    """Negative log-likelihood of the reconstruction; all latents together are brought to the prior by a critic.

    What the bottleneck charges is not minimised; one that samples is judged by its samples.

    Options:
        width: of the critic's hidden layers.
        depth: number of the critic's hidden layers.
    """

    bottleneck, likelihood = "matched-prior", "gaussian"
    needs = frozenset({"prior"})

    def __init__(
        self,
        latent: tuple[int, ...],
        *,
        width: Annotated[int, Range(1, 16_384)] = 256,
        depth: Annotated[int, Range(1, 256)] = 2,
    ) -> None:
        super().__init__()
        self.critic = LatentCritic(latent, width, depth)

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the term `error`, (B,): the critic moves, so validation does not ask it."""
        latent = model.encode(x)
        pixels = model.decode(latent.z)
        return Outcome({"error": pixels.nll(x)}, pixels, latent)

    def turns(self) -> list[Turn]:
        """`autoencoder` reconstructs, `judge` trains the critic, `fool` the encoder and whatever the bottleneck learns."""
        return [
            Turn("autoencoder", self.loss),
            Turn("judge", self.judge, trains=(self.critic,)),
            Turn("fool", self.fool, trains=("encoder", "bottleneck")),
        ]

    def judge(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The term `critic`, (B,) nats; the autoencoder only supplies codes."""
        with torch.no_grad():
            z = model.encode(x).z
        on_prior, on_codes = self.critic(draw_prior(model, z)), self.critic(z)
        watch = {"on_prior": on_prior.squeeze(1), "on_codes": on_codes.squeeze(1)}
        return Outcome({"critic": critic_loss("non-saturating", on_prior, on_codes)}, watch=watch)

    def fool(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The term `verdict`, (B,) nats; the critic is not trained, gradients only pass through it."""
        return Outcome({"verdict": fooling_loss("non-saturating", self.critic(model.encode(x).z))})
