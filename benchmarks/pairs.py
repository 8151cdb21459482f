"""Figures from a noisy machine: contenders take turns, and only what ran side by side is compared."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def ratio(over: Sequence[float], under: Sequence[float]) -> str:
    """The ratio within each round, `median (min..max)`; a slow minute hits both of a pair and falls out."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return f"{median(ratios):.2f} ({spread(ratios, '.2f')})"


def spread(values: Sequence[float], form: str) -> str:
    """`min..max`."""
    return f"{min(values):{form}}..{max(values):{form}}"
