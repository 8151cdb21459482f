"""`aegen evaluate`: what is measured, on which images, by which rules, and what is left out and why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Aegen
from torch import Tensor

from aegen import Metric, Seen, load
from aegen.data.batches import normalize
from aegen.data.source import load_data
from aegen.errors import UsageError
from aegen.evaluation.features import checksum, rgb
from aegen.evaluation.per_image import Rows
from aegen.evaluation.protocol import PROTOCOLS, Protocol, protocol
from aegen.settings import DataSettings

MINE = '''
from aegen import Metric

class Brightness(Metric):
    """Mean pixel of held-out and of generated images."""
    needs = {"sampler"}

    def __init__(self, *, scale: float = 1.0):
        self.scale = scale

    def collect(self, seen):
        if not (seen.held_out or seen.generated):
            return {}
        return {f"bright.{seen.source}": self.scale * seen.x.flatten(1).mean(1)}
'''


def numbers(text: str) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in json.loads(text)["numbers"]}


def test_the_numbers_are_those_of_the_held_out_images(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    said = aegen("evaluate", "-c", trained, "--metric", "reconstruction", "--json", "-o", "e.json").worked()
    found = numbers(said.out)
    loaded = load(trained, device="cpu")
    x = normalize(load_data(DataSettings(size=16)).validation)
    with torch.no_grad():
        recon = loaded.model.reconstruct(x)
    recon = (recon.double() * 127.5 + 127.5).round() / 127.5 - 1
    mse = ((recon - x.double()) / 2).square().flatten(1).mean(1)
    assert found["mse"]["value"] == pytest.approx(mse.mean().item(), rel=1e-6)
    assert found["psnr"]["value"] == pytest.approx((-10 * mse.log10()).mean().item(), rel=1e-6)
    assert found["mse"]["low"] < found["mse"]["value"] < found["mse"]["high"]
    written = json.loads((tmp_path / "e.json").read_text())
    assert written == {k: v for k, v in json.loads(said.out).items() if k != "file"}
    assert written["data"]["held_out"] == len(x)


def test_twice_the_same_evaluation_is_the_same_and_overwrites_nothing(
    aegen: Aegen, trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    files = [aegen("evaluate", "-c", run, "--metric", "reconstruction").worked().out.splitlines()[-1] for _ in range(2)]
    assert [Path(f).name for f in files] == ["aegen-1.json", "aegen-1-2.json"]
    one, two = (json.loads(Path(f).read_text()) for f in files)
    assert one["numbers"] == two["numbers"]


def test_a_metric_in_a_file_sees_held_out_and_generated_images(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    words = ("evaluate", "-c", trained, "--metric", "./mine.py:Brightness", "-n", 30, "--json", "-o", "e.json")
    found = numbers(aegen(*words).worked().out)
    assert found.keys() == {"bright.held-out", "bright.samples"}
    said = json.loads(aegen(*words, "--sampler", "prior", "--force").worked().out)
    assert said["protocol"]["sampler"] == "prior" and said["protocol"]["samples"] == 30
    assert said["protocol"]["name"] == "aegen-1 with samples=30, sampler=prior"
    assert numbers(json.dumps(said))["bright.held-out"] == found["bright.held-out"]
    assert numbers(json.dumps(said))["bright.samples"] != found["bright.samples"]


def test_what_does_not_apply_is_listed_with_its_reason(aegen: Aegen, tmp_path: Path) -> None:
    aegen("train", *TINY, "--objective", "gan", "--steps", 2, "--run-dir", "g").worked()
    (tmp_path / "mine.py").write_text(MINE)
    words = ("--metric", "reconstruction", "--metric", "./mine.py:Brightness", "-n", 5)
    said = aegen("evaluate", "-c", "g", *words).worked()
    assert "not measured: reconstruction (objective gan trains no encoder)" in said.err
    assert "bright.samples" in said.out


def test_other_data_is_brought_to_the_models_size(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 255, (20, 9, 11), dtype=np.uint8)
    np.savez(tmp_path / "other.npz", images=pixels)
    words = ("evaluate", "-c", trained, "--metric", "reconstruction", "--json", "-o", "e.json", "--force")
    said = json.loads(aegen(*words, "--data", "other.npz").worked().out)
    assert (said["data"]["name"], said["data"]["held_out"]) == ("other.npz", 20)
    limited = json.loads(aegen(*words, "--limit", 7).worked().out)
    assert limited["data"]["held_out"] == 7
    assert limited["protocol"]["name"] == "aegen-1 with limit=7"


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (("--metric", "reconstructoin"), ("unknown metric 'reconstructoin'", "reconstruction")),
        (("--protocol", "aegen1"), ("unknown protocol 'aegen1'", "aegen-1")),
        (("-n", "1"), ("samples", "2≤x")),
        (("--latent", "middle"), ("latent", "mean|draw")),
        (("--limit", "0"), ("--limit", "1≤x")),
        (("--data", "nowhere"), ("nowhere",)),
        (("-c", "nowhere"), ("nowhere",)),
        (("-o", "no/such/folder/e.json", "--metric", "reconstruction"), ("no/such/folder/e.json",)),
    ],
)
def test_a_wrong_line_is_one_sentence(
    aegen: Aegen, trained: Path, words: tuple[str, ...], pieces: tuple[str, ...]
) -> None:
    place = () if "-c" in words else ("-c", trained)
    aegen("evaluate", *place, *words).refused(2, *pieces)


def test_explain_names_the_rules_by_which_a_printed_number_differs(aegen: Aegen, trained: Path) -> None:
    said = aegen("evaluate", "-c", trained, "--metric", "reconstruction", "--explain", "-o", "e.json").worked()
    (line,) = [line for line in said.err.splitlines() if "26.91 printed for sd-vae-ft-mse" in line]
    assert "data ImageNet validation, 256×256 (here digits)" in line and "latent not said (here mean)" in line
    assert "the rules here: name aegen-1" in said.err


# ------------------------------------------------------------------------------------------------ protocols, rows


def test_a_changed_protocol_says_what_was_changed_and_a_restated_one_does_not() -> None:
    assert protocol("aegen-1", {"samples": 2000}) == PROTOCOLS["aegen-1"]
    assert protocol("aegen-1", {"side": "32", "seed": 1}).name == "aegen-1 with side=32, seed=1"
    with pytest.raises(UsageError, match="must lie in"):
        protocol("aegen-1", {"side": -1})


def test_every_protocol_stands_under_its_own_name() -> None:
    assert all(name == rules.name for name, rules in PROTOCOLS.items())


class Pair(Metric):
    """Two rows, one of which the other metric keeps too."""

    needs = frozenset()
    resamples = 50

    def __init__(self, own: str) -> None:
        self.own = own

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        return {"shared": torch.rand(len(seen.x)), self.own: seen.x.flatten(1).mean(1)}


class Refuses(Pair):
    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        raise UsageError("no such thing here")


def looked_at(*sizes: int) -> list[Seen]:
    nothing: Any = None
    parts = torch.linspace(-1, 1, sum(sizes)).view(-1, 1, 1, 1).split(list(sizes))
    return [Seen("held-out", nothing, nothing, x, None, Protocol(), None) for x in parts]


def test_rows_of_one_name_are_kept_once_and_in_order_and_a_refusal_is_told() -> None:
    rows, skipped = Rows(), {}
    rows.sweep(looked_at(4, 4, 2), {"a": Pair("mine"), "b": Pair("yours"), "c": Refuses("other")}, skipped)
    assert skipped == {"c": "no such thing here"}
    assert rows.of("a").keys() == {"shared", "mine"}
    assert torch.equal(rows.of("a")["shared"], rows.of("b")["shared"])
    assert torch.equal(rows.of("b")["yours"], torch.linspace(-1, 1, 10))


def test_the_noise_of_a_metric_does_not_depend_on_what_others_draw() -> None:
    alone, beside = Rows(), Rows()
    alone.sweep(looked_at(5, 5), {"a": Pair("mine")}, {})
    beside.sweep(looked_at(5, 5), {"before": Pair("first"), "a": Pair("mine")}, {})
    assert torch.equal(alone.of("a")["shared"], beside.of("a")["shared"])


def test_an_interval_covers_the_mean_about_nineteen_times_of_twenty() -> None:
    torch.manual_seed(torch.seed() % 2**31)
    covered = 0
    for _ in range(100):
        rows = Rows()
        parts = looked_at(80)
        parts[0].x = torch.randn(80, 1, 1, 1)
        rows.sweep(parts, {"a": Pair("mine")}, {})
        (number,) = [n for n in rows.numbers("a", Pair("mine"), 0) if n.name == "mine"]
        assert number.low is not None and number.high is not None
        covered += number.low < 0 < number.high
    assert covered >= 80  # 95 expected; fewer than 80 once in a million


def test_alpha_is_laid_over_white_and_grey_becomes_rgb() -> None:
    clear = torch.tensor([-1.0, -1.0]).view(1, 2, 1, 1)
    solid = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    assert rgb(torch.cat([clear, solid])).flatten(1).tolist() == [[1.0] * 3, [-1.0] * 3]


def test_a_checksum_knows_values_and_names() -> None:
    a = {"w": torch.zeros(3)}
    assert checksum(a) == checksum({"w": torch.zeros(3)})
    assert checksum(a) != checksum({"v": torch.zeros(3)}) and checksum(a) != checksum({"w": torch.ones(3)})
