"""Where the bound's KL divergence is paid: by latent dimension, positions of a feature map summed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

from torch import Tensor

from aegen import Metric, Range, Seen, mean_interval


class DimensionKL(Metric):
    """KL of the posterior to the prior in nats, for the latent dimensions that carry most, the largest first.

    Options:
        most: how many dimensions.
    """

    needs = frozenset({"encoder", "charges"})
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"*": (0.0, math.inf)}
    resamples = 0

    def __init__(self, *, most: Annotated[int, Range(1)] = 16) -> None:
        self.most = most

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Of each held-out image, (B, D)."""
        charges = seen.latent.charges
        if not seen.held_out or charges is None:
            return {}
        return {"charges": charges.flatten(2).sum(2) if charges.ndim > 2 else charges}

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, ...]]:
        """By the number of the dimension."""
        charges = rows["charges"].double()
        largest = charges.mean(0).argsort(descending=True, stable=True)[: self.most]
        return {f"kl_{index}": mean_interval(charges[:, index]) for index in largest.tolist()}

    def notes(self, rows: Mapping[str, Tensor]) -> list[str]:
        """What is not shown."""
        others = rows["charges"].double().mean(0).sort(descending=True).values[self.most :]
        if not len(others):
            return []
        return [f"{len(others)} more latent dimensions carry {float(others.sum()):.3g} nats together"]
