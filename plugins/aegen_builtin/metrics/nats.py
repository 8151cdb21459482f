"""What nats are of, and when they are bits per dimension.

Only the mass of grey levels makes bits that compare with those of a coder: nats / (C · H · W · ln 2). Nats of a
density of values in [-1, 1] may be negative and compare only with each other. A Bernoulli's are those of a mass for black and
white images only; for grey ones they are a cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from aegen import Seen

BITS, GREY = "bits_per_dim", "nats.grey"


def beside(seen: Seen, name: str, nats: Tensor) -> dict[str, Tensor]:
    """Rows: nats (B,) by name; the same in bits/dim, or whether images are grey, where that can be said."""
    measure = getattr(seen.model.likelihood, "measure", "density")
    rows = {name: nats}
    if measure == "levels":
        rows[BITS if name == "negative_elbo" else f"{name}_{BITS}"] = nats / (seen.x[0].numel() * math.log(2))
    if measure == "binary":
        rows[GREY] = (seen.x.abs() < 1).flatten(1).any(1)
    return rows


def told(rows: Mapping[str, Tensor]) -> list[str]:
    """What the nats of these rows are of."""
    if any(BITS in name for name in rows):
        return []
    if GREY not in rows:
        return [
            "nats are of a density of values in [-1, 1], and so no bits/dim; --likelihood discretized-logistic has them"
        ]
    grey = int(rows[GREY].sum())
    if not grey:
        return []
    return [f"{grey} of {len(rows[GREY])} images are grey, for which a Bernoulli's cross-entropy bounds no likelihood"]
