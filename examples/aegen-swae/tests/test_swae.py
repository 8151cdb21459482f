"""What a plugin's author writes: the contract in one line, and the value against an independent computation."""

from __future__ import annotations

import torch
from aegen_swae import SlicedWasserstein, sliced_wasserstein
from scipy.stats import wasserstein_distance_nd

from aegen.testing import check_objective


def test_contract() -> None:
    check_objective(SlicedWasserstein)


def test_on_a_line_it_is_optimal_transport() -> None:
    a, b = torch.randn(20, 1, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64) + 3
    ours = sliced_wasserstein(a, b, torch.ones(1, 1, dtype=torch.float64))
    # Equal weights on a line: the optimal plan pairs sorted points.
    pairs = zip(sorted(a.flatten().tolist()), sorted(b.flatten().tolist()), strict=True)
    torch.testing.assert_close(ours.item(), sum((p - q) ** 2 for p, q in pairs) / 20)
    assert ours.item() ** 0.5 >= wasserstein_distance_nd(a.numpy(), b.numpy()) - 1e-9  # W2 is never below W1
