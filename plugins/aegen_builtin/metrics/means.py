"""Standard errors of numbers that are no means over images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_NORMAL = 1.96  # standard errors to either side that an interval has
_OUTSIDE = 0.05  # of an interval


def around(value: float, pull: Tensor, of: Callable[[Tensor], float] | None = None) -> float | tuple[float, float]:
    """A number, and the standard error that follows from how each of N images pulls at it, (N,).

    Args:
        of: the number of some of the images, given their indices, where few images have another one on average than many.
    """
    if len(pull) < 2:
        return value
    error = float(pull.double().std()) / len(pull) ** 0.5
    if of is None or len(pull) < 4:
        return value, error
    return value, aware(too_high(value, of, len(pull)), error)


def of_parts(found: Tensor) -> tuple[float, float]:
    """The mean of what few parts of the images gave, (K,), and its standard error; wider as Student's t is, for the spread is of K alone."""
    from scipy.special import stdtrit  # not where help is asked for

    found, count = found.double(), len(found)
    wider = float(stdtrit(count - 1, 1 - _OUTSIDE / 2)) / _NORMAL
    return float(found.mean()), wider * float(found.std()) / count**0.5


def too_high(value: float, of: Callable[[Tensor], float], count: int) -> float:
    """What the number of `count` images is too high by, where that is in inverse proportion to how many there are: half of them have twice.

    Args:
        of: the number of some of the images, given their indices.
    """
    # Files of a class often lie together.
    halves = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tensor_split(2)
    return sum(of(half) for half in halves) / 2 - value


def aware(bias: float, error: float) -> float:
    """What to give as the standard error of a number that is off by about `bias` on average, so that its interval covers.

    Armstrong & Kolesár, Simple and Honest Confidence Intervals in Nonparametric Regression, 2020, section 2: a normal error of mean b
    and standard deviation s stays within s · cv(b / s) 95 times of a hundred, where cv is that quantile of |N(b / s, 1)|.
    """
    if not error > 0:
        return max(abs(bias) / _NORMAL, error)
    away = abs(bias) / error
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    low, high = away, away + 2 * _NORMAL
    for _ in range(60):
        middle = (low + high) / 2
        below, within = torch.special.ndtr(ends * middle - away).tolist()
        low, high = (low, middle) if within - below > 1 - _OUTSIDE else (middle, high)
    return high * error / _NORMAL
