"""Mutual information gap: Chen et al., Isolating Sources of Disentanglement in Variational Autoencoders, 2018.

By 20 bins of each dimension of the posterior mean, the custom of Locatello et al., Challenging Common Assumptions in the Unsupervised Learning
of Disentangled Representations, 2019, where the paper integrates over the posterior. The standard error is that of the first order, with the
two best dimensions of each factor taken as given, beside what half of the images tell of the bias of few.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from aegen import UsageError
from aegen_builtin.metrics.factors import OfFactors, binned, pointwise
from aegen_builtin.metrics.means import around


class MIG(OfFactors):
    """How much more the best dimension tells of a factor than the second best does, as a share of its entropy; mean over factors."""

    better: ClassVar[Mapping[str, str]] = {"mig": "higher"}

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """Between 0 and 1."""
        gaps, pulls, _ = self._gaps(rows)

        def half(some: Tensor) -> float:
            try:
                return float(self._gaps({key: value[some] for key, value in rows.items()})[0].mean())
            except UsageError:  # so few that no factor varies among them
                return float(gaps.mean())

        return {"mig": around(float(gaps.mean()), pulls.mean(1), half)}

    def notes(self, rows: Mapping[str, Tensor]) -> list[str]:
        """The gap of each factor."""
        gaps, _, names = self._gaps(rows)
        return ["mig by factor: " + ", ".join(f"{name} {gap:.2f}" for name, gap in zip(names, gaps, strict=True))]

    def _gaps(self, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, list[str]]:
        """By factor, (F,), and how each image pulls at them, (N, F)."""
        code, factors, names = self.known(rows)
        bins = binned(code)
        gaps, pulls = [], []
        for factor in factors.T:
            surprise = -(torch.bincount(factor).double() / len(factor))[factor].log()
            told = pointwise(bins, factor)
            first, *second = told.mean(0).topk(min(2, told.shape[1])).indices.tolist()
            apart = told[:, first] - (told[:, second[0]] if second else 0.0)
            gaps.append(apart.mean() / surprise.mean())
            pulls.append((apart - gaps[-1] * surprise) / surprise.mean())
        return torch.stack(gaps), torch.stack(pulls, 1), names
