"""How surely a classifier names each generated image, and how evenly it names all of them.

Salimans et al., Improved Techniques for Training GANs, 2016: exp of the mean KL(p(class|image) ‖ p(class)), averaged over ten
parts of the samples. The classifier is the network of the protocol, and its classes are those that it was trained on, which tells
little of images of other things (Barratt & Sharma, A Note on the Inception Score, 2018). It never looks at a real image. A part's score
is too low where it has few images for the number of classes, in inverse proportion to how many (Chong & Forsyth, Effectively Unbiased FID
and Inception Score and where to find them, 2020): by how much is told by all samples together, which the interval holds, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from aegen import Metric, Range, Seen, UsageError
from aegen_builtin.metrics.means import aware, of_parts


class InceptionScore(Metric):
    """Sureness and variety of generated images, by the classes of the feature network, from 1 up.

    Options:
        splits: parts of the samples, each with its own score.
    """

    needs = frozenset({"sampler", "features"})
    better: ClassVar[Mapping[str, str]] = {"inception-score": "higher"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"inception-score": (1.0, math.inf)}
    resamples = 0

    def __init__(self, *, splits: Annotated[int, Range(2)] = 10) -> None:
        self.splits = splits

    def within(self, rows: Mapping[str, Tensor]) -> Mapping[str, tuple[float, float]]:
        """No more than the classes."""
        return {"inception-score": (1.0, float(rows["log_classes"].shape[1]))}

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Log-probabilities of the classes, (B, classes)."""
        if not seen.generated:
            return {}
        return {"log_classes": seen.space.net.logits(seen.features).float().log_softmax(1)}

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """The score, and how far it may be off, as a standard error."""
        value, bias, error = self._found(rows)
        return {"inception-score": (value, aware(bias, error))}

    def notes(self, rows: Mapping[str, Tensor]) -> list[str]:
        """What the parts make it too low by."""
        value, bias, _ = self._found(rows)
        count = len(rows["log_classes"]) // self.splits
        return [
            f"inception-score is about {bias:.2g} too low because each part has {count} samples, and would be about {value + bias:.3g} of very "
            "many; its interval holds that, too"
        ]

    def _found(self, rows: Mapping[str, Tensor]) -> tuple[float, float, float]:
        """The score, what it is too low by, and its standard error."""
        found = rows["log_classes"].double()
        if len(found) < 2 * self.splits:
            raise UsageError(f"{len(found)} samples are too few for {self.splits} parts")
        value, error = of_parts(torch.stack([score(part) for part in found.tensor_split(self.splits)]))
        lacking = (float(score(found)) - value) * self.splits / (self.splits - 1)
        return value, max(lacking, 0.0), error


def score(log_p: Tensor) -> Tensor:
    """exp of the mean divergence of rows of log-probabilities (N, classes) from their mean, ()."""
    p = log_p.exp()
    value: Tensor = (torch.special.xlogy(p, p) - torch.special.xlogy(p, p.mean(0))).sum(1).mean().exp()
    return value
