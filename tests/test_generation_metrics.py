"""Metrics of generation: against other implementations, on sets whose answer is known, and the cache of features."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from aegen_builtin.metrics.distance import maps_distance
from aegen_builtin.metrics.fid import FID, RFID, frechet
from aegen_builtin.metrics.inception_score import InceptionScore, score
from aegen_builtin.metrics.kid import KID, RKID, mmd
from aegen_builtin.metrics.path_length import PathLength, lerp, slerp
from aegen_builtin.metrics.precision_recall import PrecisionRecall, neighbours
from conftest import Aegen
from torch import Tensor, nn

from aegen import FeatureNetwork, Metric, Seen, load
from aegen.errors import UsageError
from aegen.evaluation import feature_cache
from aegen.evaluation.features import FeatureSpace
from aegen.evaluation.per_image import Rows
from aegen.evaluation.protocol import Protocol
from aegen.inference.samplers import draw_latents

NETWORK = '''
import torch
from torch import nn
from aegen import FeatureNetwork


class Tiny(FeatureNetwork):
    """Random filters."""

    channels = (4, 8)
    width = 8
    least = 8

    def __init__(self, *, weights: str = ""):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)
        generator = torch.Generator().manual_seed(0)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) / 5

    def maps(self, x):
        a = self.a(x).relu()
        return [a, self.b(a).relu()]

    def forward(self, x):
        return self.maps(x)[-1].mean((2, 3))
'''


def features(count: int, width: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(width))
    return scale * torch.randn(count, width, generator=generator) @ mix / width**0.5 + shift


def sets(real: Tensor, made: Tensor, recon: bool = False) -> dict[str, Tensor]:
    return {"features.held-out": real, "features.reconstructions" if recon else "features.samples": made}


def value(metric: Metric, rows: dict[str, Tensor], name: str = "") -> float:
    found = metric.compute(rows)
    one = found[name or next(iter(found))]
    return one[0] if isinstance(one, tuple) else one


def error(metric: Metric, rows: dict[str, Tensor], name: str = "") -> float:
    found = metric.compute(rows)
    one = found[name or next(iter(found))]
    assert isinstance(one, tuple)
    return one[1]


# ------------------------------------------------------------------------------------------------ distances of sets


@pytest.mark.parametrize(("count", "width"), [(300, 20), (30, 20), (15, 20)])
def test_fid_is_the_trace_formula_of_scipy(count: int, width: int) -> None:
    real, made = features(count, width, 1), features(count + 7, width, 2, 1.3, 0.2)
    a, b = np.cov(real.double().numpy().T), np.cov(made.double().numpy().T)
    apart = (real.double().mean(0) - made.double().mean(0)).square().sum().item()
    root = scipy.linalg.sqrtm(a @ b)
    wanted = apart + np.trace(a) + np.trace(b) - 2 * np.trace(root).real
    assert value(FID(), sets(real, made)) == pytest.approx(wanted, rel=1e-4)


def test_fid_of_single_numbers_is_that_of_two_normals() -> None:
    real = torch.tensor([[-1.0], [1.0]] * 50)
    assert value(FID(), sets(real, 3 * real + 2)) == pytest.approx(4 + 4 * (real.var().item()), rel=1e-6)
    assert value(FID(), sets(real, real)) == pytest.approx(0, abs=1e-12)


def waves(count: int, speed: float) -> Tensor:
    n, d = torch.arange(1.0, count + 1, dtype=torch.float64)[:, None], torch.arange(1.0, 13, dtype=torch.float64)
    return torch.sin(speed * n * d.sqrt()) + 0.1 * torch.cos(n)


def test_fid_and_kid_are_those_of_torchmetrics() -> None:
    """Its 1.9.0 gave these numbers for the same features in float64, KID as one subset of all; its import takes seconds."""
    real, made = waves(150, 1.0), 1.2 * waves(150, 1.3) + 0.1
    assert frechet(real, made)[0] == pytest.approx(0.8266861765896, rel=1e-9)
    assert mmd(real, made) == pytest.approx(0.0225053658840, rel=1e-9)


def test_kid_has_no_bias_and_its_interval_is_as_wide_as_it_varies() -> None:
    """Sets of one distribution: 0 on average; and shifted ones: the same for few images as for many."""
    same, apart, errors = [], [], []
    for seed in range(60):
        real, made = features(200, 6, seed), features(200, 6, 1000 + seed)
        same.append(value(KID(), sets(real, made)))
        apart.append(value(KID(), sets(real, made + 0.3)))
        errors.append(error(KID(), sets(real, made + 0.3)))
    assert abs(np.mean(same)) < 4 * np.std(same) / 60**0.5
    many = value(KID(), sets(features(5000, 6, 1), features(5000, 6, 2) + 0.3))
    assert abs(np.mean(apart) - many) < 4 * np.std(apart) / 60**0.5 + 0.1 * many
    assert np.mean(errors) == pytest.approx(np.std(apart), rel=0.35)


def test_the_interval_of_fid_is_as_wide_as_it_varies() -> None:
    found, errors = [], []
    for seed in range(100):
        rows = sets(features(400, 5, seed), features(300, 5, 1000 + seed, 1.3, 0.2))
        found.append(value(FID(), rows))
        errors.append(error(FID(), rows))
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.25)


def test_a_perfect_reconstruction_is_at_no_distance_and_pairs_narrow_the_interval() -> None:
    real = features(200, 6, 1)
    assert value(RFID(), sets(real, real, recon=True)) == pytest.approx(0, abs=1e-9)
    assert value(RKID(), sets(real, real, recon=True)) == pytest.approx(0, abs=1e-9)
    near = real + 0.3 + 0.1 * features(200, 6, 2)
    assert error(RFID(), sets(real, near, recon=True)) < 0.5 * error(FID(), sets(real, near))


def test_too_few_images_are_told_or_refused() -> None:
    real, made = features(30, 20, 1), features(30, 20, 2)
    assert isinstance(FID().compute(sets(real, made))["fid"], float)
    (note,) = FID().notes(sets(real, made))
    assert "30 images in 20 features" in note and "kid" in note
    (note,) = FID().notes(sets(features(40, 20, 1), features(40, 20, 2)))
    assert "too high because 40 images are few for 20 features" in note and "kid" in note
    with pytest.raises(UsageError, match="too few"):
        FID().compute(sets(real[:1], made))
    with pytest.raises(UsageError, match="too few"):
        KID().compute(sets(real, made[:19]))
    with pytest.raises(UsageError, match="not finite"):
        FID().compute(sets(real, made / 0))


# ------------------------------------------------------------------------------------------------ precision and recall


def shares(real: Tensor, made: Tensor) -> list[float]:
    found = PrecisionRecall().compute(sets(real, made))
    return [one[0] if isinstance(one, tuple) else one for one in found.values()]


def test_sets_that_are_disjoint_equal_or_half_inside() -> None:
    real = features(200, 4, 1)
    assert shares(real, features(200, 4, 2) + 100) == [0, 0, 0, 0]
    precision, recall, density, coverage = shares(real, real)
    assert (precision, recall, coverage) == (1, 1, 1) and density > 1
    half = torch.cat([real[:100], real[100:] + 100])
    precision, recall, _, coverage = shares(real, half)
    assert precision == 0.5 and 0.5 <= recall < 1 and 0.5 <= coverage < 1
    precision, recall, _, _ = shares(torch.cat([real[:100], real[100:] + 100]), features(200, 4, 3))
    assert precision > 0.8 and recall == pytest.approx(0.5, abs=0.1)


def test_precision_recall_density_coverage_equal_brute_force() -> None:
    real, made = features(15, 3, 1).double(), features(15, 3, 2, 1.5).double()

    def ball(points: Tensor, i: int, k: int) -> float:
        return sorted((points[i] - other).norm().item() for j, other in enumerate(points) if j != i)[k - 1]

    def inside(x: Tensor, points: Tensor, k: int) -> list[bool]:
        return [(x - p).norm().item() <= ball(points, i, k) for i, p in enumerate(points)]

    wanted = {
        "precision": np.mean([any(inside(y, real, 3)) for y in made]),
        "recall": np.mean([any(inside(x, made, 3)) for x in real]),
        "density": np.mean([sum(inside(y, real, 5)) / 5 for y in made]),
        "coverage": np.mean(np.any([inside(y, real, 5) for y in made], axis=0)),
    }
    found = {name: one.mean().item() for name, one in neighbours(real, made, 3, 5).items()}
    assert found == pytest.approx(wanted)


def test_blocks_of_points_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = features(50, 3, 1), features(50, 3, 2)
    whole = shares(real, made)
    monkeypatch.setattr("aegen_builtin.metrics.precision_recall._BLOCK", 7)
    assert shares(real, made) == whole


def test_shares_that_hang_together_have_no_interval() -> None:
    rows = sets(features(50, 3, 1), features(50, 3, 2) + 100)
    assert PrecisionRecall().compute(rows) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_the_larger_set_is_cut_and_it_is_told() -> None:
    rows = sets(features(60, 3, 1), features(50, 3, 2))
    assert 0 < value(PrecisionRecall(), rows, "precision") <= 1
    assert "of 50 images" in PrecisionRecall().notes(rows)[0]


# ------------------------------------------------------------------------------------------------ score, paths, maps


def test_the_inception_score_goes_from_one_to_the_number_of_classes() -> None:
    sure = torch.eye(4).repeat(50, 1).log()
    assert score(sure.double()).item() == pytest.approx(4)
    assert score(torch.full((10, 4), 0.25).log()).item() == pytest.approx(1)
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    wanted = (p * (p / p.mean(0)).log()).sum(1).mean().exp().item()
    assert score(p.log()).item() == pytest.approx(wanted)
    assert value(InceptionScore(), {"log_classes": sure}) == pytest.approx(4, rel=0.01)


def test_a_network_without_classes_has_no_inception_score(space: FeatureSpace) -> None:
    with pytest.raises(UsageError, match="Tiny gives no class probabilities"):
        InceptionScore().collect(seen(space, "samples", torch.zeros(2, 1, 8, 8)))


def test_the_distance_in_maps_is_that_of_directions() -> None:
    a = [torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3), torch.ones(1, 5, 2, 2)]
    b = [torch.tensor([0.0, 7.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3), torch.ones(1, 5, 2, 2)]
    assert maps_distance(a, b).tolist() == pytest.approx([0.5])
    half = [torch.where(torch.arange(3) < 1, b[0], a[0]), b[1] * 3]
    assert maps_distance(a, half).tolist() == pytest.approx([1 / 6])


class Line(nn.Module):
    """A model whose image is its latent, and whose bottleneck takes any."""

    class Neck(nn.Module):
        offers = frozenset({"prior"})

        def nearest(self, z: Tensor) -> Tensor:
            return z

    def __init__(self) -> None:
        super().__init__()
        self.bottleneck = self.Neck()

    def decode(self, z: Tensor) -> Any:
        return SimpleNamespace(mean=z)


def test_a_path_length_is_the_squared_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With images as latents and squares as the distance, each way has the squared length of its ends' difference."""
    monkeypatch.setattr(
        "aegen_builtin.metrics.path_length.maps_distance", lambda a, b: (a[0] - b[0]).square().flatten(1).sum(1)
    )
    z = torch.randn(6, 1, 2, 2, dtype=torch.float64) / 10
    batch: Any = SimpleNamespace(generated=True, start=0, z=z, model=Line(), space=SimpleNamespace(maps=lambda x: [x]))
    found = PathLength().collect(batch)["path_length"]
    assert torch.allclose(found, (z - z.roll(-1, 0)).square().flatten(1).sum(1), rtol=1e-6)
    batch.start = 1000
    assert not PathLength().collect(batch)
    batch.start, batch.model.bottleneck.offers = 0, frozenset({"codes"})
    with pytest.raises(UsageError, match="between codes"):
        PathLength().collect(batch)


def test_ways_start_and_end_at_their_ends_and_circles_keep_the_norm() -> None:
    a, b = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    zero, one, third = (torch.full((5, 1, 1), t, dtype=torch.float64) for t in (0.0, 1.0, 1 / 3))
    for way in (lerp, slerp):
        assert torch.allclose(way(a, b, zero), a) and torch.allclose(way(a, b, one), b)
    a, b = (x / x.flatten(1).norm(dim=1).view(-1, 1, 1) for x in (a, b))
    assert torch.allclose(slerp(a, b, third).flatten(1).norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert torch.allclose(slerp(a, a, third), a) and slerp(a, -a, third).isfinite().all()


def test_the_error_of_a_path_length_counts_that_neighbours_share_an_end() -> None:
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    shared = noise + noise.roll(-1)
    assert error(PathLength(), {"path_length": shared}) == pytest.approx(2 / 20_000**0.5, rel=0.05)
    assert error(PathLength(), {"path_length": noise}) == pytest.approx(1 / 20_000**0.5, rel=0.05)


# ------------------------------------------------------------------------------------------------ cache


class Tiny(FeatureNetwork):
    channels, width, least = (3,), 3, 1

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.looked_at = 0

    def maps(self, x: Tensor) -> list[Tensor]:
        return [x]

    def forward(self, x: Tensor) -> Tensor:
        self.looked_at += len(x)
        found: Tensor = x.mean((2, 3)) * self.scale
        return found


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FeatureSpace:
    monkeypatch.setenv("AEGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("aegen.evaluation.features.build_features", lambda *_: Tiny().requires_grad_(False))
    return FeatureSpace(Protocol(side=0), torch.device("cpu"))


def seen(space: FeatureSpace, source: str, x: Tensor) -> Seen:
    nothing: Any = None
    return Seen(source, nothing, nothing, x, None, space.protocol, space)


def pixels(count: int = 25, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)


def look(space: FeatureSpace, images: Tensor, batch: int = 10) -> tuple[Tensor, int, bool]:
    """The features, how many images the network saw for them, and whether the cache was used."""
    before = space.net.looked_at
    kept = feature_cache.Kept(space, images)
    x = images.float() / 127.5 - 1
    found = torch.cat(
        [kept.features(start, part) for start, part in zip(range(0, len(x), batch), x.split(batch), strict=True)]
    )
    used = kept.close() is not None
    return found, space.net.looked_at - before, used


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_features_are_computed_once_and_are_the_same(space: FeatureSpace, tmp_path: Path) -> None:
    first, looked, used = look(space, pixels())
    assert (looked, used) == (25, False)
    second, looked, used = look(space, pixels())
    assert (looked, used) == (10, True)  # the first batch is a trial of what was found
    assert torch.equal(first, second)
    assert len(files(tmp_path)) == 1 and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("change", ["pixels", "one pixel", "weights", "side", "filter", "network"])
def test_whatever_features_depend_on_is_in_the_name(space: FeatureSpace, monkeypatch: Any, change: str) -> None:
    before, images = feature_cache.digest(space, pixels()), pixels()
    protocol = Protocol(side=0)
    if change == "pixels":
        images = pixels(seed=1)
    if change == "one pixel":
        images[-1, -1, -1, -1] += 1
    if change == "weights":
        monkeypatch.setattr(
            Tiny, "__init__", lambda self: FeatureNetwork.__init__(self) or self.register_buffer("b", torch.ones(1))
        )
    if change == "side":
        protocol = Protocol(side=16)
    if change == "filter":
        protocol = Protocol(side=0, filter="bilinear")
    if change == "network":

        class Other(Tiny):
            pass

        monkeypatch.setattr("aegen.evaluation.features.build_features", lambda *_: Other())
    assert feature_cache.digest(FeatureSpace(protocol, torch.device("cpu")), images) != before


def test_a_broken_or_a_strange_file_is_computed_again(space: FeatureSpace, tmp_path: Path) -> None:
    wanted, _, _ = look(space, pixels())
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    for broken in (b"", whole[:-10], b"nonsense" * 100):
        file.write_bytes(broken)
        found, looked, used = look(space, pixels())
        assert torch.equal(found, wanted) and (looked, used) == (25, False)
        assert file.read_bytes() == whole
    for strange in (wanted[:-1], torch.cat([wanted[:-1], wanted[-1:] / 0])):
        feature_cache.write(file, strange)
        found, looked, used = look(space, pixels())
        assert torch.equal(found, wanted) and (looked, used) == (25, False)


def test_features_of_another_code_of_the_same_name_are_not_believed(space: FeatureSpace, tmp_path: Path) -> None:
    wanted, _, _ = look(space, pixels())
    (file,) = files(tmp_path)
    feature_cache.write(file, wanted + 0.1)
    found, looked, used = look(space, pixels())
    assert torch.equal(found, wanted) and (looked, used) == (25, False)
    assert torch.equal(look(space, pixels())[0], wanted)


def test_what_was_not_seen_to_the_end_is_not_kept(space: FeatureSpace, tmp_path: Path) -> None:
    kept = feature_cache.Kept(space, pixels())
    kept.features(0, pixels()[:10] / 127.5 - 1)
    assert not kept.close() and not files(tmp_path)


def test_the_oldest_files_go_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x" * 10_000)
    (tmp_path / "mine.safetensors").write_text("x" * 10_000)
    old, new = tmp_path / ".a.tmp", tmp_path / ".b.tmp"
    old.touch(), new.touch()
    os.utime(old, (0, 0))
    names = [f"{i:032x}" for i in range(5)]
    for age, name in enumerate(names):
        feature_cache.write(tmp_path / f"{name}.safetensors", torch.zeros(250, 1), most=3500)
        os.utime(tmp_path / f"{name}.safetensors", (time.time() - 100 + age,) * 2)
        if age == 2:
            assert (
                feature_cache.read(tmp_path / f"{names[0]}.safetensors", (250, 1)) is not None
            )  # used, and so young again
    left = {p.stem for p in files(tmp_path)}
    assert left == {names[0], names[4], names[3], "mine"}
    assert (tmp_path / "notes.txt").exists() and not old.exists() and new.exists()
    feature_cache.write(tmp_path / f"{9:032x}.safetensors", torch.zeros(1000, 1), most=3500)
    assert not (tmp_path / f"{9:032x}.safetensors").exists(), "larger than all there may be"


def test_a_folder_that_cannot_be_written_changes_nothing(space: FeatureSpace, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    wanted = look(space, pixels())[0]
    for place in (str(tmp_path / "file" / "below"), ""):
        monkeypatch.setenv("AEGEN_CACHE", place)
        found, looked, used = look(space, pixels())
        assert torch.equal(found, wanted) and (looked, used) == (25, False)


def test_the_folder_is_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AEGEN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("LOCALAPPDATA", "l")
    places = {"linux": Path("/x/aegen"), "win32": Path("l/aegen/Cache"), "darwin": Path.home() / "Library/Caches/aegen"}
    for platform, place in places.items():
        monkeypatch.setattr("sys.platform", platform)
        assert feature_cache.folder() == place
    monkeypatch.setenv("AEGEN_CACHE", "here")
    assert feature_cache.folder() == Path("here")


# ------------------------------------------------------------------------------------------------ the command


NAMES = ("fid", "rfid", "kid", "rkid", "precision-recall", "perceptual", "path-length")


def test_the_command_measures_generation_and_says_when_it_used_the_cache(
    aegen: Aegen, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "net.py").write_text(NETWORK)
    metrics = [word for name in (*NAMES, "inception-score") for word in ("--metric", name)]
    words = ("evaluate", "-c", trained, *metrics, "--features", "./net.py:Tiny", "--features-side", 8, "-n", 50)
    one = aegen(*words, "--json", "-o", "e.json").worked()
    found = json.loads(one.out)
    assert {n["metric"] for n in found["numbers"]} == set(NAMES)
    assert found["skipped"] == {"inception-score": "the feature network Tiny gives no class probabilities"}
    assert all(n["low"] <= n["value"] <= n["high"] for n in found["numbers"] if n["low"] is not None)
    without = {n["name"] for n in found["numbers"] if n["low"] is None}
    assert without == {"precision", "recall", "density", "coverage"}
    assert "cache" not in one.err
    two = aegen(*words, "--json", "-o", "e2.json").worked()
    assert "images come from the cache" in two.err and str(tmp_path / "cache") in two.err
    assert json.loads(two.out)["numbers"] == found["numbers"]


def test_latents_that_are_drawn_are_those_of_the_images(trained: Path) -> None:
    loaded = load(trained, device="cpu")
    images = torch.cat(list(loaded.sample_batches(70, seed=3)))
    z = torch.cat(list(draw_latents(loaded, 70, seed=3)))
    assert len(images) == len(z) == 70
    with torch.no_grad():
        assert torch.allclose(loaded.model.decode(z).mean, images, atol=1e-6)


def test_a_number_with_a_standard_error_has_its_interval_from_it() -> None:
    class Told(Metric):
        def collect(self, seen: Seen) -> dict[str, Tensor]:
            return {"a": torch.zeros(len(seen.x))}

        def compute(self, rows: Any) -> dict[str, float | tuple[float, ...]]:
            return {"told": (3.0, 0.5), "drawn": 1.0, "ends": (2.0, 1.5, 4.0)}

    nothing: Any = None
    rows = Rows()
    rows.sweep([Seen("held-out", nothing, nothing, torch.zeros(4, 1, 1, 1), None, Protocol(), None)], {"m": Told()}, {})
    told, drawn, ends = rows.numbers("m", Told(), 0)
    assert (ends.value, ends.low, ends.high) == (2.0, 1.5, 4.0)
    assert (told.value, told.low, told.high) == pytest.approx((3.0, 3 - 0.98, 3 + 0.98))
    assert (drawn.low, drawn.high) == (1.0, 1.0)


def test_two_processes_find_what_one_finds(
    aegen: Aegen, trained: Path, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGEN_CACHE", "")
    (tmp_path / "net.py").write_text(NETWORK)
    words = [word for name in ("reconstruction", *NAMES) for word in ("--metric", name)]
    words += ["--features", "./net.py:Tiny", "--features-side", "8", "-n", "150", "--json", "-o", "e.json"]
    one = aegen("evaluate", "-c", trained, *words).worked().out
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "aegen"),
            *("evaluate", "-c", str(trained), *words, "--force"),
        ],
        cwd=tmp_path,
        env={**environment, "AEGEN_CACHE": "", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found, wanted = (
        {n["name"]: (n["value"], n["low"], n["high"]) for n in json.loads(t)["numbers"]} for t in (done.stdout, one)
    )
    assert found.keys() == wanted.keys() and len(found) == 13
    for name, values in found.items():
        for mine, other in zip(values, wanted[name], strict=True):  # some have no interval
            assert mine == other is None or mine == pytest.approx(other, rel=1e-4, abs=1e-9), name
