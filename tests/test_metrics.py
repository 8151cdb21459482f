"""Metrics of reconstructions, bounds and latents: against other implementations, closed forms, and known evidence."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aegen_builtin.latents.gaussian import Gaussian
from aegen_builtin.likelihoods.bernoulli import Bernoulli
from aegen_builtin.likelihoods.discretized_logistic import DiscretizedLogistic
from aegen_builtin.metrics.bound import Bound
from aegen_builtin.metrics.codebook import Codebook
from aegen_builtin.metrics.dimension_kl import DimensionKL
from aegen_builtin.metrics.latents import DRAW, MEAN, Latents
from aegen_builtin.metrics.mmd import MMD, discrepancy
from aegen_builtin.metrics.mutual_information import MutualInformation, densities
from aegen_builtin.metrics.nll import NLL
from aegen_builtin.metrics.probe import Probe
from aegen_builtin.metrics.structure import MSSSIM, SSIM
from aegen_builtin.metrics.terms import Terms
from aegen_builtin.metrics.total_correlation import TotalCorrelation
from aegen_builtin.perceptual.ms_ssim import ms_ssim
from conftest import SIGMA, TINY, Aegen, Plain
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from aegen import Metric, Seen
from aegen import mean_interval as mean
from aegen.autoencoder import Autoencoder
from aegen.errors import EnvironmentFault, UsageError
from aegen.evaluation.per_image import Rows
from aegen.evaluation.protocol import Protocol
from aegen.nn import kernels
from aegen.nn.densities import DiagonalGaussian
from aegen.protocols import ImageShape, Latent, Likelihood, Objective, Outcome

IMAGE = ImageShape(1, 2, 3)
PIXELS, DIM = 6, 2


def value(found: Any, name: str) -> float:
    one = found[name]
    return one[0] if isinstance(one, tuple) else one


def error(found: Any, name: str) -> float:
    assert isinstance(found[name], tuple)
    return found[name][1]  # type: ignore[no-any-return]


def look(x: Tensor, *, model: Any = None, objective: Any = None, start: int = 0, total: int = 0, **known: Any) -> Seen:
    """A batch of held-out images, of which something is `known` without a model."""
    seen = Seen(
        "held-out", model, objective, x, known.pop("labels", None), Protocol(), None, start, total=total or len(x)
    )
    seen.__dict__.update(known)
    return seen


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ------------------------------------------------------------------------------------------------ structure


def pictures(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = nn.functional.interpolate(torch.rand(shape[0], shape[1], 5, 7, generator=generator), shape[2:], mode="bicubic")
    y = x + 0.1 * torch.randn(x.shape, generator=generator)
    return x.clamp(0, 1) * 2 - 1, y.clamp(0, 1) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_that_of_scikit_image(channels: int) -> None:
    x, y = pictures(3, channels, 20, 17)
    found = SSIM().collect(look(x, recon=y))["ssim"]
    how: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 0}
    for i, ours in enumerate(found):
        a, b = ((z[i].double().numpy() + 1) / 2 for z in (x, y))
        assert ours.item() == pytest.approx(structural_similarity(a, b, data_range=1.0, **how), abs=1e-5)
    bright = SSIM().collect(look(x * 0.1 + 0.8, recon=y * 0.1 + 0.8))["ssim"]
    assert not torch.allclose(bright, found, atol=1e-2), "the range is fixed, and not that of the images"


def test_ms_ssim_falls_with_noise_and_is_near_our_own() -> None:
    x, y = pictures(2, 1, 176, 180)
    found = MSSSIM().collect(look(x, recon=y))["ms-ssim"]
    assert torch.allclose(found.float(), ms_ssim(x, y), atol=0.01) and (found < 0.95).all()
    assert MSSSIM().collect(look(x[:1], recon=x[:1]))["ms-ssim"].tolist() == pytest.approx([1.0])


@pytest.mark.parametrize(("metric", "side", "least"), [(SSIM, 10, 11), (MSSSIM, 175, 176)])
def test_images_that_are_smaller_than_the_windows_are_refused(metric: type[Metric], side: int, least: int) -> None:
    x = torch.zeros(1, 1, 200, side)
    with pytest.raises(UsageError, match=f"images are 200×{side}, but it takes {least} pixels"):
        metric().collect(look(x, recon=x))


def test_without_torchmetrics_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(EnvironmentFault, match=r"aegen\[metrics\]"):
        SSIM()


# ------------------------------------------------------------------------------------------------ terms


def test_terms_of_an_autoencoder_are_the_numbers_of_its_validation(aegen: Aegen, tmp_path: Path) -> None:
    aegen("train", *TINY, "--objective", "ae", "--steps", 5, "--run-dir", "r").worked()
    validated = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()][-1]
    said = json.loads(aegen("evaluate", "-c", "r", "--metric", "terms", "--json").worked().out)
    found = {entry["name"]: entry for entry in said["numbers"]}
    wanted = [v for k, v in validated.items() if k.endswith("loss")]
    assert any(found["loss"]["value"] == pytest.approx(v, rel=1e-4) for v in wanted), validated
    assert found["loss"]["low"] < found["loss"]["value"] < found["loss"]["high"]
    assert found.keys() == {"loss", "error"}


class Mixed(Objective):
    """A term of each image, one of the batch, and something watched of either kind."""

    def loss(self, model: Any, x: Tensor) -> Outcome:
        bright = x.flatten(1).mean(1)
        watch = {"bright": bright, "batch": x.mean()}
        return Outcome({"error": bright**2, "spread": bright.std()}, watch=watch)


def test_a_term_of_a_batch_is_averaged_and_has_no_interval() -> None:
    x = normal(20, *IMAGE)
    rows = Rows()
    model: Any = nn.Module()
    model.given = lambda labels: model
    parts = [look(part, model=model, objective=Mixed()) for part in x.split(10)]
    rows.sweep(parts, {"terms": Terms()}, {})
    numbers = {n.name: n for n in rows.numbers("terms", Terms(), 0)}
    bright = x.flatten(1).mean(1)
    spread = (bright[:10].std() + bright[10:].std()) / 2
    assert numbers.keys() == {"loss", "error", "spread", "bright"}
    assert numbers["spread"].value == pytest.approx(spread.item())
    assert numbers["loss"].value == pytest.approx((bright.square().mean() + spread).item())
    assert [n.low is None for n in numbers.values()] == [True, False, True, False]
    assert "spread" in Terms().notes(rows.of("terms"))[0]


# ------------------------------------------------------------------------------------------------ bounds


def linear(x: Tensor, off: float = 0.0) -> tuple[Autoencoder, Tensor]:
    """z ~ N(0, 1), x ~ N(W z + b, SIGMA²), its true posteriors with features moved by `off`; and -log p(x), (B,)."""
    weight = torch.linalg.qr(normal(PIXELS, DIM, seed=1))[0] * torch.tensor([0.7, 0.3])
    bias = 0.1 * normal(PIXELS, seed=2)
    variance = 1 / (1 + weight.square().sum(0) / SIGMA**2)

    class Encoder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = variance * ((x.flatten(1) - bias) @ weight) / SIGMA**2
            return torch.cat([mean, variance.log().expand_as(mean)], 1) + off

    class Decoder(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return (z @ weight.T + bias).unflatten(1, IMAGE)

    model = Autoencoder(IMAGE, Encoder(), Gaussian(dim=DIM), Decoder(), Plain(), (DIM,)).eval()
    covariance = weight @ weight.T + SIGMA**2 * torch.eye(PIXELS, dtype=torch.float64)
    return model, -MultivariateNormal(bias, covariance).log_prob(x.flatten(1))


def test_nll_of_a_linear_gaussian_model_is_exact_where_the_posterior_is() -> None:
    x = normal(7, *IMAGE)
    model, evidence = linear(x)
    rows = NLL(samples=5, chunk=2).collect(look(x, model=model))
    torch.testing.assert_close(rows["nll"], evidence, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(rows["effective_draws"], torch.full((7,), 5.0, dtype=torch.float64))


def test_nll_falls_to_the_evidence_with_more_draws() -> None:
    x = normal(200, *IMAGE)
    model, evidence = linear(x, off=0.5)
    gaps, counts = [], []
    for samples in (1, 10, 1000):
        torch.manual_seed(0)
        rows = NLL(samples=samples, chunk=100).collect(look(x, model=model))
        gaps.append((rows["nll"] - evidence).mean().item())
        counts.append(rows["effective_draws"].mean().item())
    assert gaps[0] > 2 * gaps[1] > 0 and abs(gaps[2]) < 0.01
    assert counts[0] == pytest.approx(1) and 1 < counts[1] < 10


def test_the_size_of_a_chunk_changes_no_number() -> None:
    x = normal(4, *IMAGE)
    model, _ = linear(x, off=0.5)
    found = []
    for chunk in (1, 4, 30):
        torch.manual_seed(0)
        found.append(NLL(samples=9, chunk=chunk).collect(look(x, model=model))["nll"])
    assert torch.allclose(found[0], found[1]) and torch.allclose(found[0], found[2])


def test_nll_looks_at_batches_spread_over_all_images() -> None:
    x = normal(10, *IMAGE)
    starts = range(0, 200, 10)
    chosen = [start for start in starts if look(x, start=start, total=200).among(50)]
    assert len(chosen) == 5 and chosen[0] < 40 and chosen[-1] >= 160
    assert all(look(x, start=start, total=200).among(200) for start in starts)
    model, _ = linear(x)
    assert not NLL(images=50).collect(look(x, model=model, start=0, total=200))


def test_few_draws_that_count_are_told() -> None:
    rows = {"nll": torch.ones(3), "effective_draws": torch.full((3,), 1.5)}
    assert any("of 100 draws 1.5 count" in note for note in NLL(samples=100).notes(rows))
    assert not any("count" in note for note in NLL(samples=20).notes(rows))


def test_the_bound_is_the_evidence_on_average_where_the_posterior_is_true() -> None:
    x = normal(1, *IMAGE).expand(4000, *IMAGE)
    torch.manual_seed(0)
    for off, gap in ((0.0, 0.0), (0.3, None)):
        model, evidence = linear(x, off)
        numbers: Any = Bound().compute(Bound().collect(look(x, model=model)))
        found = {name: value for name, (value, _, _) in numbers.items()}
        assert found["negative_elbo"] == pytest.approx(found["error"] + found["kl"])
        if gap is None:  # KL(q ‖ true posterior), two normals
            true, here = (m.encode(x[:1]).posterior for m in (linear(x)[0], model))
            q, p = (Normal(one.mean, one.std) for one in (here, true))
            gap = torch.distributions.kl_divergence(q, p).sum().item()
        assert found["negative_elbo"] - evidence[0].item() == pytest.approx(gap, abs=0.06)
    analytic = torch.distributions.kl_divergence(q, Normal(0.0, 1.0)).sum().item()
    assert found["kl"] == pytest.approx(analytic)


def counted(likelihood: Likelihood, measure: str) -> Autoencoder:
    likelihood.measure = measure  # type: ignore[assignment]

    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_zeros(len(x), 2)

    class Blank(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.new_zeros(len(z), *IMAGE)

    return Autoencoder(IMAGE, Zero(), Gaussian(dim=1), Blank(), likelihood, (1,)).eval()


def test_bits_are_only_of_masses_of_grey_levels() -> None:
    x = torch.zeros(3, *IMAGE)
    levels = Bound().collect(look(x, model=counted(DiscretizedLogistic(IMAGE), "levels")))
    assert torch.allclose(levels["bits_per_dim"], levels["negative_elbo"] / (PIXELS * math.log(2)))
    assert not Bound().notes(levels)
    draws = NLL(samples=2).collect(look(x, model=counted(DiscretizedLogistic(IMAGE), "levels")))
    assert torch.allclose(draws["nll_bits_per_dim"], draws["nll"] / (PIXELS * math.log(2)))
    density = Bound().collect(look(x, model=counted(Plain(), "density")))
    assert "bits_per_dim" not in density and "no bits/dim" in Bound().notes(density)[0]


def test_a_bernoulli_of_grey_images_is_told_to_be_no_bound() -> None:
    x = torch.ones(3, *IMAGE)
    model = counted(Bernoulli(IMAGE), "binary")
    black = Bound().collect(look(x, model=model))
    assert black["negative_elbo"].tolist() == pytest.approx([PIXELS * math.log(2)] * 3) and not Bound().notes(black)
    x[0, 0, 0, 0] = 0.5
    grey = Bound().collect(look(x, model=model))
    assert "1 of 3 images are grey" in Bound().notes(grey)[0]
    assert Bound().compute(grey).keys() == {"negative_elbo", "error", "kl"}


# ------------------------------------------------------------------------------------------------ latents


def test_active_units_and_effective_dimension_of_known_spectra() -> None:
    z = normal(4000, 4) * torch.tensor([3.0, 1.0, 0.5, 0.05])
    found = Latents().compute({MEAN: z})
    lengths = torch.tensor([9.0, 1.0, 0.25, 0.0025])
    assert found["active_units"] == 3
    assert value(found, "effective_dimension") == pytest.approx(
        (lengths.sum() ** 2 / (lengths**2).sum()).item(), rel=0.03
    )
    turned = z @ torch.linalg.qr(normal(4, 4, seed=1))[0]
    assert value(Latents().compute({MEAN: turned}), "effective_dimension") == pytest.approx(
        value(found, "effective_dimension")
    )
    with pytest.raises(UsageError, match="the same latent"):
        Latents().compute({MEAN: torch.ones(5, 3)})


def test_total_correlation_is_that_of_correlated_normals_without_bias() -> None:
    rho, few = 0.6, []
    z = normal(20_000, 2)
    z[:, 1] = rho * z[:, 0] + (1 - rho**2) ** 0.5 * z[:, 1]
    wanted = -0.5 * math.log(1 - rho**2)
    moved = torch.cat([5 * z + 3, torch.ones(20_000, 1)], 1)  # neither scale nor a dead dimension matters
    assert value(TotalCorrelation().compute({DRAW: moved}), "gaussian_total_correlation") == pytest.approx(
        wanted, rel=0.05
    )
    for seed in range(200):
        found = TotalCorrelation().compute({DRAW: normal(15, 6, seed=seed)})
        few.append(value(found, "gaussian_total_correlation"))
    assert abs(np.mean(few)) < 4 * np.std(few) / 200**0.5  # 1.3 nats were it not corrected
    with pytest.raises(UsageError, match="it takes 8 images"):
        TotalCorrelation().compute({DRAW: normal(7, 6)})
    with pytest.raises(UsageError, match="infinite"):
        TotalCorrelation().compute({DRAW: torch.cat([z, z.sum(1, keepdim=True)], 1).float()})


@pytest.mark.parametrize(
    ("metric", "row", "name"),
    [(Latents, MEAN, "effective_dimension"), (TotalCorrelation, DRAW, "gaussian_total_correlation")],
)
def test_errors_of_covariances_are_as_large_as_they_vary(metric: type[Metric], row: str, name: str) -> None:
    mix = torch.tensor([[1.0, 0.0, 0.0], [0.7, 1.0, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64)
    found = [metric().compute({row: normal(300, 3, seed=seed) @ mix.T}) for seed in range(200)]
    assert np.mean([error(f, name) for f in found]) == pytest.approx(np.std([value(f, name) for f in found]), rel=0.2)


def test_dimensions_are_named_by_what_they_carry() -> None:
    charges = torch.tensor([0.5, 3.0, 0.1, 1.0]) * (1 + 0.1 * normal(50, 4, dtype=torch.float32))
    latent = Latent(charges, charges.sum(1), charges=charges.view(50, 2, 1, 2))
    summed = DimensionKL().collect(look(torch.zeros(50, *IMAGE), latent=latent))["charges"]
    assert torch.allclose(summed, charges.view(50, 2, 2).sum(2))
    found = DimensionKL(most=2).compute({"charges": charges})
    assert list(found) == ["kl_1", "kl_3"]
    assert value(found, "kl_1") == pytest.approx(charges[:, 1].mean().item())
    assert found["kl_1"] == pytest.approx(mean(charges[:, 1]))
    assert "2 more latent dimensions carry 0.5" in DimensionKL(most=2).notes({"charges": charges})[0]
    assert not DimensionKL().notes({"charges": charges})


def test_densities_under_the_mixture_of_posteriors_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, std = 3 * normal(40, 3) + 5, (normal(40, 3, seed=1) - 1).exp()
    z = mean + std * normal(40, 3, seed=2)
    monkeypatch.setattr("aegen_builtin.metrics.mutual_information._BLOCK", 7)
    own, aggregate = densities(z, mean, std)
    each = Independent(Normal(mean, std), 1)
    torch.testing.assert_close(own, each.log_prob(z))
    torch.testing.assert_close(aggregate, MixtureSameFamily(Categorical(torch.ones(40)), each).log_prob(z))


def test_mutual_information_and_marginal_kl_of_a_gaussian_channel() -> None:
    signal, noise, count = 1.5, 0.5, 4000
    mean = signal * normal(count, 2)
    std = torch.full_like(mean, noise)
    z = mean + std * normal(count, 2, seed=1)
    log_prior = Independent(Normal(torch.zeros(2).double(), 1.0), 1).log_prob(z)
    found = MutualInformation().compute({DRAW: z, MEAN: mean, "latent.std": std, "latent.log_prior": log_prior})
    whole = signal**2 + noise**2
    assert value(found, "mutual_information") == pytest.approx(math.log(whole / noise**2), abs=0.05)
    assert value(found, "marginal_kl") == pytest.approx(whole - 1 - math.log(whole), abs=0.1)


def test_mutual_information_lies_between_nothing_and_the_number_of_images() -> None:
    for apart, wanted in ((0.0, 0.0), (100.0, math.log(50))):
        mean = apart * torch.arange(50.0).unsqueeze(1)
        rows = {DRAW: mean + 0.1, MEAN: mean, "latent.std": torch.ones(50, 1), "latent.log_prior": torch.zeros(50)}
        found = MutualInformation().compute(rows)
        assert value(found, "mutual_information") == pytest.approx(wanted, abs=1e-9)
    assert "3.91 nats at most" in MutualInformation().notes(rows)[0]


def closed(a: float, b: float, apart: float, width: int) -> float:
    """Squared MMD of N(0, a) and N(apart, b), `width` dimensions, in the metric's kernel."""

    def mean(variance: float, distance: float, c: float) -> float:
        return math.pow(1 + 2 * variance / c, -width / 2) * math.exp(-width * distance**2 / (c + 2 * variance))

    scales = [2 * width * scale for scale in kernels.SCALES]
    return float(np.mean([mean(2 * a, 0, c) + mean(2 * b, 0, c) - 2 * mean(a + b, apart, c) for c in scales]))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.6, 0.0), (1.0, 0.5)])
def test_mmd_is_that_of_normals_without_bias_and_its_error_as_large_as_it_varies(scale: float, shift: float) -> None:
    draws = [
        discrepancy(scale * normal(100, 3, seed=seed) + shift, normal(100, 3, seed=1000 + seed)) for seed in range(150)
    ]
    values = [v for v, _ in draws]
    assert abs(np.mean(values) - closed(scale**2, 1.0, shift, 3)) < 4 * np.std(values) / 150**0.5
    errors = np.mean([e for _, e in draws])
    assert 0.8 * np.std(values) < errors < (2.5 if shift == 0 and scale == 1 else 1.35) * np.std(values)


def test_mmd_is_that_of_the_objectives_and_takes_images_spread_evenly() -> None:
    a, b = 0.7 * normal(90, 4), normal(90, 4, seed=1)
    found = MMD().compute({DRAW: a, "prior.z": b})
    # There the images and the draws are no pairs, so those of one index are compared too.
    assert value(found, "mmd") == pytest.approx(kernels.discrepancy("rbf", a, b).item(), abs=3 * 4 / 90**1.5)
    some = MMD(images=30).compute({DRAW: a, "prior.z": b})
    assert value(some, "mmd") == discrepancy(a[::3], b[::3])[0]


def test_latents_that_are_codes_have_neither_mmd_nor_correlation(aegen: Aegen, tmp_path: Path) -> None:
    aegen("train", *TINY, "--objective", "categorical-vae", "--steps", 2, "--run-dir", "r").worked()
    words = ("--metric", "mmd", "--metric", "total-correlation", "--metric", "codebook", "--metric", "bound")
    said = aegen("evaluate", "-c", "r", *words).worked()
    assert "not measured: mmd (the latents are codes" in said.err
    assert "not measured: total-correlation (the latents are codes" in said.err
    assert "not measured: bound (the bottleneck offers no density)" in said.err
    assert "perplexity" in said.out


# ------------------------------------------------------------------------------------------------ codes


def test_codes_are_counted_over_all_images_and_by_codebook() -> None:
    one = torch.arange(8).repeat(5).view(40, 1, 1)
    found = Codebook().compute({"codes": one})
    assert value(found, "perplexity") == pytest.approx(8) and found["codes_used"] == 8 and "usage" not in found
    both = torch.cat([one, torch.zeros_like(one)], 1)
    found = Codebook().compute({"codes": both, "codes.sizes": torch.tensor([16, 10]).expand(40, 2)})
    assert value(found, "perplexity") == pytest.approx((8 + 1) / 2)
    assert found["usage"] == pytest.approx((0.5 + 0.1) / 2) and found["codes_used"] == 4.5
    uneven = torch.tensor([0, 0, 0, 5]).view(4, 1, 1)
    wanted = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert value(Codebook().compute({"codes": uneven}), "perplexity") == pytest.approx(wanted)


@pytest.mark.parametrize("spatial", [(), (2, 3)])
@pytest.mark.parametrize("books", [0, 3])
def test_codebooks_are_told_from_positions(spatial: tuple[int, ...], books: int) -> None:
    z = torch.zeros(4, 5, *spatial)
    codes = torch.zeros(4, *((books,) if books else ()), *spatial, dtype=torch.int64)
    model: Any = nn.Module()
    model.bottleneck = nn.Module()
    model.bottleneck.codebooks = (7,) * max(books, 1)
    rows = Codebook().collect(look(torch.zeros(4, *IMAGE), model=model, latent=Latent(z, z.sum(1), codes=codes)))
    assert rows["codes"].shape == (4, max(books, 1), math.prod(spatial))
    assert rows["codes.sizes"].tolist() == [[7] * max(books, 1)] * 4


def test_the_error_of_a_perplexity_is_as_large_as_it_varies() -> None:
    shares = torch.tensor([0.4, 0.3, 0.2, 0.1])
    found = []
    for seed in range(200):
        drawn = torch.multinomial(shares, 1500, True, generator=torch.Generator().manual_seed(seed))
        found.append(Codebook().compute({"codes": drawn.view(500, 1, 3)}))
    values = [value(f, "perplexity") for f in found]
    assert np.mean([error(f, "perplexity") for f in found]) == pytest.approx(np.std(values), rel=0.2)


def test_images_that_are_too_few_for_the_codes_are_told() -> None:
    rows = {"codes": torch.zeros(40, 1, 2, dtype=torch.int64), "codes.sizes": torch.tensor([9]).expand(40, 1)}
    assert "80 vectors for 9 codes" in Codebook().notes(rows)[0]
    assert not Codebook().notes({**rows, "codes.sizes": torch.tensor([8]).expand(40, 1)})


# ------------------------------------------------------------------------------------------------ probes


def test_probes_find_classes_that_are_there_and_none_that_are_not() -> None:
    labels = torch.arange(300) % 3
    apart = nn.functional.one_hot(labels, 5) * 10.0 + normal(300, 5)
    apart = torch.cat([apart, 1e4 * normal(300, 1, seed=1)], 1)  # the scale of a dimension means nothing
    found = Probe().compute({MEAN: apart, "labels": labels})
    assert value(found, "linear_probe") == value(found, "knn") == 1
    found = Probe().compute({MEAN: normal(300, 5), "labels": labels})
    for name in ("linear_probe", "knn"):
        assert abs(value(found, name) - 1 / 3) < 0.13  # four standard errors and some
    assert "300 held-out images, 5-fold" in Probe().notes({MEAN: apart, "labels": labels})[0]


def test_a_ring_is_for_neighbours_and_not_for_a_line() -> None:
    labels = torch.arange(300) % 2
    ring = nn.functional.normalize(normal(300, 2), dim=1) * (1 + 3 * labels.unsqueeze(1))
    found = Probe().compute({MEAN: ring, "labels": labels})
    assert value(found, "linear_probe") < 0.7 and value(found, "knn") > 0.97


def test_probes_refuse_what_they_cannot_judge() -> None:
    with pytest.raises(UsageError, match="one class"):
        Probe().compute({MEAN: normal(20, 2), "labels": torch.zeros(20, dtype=torch.int64)})
    with pytest.raises(UsageError, match="of class 1 there are 3 images"):
        Probe().compute({MEAN: normal(20, 2), "labels": (torch.arange(20) < 3).long()})
    model: Any = nn.Module()
    model.bottleneck = nn.Module()
    model.bottleneck.offers = {"labels"}
    with pytest.raises(UsageError, match="hold the class"):
        Probe().collect(look(torch.zeros(4, *IMAGE), model=model))


# ------------------------------------------------------------------------------------------------ all of them


class Skewed(Metric):
    resamples = 0

    def collect(self, seen: Seen) -> dict[str, Tensor]:
        return {"it": seen.x.flatten(1).mean(1)}

    def compute(self, rows: Any) -> Any:
        from aegen import mean_interval as mean

        return {"it": mean(rows["it"])}


def test_an_interval_from_a_standard_error_covers_the_mean_about_nineteen_times_of_twenty() -> None:
    covered = 0
    for seed in range(300):
        rows = Rows()
        x = normal(150, 1, 1, 1, seed=seed).exp()  # skewed, as errors are
        rows.sweep([look(x)], {"it": Skewed()}, {})
        (number,) = rows.numbers("it", Skewed(), 0)
        assert number.low is not None and number.high is not None
        covered += number.low < math.exp(0.5) < number.high
    assert 255 <= covered <= 297  # 285 were it normal


def test_one_image_has_no_interval() -> None:
    rows = Rows()
    rows.sweep([look(torch.ones(1, 1, 1, 1))], {"it": Skewed()}, {})
    (number,) = rows.numbers("it", Skewed(), 0)
    assert (number.value, number.low, number.high) == (1.0, None, None)


ALL = ("ssim", "ms-ssim", "terms", "bound", "nll", "latents", "total-correlation", "dimension-kl", "mutual-information")
MORE = ("mmd", "codebook", "probe")


def test_numbers_are_the_same_alone_and_among_others(aegen: Aegen, trained: Path) -> None:
    def numbers(*names: str) -> dict[tuple[str, str], Any]:
        words = [word for name in names for word in ("--metric", name)]
        options = ("--nll.samples", 5) if "nll" in names else ()
        said = json.loads(
            aegen("evaluate", "-c", trained, *words, *options, "--json", "-o", "e.json", "--force").worked().out
        )
        assert not set(said["skipped"]) - {"ms-ssim", "codebook"}
        return {(entry["metric"], entry["name"]): entry for entry in said["numbers"]}

    together = numbers(*ALL, *MORE)
    for name in ("nll", "mmd", "mutual-information", "terms"):
        for key, entry in numbers(name).items():
            assert together[key] == entry
    mine = {key: entry["value"] for key, entry in together.items()}
    assert mine["nll", "nll"] < mine["bound", "negative_elbo"]
    assert mine["bound", "kl"] == pytest.approx(
        sum(entry for key, entry in mine.items() if key[0] == "dimension-kl"), rel=1e-4
    )
    assert all(e["low"] is None or e["low"] <= e["value"] <= e["high"] for e in together.values())


def test_the_posterior_of_a_batch_is_drawn_once_for_all() -> None:
    x = normal(3, *IMAGE)
    model, _ = linear(x)
    seen = look(x, model=model)
    torch.manual_seed(5)
    first = seen.latent.z
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn), "what a metric draws does not depend on who encoded first"
    torch.manual_seed(6)
    assert torch.equal(look(x, model=model).latent.z, first)
    assert isinstance(seen.latent.posterior, DiagonalGaussian)
