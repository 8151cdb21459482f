"""Intervals end where a number's possible values do, and coverage is what it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from aegen_builtin.metrics.codebook import Codebook
from aegen_builtin.metrics.dimension_kl import DimensionKL
from aegen_builtin.metrics.inception_score import InceptionScore
from aegen_builtin.metrics.latents import Latents
from aegen_builtin.metrics.nll import NLL
from aegen_builtin.metrics.probe import Probe
from aegen_builtin.metrics.total_correlation import TotalCorrelation
from torch import Tensor

from aegen import Metric, Seen, registry
from aegen.errors import PluginError
from aegen.evaluation.per_image import Number, Rows, clipped
from aegen.factory import load
from aegen.testing import check_metric


def numbers(metric: Metric, rows: Mapping[str, Tensor]) -> dict[str, Number]:
    kept = Rows()
    kept._parts = {key: [(0, value)] for key, value in rows.items()}
    kept._source = dict.fromkeys(rows, "held-out")
    kept._names = {"it": list(rows)}
    return {number.name: number for number in kept.numbers("it", metric, 0)}


def test_an_interval_loses_what_is_impossible_and_never_its_value() -> None:
    assert clipped(0.1, -0.2, 0.4, (0.0, math.inf)) == (0.0, 0.4)
    assert clipped(0.9, 0.7, 1.2, (0.0, 1.0)) == (0.7, 1.0)
    assert clipped(-0.05, -0.2, 0.1, (0.0, math.inf)) == (-0.05, 0.1)  # of an estimate without bias
    assert clipped(3.0, 2.0, 4.0, (-math.inf, math.inf)) == (2.0, 4.0)


def test_clipping_takes_no_truth_away() -> None:
    """Whatever lies in the range and in the interval lies in what is left of it."""
    generator = torch.Generator().manual_seed(0)
    for value, apart, truth in torch.randn(500, 3, generator=generator).tolist():
        low, high = value - abs(apart), value + abs(apart)
        least, most = clipped(value, low, high, (0.0, 1.0))
        held = low <= min(max(truth, 0.0), 1.0) <= high
        assert held == (least <= min(max(truth, 0.0), 1.0) <= most)


def rare(count: int) -> Tensor:
    """One of them large: of so few, an interval of the mean reaches below 0."""
    values = torch.full((count,), 1e-3)
    values[:2] = torch.tensor([-0.02, 1.0])
    return values


def test_no_divergence_is_below_nothing_and_no_dimension_is_less_than_one() -> None:
    assert numbers(DimensionKL(), {"charges": rare(8)[:, None]})["kl_0"].low == 0.0
    generator = torch.Generator()
    line = torch.randn(6, 3, generator=generator.manual_seed(1)) * torch.tensor([1.0, 0.5, 0.1])
    found = numbers(Latents(), {"latent.mean": line})["effective_dimension"]
    assert found.low == 1.0 and found.high is not None and found.high <= 3.0


def test_shares_counts_and_scores_stay_within_what_there_is() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randperm(64, generator=generator).view(16, 1, 4) % 8
    found = numbers(Codebook(), {"codes": codes, "codes.sizes": torch.full((16, 1), 8)})["perplexity"]
    assert found.high == pytest.approx(8.0) and found.value == pytest.approx(8.0)
    same = torch.full((40, 10), 0.1).log()
    found = numbers(InceptionScore(), {"log_classes": same})["inception-score"]
    assert found.low == 1.0
    draws = torch.tensor([5.0] * 7 + [1.0])
    found = numbers(NLL(samples=5), {"nll": rare(8), "effective_draws": draws})["effective_draws"]
    assert found.high == 5.0
    codes = torch.arange(40.0)[:, None] % 2
    found = numbers(Probe(), {"latent.mean": codes + 0.6 * rare(40)[:, None], "labels": torch.arange(40) % 2})[
        "linear_probe"
    ]
    assert found.high == 1.0


def test_an_estimate_without_bias_may_be_below_nothing_and_its_interval_ends_at_it() -> None:
    for seed in range(20):
        z = torch.randn(60, 6, generator=torch.Generator().manual_seed(seed))
        found = numbers(TotalCorrelation(), {"latent.z": z})["gaussian_total_correlation"]
        assert found.low is not None and found.low >= min(found.value, 0.0)


def test_what_a_third_party_says_of_ranges_is_held_against_the_rules() -> None:
    class Odd(Probe):
        def within(self, rows: Mapping[str, Tensor]) -> Mapping[str, tuple[float, float]]:
            return {"it": (1.0, 0.0)}

        def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float]:
            return {"it": 0.5}

    with pytest.raises(PluginError, match=r"within\(\) gave \{'it': \(1.0, 0.0\)\}, not a least and a greatest value"):
        numbers(Odd(), {"x": torch.ones(4)})


@pytest.mark.parametrize("name", registry.names("metric"))
def test_every_metric_with_an_interval_knows_what_is_possible(name: str) -> None:
    cls = load("metric", name, Metric)
    assert all(least < most for least, most in cls.ranges.values())


def test_a_range_of_a_number_that_is_not_computed_breaks_the_contract() -> None:
    class Misspelt(Metric):
        ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"grey_levels": (0.0, 1.0)}

        def collect(self, seen: Seen) -> Mapping[str, Tensor]:
            return {"grey_level": (seen.x.flatten(1).mean(1) + 1) / 2} if seen.held_out else {}

    with pytest.raises(AssertionError, match="ranges names grey_levels, which it does not compute"):
        check_metric(Misspelt)
