"""How often the 95 % intervals of `aegen evaluate` hold what they are of: rows drawn again and again where the truth is known.

    python benchmarks/coverage.py

A line each: how many images, the mean of the estimates, the truth, and the share of intervals that hold it. `exact` truths are those of the
distributions, worked out; `very many` those of a set so large that nothing is left of its size; `as many` those of the mean of other sets of
the same size, where the number is defined by it (balls around images, classifiers fitted on four fifths of them). Rows go through what
`evaluate` makes intervals with.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from aegen_builtin.metrics.bound import Bound
from aegen_builtin.metrics.codebook import Codebook
from aegen_builtin.metrics.dimension_kl import DimensionKL
from aegen_builtin.metrics.fid import FID, RFID
from aegen_builtin.metrics.inception_score import InceptionScore
from aegen_builtin.metrics.kid import KID, RKID
from aegen_builtin.metrics.latents import Latents
from aegen_builtin.metrics.mig import MIG
from aegen_builtin.metrics.mmd import MMD
from aegen_builtin.metrics.mutual_information import MutualInformation
from aegen_builtin.metrics.nll import NLL
from aegen_builtin.metrics.path_length import PathLength
from aegen_builtin.metrics.perceptual import Perceptual
from aegen_builtin.metrics.precision_recall import PrecisionRecall
from aegen_builtin.metrics.probe import Probe
from aegen_builtin.metrics.reconstruction import Reconstruction
from aegen_builtin.metrics.structure import SSIM
from aegen_builtin.metrics.terms import Terms
from aegen_builtin.metrics.total_correlation import TotalCorrelation
from torch import Tensor
from torch.distributions import Categorical, Dirichlet

from aegen import Metric
from aegen.evaluation.per_image import Number, Rows

REAL, MADE, AGAIN = "features.held-out", "features.samples", "features.reconstructions"
AS_MANY = "as many"
Draw = Callable[[int], dict[str, Tensor]]


@dataclass
class Case:
    """One kind of rows.

    Attributes:
        draw: rows of so many images.
        counts: of images.
        truth: by the name of a number; or how many images are very many; or `as many`.
        times: how often, as a share of what is asked for.
    """

    metric: Metric
    draw: Draw
    counts: tuple[int, ...]
    truth: dict[str, float] | int | str
    what: str = ""
    times: float = 1.0


class Given(Metric):
    """A metric whose rows are drawn here."""

    def __init__(self, metric: Metric) -> None:
        self.metric, self.resamples, self.better = metric, metric.resamples, metric.better

    def collect(self, seen: Any) -> dict[str, Tensor]:
        return dict(seen.rows)

    def compute(self, rows: Any) -> Any:
        return self.metric.compute(rows)


def intervals(metric: Metric, rows: dict[str, Tensor]) -> list[Number]:
    """The numbers of rows, the generated images being a source of their own."""
    given, found = Given(metric), Rows()
    for source in ("held-out", "samples"):
        own = {key: value for key, value in rows.items() if (key in (MADE, "log_classes")) == (source == "samples")}
        if own:
            x = next(iter(own.values()))
            found.sweep([SimpleNamespace(rows=own, x=x, start=0, seed=0, source=source)], {"it": given}, {})  # type: ignore[list-item]
    return found.numbers("it", given, 0)


# ---------------------------------------------------------------------------------------------------- what is drawn


def means(*names: str, skewed: bool = True) -> Draw:
    """Rows that are averaged: log-normal, as errors are, or of a bell."""

    def draw(count: int) -> dict[str, Tensor]:
        rows = {name: torch.randn(count, dtype=torch.float64) for name in names}
        return {name: (0.8 * row).exp() if skewed else row for name, row in rows.items()}

    return draw


LOG_NORMAL = math.exp(0.32)


def normals(width: int, shift: float, scale: float, decay: float = 0.0, pairs: bool = False) -> Draw:
    """Features: normals whose variances fall with the dimension; reconstructions go along with their images."""
    spread = torch.arange(1.0, width + 1) ** (-decay / 2)

    def draw(count: int) -> dict[str, Tensor]:
        real, other = torch.randn(2, count, width) * spread
        if pairs:
            return {REAL: real, AGAIN: (0.8 * real + 0.6 * other) * scale + shift}
        return {REAL: real, MADE: other * scale + shift}

    return draw


def frechet(width: int, shift: float, scale: float, decay: float = 0.0) -> float:
    """Of these normals."""
    return width * shift**2 + float((torch.arange(1.0, width + 1) ** -decay).sum()) * (1 - scale) ** 2


def kernel(width: int, shift: float, scale: float) -> float:
    """The squared discrepancy of these normals by KID's kernel: (1 + u)³ = 1 + 3 u + 3 u² + u³, each from moments."""

    def moments(mean: Tensor, variance: float) -> tuple[Tensor, Tensor, Tensor]:
        one = variance * torch.eye(width, dtype=torch.float64)
        two = one + torch.outer(mean, mean)
        three = torch.einsum("i,j,k->ijk", mean, mean, mean)
        mixed = torch.einsum("i,jk->ijk", mean, one)
        return mean, two, three + mixed + mixed.transpose(0, 1) + mixed.permute(1, 2, 0)

    def mean_kernel(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> float:
        u = [float((x * y).sum()) / width ** (power + 1) for power, (x, y) in enumerate(zip(a, b, strict=True))]
        return 1 + 3 * u[0] + 3 * u[1] + u[2]

    real = moments(torch.zeros(width, dtype=torch.float64), 1.0)
    made = moments(torch.full((width,), shift, dtype=torch.float64), scale**2)
    return mean_kernel(real, real) + mean_kernel(made, made) - 2 * mean_kernel(real, made)


def classes(count: int) -> dict[str, Tensor]:
    """Log-probabilities of 20 classes, mostly sure."""
    return {"log_classes": Dirichlet(torch.full((20,), 0.1)).sample((count,)).clamp(min=1e-12).log()}


def factors(count: int) -> dict[str, Tensor]:
    """Codes that tell of factors, each partly of another one, in bounds, so that bins have a limit."""
    values = torch.stack([torch.randint(k, (count,)) for k in (3, 4, 6)], 1)
    code = values.double() / torch.tensor([2.0, 3.0, 5.0])
    noise = torch.rand(count, 5, dtype=torch.float64)
    mixed = torch.cat([code + 0.5 * code[:, [1, 2, 0]], torch.zeros(count, 2, dtype=torch.float64)], 1)
    return {"latent.mean": mixed + 0.8 * noise, "factors": values}


def codes(count: int) -> dict[str, Tensor]:
    """Two books of 64 codes at 16 positions, uneven, and alike within an image."""
    bias = 0.7 * torch.randn(count, 2, 1, 64) - 0.05 * torch.arange(64.0)
    found = Categorical(logits=bias).sample((16,)).permute(1, 2, 3, 0).flatten(2)
    return {"codes": found, "codes.sizes": torch.tensor([64, 64]).expand(count, -1)}


def latents(count: int, width: int = 16) -> dict[str, Tensor]:
    """Normals of uneven variances, turned."""
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(1)))[0]
    z = torch.randn(count, width) * SPREAD @ turn
    return {"latent.mean": z, "latent.z": z}


SPREAD = torch.linspace(0.3, 1.7, 16)
VARIANCE = SPREAD.double() ** 2


def total_correlation() -> float:
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0].double()
    covariance = turn.T @ VARIANCE.diag() @ turn
    return float(0.5 * (covariance.diagonal().log().sum() - VARIANCE.log().sum()))


TOLD, WIDTH = 1.5, 0.5  # of means, and of posteriors


def posteriors(count: int) -> dict[str, Tensor]:
    """Two dimensions: means of N(0, 1.5²), posteriors of 0.5² around them, the prior N(0, 1)."""
    mean = TOLD * torch.randn(count, 2)
    z = mean + WIDTH * torch.randn(count, 2)
    prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    return {"latent.z": z, "latent.mean": mean, "latent.std": torch.full_like(z, WIDTH), "latent.log_prior": prior}


def surgery() -> dict[str, float]:
    """The two parts of the mean KL of these posteriors."""
    variance = TOLD**2 + WIDTH**2
    information = math.log(variance / WIDTH**2)
    return {"mutual_information": information, "marginal_kl": variance - 1 - math.log(variance)}


def prior_draws(count: int, scale: float, shift: float) -> dict[str, Tensor]:
    return {"latent.z": scale * torch.randn(count, 8) + shift, "prior.z": torch.randn(count, 8)}


def rbf(scale: float, shift: float, width: int = 8) -> float:
    """The squared discrepancy of these normals by MMD's kernels: of N(m, v) apart, exp(-d²/2ls) has the mean (1 + v/ls)^(-D/2) …"""

    def mean(variance: float, apart: float) -> float:
        total = 0.0
        for size in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0):
            reach = size * width
            total += (1 + variance / reach) ** (-width / 2) * math.exp(-apart / (2 * (reach + variance))) / 7
        return total

    return mean(2 * scale**2, 0.0) + mean(2.0, 0.0) - 2 * mean(1 + scale**2, width * shift**2)


def blobs(count: int) -> dict[str, Tensor]:
    """Ten classes that overlap, in 8 dimensions."""
    labels = torch.arange(count) % 10
    centres = 1.2 * torch.randn(10, 8, generator=torch.Generator().manual_seed(3))
    return {"latent.mean": centres[labels] + torch.randn(count, 8), "labels": labels}


def ways(count: int) -> dict[str, Tensor]:
    """Heavy tails, and each latent ends two ways."""
    ends = torch.randn(count + 1).exp()
    return {"path_length": ends[1:] + ends[:-1]}


# ---------------------------------------------------------------------------------------------------- what is asked


def cases() -> Iterator[Case]:
    for name, metric in (("mse", Reconstruction()), ("ssim", SSIM()), ("perceptual", Perceptual())):
        yield Case(metric, means(name), (20, 100, 1000), {name: LOG_NORMAL}, "log-normal rows", 2)
    yield Case(Reconstruction(), means("psnr", skewed=False), (5, 20, 100), {"psnr": 0.0}, "normal rows", 2)
    told = {"negative_elbo": LOG_NORMAL, "kl": LOG_NORMAL}
    yield Case(Bound(), means("negative_elbo", "kl"), (100,), told, "log-normal rows", 2)
    yield Case(NLL(), means("nll", "effective_draws"), (100,), {"nll": LOG_NORMAL}, "log-normal rows", 2)
    yield Case(
        Terms(),
        means("terms.a", "terms.b"),
        (20, 100, 1000),
        {"loss": 2 * LOG_NORMAL, "a": LOG_NORMAL},
        "log-normal rows",
        2,
    )
    charges = lambda count: {"charges": 0.5 * torch.randn(count, 4).square() * torch.tensor([4.0, 3.0, 2.0, 1.0])}  # noqa: E731
    yield Case(DimensionKL(), charges, (20, 100, 1000), {"kl_0": 2.0, "kl_3": 0.5}, "squares of normals", 2)
    for shift, scale, decay in ((0.3, 1.0, 0.0), (0.1, 1.3, 0.0), (0.1, 1.3, 1.0), (0.02, 1.0, 0.0)):
        what = f"width 24, moved {shift}, stretched {scale}" + f", variances falling by {decay}" * bool(decay)
        truth = frechet(24, shift, scale, decay)
        yield Case(FID(), normals(24, shift, scale, decay), (48, 96, 384, 1536), {"fid": truth}, what)
        yield Case(RFID(), normals(24, shift, scale, decay, pairs=True), (48, 384), {"rfid": truth}, what)
    for shift, scale in ((0.3, 1.0), (0.05, 1.2), (0.0, 1.0)):
        what = f"width 12, moved {shift}, stretched {scale}"
        yield Case(KID(), normals(12, shift, scale), (50, 500, 2000), {"kid": kernel(12, shift, scale)}, what)
        yield Case(RKID(), normals(12, shift, scale, pairs=True), (500,), {"rkid": kernel(12, shift, scale)}, what)
    yield Case(PrecisionRecall(), normals(6, 0.3, 0.9), (100,), AS_MANY, "width 6")
    yield Case(InceptionScore(), classes, (200, 1000, 5000), 2_000_000, "20 classes")
    yield Case(PathLength(), ways, (100, 1000), {"path-length": 2 * math.exp(0.5)}, "log-normal, each latent in two", 2)
    yield Case(
        Latents(),
        latents,
        (100, 1000, 10_000),
        {"effective_dimension": float(VARIANCE.sum() ** 2 / VARIANCE.square().sum())},
        "16 dimensions",
    )
    yield Case(
        TotalCorrelation(),
        latents,
        (100, 1000, 10_000),
        {"gaussian_total_correlation": total_correlation()},
        "16 dimensions",
    )
    yield Case(MutualInformation(), posteriors, (100, 500, 2000), surgery(), "2 dimensions")
    for scale, shift in ((1.2, 0.1), (1.0, 0.0), (0.7, 0.3)):
        what = f"8 dimensions, stretched {scale}, moved {shift}"
        yield Case(
            MMD(),
            lambda count, scale=scale, shift=shift: prior_draws(count, scale, shift),
            (100, 500, 1000),
            {"mmd": rbf(scale, shift)},
            what,
        )
    yield Case(Codebook(), codes, (50, 200, 1000, 5000), 200_000, "64 codes, 16 positions")
    yield Case(MIG(), factors, (300, 1000, 5000), 2_000_000, "3 factors, 5 dimensions")
    yield Case(Probe(), blobs, (200, 1000), AS_MANY, "10 classes")


def _value(found: float | tuple[float, ...]) -> float:
    return found[0] if isinstance(found, tuple) else found


def truths(case: Case, count: int, times: int) -> dict[str, float]:
    if isinstance(case.truth, dict):
        return case.truth
    if isinstance(case.truth, int):
        found = case.metric.compute(case.draw(case.truth))
        return {key: value[0] for key, value in found.items() if isinstance(value, tuple)}
    many = [case.metric.compute(case.draw(count)) for _ in range(times)]
    return {key: sum(_value(one[key]) for one in many) / times for key in many[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200, help="sets of images of each kind and size")
    parser.add_argument("--only", default="", help="metrics whose class has this in its name")
    asked = parser.parse_args()
    torch.manual_seed(0)
    print("| number | rows | images | truth | mean estimate | true | coverage |\n|---|---|---|---|---|---|---|")
    began, outside = time.monotonic(), 0
    for case in cases():
        if asked.only.lower() not in type(case.metric).__name__.lower():
            continue
        times = max(20, round(case.times * asked.times))
        for count in case.counts:
            true = truths(case, count, times)
            held, values = dict.fromkeys(true, 0), dict.fromkeys(true, 0.0)
            missing = set[str]()
            for time_ in range(times):
                torch.manual_seed(1_000_003 * count + time_)  # what makes the rows draws, too
                for number in intervals(case.metric, case.draw(count)):
                    if number.name in true:
                        values[number.name] += number.value / times
                        if number.low is None or number.high is None:
                            missing.add(number.name)
                        else:
                            held[number.name] += number.low <= true[number.name] <= number.high
            kind = (
                case.truth if isinstance(case.truth, str) else "very many" if isinstance(case.truth, int) else "exact"
            )
            for name in true:
                share = held[name] / times
                said = "none" if name in missing else f"{share:.3f}"
                outside += name not in missing and not 0.92 <= share <= 0.97
                print(
                    f"| {name} | {case.what} | {count} | {kind} | {values[name]:.4g} | {true[name]:.4g} | {said} |",
                    flush=True,
                )
    print(
        f"\n{outside} outside 0.92 to 0.97; {time.monotonic() - began:.0f} s, {asked.times} sets of images (twice as many of means)"
    )


if __name__ == "__main__":
    main()
