"""How far the aggregate posterior is from the prior, by draws from both.

Gretton et al., A Kernel Two-Sample Test, 2012: the unbiased estimate over pairs, which may be below 0; RBF kernels
exp(-d²/c), c being 0.1 to 10 times 2·D, the expected squared distance of two draws from a standard normal (the scales
of Tolstikhin et al., Wasserstein Auto-Encoders, 2018), averaged. The standard error is that of a U-statistic, from
the mean over the pairs of each image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from aegen import Metric, Range, Seen, UsageError
from aegen.nn.kernels import similarity
from aegen_builtin.metrics.latents import DRAW, flat

_PRIOR = "prior.z"


class MMD(Metric):
    """Squared maximum mean discrepancy of the aggregate posterior to the prior.

    Options:
        images: how many held-out images are compared with as many draws from the prior, about, spread evenly.
    """

    needs = frozenset({"encoder", "prior"})
    better: ClassVar[Mapping[str, str]] = {"mmd": "lower"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"mmd": (0.0, math.inf)}
    resamples = 0

    def __init__(self, *, images: Annotated[int, Range(2)] = 2000) -> None:
        self.images = images

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """A draw from the posterior of each image and one from the prior, (B, D)."""
        if not seen.held_out:
            return {}
        if "codes" in seen.model.bottleneck.offers:
            raise UsageError("the latents are codes, between which there is no distance")
        z = seen.latent.z
        prior = seen.model.prior(len(z), device=z.device)
        return {DRAW: flat(z), _PRIOR: flat(prior)}

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """The discrepancy and its standard error."""
        count = min(self.images, len(rows[DRAW]))
        if count < 2:
            raise UsageError("it takes two images")
        every = torch.arange(count) * len(rows[DRAW]) // count
        return {"mmd": discrepancy(rows[DRAW][every], rows[_PRIOR][every])}


def discrepancy(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Of a and b, (N, D) each, and its standard error."""
    count = len(a)
    pairs = similarity("rbf", a, a) + similarity("rbf", b, b)
    across = similarity("rbf", a, b)
    pairs -= across + across.T
    pairs.fill_diagonal_(0)
    by_image = pairs.sum(1, dtype=torch.float64) / (count - 1)
    return float(by_image.mean()), float(2 * by_image.std() / count**0.5)
