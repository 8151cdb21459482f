"""Two levels of vector quantisation: a coarse code, and a fine one that knows it.

Razavi et al., Generating Diverse High-Fidelity Images with VQ-VAE-2, 2019, algorithm 1, inside one bottleneck: the top is a strided
convolution of the features, the bottom is quantised from the features beside the top's codes, and the decoder receives both.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from aegen import Bottleneck, Latent, Range
from aegen_builtin.latents.codebook import Codebook, Update, rotated, straight_through, watched


class VQ2(Bottleneck):
    """A top code for every 2 × 2 positions and a bottom code for each; z is both, side by side. A vector is one position.

    Options:
        dim: dimensions of a code of either level; the latent has twice as many.
        codes: size of each of the two codebooks.
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
        self.codebooks = (codes, codes)
        self.carry = rotated if rotation_trick else straight_through
        self.down = nn.Conv2d(dim, dim, 3, 2, 1)
        self.merge = nn.Conv2d(2 * dim, dim, 3, 1, 1)
        self.top, self.bottom = (
            Codebook(
                dim,
                codes,
                update=update,
                decay=decay,
                restart=restart,
                kmeans_iterations=kmeans_iterations,
                l2_normalised=l2_normalised,
            )
            for _ in range(2)
        )

    def forward(self, features: Tensor) -> Latent:
        """(B, dim, …) → z (B, 2 · dim, …), codes (B, 2, …): the top's, each repeated where it stands, and the bottom's."""
        image = as_map(features)
        height, width = image.shape[2:]
        top = self.top(self.down(image))
        above = doubled(self.carry(top.x, top.e), height, width)
        bottom = self.bottom(self.merge(torch.cat([image, above], 1)))
        z = torch.cat([above, self.carry(bottom.x, bottom.e)], 1)
        codes = torch.stack([doubled(top.codes, height, width), bottom.codes], 1)
        penalty = self.top.charge(top, self.beta) + self.bottom.charge(bottom, self.beta)
        spatial = features.shape[2:]
        told = watched([self.top, self.bottom], [top.codes, bottom.codes])
        return Latent(
            z.reshape(z.shape[0], -1, *spatial), penalty, codes=codes.reshape(z.shape[0], 2, *spatial), **told
        )

    def nearest(self, z: Tensor) -> Tensor:
        """The nearest code of either level; a top code is the nearest to the mean of the positions that share it."""
        image = as_map(z)
        above, below = image.chunk(2, 1)
        top = self.top.nearest(avg_pool2d(above, 2, ceil_mode=True))
        return torch.cat([doubled(top, *image.shape[2:]), self.bottom.nearest(below)], 1).view(z.shape)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, 2, …) → z (B, 2 · dim, …)."""
        return torch.cat([self.top.lookup(codes[:, 0]), self.bottom.lookup(codes[:, 1])], 1)


def as_map(x: Tensor) -> Tensor:
    """(B, D, …) → (B, D, h, w): a vector is a map of one position, tokens in a row one of a single column."""
    return x.view(*x.shape, *[1] * (4 - x.ndim))


def doubled(x: Tensor, height: int, width: int) -> Tensor:
    """(…, h, w) → (…, height, width), each value repeated 2 × 2; the last row and column once, where the size is odd."""
    *lead, h, w = x.shape
    spread = x.unsqueeze(-1).unsqueeze(-3).expand(*lead, h, 2, w, 2)
    return spread.reshape(*lead, 2 * h, 2 * w)[..., :height, :width]
