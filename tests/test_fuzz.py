"""A short run of `benchmarks/fuzz.py`: bad inputs of every kind end in success or in one sentence."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[object, object]]:
    """`fuzz` and `fuzz_inputs`, as the script finds them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("AEGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    # Workers are begun anew and find the modules by the path.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]))
    import fuzz
    import fuzz_inputs

    yield fuzz, fuzz_inputs
    for name in ("fuzz", "fuzz_inputs"):
        sys.modules.pop(name, None)


def test_bad_inputs_of_every_kind_are_taken_as_they_should_be(suite, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    fuzz, _ = suite
    found = fuzz.fuzz(fuzz.names(seed=1, count=4), tmp_path, workers=1)
    assert not found, "\n".join(f"{f.case}: {f.what}\n    aegen {' '.join(f.line)[:200]}" for f in found)


@pytest.mark.parametrize(
    ("code", "out", "err", "piece"),
    [
        (0, "", "", ""),
        (2, "", "talk\nerror: no such file; give another\n", ""),
        (139, "", "error: x\n", "exit code 139"),
        (1, "", "Traceback (most recent call last):\nKeyError: 1\n", "a traceback"),
        (1, "", "error: this should not have happened (KeyError: 1)\n", "should not have happened"),
        (2, "", "", "0 lines begin with error"),
        (2, "", "error: a\nb\n", "the last is 'b'"),
        (2, "", "error: a\nerror: b\n", "2 lines"),
        (2, "", "error: " + "x" * 2000, "an error of 2007 characters"),
        (0, "", "a \x1b[31mred\n", "control character"),
    ],
)
def test_the_suite_sees_what_is_wrong(suite, code: int, out: str, err: str, piece: str) -> None:  # type: ignore[no-untyped-def]
    found = suite[0].faults(code, out, err)
    assert piece in "; ".join(found) if piece else not found, found


def test_an_input_follows_from_its_name(suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    _, inputs = suite
    inputs.make_corpus(tmp_path / "corpus")
    for kind, make in inputs.KINDS.items():
        seen = []
        for _ in range(2):
            home = tmp_path / "case"
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            monkeypatch.chdir(home)
            words = make(random.Random(f"{kind}/0/3"), tmp_path / "corpus")
            files = {str(p.relative_to(home)): p.read_bytes() for p in sorted(home.rglob("*")) if p.is_file()}
            files = {
                name: content for name, content in files.items() if not name.endswith(".npz")
            }  # zip holds the time
            seen.append((words, files))
        assert seen[0] == seen[1], kind
