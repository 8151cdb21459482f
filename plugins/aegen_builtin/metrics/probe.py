"""How well the classes can be told from the latents, which were learned without them.

Alain & Bengio, Understanding Intermediate Layers Using Linear Classifier Probes, 2016: a logistic regression on
latents brought to mean 0 and variance 1; and the majority of the nearest neighbours in the same. Latents are
posterior means of held-out images only; each image is judged by a classifier that was fitted on the other folds, so
neither classifier nor autoencoder has seen it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from aegen import Metric, Range, Seen, UsageError, mean_interval
from aegen_builtin.metrics.latents import MEAN, flat

_LABELS = "labels"


class Probe(Metric):
    """Accuracy of a linear probe and of nearest neighbours on the latents of held-out images, cross-validated.

    Options:
        folds: parts, each of which is judged by a classifier that was fitted on the others.
        neighbours: of an image, whose majority decides.
        iterations: of the logistic regression, at most.
    """

    needs = frozenset({"encoder", "labels"})
    better: ClassVar[Mapping[str, str]] = {"linear_probe": "higher", "knn": "higher"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"*": (0.0, 1.0)}
    resamples = 0

    def __init__(
        self,
        *,
        folds: Annotated[int, Range(2, 1_000)] = 5,
        neighbours: Annotated[int, Range(1, 100_000)] = 5,
        iterations: Annotated[int, Range(1, 1_000_000)] = 200,
    ) -> None:
        self.folds, self.neighbours, self.iterations = folds, neighbours, iterations

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Posterior means (B, D) and classes (B,)."""
        if not seen.held_out:
            return {}
        if "labels" in seen.model.bottleneck.offers:
            raise UsageError("the latents hold the class, which the bottleneck is told")
        assert seen.labels is not None
        return {MEAN: flat(seen.latent.mean), _LABELS: seen.labels}

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, ...]]:
        """Shares of images whose class is found."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        z, labels = rows[MEAN].double().numpy(), rows[_LABELS]
        present, counts = labels.unique(return_counts=True)
        if len(present) < 2:
            raise UsageError("all images have one class")
        if int(counts.min()) < self.folds:
            rare, count = int(present[counts.argmin()]), int(counts.min())
            raise UsageError(f"of class {rare} there are {count} images, but {self.folds} folds need one each")
        judges: dict[str, Any] = {
            "linear_probe": LogisticRegression(max_iter=self.iterations),
            "knn": KNeighborsClassifier(min(self.neighbours, len(z) - len(z) // self.folds - 1)),
        }
        folds = StratifiedKFold(self.folds, shuffle=True, random_state=0)
        found: dict[str, float | tuple[float, ...]] = {}
        with warnings.catch_warnings():  # a regression that stops early is a probe all the same
            warnings.simplefilter("ignore", ConvergenceWarning)
            for name, judge in judges.items():
                told = cross_val_predict(make_pipeline(StandardScaler(), judge), z, labels.numpy(), cv=folds)
                right = (torch.from_numpy(told) == labels).double()
                # Images near each other are right or wrong together: an interval of knn held 0.90 to 0.92 times of 1.
                found[name] = float(right.mean()) if name == "knn" else mean_interval(right)
        return found

    def notes(self, rows: Mapping[str, Tensor]) -> list[str]:
        """On what the classifiers were fitted."""
        how = f"{len(rows[MEAN])} held-out images, {self.folds}-fold cross-validated"
        return [f"linear_probe and knn are fitted and judged on {how}"]
