"""Metrics of disentanglement: perfect, rotated and empty codes, beside references that are written from the papers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from aegen_builtin.metrics.beta_vae_score import BetaVAEScore, pairs
from aegen_builtin.metrics.dci import DCI, purity
from aegen_builtin.metrics.factor_vae_score import FactorVAEScore
from aegen_builtin.metrics.factors import groups, halves
from aegen_builtin.metrics.mig import MIG
from aegen_builtin.metrics.modularity import Modularity
from aegen_builtin.metrics.sap import SAP
from conftest import TINY, Aegen
from scipy.stats import entropy
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from torch import Tensor

from aegen import UsageError

VALUES = (2, 3, 5)
FACTORS = torch.tensor(list(itertools.product(*map(range, VALUES)))).repeat(20, 1)  # every combination 20 times
EVERY = [MIG(), Modularity(), DCI(trees=5), SAP(), FactorVAEScore(), BetaVAEScore()]
NAMES = [type(metric).__name__ for metric in EVERY]


def noise(width: int, count: int = len(FACTORS), seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def perfect() -> Tensor:
    """Each factor in a dimension of its own, brought to variance 1."""
    code = FACTORS.float()
    return (code - code.mean(0)) / code.std(0)


def rotated() -> Tensor:
    """Every factor in every dimension, and a little noise."""
    turn = torch.linalg.qr(noise(3, 3, seed=4))[0]
    return perfect() @ turn + 0.3 * noise(3)


def measured(metric: Any, code: Tensor, factors: Tensor = FACTORS) -> dict[str, float]:
    found: Mapping[str, Any] = metric.compute({"latent.mean": code, "factors": factors})
    return {key: value[0] if isinstance(value, tuple) else value for key, value in found.items()}


def score(metric: Any, code: Tensor, factors: Tensor = FACTORS) -> float:
    """The first number."""
    return next(iter(measured(metric, code, factors).values()))


def told(code: Tensor, factors: Tensor) -> np.ndarray:
    """Mutual information (D, F) as scikit-learn has it, of NumPy's histogram of 20 bins."""
    found = np.zeros((code.shape[1], factors.shape[1]))
    for d, f in np.ndindex(found.shape):
        z = code[:, d].double().numpy()
        edges = np.histogram(z, 20)[1]
        found[d, f] = mutual_info_score(np.digitize(z, edges[1:-1]), factors[:, f].numpy())
    return found


# ---------------------------------------------------------------------------------------------------- known answers


@pytest.mark.parametrize(
    ("metric", "most"),
    [
        (MIG(), {"mig": 1}),
        (Modularity(), {"modularity": 1}),
        (DCI(trees=5), {"dci_disentanglement": 1, "dci_completeness": 1, "dci_informativeness": 1}),
        (SAP(), {"sap": 1 - (1 / 2 + 1 / 3 + 1 / 5) / 3}),
        (FactorVAEScore(), {"factor_vae_score": 1}),
        (BetaVAEScore(), {"beta_vae_score": 1}),
    ],
    ids=NAMES,
)
def test_a_perfect_code_has_the_most(metric: Any, most: dict[str, float]) -> None:
    for code in (perfect(), perfect()[:, [2, 0, 1]] * torch.tensor([-1.0, 1.5, 0.7]) + 3):
        found = measured(metric, code)
        for name, value in most.items():
            assert found[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("metric", EVERY, ids=NAMES)
def test_a_rotated_code_has_clearly_less(metric: Any) -> None:
    assert score(metric, rotated()) < score(metric, perfect()) - 0.1


@pytest.mark.parametrize(
    ("metric", "expected", "within"),
    [
        (MIG(), 0, 0.03),
        (DCI(trees=5), 0, 0.1),
        (SAP(), 0, 0.05),
        (FactorVAEScore(), 1 / 3, 0.15),
        (BetaVAEScore(), 1 / 3, 0.15),
    ],
    ids=["MIG", "DCI", "SAP", "FactorVAEScore", "BetaVAEScore"],
)
def test_noise_has_what_chance_has(metric: Any, expected: float, within: float) -> None:
    assert score(metric, noise(4)) == pytest.approx(expected, abs=within)


def test_a_factor_in_two_dimensions_is_complete_in_neither() -> None:
    """What tells completeness from disentanglement: each dimension is pure, the factor is not whole."""
    halved = torch.cat([perfect(), perfect()[:, 2:]], 1) + 0.01 * noise(4)
    halved[: len(halved) // 2, 2] = noise(1)[: len(halved) // 2, 0]
    halved[len(halved) // 2 :, 3] = noise(1)[len(halved) // 2 :, 0]
    found = measured(DCI(trees=5), halved)
    assert found["dci_disentanglement"] > 0.9 and found["dci_completeness"] < 0.9
    assert measured(MIG(), torch.cat([perfect(), perfect()], 1))["mig"] == pytest.approx(0, abs=1e-6)


def test_explicit_is_what_a_line_tells() -> None:
    """A dimension for each value is explicit; the middle of three values on a line is not."""
    flags = torch.cat([(FACTORS[:, [f]] == torch.arange(VALUES[f])) for f in range(3)], 1).float()
    assert measured(Modularity(), flags)["explicitness"] == pytest.approx(1, abs=1e-6)
    two_and_three = measured(Modularity(), perfect()[:, :2], FACTORS[:, :2])["explicitness"]
    assert two_and_three == pytest.approx((1 + (1 + 0.5 + 1) / 3) / 2, abs=0.06)
    assert measured(Modularity(), noise(4))["explicitness"] == pytest.approx(0.5, abs=0.06)


# ---------------------------------------------------------------------------------------------------- references


def test_mig_is_that_of_scikit_learns_mutual_information() -> None:
    code = rotated()
    best = np.sort(told(code, FACTORS), 0)
    expected = ((best[-1] - best[-2]) / np.log(VALUES)).mean()
    assert measured(MIG(), code)["mig"] == pytest.approx(expected, rel=1e-9)


def test_modularity_is_that_of_the_paper() -> None:
    code = rotated()
    ideal = []
    for row in told(code, FACTORS):
        best = row.argmax()
        ideal.append(1 - sum((m / row[best]) ** 2 for f, m in enumerate(row) if f != best) / (len(row) - 1))
    assert measured(Modularity(), code)["modularity"] == pytest.approx(np.mean(ideal), rel=1e-9)


def test_dci_is_made_of_the_importances_as_in_the_paper() -> None:
    code = rotated().double()
    fit, judge = halves(len(code), 5000, torch.Generator().manual_seed(0))
    importance, right = np.zeros((3, 3)), []
    for f in range(3):
        forest = RandomForestClassifier(5, max_depth=10, max_features=None, random_state=0)
        forest.fit(code[fit], FACTORS[fit, f])
        importance[:, f] = forest.feature_importances_
        right.append(np.mean(forest.predict(code[judge]) == FACTORS[judge, f].numpy()))
    p = importance / importance.sum(1, keepdims=True)
    own, whole = 1 - entropy(p, base=3, axis=1), 1 - entropy(importance, base=3)
    found = measured(DCI(trees=5), code)
    assert found["dci_disentanglement"] == pytest.approx((own * importance.sum(1)).sum() / importance.sum(), rel=1e-9)
    assert found["dci_completeness"] == pytest.approx(whole.mean(), rel=1e-9)
    assert found["dci_informativeness"] == pytest.approx(np.mean(right), rel=1e-9)


def test_sap_of_two_values_is_that_of_the_best_of_all_thresholds() -> None:
    few = (FACTORS[:, 0] == 0) | (noise(1, seed=5)[:, 0] > 1)  # a sixth of those with the other value
    code, factors = (perfect() + noise(3))[few], FACTORS[few, :1]
    accuracies = []
    for z in code.T:
        cut = z[None] > z[:, None]
        share = (cut[:, factors[:, 0] == 1].float().mean(1) + (~cut)[:, factors[:, 0] == 0].float().mean(1)) / 2
        accuracies.append(float(torch.maximum(share, 1 - share).max()))
    first, second = sorted(accuracies)[:-3:-1]
    # The tree's threshold is the best by impurity, which is nearly the best by accuracy.
    assert measured(SAP(), code, factors)["sap"] == pytest.approx(first - second, abs=0.02)
    assert first - second > 0.1


def made(count: int, fixed: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Two new sets of codes as `rotated` has them, in pairs that share a factor; as the papers sample."""
    one, two = (np.stack([generator.integers(0, v, count) for v in VALUES], 1) for _ in range(2))
    two[:, fixed] = one[:, fixed]
    turn = torch.linalg.qr(noise(3, 3, seed=4))[0]
    codes = []
    for some in (one, two):
        z = (torch.from_numpy(some).float() - FACTORS.float().mean(0)) / FACTORS.float().std(0)
        codes.append(z @ turn + 0.3 * torch.from_numpy(generator.normal(size=(count, 3))).float())
    return codes[0], codes[1]


def test_the_beta_vae_score_of_held_out_images_is_that_of_new_ones() -> None:
    generator = np.random.default_rng(0)
    factor = generator.integers(0, 3, 1200)
    points = []
    for f in factor:
        one, two = made(64, int(f), generator)
        points.append((one - two).abs().mean(0).numpy())
    line = LogisticRegression(C=100, max_iter=500).fit(points[:600], factor[:600])
    assert measured(BetaVAEScore(), rotated())["beta_vae_score"] == pytest.approx(
        line.score(points[600:], factor[600:]), abs=0.07
    )


def test_the_factor_vae_score_of_held_out_images_is_that_of_new_ones() -> None:
    generator = np.random.default_rng(0)
    spread = rotated().var(0)
    votes = np.zeros((2, 3, 3))
    for which, table in enumerate(votes):
        for vote in range(500):
            fixed = int(generator.integers(3))
            factors = np.stack([generator.integers(0, v, 64) for v in VALUES], 1)
            factors[:, fixed] = generator.integers(VALUES[fixed])
            z = (torch.from_numpy(factors).float() - FACTORS.float().mean(0)) / FACTORS.float().std(0)
            code = z @ torch.linalg.qr(noise(3, 3, seed=4))[0] + 0.3 * noise(3, 64, seed=which * 1000 + vote)
            table[int((code.var(0) / spread).argmin()), fixed] += 1
    expected = sum(votes[1][d, votes[0][d].argmax()] for d in range(3)) / 500
    assert measured(FactorVAEScore(), rotated())["factor_vae_score"] == pytest.approx(expected, abs=0.07)


def test_the_standard_error_of_mig_is_how_it_varies_over_sets_of_images() -> None:
    found, errors = [], []
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        often = [torch.tensor([0.9, 0.1]), torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1])]
        factors = torch.stack([p.multinomial(400, replacement=True, generator=generator) for p in often], 1)
        code = factors.float() @ torch.tensor([[3.0, 0, 1], [0, 2, 0], [0.3, 0, 1]]) + noise(3, 400, seed + 1000)
        rows = {"latent.mean": code, "factors": factors}
        value, error = MIG().compute(rows)["mig"]  # type: ignore[misc]
        chance = float(MIG()._gaps(rows)[1].mean(1).std()) / 400**0.5
        assert error >= chance, "the interval holds the bias of few images, too"
        found.append(value)
        errors.append(chance)
    assert np.mean(errors) == pytest.approx(np.std(found, ddof=1), rel=0.2)


# ---------------------------------------------------------------------------------------------------- what they stand on


def test_numbers_of_factors_mean_nothing_but_equality() -> None:
    other = torch.stack([torch.tensor([7, -2])[FACTORS[:, 0]], FACTORS[:, 1] * 10, 4 - FACTORS[:, 2]], 1)
    for metric in (MIG(), SAP()):
        assert score(metric, rotated(), other) == pytest.approx(score(metric, rotated()), abs=1e-9)


@pytest.mark.parametrize("metric", EVERY, ids=NAMES)
def test_a_factor_that_does_not_vary_is_left_out(metric: Any) -> None:
    with_one = torch.cat([FACTORS, torch.full((len(FACTORS), 1), 3)], 1)
    assert measured(metric, rotated(), with_one) == measured(metric, rotated())


@pytest.mark.parametrize("metric", EVERY, ids=NAMES)
def test_twice_is_the_same(metric: Any) -> None:
    one = measured(metric, rotated())
    torch.randn(3)
    assert measured(metric, rotated()) == one


@pytest.mark.parametrize("metric", [Modularity(), FactorVAEScore()], ids=["Modularity", "FactorVAEScore"])
def test_a_collapsed_dimension_is_left_out(metric: Any) -> None:
    assert score(metric, torch.cat([perfect(), 1e-3 * noise(3)], 1)) == pytest.approx(1)


@pytest.mark.parametrize("metric", EVERY, ids=NAMES)
def test_what_cannot_be_measured_is_refused_with_a_reason(metric: Any) -> None:
    with pytest.raises(UsageError, match="no factor varies"):
        metric.compute({"latent.mean": perfect(), "factors": torch.ones_like(FACTORS)})
    with pytest.raises(UsageError, match="not finite"):
        metric.compute({"latent.mean": perfect() * torch.nan, "factors": FACTORS})


def test_one_dimension_or_one_factor_is_refused_or_measured() -> None:
    alone, one = (
        {"latent.mean": perfect()[:, :1], "factors": FACTORS},
        {"latent.mean": perfect(), "factors": FACTORS[:, :1]},
    )
    for metric, rows in ((SAP(), alone), (DCI(), alone), (DCI(), one), (Modularity(), one), (BetaVAEScore(), one)):
        with pytest.raises(UsageError, match=r"alone|only one factor"):
            metric.compute(rows)
    assert measured(MIG(), perfect()[:, :1], FACTORS[:, :1]) == {"mig": pytest.approx(1)}


@pytest.mark.parametrize("metric", EVERY, ids=NAMES)
def test_a_code_that_never_moves_tells_nothing(metric: Any) -> None:
    still = torch.ones(len(FACTORS), 3)
    if isinstance(metric, Modularity | FactorVAEScore):
        with pytest.raises(UsageError, match="all images have the same latent"):
            score(metric, still)
    else:
        assert score(metric, still) == pytest.approx(1 / 3 if isinstance(metric, BetaVAEScore) else 0, abs=0.05)


def test_groups_need_images_enough() -> None:
    few = torch.arange(40)[:, None] // torch.tensor([[10, 2]])
    with pytest.raises(UsageError, match="no value of the factor b is that of 10 images among 40"):
        groups(few, ["a", "b"])
    uneven = torch.tensor([0] * 10 + [1] * 9)[:, None]
    assert [len(some) for some in groups(uneven, ["a"])[0]] == [10]


def test_pairs_share_the_factor_and_are_two_images() -> None:
    members = groups(FACTORS, list("abc"))[2]
    first, second = pairs(members, 20_000, torch.Generator().manual_seed(0))
    assert torch.equal(FACTORS[first, 2], FACTORS[second, 2])
    assert not (first == second).any()
    for column in (first, second):
        assert torch.bincount(column, minlength=len(FACTORS)).min() > 5
    assert len(torch.stack([first, second]).unique(dim=1)[0]) > 15_000


def test_a_row_of_no_weight_is_not_pure() -> None:
    assert purity(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.5]])).tolist() == pytest.approx([0, 1, 0])


# ---------------------------------------------------------------------------------------------------- the command


METRICS = [
    word
    for name in ("mig", "modularity", "dci", "sap", "factor-vae-score", "beta-vae-score")
    for word in ("--metric", name)
]
DRAWN = ("--data", "shapes", "--data.count", 300, "--data.positions", 4, "--data.colours", 1, "--data.scales", 1)
DRAWN = (*DRAWN, "--data.rotations", 1, "--set", "data.validation=0.5")


def test_a_model_of_shapes_is_measured(aegen: Aegen) -> None:
    aegen("train", *TINY, *DRAWN, "--steps", 2, "--run-dir", "r").worked()
    said = aegen("evaluate", "-c", "r", *METRICS, "--dci.trees", 2, "--json", "-o", "e.json").worked()
    found = json.loads(said.out)
    assert found["skipped"] == {}
    numbers = {entry["name"]: entry for entry in found["numbers"]}
    assert len(numbers) == 9 and all(0 <= entry["value"] <= 1 for entry in numbers.values())
    assert all(entry["better"] == "higher" for entry in numbers.values())
    assert numbers["mig"]["low"] < numbers["mig"]["value"] < numbers["mig"]["high"]
    (note,) = found["notes"]
    assert note.startswith("mig by factor: shape 0.") and ", y 0." in note and "scale" not in note
    few = aegen("evaluate", "-c", "r", "--metric", "factor-vae-score", "--limit", 20).worked()
    assert "not measured: factor-vae-score (no value of the factor" in few.err


def test_without_factors_they_say_so(aegen: Aegen) -> None:
    aegen("train", *TINY, "--steps", 2, "--run-dir", "r").worked()
    said = aegen("evaluate", "-c", "r", "--metric", "mig", "--metric", "reconstruction").worked()
    assert "not measured: mig (what the images of digits were made from is not known)" in said.err


def test_latents_that_are_told_the_class_are_refused(aegen: Aegen) -> None:
    aegen("train", *TINY, *DRAWN, "--objective", "conditional-vae", "--steps", 2, "--run-dir", "r").worked()
    said = aegen("evaluate", "-c", "r", "--metric", "mig").worked()
    assert "not measured: mig (the latents hold the class" in said.err
