"""How far a mean over images may be from that of all images of the kind."""

from __future__ import annotations

import math

from torch import Tensor

_OUTSIDE = 0.05  # of an interval


def mean_interval(values: Tensor) -> float | tuple[float, float, float]:
    """The mean of (N,) and, of two images and more, the ends of its 95 % interval.

    That of Student's t, turned by how skewed the values are: errors and divergences have a long tail, and a mean of few of them is more
    often far below what it is of than far above. Hall, On the Removal of Skewness by Transformation, 1992, the cubic one:
    g(T) = T + a T²/3 + a² T³/27 + a/6 is nearly normal, a being the skewness by the root of N.
    """
    from scipy.special import stdtrit  # not where help is asked for

    values = values.double()
    count, middle = len(values), float(values.mean())
    if count < 2:
        return middle
    apart, error = values - middle, float(values.std()) / count**0.5
    spread = float(apart.square().mean())
    lean = float(apart.pow(3).mean()) / spread**1.5 / count**0.5 if spread > 0 else 0.0
    reach = float(stdtrit(count - 1, 1 - _OUTSIDE / 2))
    low, high = (_unturned(end, lean) for end in (reach, -reach))
    return middle, middle - low * error, middle - high * error


def _unturned(value: float, lean: float) -> float:
    """The T whose g(T) is `value`."""
    if abs(lean) < 1e-6:
        return value
    inner = 1 + lean * (value - lean / 6)
    return 3 / lean * (math.copysign(abs(inner) ** (1 / 3), inner) - 1)
