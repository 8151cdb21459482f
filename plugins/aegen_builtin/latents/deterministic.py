"""The plain autoencoder's bottleneck: the features are the latent.

Hinton & Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, 2006.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from aegen import Bottleneck, Latent, Range


class Deterministic(Bottleneck):
    """No posterior, no prior, no charge.

    Options:
        dim: latent dimensions, or channels of a spatial latent.
    """

    def __init__(self, *, dim: Annotated[int, Range(1, 65_536)] = 16) -> None:
        super().__init__()
        self.fan_in = dim

    def forward(self, features: Tensor) -> Latent:
        """(B, dim, …) → the same as z, with a penalty of 0."""
        return Latent(features, features.new_zeros(features.shape[0]))
