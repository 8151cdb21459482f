"""Disentanglement, completeness and informativeness: Eastwood & Williams, A Framework for the Quantitative Evaluation of Disentangled
Representations, 2018.

By a random forest for each factor, of the two kinds of regressor in the paper the one that is not linear, whose trees may split on any
dimension: with a random few to choose from, the importance of a perfect code would be shared out to others. Half of the images fit, the
other half judge informativeness, which is here an accuracy where the paper has an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from aegen import Range, UsageError
from aegen_builtin.metrics.factors import OfFactors, halves, standard


class DCI(OfFactors):
    """Whether dimensions matter to one factor only, factors depend on one dimension only, and how well they are predicted.

    Options:
        trees: of each forest.
        depth: of a tree, at most.
        most: images, drawn at random if there are more.
    """

    better: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("dci_disentanglement", "dci_completeness", "dci_informativeness"), "higher"
    )

    def __init__(
        self,
        *,
        trees: Annotated[int, Range(1, 100_000)] = 50,
        depth: Annotated[int, Range(1, 256)] = 10,
        most: Annotated[int, Range(20)] = 5000,
    ) -> None:
        self.trees, self.depth, self.most = trees, depth, most

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """Each between 0 and 1."""
        from sklearn.ensemble import RandomForestClassifier

        code, factors, _ = self.known(rows)
        if min(code.shape[1], factors.shape[1]) < 2:
            raise UsageError("one dimension or one factor alone cannot be disentangled from others")
        code = standard(code)
        fit, judge = halves(len(code), self.most, torch.Generator().manual_seed(0))
        weights, right = [], []
        for factor in factors.T.numpy():
            forest = RandomForestClassifier(self.trees, max_depth=self.depth, max_features=None, random_state=0)
            forest.fit(code[fit].numpy(), factor[fit])
            weights.append(torch.from_numpy(forest.feature_importances_))
            right.append(float(forest.score(code[judge].numpy(), factor[judge])))
        importance = torch.stack(weights, 1)
        return {
            "dci_disentanglement": float(importance.sum(1) @ purity(importance) / importance.sum().clamp(min=1e-12)),
            "dci_completeness": float(purity(importance.T).mean()),
            "dci_informativeness": sum(right) / len(right),
        }


def purity(weights: Tensor) -> Tensor:
    """1 minus the entropy of each row of (M, K), by the logarithm of base K, (M,); 0 of a row that is all 0."""
    total = weights.sum(1, keepdim=True)
    share = torch.where(total > 0, weights / total.clamp(min=1e-300), 1 / weights.shape[1])
    pure: Tensor = 1 + torch.special.xlogy(share, share).sum(1) / math.log(share.shape[1])
    return pure
