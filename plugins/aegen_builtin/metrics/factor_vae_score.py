"""The score of FactorVAE: Kim & Mnih, Disentangling by Factorising, 2018, section 4.

The images that share a value of a factor are drawn, with replacement, from the held-out images that have it, where the paper renders new
ones; so no score hangs on a renderer. Dimensions are divided by their standard deviations, and those that collapsed are left out, as in the
paper: where the mean has less than a twentieth of the variance of the draws. The votes that the classifier is made of are not those that it
is judged by. A code that tells nothing scores about 1 / factors, one that has collapsed altogether 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from aegen import Range
from aegen_builtin.metrics.factors import OfFactors, active, groups


class FactorVAEScore(OfFactors):
    """How often the dimension that varies least tells which factor is fixed, by majority vote.

    Options:
        images: of a vote.
        votes: from which the classifier is made, and by as many others it is judged.
    """

    better: ClassVar[Mapping[str, str]] = {"factor_vae_score": "higher"}

    def __init__(self, *, images: Annotated[int, Range(2)] = 64, votes: Annotated[int, Range(1)] = 800) -> None:
        self.images, self.votes = images, votes

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """Between 0 and 1."""
        code, factors, names = self.known(rows)
        code, among = active(code, rows), groups(factors, names)
        if not code.shape[1]:
            return {"factor_vae_score": 0.0}
        generator = torch.Generator().manual_seed(0)
        tables = [torch.zeros(code.shape[1], len(names)) for _ in range(2)]
        for table in tables:
            for fixed in torch.randint(len(names), (self.votes,), generator=generator).tolist():
                value = int(torch.randint(len(among[fixed]), (), generator=generator))
                members = among[fixed][value]
                drawn = members[torch.randint(len(members), (self.images,), generator=generator)]
                table[code[drawn].var(0).argmin(), fixed] += 1
        made, judged = tables
        right = judged.gather(1, made.argmax(1, keepdim=True))[made.any(1)].sum()
        return {"factor_vae_score": float(right) / self.votes}
