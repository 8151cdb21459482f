"""Help, listings of names and completion load nothing heavy, however many plugins are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "numpy", "PIL", "simplejpeg", "sklearn"}
LINES = [
    ["--help"],
    ["--version"],
    ["train", "--help"],
    ["reconstruct", "--help"],
    ["sample", "--help"],
    ["interpolate", "--help"],
    ["export", "--help"],
    ["list-plugins", "--help"],
    ["list-plugins", "--no-import"],
    ["list-plugins", "--no-import", "--json"],
    ["trian"],
]
PROBE = """
import json, sys
from aegen.cli import main
try:
    main(json.loads(sys.argv[1]))
except SystemExit as leave:
    code = leave.code
heavy = sorted(set(json.loads(sys.argv[2])) & set(sys.modules))
print(json.dumps({"code": code, "heavy": heavy}), file=sys.stderr)
"""


def run(arguments: list[str], **environment: str) -> tuple[dict[str, object], str]:
    """Exit code and heavy modules of a command line in a fresh interpreter, and its stdout."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(arguments), json.dumps(sorted(HEAVY))],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=True,
    )
    return json.loads(done.stderr.splitlines()[-1]), done.stdout


def fake_plugins(folder: Path, count: int) -> None:
    """Packages whose module would import torch, each with an objective and a command."""
    for i in range(count):
        info = folder / f"aegen_fake{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: aegen-fake{i}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[aegen.objectives]\nfake{i} = fake_module{i}:Loss\n[aegen.commands]\nfake{i}-command = fake_module{i}:run\n"
        )
        (folder / f"fake_module{i}.py").write_text("import torch\n")


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_nothing_heavy_is_loaded(line: list[str], tmp_path: Path) -> None:
    fake_plugins(tmp_path, 3)
    result, _ = run(line, PYTHONPATH=str(tmp_path))
    assert result["heavy"] == []
    assert result["code"] == (2 if line == ["trian"] else 0)


def test_importing_aegen_loads_no_torch() -> None:
    code = "import aegen, sys; assert 'torch' not in sys.modules; aegen.Objective; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("words", "wanted"), [("aegen tr", "train"), ("aegen train --obj", "--objective")])
def test_completion_is_light(words: str, wanted: str) -> None:
    result, out = run(
        [],
        _AEGEN_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - 1),
        _TYPER_COMPLETE_ARGS=words,
    )
    assert result["heavy"] == []
    assert wanted in out


def test_a_plugins_command_is_a_row_of_the_help(tmp_path: Path) -> None:
    fake_plugins(tmp_path, 1)
    _, out = run(["--help"], PYTHONPATH=str(tmp_path))
    assert "fake0-command" in out


def test_components_named_before_help_show_their_options() -> None:
    _, out = run(["train", "--arch", "conv", "--objective", "vae+adversarial", "--help"], COLUMNS="200")
    for flag in ("--arch.width", "--objective.beta", "--objective.adversarial.weight", "--bottleneck.dim"):
        assert flag in out
