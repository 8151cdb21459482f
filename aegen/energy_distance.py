"""The energy distance of two samples, and whether chance alone could have made it.

Székely & Rizzo, Energy statistics: A class of statistics based on distances, 2013, eq. 5 and section 6.
"""

from __future__ import annotations

import torch
from torch import Tensor


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of samples (N, …) and (M, …), without bias: 0 on average where both are of one distribution."""
    between, n = _distances(x, y), len(x)
    return _statistic(between, torch.arange(len(between)) < n)


def energy_test(x: Tensor, y: Tensor, *, draws: int = 199, seed: int = 0) -> float:
    """The share of random splits of both samples together that lie at least as far apart: small where they are of two distributions.

    Args:
        draws: of the splits; the least that is given is 1 / (draws + 1).
    """
    between = _distances(x, y)
    own = torch.arange(len(between)) < len(x)
    found = _statistic(between, own)
    generator = torch.Generator().manual_seed(seed)
    as_far = sum(_statistic(between, own[torch.randperm(len(own), generator=generator)]) >= found for _ in range(draws))
    return (1 + as_far) / (1 + draws)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    both = torch.cat([x.flatten(1), y.flatten(1)]).double()
    return torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist")


def _statistic(between: Tensor, first: Tensor) -> float:
    """Of distances (N + M, N + M), of which rows are the first sample's where `first`, bool (N + M,)."""
    own = first.double()
    other = 1 - own
    n, m = float(own.sum()), float(other.sum())
    to_own, to_other = between @ own, between @ other
    cross = float(own @ to_other) / (n * m)
    return 2 * cross - float(own @ to_own) / (n * (n - 1)) - float(other @ to_other) / (m * (m - 1))
