"""The score of beta-VAE: Higgins et al., beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework, 2017.

The pairs of images that share a value of a factor are drawn from the held-out images that do, where the paper renders new ones; so no
score hangs on a renderer. The linear classifier is a logistic regression on mean differences brought to mean 0 and variance 1, judged by
others than those that it is fitted on. A code that tells nothing scores about 1 / factors.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from aegen import Range, UsageError
from aegen_builtin.metrics.factors import OfFactors, groups


class BetaVAEScore(OfFactors):
    """How often a linear classifier tells from the latents' mean differences which factor the pairs of images share.

    Options:
        pairs: over which differences are averaged.
        points: averages that the classifier is fitted on, and as many others by which it is judged.
    """

    better: ClassVar[Mapping[str, str]] = {"beta_vae_score": "higher"}

    def __init__(self, *, pairs: Annotated[int, Range(1)] = 64, points: Annotated[int, Range(20)] = 1000) -> None:
        self.pairs, self.points = pairs, points

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """Between 0 and 1."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        code, factors, names = self.known(rows)
        if len(names) < 2:
            raise UsageError("only one factor varies, so there is nothing to tell apart")
        generator = torch.Generator().manual_seed(0)
        points, fixed = [], []
        for number, members in enumerate(groups(factors, names)):
            # As many points of each factor, so that the share of the commonest is no score.
            count = -(-2 * self.points // len(names))
            first, second = pairs(members, count * self.pairs, generator)
            points.append((code[first] - code[second]).abs().view(count, self.pairs, -1).mean(1))
            fixed += [number] * count
        every, told = torch.cat(points), torch.tensor(fixed)
        order = torch.randperm(len(every), generator=generator)
        fit, judge = order[: self.points], order[self.points :]
        line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            line.fit(every[fit].numpy(), told[fit].numpy())
        return {"beta_vae_score": float(line.score(every[judge].numpy(), told[judge].numpy()))}


def pairs(members: list[Tensor], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of two different images of the same group, drawn `count` times; an image of any group is as likely as another."""
    sizes = torch.tensor([len(some) for some in members])
    every, start = torch.cat(members), sizes.cumsum(0) - sizes
    first = torch.randint(len(every), (count,), generator=generator)
    group = torch.arange(len(members)).repeat_interleave(sizes)[first]
    # Another place in the group: so many further on, around its end.
    further = 1 + (torch.rand(count, generator=generator, dtype=torch.float64) * (sizes[group] - 1)).long()
    second = start[group] + (first - start[group] + further) % sizes[group]
    return every[first], every[second]
