"""Intervals hold the truth as often as they say, where that can be seen in seconds; all of them: benchmarks/coverage.py."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest
import torch
from aegen_builtin.metrics.codebook import Codebook
from aegen_builtin.metrics.factor_vae_score import FactorVAEScore
from aegen_builtin.metrics.fid import FID, RFID
from aegen_builtin.metrics.inception_score import InceptionScore, score
from aegen_builtin.metrics.means import aware, of_parts
from aegen_builtin.metrics.modularity import Modularity
from aegen_builtin.metrics.structure import MSSSIM
from aegen_builtin.perceptual.ms_ssim import ms_ssim
from aegen_builtin.samplers.mixture import Mixture
from scipy.stats import foldnorm, t
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from aegen import Metric, Sampler
from aegen.evaluation.per_image import Rows
from aegen.inference import fit_sampler


@pytest.mark.parametrize("times", [2, 4, 16])
@pytest.mark.parametrize("paired", [False, True])
def test_fid_holds_the_true_distance_however_few_the_images(times: int, paired: bool) -> None:
    """Normals of known distance: moved by 0.3 in each of 16 dimensions, and stretched."""
    width, shift, scale, count = 16, 0.3, 1.2, 16 * times
    true = width * (shift**2 + (scale - 1) ** 2)
    generator = torch.Generator().manual_seed(times)
    metric, name = (RFID(), "features.reconstructions") if paired else (FID(), "features.samples")
    held = 0
    for _ in range(60):
        real, other = torch.randn(2, count, width, generator=generator)
        made = (0.8 * real + 0.6 * other if paired else other) * scale + shift
        value, error = metric.compute({"features.held-out": real, name: made})[metric.number]  # type: ignore[misc]
        held += abs(value - true) <= 1.96 * error
    assert held >= 50, "57 are expected, fewer than 50 once in a thousand"


def test_the_bias_of_fid_is_said() -> None:
    real, made = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0))
    rows = {"features.held-out": real, "features.samples": made}
    value, _ = FID().compute(rows)["fid"]  # type: ignore[misc]
    (note,) = FID().notes(rows)
    said = float(note.split("about ")[1].split()[0])
    assert said == pytest.approx(value, rel=0.35), "both are of one distribution, so all of it is bias"


def test_an_interval_that_knows_of_a_bias_is_that_of_a_folded_normal() -> None:
    for bias, error in ((0.0, 1.0), (0.5, 1.0), (-3.0, 2.0), (30.0, 0.1)):
        wanted = error * foldnorm.ppf(0.95, abs(bias) / error)
        assert 1.96 * aware(bias, error) == pytest.approx(wanted, rel=1e-6)
    assert 1.96 * aware(2.0, 0.0) == pytest.approx(2.0)


def test_few_parts_have_an_interval_of_students() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    middle, error = of_parts(values)
    assert (middle, 1.96 * error) == pytest.approx((3.75, t.ppf(0.975, 3) * float(values.std()) / 2))


def test_inception_score_holds_that_of_very_many_samples() -> None:
    torch.manual_seed(3)
    drawn = torch.distributions.Dirichlet(torch.full((10,), 0.1))
    true = float(score(drawn.sample((200_000,)).clamp(min=1e-12).log().double()))
    found = [InceptionScore().compute({"log_classes": drawn.sample((300,)).clamp(min=1e-12).log()}) for _ in range(60)]
    held = sum(abs(one["inception-score"][0] - true) <= 1.96 * one["inception-score"][1] for one in found)  # type: ignore[index]
    assert held >= 50


def test_perplexity_holds_that_of_very_many_images() -> None:
    """Forty equal codes at four places: of twenty images the perplexity is far below 40."""
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(60):
        value, error = Codebook().compute({"codes": torch.randint(40, (50, 1, 4), generator=generator)})["perplexity"]  # type: ignore[misc]
        assert value < 39
        held += abs(value - 40) <= 1.96 * error
    assert held >= 50


class Means(Metric):
    def collect(self, seen: Any) -> dict[str, Tensor]:
        return {"it": seen.x}


def interval(values: Tensor) -> tuple[float | None, float | None]:
    rows = Rows()
    rows.sweep([types.SimpleNamespace(x=values, seed=0, start=0, source="held-out")], {"it": Means()}, {})  # type: ignore[list-item]
    (number,) = rows.numbers("it", Means(), 0)
    return number.low, number.high


def test_the_bootstrap_of_few_images_is_as_wide_as_students_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    ratios = []
    for _ in range(30):
        values = torch.randn(8, generator=generator, dtype=torch.float64)
        low, high = interval(values)
        assert low is not None and high is not None
        ratios.append((high - low) / (2 * t.ppf(0.975, 7) * float(values.std()) / 8**0.5))
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)
    assert interval(torch.ones(1)) == (None, None)


# ---------------------------------------------------------------------------------------------------- scales


FACTORS = torch.cartesian_prod(*(torch.arange(k) for k in (3, 4, 5))).repeat(12, 1)


@pytest.mark.parametrize("small", [1.0, 0.1, 1e-3])
def test_a_perfect_code_is_perfect_whatever_the_scales_of_its_dimensions(small: float) -> None:
    code = FACTORS.double() * torch.tensor([1.0, small, small**0.5])
    rows = {"latent.mean": code, "latent.z": code, "factors": FACTORS}
    assert FactorVAEScore().compute(rows) == {"factor_vae_score": 1.0}
    assert Modularity(most=200).compute(rows)["modularity"] == pytest.approx(1)


def test_a_dimension_whose_draws_drown_its_mean_has_collapsed() -> None:
    noise = torch.randn(2, len(FACTORS), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    code = torch.cat([0.01 * FACTORS.double(), 0.2 * noise[0]], 1)  # the largest, and tells of nothing
    drawn = code + torch.tensor([1e-4, 1e-4, 1e-4, 1.0]) * noise[1]
    kept, left = ({"latent.mean": code, "latent.z": z, "factors": FACTORS} for z in (code, drawn))
    assert Modularity(most=200).compute(left)["modularity"] == pytest.approx(1)
    assert Modularity(most=200).compute(kept)["modularity"] < 0.97  # type: ignore[operator]


def test_ms_ssim_is_that_of_windows_that_fit_at_every_scale() -> None:
    """Written from the paper in float64, a channel at a time; mirrored at the border it would be a tenth off."""
    row = torch.exp(-((torch.arange(11.0, dtype=torch.float64) - 5) ** 2) / 4.5)
    window = torch.outer(row, row)[None, None] / row.sum() ** 2
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 176, 191, generator=generator).sort(3).values
    y = x.clone()
    y[..., 60:90, 60:90] = 1 - y[..., 60:90, 60:90]
    seen: Any = types.SimpleNamespace(x=x * 2 - 1, recon=y * 2 - 1, held_out=True)
    found, wanted = MSSSIM().collect(seen)["ms-ssim"], torch.ones(6, dtype=torch.float64)
    a, b = (z.double().flatten(0, 1)[:, None] for z in (x, y))
    for scale, exponent in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        ma, mb, aa, bb, ab = (conv2d(z, window) for z in (a, b, a * a, b * b, a * b))
        local = (2 * (ab - ma * mb) + 0.0009) / (aa - ma**2 + bb - mb**2 + 0.0009)
        if scale == 4:
            local = local * (2 * ma * mb + 0.0001) / (ma**2 + mb**2 + 0.0001)
        wanted *= local.mean((1, 2, 3)).clamp(min=0) ** exponent
        a, b = avg_pool2d(a, 2), avg_pool2d(b, 2)
    torch.testing.assert_close(found, wanted.view(2, 3).mean(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.float(), ms_ssim(x * 2 - 1, y * 2 - 1), atol=1e-3, rtol=0)


# ---------------------------------------------------------------------------------------------------- few and many


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_mixture_of_very_few_latents_draws_them(count: int) -> None:
    latents, mixture = torch.arange(2.0 * count).view(count, 2), Mixture((2,))
    mixture.fit(latents)
    drawn = mixture.sample(50, torch.Generator().manual_seed(0))
    assert float(torch.cdist(drawn, latents).amin(1).max()) < 0.05
    mixture.fit(torch.ones(count, 2))
    assert torch.allclose(mixture.sample(50, torch.Generator().manual_seed(0)), torch.ones(1), atol=0.01)


def test_as_many_images_are_encoded_as_are_fitted() -> None:
    class Counts(Sampler):
        most, fitted_on = 300, torch.empty(0)

        def fit(self, latents: Tensor, seed: int = 0) -> None:
            self.fitted_on = latents
            self.tell(1, 2)

        def sample(self, n: int, generator: torch.Generator) -> Tensor:
            raise NotImplementedError

    class Model(torch.nn.Module):
        seen = 0

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def encode(self, x: Tensor) -> Any:
            self.seen += len(x)
            return types.SimpleNamespace(mean=x.flatten(1)[:, :1] * self.weight)

    train = torch.randint(0, 256, (1000, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sampler, model, told = Counts(), Model(), []
    fit_sampler(sampler, model, train, 5, tell=lambda *one: told.append(one), name="counts")  # type: ignore[arg-type]
    chosen = torch.randperm(1000, generator=torch.Generator().manual_seed(5))[:300]
    torch.testing.assert_close(sampler.fitted_on, train[chosen].flatten(1)[:, :1] / 127.5 - 1)
    assert model.seen == 300
    assert told[0] == ("encoding 300 training images for sampler counts", 0, 300)
    assert told[-2:] == [
        ("fitting sampler counts on 300 latents", 1, 2),
        ("fitting sampler counts on 300 latents", 1, 1),
    ]
