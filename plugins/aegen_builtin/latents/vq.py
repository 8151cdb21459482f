"""Vector quantisation: the features' nearest vectors in a learned codebook.

van den Oord et al., Neural Discrete Representation Learning, 2017, eq. 3: |sg x - e|² + beta · |x - sg e|². The first term, which moves
the codes, is replaced by moving averages (appendix A.1) unless gradients train them.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from aegen import Bottleneck, Latent, Range
from aegen_builtin.latents.codebook import Codebook, Update, rotated, straight_through, watched


class VQ(Bottleneck):
    """One code for a vector, or for each position of a feature map; charges its distance to the features.

    Options:
        dim: dimensions of a code, which are those of the latent.
        codes: size of the codebook.
        beta: weight of the commitment, which draws the features to their codes.
        update: how the codes follow the features, by moving averages or by gradients.
        decay: of the averages, and of the counts behind `usage`.
        restart: batches without a use after which a code is put on a random feature; 0 never. Counted slower where a batch has fewer
            vectors than there are codes.
        kmeans_iterations: of k-means on the first batch, from which the codes start; 0 starts from random codes.
        l2_normalised: features and codes have unit length.
        rotation_trick: gradients pass through the rotation that takes features to codes, and not straight.
    """

    offers = frozenset({"codes", "penalty"})

    def __init__(
        self,
        *,
        dim: Annotated[int, Range(1, 65_536)] = 16,
        codes: Annotated[int, Range(1, 1_048_576)] = 256,
        beta: Annotated[float, Range(0)] = 0.25,
        update: Update = "ema",
        decay: Annotated[float, Range(0, 0.9999)] = 0.99,
        restart: Annotated[int, Range(0)] = 50,
        kmeans_iterations: Annotated[int, Range(0, 10_000)] = 10,
        l2_normalised: bool = False,
        rotation_trick: bool = False,
    ) -> None:
        super().__init__()
        self.fan_in = dim
        self.beta = beta
        self.codebooks = (codes,)
        self.carry = rotated if rotation_trick else straight_through
        self.book = Codebook(
            dim,
            codes,
            update=update,
            decay=decay,
            restart=restart,
            kmeans_iterations=kmeans_iterations,
            l2_normalised=l2_normalised,
        )

    def forward(self, features: Tensor) -> Latent:
        """(B, dim, …) → z of the same shape, codes (B, …)."""
        found = self.book(features)
        told = watched([self.book], [found.codes])
        return Latent(self.carry(found.x, found.e), self.book.charge(found, self.beta), codes=found.codes, **told)

    def nearest(self, z: Tensor) -> Tensor:
        """The nearest code at every position."""
        return self.book.nearest(z)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, …) → z (B, dim, …)."""
        return self.book.lookup(codes)
