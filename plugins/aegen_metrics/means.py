"""Means over images with their standard errors."""

from __future__ import annotations

from torch import Tensor


def mean(values: Tensor) -> float | tuple[float, float]:
    """Of (N,): the mean and, of two images and more, its standard error."""
    values = values.double()
    middle = float(values.mean())
    return middle if len(values) < 2 else (middle, float(values.std()) / len(values) ** 0.5)


def around(value: float, pull: Tensor) -> float | tuple[float, float]:
    """A number, and the standard error that follows from how each of N images pulls at it, (N,)."""
    spread = mean(pull)
    return (value, spread[1]) if isinstance(spread, tuple) else value
