"""What the objective itself says of held-out images: the numbers of validation, with intervals.

A term of a whole batch (a covariance) is averaged over batches; it depends on their size, so it has no interval, nor
has the loss that it belongs to. What is watched of whole batches is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from aegen import Metric, Seen, mean_interval

_IMAGE, _BATCH, _WATCHED = "terms.", "batch-terms.", "watched."


class Terms(Metric):
    """The objective's validation loss, its terms, and what it watches of each image, in nats per image.

    None is better for being lower: losses of different objectives, and of different likelihoods, cannot be compared.
    """

    needs = frozenset({"objective"})
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"kl": (0.0, math.inf)}
    resamples = 0

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Of each held-out image, (B,)."""
        if not seen.held_out:
            return {}
        outcome, rows = seen.outcome, {}
        for name, term in outcome.terms.items():
            rows[f"{_IMAGE if term.ndim else _BATCH}{name}"] = term.detach().expand(len(seen.x))
        watched = outcome.watch if outcome.latent is None else {**outcome.latent.watch, **outcome.watch}
        return rows | {f"{_WATCHED}{name}": value for name, value in watched.items() if value.ndim}

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, ...]]:
        """Means, with intervals of what is of each image."""
        terms = {name: values.double() for name, values in rows.items() if not name.startswith(_WATCHED)}
        shared = any(name.startswith(_BATCH) for name in terms)
        loss = sum(terms.values(), start=next(iter(terms.values())) * 0)
        found = {"loss": float(loss.mean()) if shared else mean_interval(loss)}
        for name, values in rows.items():
            short = name.partition(".")[2]
            found[short] = float(values.double().mean()) if name.startswith(_BATCH) else mean_interval(values)
        return found

    def notes(self, rows: Mapping[str, Tensor]) -> list[str]:
        """Which terms are of batches."""
        shared = ", ".join(name.removeprefix(_BATCH) for name in rows if name.startswith(_BATCH))
        return [f"terms of whole batches, which depend on their size: {shared}"] if shared else []
