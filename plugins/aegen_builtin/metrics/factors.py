"""What metrics of disentanglement share: codes beside the factors that the images were made from, and what one tells of the other.

A code is the posterior mean of a held-out image, flattened. Factors are integers of which only equality counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from aegen import Metric, Seen, UsageError
from aegen_builtin.metrics.latents import DRAW, MEAN, flat

FACTORS = "factors"
_MOST = 256  # latent dimensions; each is compared with each factor
_BINS = 20
_LEAST = 10  # images with the same value of a factor
# A collapsed dimension: its mean has less than this share of the variance of its draws, which is 1 where posteriors meet the prior.
_COLLAPSED = 0.05
_ROUNDING = 1e-6  # of the largest value of a dimension
_STILL = 1e-5  # variance of a mean that does not move, where there are no draws to compare it with


class OfFactors(Metric):
    """A metric of codes and factors."""

    needs = frozenset({"encoder", "factors"})
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"*": (0.0, 1.0)}
    resamples = 0
    names: Sequence[str] = ()

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Codes (B, D), draws of the posteriors (B, D), and factors (B, F)."""
        if not seen.held_out:
            return {}
        if "labels" in seen.model.bottleneck.offers:
            raise UsageError("the latents hold the class, which the bottleneck is told")
        code = flat(seen.latent.mean)
        if code.shape[1] > _MOST:
            raise UsageError(f"latents have {code.shape[1]} dimensions, but these comparisons take {_MOST} at most")
        assert seen.factors is not None
        self.names = seen.factor_names
        return {MEAN: code, DRAW: flat(seen.latent.z), FACTORS: seen.factors}

    def known(self, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, list[str]]:
        """Codes (N, D) in float64, factors (N, F) counted from 0 without gaps, and their names; those alone that vary.

        Raises:
            UsageError: none varies.
        """
        every = [column.unique(return_inverse=True)[1] for column in rows[FACTORS].T]
        names = list(self.names) or [f"factor {n}" for n in range(len(every))]
        kept = {name: column for name, column in zip(names, every, strict=True) if int(column.max())}
        if not kept:
            raise UsageError("no factor varies over the images")
        code = rows[MEAN].double()
        if not code.isfinite().all():
            raise UsageError("latents are not finite")
        return code, torch.stack(list(kept.values()), 1), list(kept)


def active(code: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
    """Codes (N, D) less the collapsed dimensions, each of the others brought to variance 1; (N, 0) if all are collapsed.

    Each is judged by itself, so that no score hangs on the scales of dimensions: a posterior that tells of its image has a mean that
    moves beside the width of its draws, whatever unit the decoder has learned to read it in. Locatello et al., 2019, leave out what
    moves by less than 0.05, where draws of all images together have the prior's 1.

    Raises:
        UsageError: none moves at all.
    """
    variance = code.var(0)
    moves = variance > (_ROUNDING * code.abs().amax(0)).square()
    if not moves.any():
        raise UsageError("all images have the same latent")
    least = _COLLAPSED * rows[DRAW].double().var(0) if DRAW in rows else variance.new_tensor(_STILL)
    kept = moves & (variance > least)
    return code[:, kept] / variance[kept].sqrt()


def standard(code: Tensor) -> Tensor:
    """Codes (N, D), each dimension that moves brought to mean 0 and variance 1: trees take values that differ by 1e-7 for equal."""
    spread = code.std(0)
    return (code - code.mean(0)) / torch.where(spread > 0, spread, 1.0)


def binned(code: Tensor) -> Tensor:
    """Codes (N, D) → which of 20 bins of the same width, from the smallest to the largest of each dimension, int64 (N, D)."""
    low, high = code.amin(0), code.amax(0)
    width = torch.where(high > low, high - low, 1.0)
    return ((code - low) / width * _BINS).long().clamp(max=_BINS - 1)


def pointwise(bins: Tensor, factor: Tensor) -> Tensor:
    """log p(bin, value) / p(bin) p(value) of each image by dimension, (N, D); its mean over images is the mutual information."""
    count, width = bins.shape
    values = int(factor.max()) + 1
    cell = (torch.arange(width) * _BINS + bins) * values + factor[:, None]
    joint = torch.bincount(cell.flatten(), minlength=width * _BINS * values).view(width, _BINS, values).double()
    ratio = joint * count / (joint.sum(1, keepdim=True) * joint.sum(2, keepdim=True))
    return ratio.flatten()[cell].log()


def halves(count: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two sets of as many of `count` images, drawn without order, `most` together."""
    order = torch.randperm(count, generator=generator)[:most]
    return order[: len(order) // 2], order[len(order) // 2 :]


def groups(factors: Tensor, names: Sequence[str]) -> list[list[Tensor]]:
    """By factor and value, the images that have it, where they are enough to stand for all that could.

    Raises:
        UsageError: no value of a factor has enough.
    """
    found = []
    for name, column in zip(names, factors.T, strict=True):
        every = [(column == value).nonzero()[:, 0] for value in range(int(column.max()) + 1)]
        found.append([members for members in every if len(members) >= _LEAST])
        if not found[-1]:
            raise UsageError(f"no value of the factor {name} is that of {_LEAST} images among {len(factors)}")
    return found
