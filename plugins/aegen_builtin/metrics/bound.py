"""The evidence lower bound of held-out images, whatever the objective weighted while it trained.

Kingma & Welling, Auto-Encoding Variational Bayes, 2014, eq. 2: log p(x) >= E log p(x|z) - KL(q(z|x) ‖ p(z)), by one
draw of z for each image; the KL is what the bottleneck charges. Only a posterior and a prior that both have densities
make a bound: what a codebook, relaxed categories or the teaching of labels charge makes none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from aegen import BOUND, Metric, Seen, mean_interval
from aegen_builtin.metrics.nats import GREY, beside, told


class Bound(Metric):
    """Negative ELBO, its two parts, and bits/dim where the likelihood is one of grey levels."""

    needs = BOUND
    better: ClassVar[Mapping[str, str]] = {"negative_elbo": "lower", "bits_per_dim": "lower"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"kl": (0.0, math.inf), "bits_per_dim": (0.0, math.inf)}

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Of each held-out image, (B,)."""
        if not seen.held_out:
            return {}
        latent = seen.latent
        error = seen.model.decode(latent.z).nll(seen.x)
        rows = {"error": error, "kl": latent.penalty}
        return beside(seen, "negative_elbo", error + latent.penalty) | rows

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, ...]]:
        """Means over the images."""
        return {name: mean_interval(values) for name, values in rows.items() if name != GREY}

    def notes(self, rows: Mapping[str, Tensor]) -> list[str]:
        """What the nats are of."""
        return told(rows)
