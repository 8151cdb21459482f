"""The sliced-Wasserstein autoencoder: latents are brought to the prior by sorting them along random directions.

Kolouri et al., Sliced-Wasserstein Autoencoder: An Embarrassingly Simple Generative Model, 2018, eq. 12. On a line, optimal
transport is sorting; the distance between two clouds is averaged over random lines.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize

from aegen import Autoencoder, Objective, Outcome, Range


def sliced_wasserstein(a: Tensor, b: Tensor, directions: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of two clouds (B, D) along unit `directions` (P, D), summed over D dimensions, ()."""
    along_a = (a @ directions.T).sort(0).values
    along_b = (b @ directions.T).sort(0).values
    return a.shape[1] * (along_a - along_b).square().mean()


class SlicedWasserstein(Objective):
    """Negative log-likelihood plus `weight` times the sliced distance between the batch's latents and prior draws.

    Options:
        weight: of the distance, in nats per unit of squared distance.
        projections: number of random directions, drawn anew each step.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"prior"})

    def __init__(
        self, *, weight: Annotated[float, Range(0)] = 20.0, projections: Annotated[int, Range(1)] = 64
    ) -> None:
        super().__init__()
        self.weight = weight
        self.projections = projections

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the terms `error` (B,) and `distance` ()."""
        latent = model.encode(x)
        pixels = model.decode(latent.z)
        z = latent.z.flatten(1)
        prior = model.prior(len(z)).to(z).flatten(1)
        directions = normalize(torch.randn(self.projections, z.shape[1], device=z.device), dim=1)
        distance = self.weight * sliced_wasserstein(z, prior, directions)
        return Outcome({"error": pixels.nll(x), "distance": distance}, pixels.mean, latent)
