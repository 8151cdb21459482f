"""A later evaluation adds to what was measured and replaces only what it measured again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Aegen

from aegen import registry
from aegen.evaluation import Evaluation, Number, evaluate, save
from aegen.reporting import comparison
from aegen.reporting.formats import remarks
from aegen.reporting.merging import merged
from aegen.reporting.runs import read_runs
from aegen.reporting.tables import Skipped, Table


def one(numbers: dict[str, float], **changes: Any) -> Evaluation:
    rules = {"name": "aegen-1", "seed": 0, "sampler": "prior"}
    made = Evaluation("r", {"steps": 3}, {"name": "d", "fingerprint": "f", "held_out": 4}, rules)
    made.numbers = [Number(name, name, value) for name, value in numbers.items()]
    return replace(made, **changes)


def values(found: Evaluation) -> dict[str, float]:
    return {number.name: number.value for number in found.numbers}


def test_a_partial_evaluation_replaces_only_what_it_measured_again() -> None:
    first = one({"mse": 1.0, "nll": 2.0}, skipped={"kid": "no network"}, notes=["few"])
    found = merged([first, one({"nll": 3.0, "kid": 4.0}), one({}, skipped={"mse": "gone", "fid": "no network"})])
    assert found is not None and not found.apart
    assert values(found.whole) == {"mse": 1.0, "nll": 3.0, "kid": 4.0}
    assert found.whole.skipped == {"fid": "no network"} and found.whole.notes == ["few"]


def test_features_may_have_been_looked_at_in_one_of_them_only() -> None:
    rules = {"name": "aegen-1", "seed": 0, "sampler": "prior"}
    seen = one({"fid": 1.0}, protocol=rules | {"features_checksum": "a"})
    found = merged([seen, one({"mse": 2.0})])
    assert found is not None and values(found.whole) == {"mse": 2.0, "fid": 1.0}
    assert found.whole.protocol["features_checksum"] == "a"
    other = one({"kid": 3.0}, protocol=rules | {"features_checksum": "b"})
    found = merged([other, seen, one({"mse": 2.0})])
    assert found is not None and "kid" not in values(found.whole)
    assert found.apart == ["1 earlier by this protocol is of another features checksum"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"data": {"name": "d", "fingerprint": "g", "held_out": 4}}, "other images of the same name"),
        ({"protocol": {"name": "aegen-1", "seed": 0, "sampler": "mixture"}}, "another sampler"),
        ({"protocol": {"name": "aegen-1", "seed": 1, "sampler": "prior"}}, "another seed"),
    ],
)
def test_what_was_measured_otherwise_stays_apart_and_is_told(change: dict[str, Any], why: str) -> None:
    found = merged([one({"nll": 9.0}, **change), one({"mse": 1.0})])
    assert found is not None and values(found.whole) == {"mse": 1.0}
    assert found.apart == [f"1 earlier by this protocol is of {why}"]


def test_numbers_by_other_options_of_their_metric_stand_beside_the_usual_ones() -> None:
    found = merged([one({"nll": 1.0}), one({"nll": 2.0}, options={"nll": {"samples": 9}}), one({"mse": 3.0})])
    assert found is not None
    assert values(found.whole) == {"mse": 3.0, "nll with samples=9": 2.0, "nll": 1.0}


@pytest.fixture
def alone(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs" / "alone", ignore=shutil.ignore_patterns("evaluations")))


def test_a_report_completes_what_was_measured_in_part_and_loses_nothing(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names(kind: str) -> list[str]:
        return ["codebook", "latents", "reconstruction"] if kind == "metric" else installed(kind)

    installed = registry.names
    monkeypatch.setattr(registry, "names", names)
    first = evaluate(alone, metrics=["reconstruction"])
    save(first, None)
    said: list[str] = []
    (table,) = comparison.compare([alone], say=said.append).tables
    assert said[0].startswith("evaluating alone by aegen-1: its folder has no codebook, latents of it")
    assert {row.metric for row in table.rows} == {"reconstruction", "latents"}
    assert [gone.metrics for gone in table.skipped] == [("codebook",)]
    said.clear()
    comparison.compare([alone], say=said.append)  # nothing is missing any more
    assert not said and len(list((alone / "evaluations").iterdir())) == 2
    (run,) = read_runs([alone])
    found = run.evaluated("aegen-1")
    assert found is not None and first.numbers[0] in found.numbers


def test_runs_beside_others_get_what_those_have(alone: Path) -> None:
    other = Path(shutil.copytree(alone, alone.with_name("other")))
    save(evaluate(alone, metrics=["reconstruction"]), None)
    save(evaluate(other, metrics=["reconstruction"]), None)
    save(evaluate(other, metrics=["latents"]), None)
    said: list[str] = []
    (table,) = comparison.compare([alone, other], say=said.append).tables
    assert len(said) == 1 and "evaluating alone by aegen-1: its folder has no latents of it" in said[0]
    assert all(cell is not None for row in table.rows for cell in row.cells)
    assert {row.metric for row in table.rows} == {"reconstruction", "latents"}


def test_evaluations_of_other_weights_are_left_out_and_told(alone: Path) -> None:
    file = save(evaluate(alone, metrics=["reconstruction"]), None)
    entry = json.loads(file.read_text())
    assert len(entry["model"]["weights"]) == 16
    entry["model"]["weights"] = "0" * 16  # as many steps, but trained otherwise
    file.with_name("other.json").write_text(json.dumps(entry))
    (table,) = comparison.compare([alone], evaluates=False).tables
    assert [note for note in table.notes if "other weights" in note] == [
        "of the evaluations of alone, 1 by this protocol is of other weights of the run or of its sampler, and not in this table"
    ]


def test_options_of_a_metric_are_written_where_they_are_not_the_usual_ones(alone: Path) -> None:
    usual = evaluate(alone, metrics=["probe"], options={"probe": {"neighbours": "5"}})
    other = evaluate(alone, metrics=["probe"], options={"probe": {"neighbours": "3"}})
    assert (usual.options, other.options) == ({}, {"probe": {"neighbours": 3}})


def test_where_nothing_is_measured_that_is_said_and_nothing_is_written(alone: Path, aegen: Aegen) -> None:
    said = aegen("evaluate", "-c", alone, "--metric", "codebook", "--metric", "ms-ssim", "-o", "none.json").worked()
    assert (
        "not measured: codebook (the bottleneck offers no codes" in said.err and "ms-ssim (images are 16×16" in said.err
    )
    assert "none of these metrics applies, so nothing is written" in said.err and said.out == ""
    assert not (alone / "evaluations").exists() and not Path("none.json").exists()
    told = json.loads(aegen("evaluate", "-c", alone, "--metric", "codebook", "--json").worked().out)
    assert (told["numbers"], told["file"]) == ([], None)


def test_a_sentence_below_the_tables_stands_once_with_what_it_concerns() -> None:
    gone = [Skipped(("sap", "dci"), ("a", "b"), "no factors"), Skipped(("mig",), ("a",), "no factors")]
    one = Table("aegen-1", "d", ["a", "b"], [], ["few images"], gone)
    two = Table("aegen-1 with seed=1", "d", ["a", "b"], [], ["few images", "other"], gone)
    assert remarks([one, two]) == [
        "note: few images",
        "not measured: sap, dci; mig of a (no factors)",
        "note: other [aegen-1 with seed=1, d]",
    ]
