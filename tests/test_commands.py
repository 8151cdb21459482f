"""Commands as plugins: the kit, what is made of them at build time, broken ones, and the example package as a user has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tables
from conftest import TINY

from aegen.command import Annotated, Json, command, option
from aegen.testing import check_command, check_tracker

EXAMPLE = Path(__file__).parents[1] / "examples/aegen-nearest"


def run(site: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, "-m", "aegen", *words], cwd=cwd, env=env, capture_output=True, text=True)


def test_the_table_of_commands_and_the_page_of_components_are_as_they_are_made() -> None:
    assert tables.commands() == tables.COMMANDS.read_text(encoding="utf-8"), "run python tests/tables.py"
    assert tables.page() == tables.PAGE.read_text(encoding="utf-8"), "run python tests/tables.py"


def test_the_example_adds_a_command_in_under_forty_lines(tmp_path: Path) -> None:
    assert len((EXAMPLE / "aegen_nearest/__init__.py").read_text().splitlines()) < 40
    site, source = tmp_path / "site", shutil.copytree(EXAMPLE, tmp_path / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", str(site), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nearest" in run(site, "--help", cwd=tmp_path).stdout
    helped = run(site, "nearest", "--help", cwd=tmp_path).stdout
    assert "--checkpoint" in helped and "--force" in helped and "aegen nearest mine.png photos/" in helped
    trained = run(site, "train", *map(str, TINY), "--steps", "4", "--run-dir", "run", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    sampled = run(site, "sample", "-c", "run", "-n", "6", "--each", "-o", "photos", cwd=tmp_path)
    assert sampled.returncode == 0, sampled.stderr
    words = ("nearest", "photos/0003.png", "photos", "-c", "run", "-n", "3", "--json")
    told = json.loads(run(site, *words, cwd=tmp_path).stdout)
    assert told["files"] == ["nearest.png"] and (tmp_path / "nearest.png").exists()
    assert told["nearest"][0]["file"] == "photos/0003.png" and told["nearest"][0]["distance"] < 1e-4
    assert json.loads(run(site, *words, cwd=tmp_path).stdout)["files"] == ["nearest-2.png"]
    onto = run(site, *words, "-o", "photos/0001.png", "--force", cwd=tmp_path)
    assert onto.returncode == 2 and "also an input" in onto.stderr
    tested = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests")]
    done = subprocess.run(
        tested, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_broken_commands_are_one_sentence_each_and_spoil_no_other(tmp_path: Path) -> None:
    info = tmp_path / "bad-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[aegen.commands]\nlost = bad_gone:run\nnumber = bad:NUMBER\nbare = bad:bare\nsample = bad:good\ntrain = bad:good\ngood = bad:good\n"
    )
    (tmp_path / "bad.py").write_text(
        'NUMBER = 3\ndef bare(n): ...\ndef good(n: int = 3) -> None:\n    """Counts."""\n    print(n)\n'
    )
    for name, piece in (("lost", "could not be loaded"), ("number", "neither a function"), ("bare", "what 'n' is")):
        said = run(tmp_path, name, cwd=tmp_path)
        assert said.returncode == 3 and piece in said.stderr and len(said.stderr.strip().splitlines()) == 1
    assert run(tmp_path, "good", "--n", "5", cwd=tmp_path).stdout == "5\n"
    assert run(tmp_path, "bad/sample", cwd=tmp_path).stdout == "3\n"
    assert "Draw new images from a trained model" in run(tmp_path, "sample", "--help", cwd=tmp_path).stdout
    rows = json.loads(run(tmp_path, "list-plugins", "--kind", "command", "--json", cwd=tmp_path).stdout)
    status = {(row["package"], row["name"]): row["status"] for row in rows}
    assert status["aegen", "sample"] == status["bad", "good"] == "ok"
    assert status["bad", "sample"] == "conflict: say bad/sample" and status["bad", "train"] == "conflict: say bad/train"
    assert all(status["bad", name].startswith("broken: ") for name in ("lost", "number", "bare"))


@command()
def without_example(n: Annotated[int, option("-n", help="How many.", least=1)] = 1, as_json: Json = False) -> None:
    """Something."""


@command("aegen silent")
def silent(n: int = 1) -> None:
    """Something."""


@pytest.mark.parametrize(("function", "reason"), [(without_example, "no example"), (silent, "--n does not say")])
def test_the_contract_catches_a_command(function: object, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_command(function)  # type: ignore[arg-type]


def test_the_contract_catches_a_tracker_that_hears_nothing() -> None:
    with pytest.raises(AssertionError, match="hears nothing"):
        check_tracker(dict)
