"""Product quantisation: the channels in groups, each with a codebook of its own.

Jégou et al., Product Quantization for Nearest Neighbor Search, 2011, section II; in a bottleneck, Kaiser et al., Fast Decoding in
Sequence Models Using Discrete Latent Variables, 2018, section 4 (sliced).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from aegen import Bottleneck, Latent, Range, UsageError
from aegen_builtin.latents.codebook import Codebook, Update, rotated, straight_through, watched


class ProductVQ(Bottleneck):
    """`groups` codes for a vector, or for each position of a feature map, one for each group of channels.

    Options:
        dim: latent dimensions, or channels of a spatial latent.
        groups: number of groups, all of the same size.
        codes: size of each group's codebook.
        beta: weight of the commitment, which draws the features to their codes.
        update: how the codes follow the features, by moving averages or by gradients.
        decay: of the averages, and of the counts behind `usage`.
        restart: batches without a use after which a code is put on a random feature; 0 never. Counted slower where a batch has fewer
            vectors than there are codes.
        kmeans_iterations: of k-means on the first batch, from which the codes start; 0 starts from random codes.
        l2_normalised: the features and codes of each group have unit length.
        rotation_trick: gradients pass through the rotation that takes features to codes, and not straight.
    """

    offers = frozenset({"codes", "penalty"})
    books: Sequence[Codebook]

    def __init__(
        self,
        *,
        dim: Annotated[int, Range(1, 65_536)] = 16,
        groups: Annotated[int, Range(1, 65_536)] = 4,
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
        if dim % groups:
            raise UsageError(f"product-vq: {dim} dimensions make no {groups} equal groups", hint="change dim or groups")
        self.fan_in = dim
        self.beta = beta
        self.codebooks = (codes,) * groups
        self.carry = rotated if rotation_trick else straight_through
        self.books = nn.ModuleList(  # type: ignore[assignment]
            Codebook(
                dim // groups,
                codes,
                update=update,
                decay=decay,
                restart=restart,
                kmeans_iterations=kmeans_iterations,
                l2_normalised=l2_normalised,
            )
            for _ in range(groups)
        )

    def forward(self, features: Tensor) -> Latent:
        """(B, dim, …) → z of the same shape, codes (B, groups, …)."""
        parts = features.chunk(len(self.books), 1)
        found = [book(part) for book, part in zip(self.books, parts, strict=True)]
        z = torch.cat([self.carry(f.x, f.e) for f in found], 1)
        penalties = [book.charge(f, self.beta) for book, f in zip(self.books, found, strict=True)]
        codes = [f.codes for f in found]
        told = watched(self.books, codes)
        return Latent(z, torch.stack(penalties).sum(0), codes=torch.stack(codes, 1), **told)

    def nearest(self, z: Tensor) -> Tensor:
        """The nearest code of every group."""
        parts = z.chunk(len(self.books), 1)
        return torch.cat([book.nearest(part) for book, part in zip(self.books, parts, strict=True)], 1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, groups, …) → z (B, dim, …)."""
        return torch.cat([book.lookup(c) for book, c in zip(self.books, codes.unbind(1), strict=True)], 1)
