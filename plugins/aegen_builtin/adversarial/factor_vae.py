"""The bound plus a weight on the total correlation of the latent dimensions, which a critic estimates.

Kim & Mnih, Disentangling by Factorising, 2018, eq. 2 and 3, algorithm 2. The critic tells draws of the aggregate posterior from
the same with each dimension shuffled over the batch; its log-odds are then the logarithm of the density ratio, and their
mean the total correlation. The paper shuffles a second batch; here it is the batch itself, after the autoencoder's step and
with new noise: two dimensions of a shuffled latent come from one image once in B times, in halves of a batch twice that.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Range, Turn, gather_rows, own_rows, uniform_like
from aegen_builtin.adversarial.bound import bound
from aegen_builtin.adversarial.gan_losses import critic_loss
from aegen_builtin.adversarial.latent_critic import LatentCritic


def shuffle_dimensions(z: Tensor) -> Tensor:
    """Latents (B, *z) with every dimension permuted over the batch, each by a permutation of its own."""
    flat = z.flatten(1)
    order = uniform_like(torch.empty_like(flat, dtype=torch.get_default_dtype()))
    whole, order = gather_rows(flat), gather_rows(order).argsort(0)
    return own_rows(whole.gather(0, order)).view(z.shape)


class FactorVAE(Objective):
    """Negative log-likelihood plus the bottleneck's penalty plus `gamma` times the critic's total correlation, in nats.

    Options:
        gamma: weight of the total correlation.
        width: of the critic's hidden layers.
        depth: number of the critic's hidden layers.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"density", "penalty"})

    def __init__(
        self,
        latent: tuple[int, ...],
        *,
        gamma: Annotated[float, Range(0)] = 6.4,
        width: Annotated[int, Range(1, 16_384)] = 256,
        depth: Annotated[int, Range(1, 256)] = 3,
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.critic = LatentCritic(latent, width, depth)

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the terms `error`, `penalty` and `correlation`, (B,)."""
        outcome = bound(model, self, x)
        assert outcome.latent is not None
        ratio = self.critic(outcome.latent.z).squeeze(1)  # log D - log (1 - D)
        return outcome.plus({"correlation": self.gamma * ratio}, {"total_correlation": ratio})

    def turns(self) -> list[Turn]:
        """`autoencoder`, then `judge`, the critic's."""
        return [Turn("autoencoder", self.loss), Turn("judge", self.judge, trains=(self.critic,))]

    def judge(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The term `critic`, (B,) nats; the autoencoder only supplies latents."""
        with torch.no_grad():
            z = model.encode(x).z
        joint, shuffled = self.critic(z), self.critic(shuffle_dimensions(z))
        watch = {"joint": joint.squeeze(1), "shuffled": shuffled.squeeze(1)}
        return Outcome({"critic": critic_loss("non-saturating", joint, shuffled)}, watch=watch)
