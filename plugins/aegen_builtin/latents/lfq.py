"""Lookup-free quantisation: the signs of the features are the code.

Yu et al., Language Model Beats Diffusion: Tokenizer is Key to Visual Generation (MAGVIT-v2), 2023, section 3.1 and eq. 5. With p(c|x) the
softmax of 2 x · c / temperature over all codes c, each position is charged E[H(p)] - H(E[p]), so that codes are chosen firmly and all
of them are. Bits are independent given x, so H(p) is the sum over them; H(E[p]) is taken over `joint` bits at a time.

E[p] is the batch's in training. In evaluation it is the average over past training batches, so that an image's charge does not
depend on the others. A batch's is that of all processes.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import softplus

from aegen import Bottleneck, Latent, Range, StepMean, mean_over_ranks
from aegen_builtin.latents.codebook import chosen, straight_through

_FAINT = 1e-9  # weight of the uniform distribution with which the average begins


class LFQ(Bottleneck):
    """A code of `dim` bits for a vector, or for each position of a feature map; z is -1 or 1.

    Options:
        dim: bits of a code, which are the latent dimensions.
        beta: weight of the commitment, which draws the features to -1 and 1.
        entropy: weight of the entropies, in nats.
        temperature: of the probabilities behind the entropies.
        joint: bits whose joint distribution is told to be even; more cost 2^joint numbers a position.
        decay: of the average that evaluation takes for E[p].
    """

    offers = frozenset({"codes", "penalty"})
    average: Tensor
    place: Tensor

    def __init__(
        self,
        *,
        dim: Annotated[int, Range(1, 62)] = 10,
        beta: Annotated[float, Range(0)] = 0.25,
        entropy: Annotated[float, Range(0)] = 0.1,
        temperature: Annotated[float, Range(above=0)] = 0.01,
        joint: Annotated[int, Range(1, 16)] = 10,
        decay: Annotated[float, Range(0, 0.9999)] = 0.99,
    ) -> None:
        super().__init__()
        self.fan_in = self.dim = dim
        self.codebooks = (2**dim,)
        self.beta, self.entropy, self.temperature, self.joint, self.decay = beta, entropy, temperature, joint, decay
        self.register_buffer("place", 2 ** torch.arange(dim), persistent=False)
        groups = [torch.full((2 ** len(bits),), _FAINT / 2 ** len(bits)) for bits in self.place.split(joint)]
        self.register_buffer("average", torch.cat(groups))
        self.shares_of_step = StepMean(len(self.average))

    def forward(self, features: Tensor) -> Latent:
        """(B, dim, …) → z of the same shape, codes (B, …)."""
        rows = features.movedim(1, -1)
        bits = rows > 0
        codes = (bits * self.place).sum(-1)
        z = straight_through(features, signs(bits, features.dtype).movedim(-1, 1))
        commitment = (features - z.detach()).square().flatten(1).sum(1)
        unsure = binary_entropy(4 * features / self.temperature).flatten(1).sum(1)
        diverse = torch.stack([entropy(p) for p in self._shares(rows)]).sum()
        # H(E[p]) is charged at every position, as H(p) is.
        charge = unsure - math.prod(codes.shape[1:]) * diverse
        latent = Latent(
            z, self.beta * commitment + self.entropy * charge, codes=codes, **chosen(codes, 2**self.dim, self.training)
        )
        latent.watch["entropy_of_codes"] = diverse
        return latent

    def nearest(self, z: Tensor) -> Tensor:
        """The signs, as -1 and 1."""
        return signs(z > 0, z.dtype)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, …) → z (B, dim, …)."""
        return signs(codes.unsqueeze(-1) // self.place % 2 > 0, self.average.dtype).movedim(-1, 1)

    def _shares(self, rows: Tensor) -> list[Tensor]:
        """E[p] of each group of bits, (2^bits,), of the batch (B, …, dim) or of past ones."""
        parts = rows.reshape(-1, self.dim).split(self.joint, 1)
        sizes = [2 ** part.shape[1] for part in parts]
        if not self.training:
            return [part / part.sum() for part in self.average.split(sizes)]
        shares = [
            mean_over_ranks(torch.softmax(2 * part @ corners(part) / self.temperature, 1).mean(0)) for part in parts
        ]
        if torch.is_grad_enabled():
            now = self.shares_of_step(torch.cat(shares))
            if now is not None:
                self.average.mul_(self.decay).add_(now, alpha=1 - self.decay)
        return shares


def signs(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """False, True → -1, 1."""
    return bits.to(dtype) * 2 - 1


def corners(part: Tensor) -> Tensor:
    """All codes of the bits of (N, bits), as -1 and 1, (bits, 2^bits)."""
    count = part.shape[1]
    place = torch.arange(count, device=part.device).unsqueeze(1)
    return signs(torch.arange(2**count, device=part.device) // 2**place % 2 > 0, part.dtype)


def entropy(p: Tensor) -> Tensor:
    """Of a distribution, in nats, (); where p is 0 its gradient is finite."""
    return -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum()


def binary_entropy(logits: Tensor) -> Tensor:
    """Of a coin whose log-odds are given, in nats."""
    size = logits.abs()
    return softplus(-size) + size * torch.sigmoid(-size)
