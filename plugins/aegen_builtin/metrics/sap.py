"""Separated attribute predictability: Kumar, Sattigeri & Balakrishnan, Variational Inference of Disentangled Latent Concepts from Unlabeled
Observations, 2018.

All factors are taken for categorical: what a dimension says of one is the balanced accuracy of thresholds on it, one fewer than there are
values, fitted and judged on the same images as in the paper. They are those of a decision tree, each the best after those before it. A
dimension that says nothing scores 1 / values, so a perfect code has 1 - 1 / values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from aegen import UsageError
from aegen_builtin.metrics.factors import OfFactors, standard


class SAP(OfFactors):
    """How much better thresholds on the best dimension predict a factor than those on the second best; mean over factors."""

    better: ClassVar[Mapping[str, str]] = {"sap": "higher"}

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """Between 0 and 1 - 1 / values."""
        code, factors, _ = self.known(rows)
        if code.shape[1] < 2:
            raise UsageError("there is one dimension alone, and none to be second best")
        scores = torch.tensor(
            [[_balanced(z, factor) for factor in factors.T] for z in standard(code).T], dtype=torch.float64
        )
        best = scores.topk(2, dim=0).values
        return {"sap": float((best[0] - best[1]).mean())}


def _balanced(z: Tensor, factor: Tensor) -> float:
    """Of the thresholds on one dimension (N,), for one factor (N,)."""
    from sklearn.tree import DecisionTreeClassifier

    values = int(factor.max()) + 1
    tree = DecisionTreeClassifier(max_leaf_nodes=values, class_weight="balanced", random_state=0)
    found = torch.from_numpy(tree.fit(z[:, None].numpy(), factor.numpy()).predict(z[:, None].numpy()))
    right = torch.bincount(factor[found == factor], minlength=values)
    return float((right.double() / torch.bincount(factor)).mean())
