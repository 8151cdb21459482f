"""Modularity and explicitness: Ridgeway & Mozer, Learning Deep Disentangled Embeddings with the F-Statistic Loss, 2018.

Modularity by mutual information with 20 bins a dimension. Collapsed dimensions, whose mean has less than a twentieth of the variance of the
draws, are left out: of such a one there is nothing but noise to tell, and it would count as much as any; where all collapsed it is 0. Explicitness by one logistic regression for each value of each factor against all
others, on latents brought to mean 0 and variance 1: the area under its ROC curve, 0.5 where nothing is told. A value in the middle of a
dimension is not explicit in this sense, since no line parts it from those on both sides. Half of the images fit, the other half judge.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from aegen import Range, UsageError
from aegen_builtin.metrics.factors import OfFactors, active, binned, halves, pointwise


class Modularity(OfFactors):
    """Whether each dimension tells of one factor only, and whether the values of factors can be read off by linear classifiers.

    Options:
        most: images, drawn at random if there are more.
    """

    better: ClassVar[Mapping[str, str]] = {"modularity": "higher", "explicitness": "higher"}

    def __init__(self, *, most: Annotated[int, Range(20)] = 10_000) -> None:
        self.most = most

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """Between 0 and 1, and as a rule between 0.5 and 1."""
        code, factors, _ = self.known(rows)
        if factors.shape[1] < 2:
            raise UsageError("only one factor varies, so every dimension tells of one factor only")
        moving = active(code, rows)
        told = torch.zeros(0, factors.shape[1])
        if moving.shape[1]:
            bins = binned(moving)
            told = torch.stack([pointwise(bins, factor).mean(0) for factor in factors.T], 1).clamp(min=0)
        return {"modularity": modularity(told), "explicitness": explicitness(code, factors, self.most)}


def modularity(told: Tensor) -> float:
    """Of mutual information (D, F); the mean over dimensions that tell anything at all."""
    told = told[told.amax(1) > 1e-12]
    if not len(told):
        return 0.0
    best = told.amax(1)
    others = told.square().sum(1) - best.square()
    return float((1 - others / (best.square() * (told.shape[1] - 1))).mean())


def explicitness(code: Tensor, factors: Tensor, most: int) -> float:
    """Mean area under the ROC curve, over factors and the values that each half of the images has."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fit, judge = halves(len(code), most, torch.Generator().manual_seed(0))
    train, test = code[fit].numpy(), code[judge].numpy()
    areas = []
    for factor in factors.T:
        found = []
        for value in range(int(factor.max()) + 1):
            own, other = (factor[fit] == value).numpy(), (factor[judge] == value).numpy()
            if 0 < own.sum() < len(own) and 0 < other.sum() < len(other):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(train, own)
                found.append(float(roc_auc_score(other, line.decision_function(test))))
        if not found:
            raise UsageError("a factor has no value that both halves of the images have")
        areas.append(sum(found) / len(found))
    return sum(areas) / len(areas)
