"""The likelihood of held-out images by importance sampling.

Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, 2016, section 5.1, with 5000 draws: -log 1/K Σ p(x|z)
p(z) / q(z|x), z from q(z|x). In expectation it is above -log p(x), and nearer with more draws; how few of them count
is told by the effective number of draws, (Σ w)² / Σ w² (Kong, A Note on Importance Sampling using Standardized
Weights, 1992).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from aegen import Metric, Range, Seen, mean_interval
from aegen.nn.importance import weights_in_chunks
from aegen_builtin.metrics.nats import GREY, beside, told

_FEW = 0.05  # of the draws


class NLL(Metric):
    """Importance-sampled negative log-likelihood in nats, and how many draws of each image count.

    Options:
        samples: draws for each image.
        chunk: draws of each image that are decoded at once.
        images: how many held-out images are looked at, about, spread evenly.
    """

    needs = frozenset({"encoder", "density", "likelihood"})
    better: ClassVar[Mapping[str, str]] = {"nll": "lower", "nll_bits_per_dim": "lower", "effective_draws": "higher"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"nll_bits_per_dim": (0.0, math.inf)}

    def __init__(
        self,
        *,
        samples: Annotated[int, Range(1, 65_536)] = 200,
        chunk: Annotated[int, Range(1, 65_536)] = 10,
        images: Annotated[int, Range(1)] = 1000,
    ) -> None:
        self.samples, self.chunk, self.images = samples, chunk, images

    def within(self, rows: Mapping[str, Tensor]) -> Mapping[str, tuple[float, float]]:
        """No more draws count than were made."""
        return {**self.ranges, "effective_draws": (1.0, float(self.samples))}

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Of each held-out image, (B,)."""
        if not (seen.held_out and seen.among(self.images)):
            return {}
        chunks = weights_in_chunks(seen.model, seen.latent, seen.x, self.samples, self.chunk)
        log_w = torch.cat([part.double() for part in chunks])
        total = log_w.logsumexp(0)
        effective = (2 * total - (2 * log_w).logsumexp(0)).exp()
        return beside(seen, "nll", math.log(self.samples) - total) | {"effective_draws": effective}

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, ...]]:
        """Means over the images."""
        return {name: mean_interval(values) for name, values in rows.items() if name != GREY}

    def notes(self, rows: Mapping[str, Tensor]) -> list[str]:
        """On how many images, what the nats are of, and whether the draws were too few."""
        effective = float(rows["effective_draws"].double().mean())
        notes = [f"nll is of {len(rows['nll'])} images with {self.samples} draws each", *told(rows)]
        if effective < _FEW * self.samples:
            notes.append(f"of {self.samples} draws {effective:.1f} count, so nll would fall with more (--nll.samples)")
        return notes
