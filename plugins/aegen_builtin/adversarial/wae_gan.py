"""The Wasserstein autoencoder with a critic: the distance of latents and prior is what a critic can tell.

Tolstikhin et al., Wasserstein Auto-Encoders, 2018, eq. 4 and algorithm 1. Its cost is the likelihood's negative logarithm.
The game is `aae`'s, but error and verdict are one weighted sum with one optimizer.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from aegen import Autoencoder, Outcome, Range, Turn
from aegen_builtin.adversarial.aae import AAE
from aegen_builtin.adversarial.gan_losses import fooling_loss


class WAEGAN(AAE):
    """Negative log-likelihood plus `weight` times the verdict of a critic that tells draws from the prior from codes.

    What the bottleneck charges is not minimised; one that samples is judged by its samples.

    Options:
        weight: of the verdict, the paper's lambda, in nats per nat of log-odds.
        width: of the critic's hidden layers.
        depth: number of the critic's hidden layers.
    """

    def __init__(
        self,
        latent: tuple[int, ...],
        *,
        weight: Annotated[float, Range(0)] = 10.0,
        width: Annotated[int, Range(1, 16_384)] = 256,
        depth: Annotated[int, Range(1, 256)] = 2,
    ) -> None:
        super().__init__(latent, width=width, depth=depth)
        self.weight = weight

    def turns(self) -> list[Turn]:
        """`autoencoder` reconstructs and deceives, `judge` trains the critic."""
        return [Turn("autoencoder", self.both), Turn("judge", self.judge, trains=(self.critic,))]

    def both(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms `error` and `verdict`, (B,); the critic is not trained, gradients only pass through it."""
        outcome = self.loss(model, x)
        assert outcome.latent is not None
        verdict = fooling_loss("non-saturating", self.critic(outcome.latent.z))
        return outcome.plus({"verdict": self.weight * verdict})
