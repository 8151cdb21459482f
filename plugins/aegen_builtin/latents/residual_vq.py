"""Residual quantisation: each codebook quantises what those before it left over.

Zeghidour et al., SoundStream, 2021, algorithm 1; Lee et al., Autoregressive Image Generation using Residual Quantization, 2022, eq. 6
and 8: every level's commitment is charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from aegen import Bottleneck, Latent, Range
from aegen_builtin.latents.codebook import Codebook, Update, rotated, straight_through, watched


class ResidualVQ(Bottleneck):
    """`levels` codes for a vector, or for each position of a feature map, whose sum is the latent.

    Options:
        dim: dimensions of a code, which are those of the latent.
        levels: number of codebooks.
        codes: size of each codebook.
        beta: weight of the commitment, which draws the features to their codes.
        update: how the codes follow the features, by moving averages or by gradients.
        decay: of the averages, and of the counts behind `usage`.
        restart: batches without a use after which a code is put on a random remainder; 0 never. Counted slower where a batch has fewer
            vectors than there are codes.
        kmeans_iterations: of k-means on the first batch, from which the codes start; 0 starts from random codes.
        rotation_trick: gradients pass through the rotation that takes features to the sum of codes, and not straight.
    """

    offers = frozenset({"codes", "penalty"})
    books: Sequence[Codebook]

    def __init__(
        self,
        *,
        dim: Annotated[int, Range(1, 65_536)] = 16,
        levels: Annotated[int, Range(1, 1_024)] = 4,
        codes: Annotated[int, Range(1, 1_048_576)] = 256,
        beta: Annotated[float, Range(0)] = 0.25,
        update: Update = "ema",
        decay: Annotated[float, Range(0, 0.9999)] = 0.99,
        restart: Annotated[int, Range(0)] = 50,
        kmeans_iterations: Annotated[int, Range(0, 10_000)] = 10,
        rotation_trick: bool = False,
    ) -> None:
        super().__init__()
        self.fan_in = dim
        self.beta = beta
        self.codebooks = (codes,) * levels
        self.carry = rotated if rotation_trick else straight_through
        self.books = nn.ModuleList(  # type: ignore[assignment]
            Codebook(dim, codes, update=update, decay=decay, restart=restart, kmeans_iterations=kmeans_iterations)
            for _ in range(levels)
        )

    def forward(self, features: Tensor) -> Latent:
        """(B, dim, …) → z of the same shape, codes (B, levels, …)."""
        left, z, penalty, codes = features, torch.zeros_like(features), features.new_zeros(features.shape[0]), []
        for book in self.books:
            found = book(left)
            penalty = penalty + book.charge(found, self.beta)
            left, z = left - found.e.detach(), z + found.e.detach()
            codes.append(found.codes)
        told = watched(self.books, codes)
        return Latent(self.carry(features, z), penalty, codes=torch.stack(codes, 1), **told)

    def nearest(self, z: Tensor) -> Tensor:
        """A near sum of codes, level by level as in `forward`; not always the nearest of all sums, so `z` may move even if it is one."""
        left = z
        for book in self.books:
            left = left - book.nearest(left)
        return z - left

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, levels, …) → z (B, dim, …); the first few levels alone give a coarser z."""
        first, *others = (book.lookup(c) for book, c in zip(self.books, codes.unbind(1), strict=False))
        return sum(others, start=first)
