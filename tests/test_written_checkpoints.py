"""Checkpoints that an earlier state wrote load, decode, draw and go on as they did then: `tests/checkpoints/write.py` made them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from aegen import registry

HERE = Path(__file__).parent / "checkpoints"
_spec = importlib.util.spec_from_file_location("write_checkpoints", HERE / "write.py")
assert _spec is not None and _spec.loader is not None
written = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(written)


def test_the_set_has_every_bottleneck_and_two_samplers() -> None:
    necks, samplers = set(), set()
    for name in written.RUNS:
        with safe_open(HERE / f"{name}.safetensors", "pt") as file:
            necks.add(json.loads(file.metadata()["aegen"])["spec"]["bottleneck"]["name"])
            samplers |= set(json.loads(file.metadata()["aegen"])["samplers"])
    assert necks == set(registry.names("bottleneck"))
    assert samplers == {"gaussian", "mixture"}


@pytest.mark.parametrize("name", written.RUNS)
def test_a_written_checkpoint_is_what_it_was(name: str, tmp_path: Path) -> None:
    expected = load_file(HERE / f"{name}.expected.safetensors")
    found = written.results(HERE / f"{name}.safetensors") | written.resumed(
        HERE / f"{name}.safetensors", tmp_path / name
    )
    assert sorted(found) == sorted(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", written.OBJECTIVES)
def test_thirty_steps_lose_what_they_lost(name: str, tmp_path: Path) -> None:
    expected = json.loads((HERE / "losses.json").read_text())[name]
    torch.testing.assert_close(
        torch.tensor(written.losses(name, tmp_path / "run")), torch.tensor(expected), rtol=1e-3, atol=1e-3
    )


def test_a_process_that_loads_first_trains_as_well(tmp_path: Path) -> None:
    """Modules imported while a file's layers are outlined hold their constants as ever."""
    code = (
        "import sys, runpy, aegen; w = runpy.run_path(sys.argv[1]); n = 'bernoulli-adamw'; f = w['HERE'] / (n + '.safetensors');"
        "aegen.load(f).sample(1); from pathlib import Path; w['resumed'](f, Path(sys.argv[2]))"
    )
    words = [sys.executable, "-c", code, str(HERE / "write.py"), str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
