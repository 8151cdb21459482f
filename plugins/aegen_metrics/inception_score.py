"""How surely a classifier names each generated image, and how evenly it names all of them.

Salimans et al., Improved Techniques for Training GANs, 2016: exp of the mean KL(p(class|image) ‖ p(class)), averaged over ten
parts of the samples. The classifier is the network of the protocol, and its classes are those that it was trained on, which tells
little of images of other things (Barratt & Sharma, A Note on the Inception Score, 2018). It never looks at a real image. A part's score
is too low where it has few images for the number of classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from aegen import Metric, Range, Seen, UsageError


class InceptionScore(Metric):
    """Sureness and variety of generated images, by the classes of the feature network, from 1 up.

    Options:
        splits: parts of the samples, each with its own score.
    """

    needs = frozenset({"sampler", "features"})
    better: ClassVar[Mapping[str, str]] = {"inception-score": "higher"}
    resamples = 0

    def __init__(self, *, splits: Annotated[int, Range(2)] = 10) -> None:
        self.splits = splits

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Log-probabilities of the classes, (B, classes)."""
        if not seen.generated:
            return {}
        return {"log_classes": seen.space.net.logits(seen.features).float().log_softmax(1)}

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """The score and its standard error over the parts."""
        found = rows["log_classes"].double()
        if len(found) < 2 * self.splits:
            raise UsageError(f"{len(found)} samples are too few for {self.splits} parts")
        scores = torch.stack([score(part) for part in found.tensor_split(self.splits)])
        return {"inception-score": (float(scores.mean()), float(scores.std() / self.splits**0.5))}


def score(log_p: Tensor) -> Tensor:
    """exp of the mean divergence of rows of log-probabilities (N, classes) from their mean, ()."""
    p = log_p.exp()
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, p.mean(0))).sum(1).mean().exp()
