"""A deterministic latent that has a prior: the bottleneck of the Wasserstein autoencoder.

Tolstikhin et al., Wasserstein Auto-Encoders, 2018: one image has no posterior, but all of them together, the aggregate
posterior, are brought to the prior by the objective.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from aegen import Bottleneck, Latent, Range


class MatchedPrior(Bottleneck):
    """The features are the latent; the prior is a standard normal, and nothing here charges for leaving it.

    For objectives that bring the aggregate posterior to the prior; with any other, draws from the prior mean nothing.

    Options:
        dim: latent dimensions, or channels of a spatial latent.
    """

    offers = frozenset({"prior"})

    def __init__(self, *, dim: Annotated[int, Range(1, 65_536)] = 16) -> None:
        super().__init__()
        self.fan_in = dim

    def forward(self, features: Tensor) -> Latent:
        """(B, dim, …) → the same as z, with a penalty of 0."""
        return Latent(features, features.new_zeros(features.shape[0]))

    def prior(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """N(0, 1), (n, *shape)."""
        return torch.randn(n, *shape, generator=generator)
