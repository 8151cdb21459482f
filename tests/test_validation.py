"""Validation gives one number, whatever batches and processes it goes through; what it says of all images is of all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aegen_builtin.metrics.bound import Bound
from conftest import SMALL
from test_parallel import Pool, pool_of, trainer

from aegen import Wrapper, registry
from aegen.autoencoder import build_model, build_objective, there
from aegen.checkpoint import Checkpoint
from aegen.errors import UsageError
from aegen.factory import load
from aegen.hooks import hookimpl
from aegen.protocols import ImageShape, Objective
from aegen.spec import Spec
from aegen.training import validation
from aegen.training.diagnostics import Low, lasting
from aegen.training.distributed import World
from aegen.training.loop import Trainer
from aegen.training.run import train

ALONE = World(torch.device("cpu"))
IMAGES = 70
SPATIAL = {"arch.name": "conv", "arch.width": 4, "arch.depth": 2, "arch.hidden": 16, "arch.spatial": True}
NEEDS_WEIGHTS = ("perceptual", "vqgan", "kl-gan")  # they are validated as what they wrap


def objectives() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in registry.names("objective"):
        if name in NEEDS_WEIGHTS:
            continue
        wraps = issubclass(load("objective", name, Objective), Wrapper)
        found[name] = {"objective.name": f"vae+{name}" if wraps else name}
        if name == "equivariance":
            found[name] |= SPATIAL
    found["feature maps"] = {"objective.name": "vae", **SPATIAL}
    found["codes of a map"] = {"objective.name": "vq-vae", "bottleneck.codes": 16, **SPATIAL}
    found["lookup-free"] = {"objective.name": "vae", "bottleneck.name": "lfq"}
    found["mixture"] = {"objective.name": "vae", "bottleneck.name": "mixture-prior"}
    found["flow"] = {"objective.name": "vae", "bottleneck.name": "flow-posterior"}
    found["categories beside a Gaussian"] = {"objective.name": "vae", "bottleneck.name": "joint"}
    found["ball"] = {"objective.name": "vae", "bottleneck.name": "poincare"}
    return found


EVERY = objectives()


@contextmanager
def small_chunks() -> Iterator[None]:
    """Chunks of at most 24 images, in float64: 70 images make three of two sizes."""
    normalize = validation.normalize
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(validation, "CHUNK", 24)
            patch.setattr(validation, "normalize", lambda pixels: normalize(pixels).double())
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def validated(world: World, batches: list[int], **options: Any) -> list[dict[str, float]]:
    """Validation by each of these batch sizes, of a fresh model on the same images."""
    with small_chunks():
        made = trainer(world, options)
        made.data.validation = made.data.validation[:IMAGES]
        found = []
        for batch in batches:
            made.batches.batch_size = batch
            found.append(made.validate())
        return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    yield from pool_of(2, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("name", EVERY)
def test_no_batch_size_and_no_number_of_processes_moves_a_number(name: str, two: Pool) -> None:
    first, *others = validated(ALONE, [16, 1, 33, 500], **EVERY[name])
    others += two(validated, batches=[16, 1], **EVERY[name])
    assert "loss" in first and all(math.isfinite(value) for value in first.values())
    for other in others:
        assert other.keys() == first.keys()
        for key, value in first.items():
            assert math.isclose(other[key], value, rel_tol=1e-9, abs_tol=1e-9), (key, value, other[key])


@pytest.mark.parametrize("name", ["vae", "vq-vae", "gan", "feature maps", "iwae"])
def test_nor_does_a_sharded_model(name: str, two: Pool) -> None:
    options = EVERY[name] | {"train.parallel": "fsdp"}
    (wanted,) = validated(ALONE, [16], **EVERY[name])
    for found in two(validated, batches=[16, 1, 23], **options):
        assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("image", [(1, 8, 8), (3, 64, 64), (3, 512, 512), (4, 4096, 4096)])
def test_chunks_are_alike_and_hold_every_image_once(image: tuple[int, int, int]) -> None:
    for count in [1, 2, 3, 7, 8, 9, 15, 17, 255, 256, 257, 511, 513, 1000]:
        found = validation.chunks(count, image)
        assert [i for start, stop in found for i in range(start, stop)] == list(range(count))
        sizes = [stop - start for start, stop in found]
        assert max(sizes) - min(sizes) <= 1 and max(sizes) <= 256
        assert min(sizes) > 1 or count == 1
        assert max(sizes) * math.prod(image) <= 2**24 or max(sizes) <= 8
    assert validation.chunks(257, (1, 8, 8)) == [(0, 128), (128, 257)]


def test_a_term_of_a_whole_batch_is_that_of_a_chunk() -> None:
    """DIP-VAE's covariance by numpy, chunk by chunk."""
    (found,) = validated(ALONE, [5], **{"objective.name": "dip-vae", "objective.variant": "i"})
    with small_chunks():
        made = trainer(ALONE, {"objective.name": "dip-vae"})
        x = validation.normalize(made.data.validation[:IMAGES])
        with torch.no_grad():
            means = made.model.eval().encode(x).mean.numpy()
    total = 0.0
    for start, stop in ((0, 23), (23, 46), (46, 70)):
        c = np.cov(means[start:stop].T, bias=True)
        off = (c**2).sum() - (np.diag(c) ** 2).sum()
        total += (stop - start) * (10 * ((np.diag(c) - 1) ** 2).sum() + 10 * off)
    assert found["covariance"] == pytest.approx(total / IMAGES, rel=1e-9)


# ---------------------------------------------------------------------------------------------------- of all images


def pulled_apart(made: Trainer) -> None:
    """Posterior means far from 0, of which some vary by more than a tenth and some by less."""
    *_, weight, bias = made.model.encoder.parameters()
    with torch.no_grad():
        weight[:8].mul_(torch.logspace(-1.0, 1.0, 8).unsqueeze(1))
        bias[:8].add_(50.0)


@pytest.mark.parametrize("neck", ["gaussian", "full-gaussian", "mixture-prior", "vamp", "conditional", "joint"])
def test_active_units_are_counted_over_all_images(neck: str) -> None:
    with small_chunks():
        made = trainer(ALONE, {"objective.name": "vae", "bottleneck.name": neck, "bottleneck.dim": 8})
        made.data.validation = made.data.validation[:IMAGES]
        made.labelled = False
        pulled_apart(made)
        made.batches.batch_size = 4
        found = made.validate()["active_units"]
        x = validation.normalize(made.data.validation)
        with torch.no_grad():
            mean = made.model.eval().encode(x).mean[:, :8].numpy()
    variances = mean.var(0)
    assert found == (variances > 0.01).sum() and 0 < found < 8
    pairs = [(mean[i : i + 2].var(0) > 0.01).sum() for i in range(0, IMAGES, 2)]
    assert np.mean(pairs) != found  # what a mean over small batches would have said


def test_codes_are_counted_over_all_images() -> None:
    with small_chunks():
        made = trainer(ALONE, {"objective.name": "vq-vae", "bottleneck.codes": 40, "bottleneck.kmeans_iterations": 0})
        made.data.validation = made.data.validation[:IMAGES]
        with torch.no_grad():
            made.model.bottleneck.book.vectors.mul_(0.02)
        found = made.validate()
        with torch.no_grad():
            codes = made.model.eval().encode(validation.normalize(made.data.validation)).codes.numpy()
    shares = np.unique(codes, return_counts=True)[1] / len(codes)
    assert found["usage"] == pytest.approx(len(shares) / 40) and len(shares) > 1
    assert found["perplexity"] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))


SPREAD = '''
"""The largest and the mean brightness of all images, by a statistic of its own."""
import torch
from aegen import Statistic
from aegen_builtin.objectives.ae import AE

class Brightest(Statistic):
    def __init__(self, x):
        self.seen = {"most": [x.flatten(1).mean(1).max()]}
        self.count = len(x)

    def merge(self, other):
        self.seen["most"] += other.seen["most"]
        self.count += other.count

    def value(self):
        return max(float(one) for one in self.seen["most"]) + 100 * self.count

class Spread(AE):
    """Options:"""
    def loss(self, model, x):
        outcome = super().loss(model, x)
        outcome.statistics["brightest"] = Brightest(x)
        return outcome
'''


def test_an_objective_of_a_third_party_brings_a_statistic_of_its_own(two: Pool, tmp_path: Path) -> None:
    (tmp_path / "spread.py").write_text(SPREAD)
    options = {"objective.name": f"{tmp_path}/spread.py:Spread"}
    (found,) = validated(ALONE, [16], **options)
    made = trainer(ALONE, options)
    brightest = validation.normalize(made.data.validation[:IMAGES]).double().flatten(1).mean(1).max()
    assert found["brightest"] == pytest.approx(float(brightest) + 100 * IMAGES)
    (other,) = two(validated, batches=[16], **options)
    assert other == pytest.approx(found)
    made.take_step(0)  # training leaves it out
    assert "brightest" not in made.recorded()


# ---------------------------------------------------------------------------------------------------- best, resume


def test_a_collapse_is_remembered_and_told_once_over_a_resume(tmp_path: Path) -> None:
    heard: list[str] = []

    class Ear:
        @hookimpl
        def aegen_notice(self, text: str) -> None:
            heard.append(text)

    values = {**SMALL, "train.steps": 32, "objective.beta": 1000.0, "train.patience": 50}
    train([("test", values)], run_dir=tmp_path / "run", listeners=[Ear()])
    assert not heard  # two validations are not enough
    header = Checkpoint(tmp_path / "run/checkpoints/last.safetensors").header
    assert header["low"] == {"posterior collapse": (16, 2, False)}
    train([("test", {"train.steps": 96})], resume=tmp_path / "run", listeners=[Ear()])
    assert len(heard) == 1 and heard[0].startswith("posterior collapse since step 16: 0 of 3")
    train([("test", {**values, "train.steps": 96})], run_dir=tmp_path / "whole")
    ends = [Checkpoint(tmp_path / name / "checkpoints/last.safetensors").header for name in ("run", "whole")]
    for key in ("best", "best_epoch", "waited", "low", "validation"):
        assert ends[0][key] == ends[1][key], key  # type: ignore[literal-required]


# ---------------------------------------------------------------------------------------------------- collapse


def told(history: list[dict[str, float]], every: int = 100, total: int = 2000) -> list[tuple[int, str]]:
    low: Low = {}
    return [
        (step, text)
        for step, metrics in zip(range(every, 10**6, every), history, strict=False)
        for text in lasting(metrics, (16,), step=step, total=total, low=low)
    ]


DOWN, UP = {"active_units": 0.0}, {"active_units": 9.0}


def test_a_young_net_has_not_collapsed() -> None:
    assert not told([DOWN, DOWN, UP, UP, UP, DOWN, DOWN, UP])
    assert not told([DOWN] * 2, every=5000)  # two validations, however long
    assert not told([DOWN] * 4)  # 300 steps of 2,000


def test_what_lasts_is_told_once_and_so_is_its_end() -> None:
    found = told([UP, *[DOWN] * 12, UP, UP, *[DOWN] * 6])
    assert [step for step, _ in found] == [600, 1400, 2000]
    assert found[0][1].startswith("posterior collapse since step 200: 0 of 16")
    assert found[1][1] == "posterior collapse since step 200 is over: 9 of 16 latent dimensions vary with the image"
    assert found[2][1].startswith("posterior collapse since step 1,600: ")
    codes = told([{"usage": 0.01}] * 5 + [{"usage": 0.5}])
    assert [step for step, _ in codes] == [500, 600]
    assert codes[0][1].startswith("codebook collapse since step 100: 1.0%") and "50.0% of the codes" in codes[1][1]


def test_a_long_run_is_told_after_a_thousand_steps() -> None:
    assert [step for step, _ in told([DOWN] * 30, total=10**6)] == [1100]


# ---------------------------------------------------------------------------------------------------- bounds


def test_a_bound_is_named_where_the_metric_would_give_it_and_nowhere_else() -> None:
    """Every objective with every bottleneck that it takes; a scale that is learned, and for some one that is given."""
    seen = {True: 0, False: 0}
    image, x = ImageShape(1, 8, 8), torch.rand(4, 1, 8, 8) * 2 - 1
    names = [name for name in EVERY if name in registry.names("objective") and name != "equivariance"]  # it takes maps
    for neck, scale in [(neck, scale) for neck in registry.names("bottleneck") for scale in ("learned", 0.3)]:
        parts = Spec("mlp", {"hidden": [4]}), Spec(neck), Spec("gaussian", {"scale": scale})
        model = build_model(*parts, image, classes=3)
        for name in names if scale == "learned" else ("vae", "sigma-vae", "iwae"):
            try:
                objective = build_objective(Spec(EVERY[name]["objective.name"]), model).eval()
            except UsageError:
                continue
            told = model.eval().given(torch.tensor([0, 1, 2, 0]))
            with torch.no_grad():
                outcome = objective.loss(told, x)
            applies = Bound.needs <= there(model, objective)
            assert not {"negative_elbo", "kl"} & outcome.watch.keys() or applies, (name, neck)
            if "charge" in outcome.watch or "kl" in outcome.watch:
                assert {"negative_elbo", "kl"} <= outcome.watch.keys() if applies else "charge" in outcome.watch, (
                    name,
                    neck,
                )
                seen[applies] += 1
            if name == "vae":
                wanted = outcome.terms["error"] + outcome.terms["penalty"] if applies else outcome.terms["penalty"]
                torch.testing.assert_close(outcome.watch["negative_elbo" if applies else "charge"], wanted)
    assert min(seen.values()) > 20


# ---------------------------------------------------------------------------------------------------- training


LOSSES = {  # after five steps, before any of this was written
    "vae": 84.1122055053711,
    "vq-vae": 82.00164031982422,
    "beta-tc-vae": 84.14372253417969,
    "capacity-vae": 799.1809692382812,
    "iwae": 83.26097106933594,
    "sigma-vae": 83.36097717285156,
    "info-vae": 94.25953674316406,
    "factor-vae": 84.04537963867188,
    "lookup-free": 85.1031494140625,
}


@pytest.mark.parametrize("name", LOSSES)
def test_training_computes_what_it_did(name: str) -> None:
    made = trainer(ALONE, EVERY[name])
    for step in range(5):
        made.take_step(step)
    assert made.recorded()["loss"] == pytest.approx(LOSSES[name], rel=1e-4)
