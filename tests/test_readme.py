"""The README: its generated table, which `python tests/test_readme.py` writes anew, and its commands, each of which is run.

Those that train are read by tests/test_cli.py, and its Python is run by tests/test_model_handle.py.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, Aegen
from PIL import Image
from safetensors.torch import save_file

import aegen as library
from aegen import registry
from aegen.combinations import combinations

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- combinations -->\n", "<!-- end -->\n"


def table() -> str:
    """The built-in objectives, one row each."""
    builtin = {c.name for kind in ("objective", "bottleneck") for c in registry.components(kind) if c.builtin}
    lines = ["| objective | bottleneck | likelihood | goes with |", "|---|---|---|---|"]
    for row in combinations():
        if row["objective"] not in builtin:
            continue
        able = [f"`{name}`" for name in row["goes_with"] if name in builtin]
        lacking = [f"`{name}`" for name in row["goes_without"] if name in builtin]
        if row["wraps"]:
            goes = f"any objective: `vae+{row['objective']}`"
        elif not lacking:
            goes = "every bottleneck"
        else:
            goes = f"all but {', '.join(lacking)}" if len(lacking) < len(able) else ", ".join(able)
        name = f"`{row['objective']}`" + (f" = `{row['stands_for']}`" if row["stands_for"] else "")
        lines.append(f"| {name} | {row['bottleneck']} | {row['likelihood']} | {goes} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_combinations_is_what_the_components_say() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == table(), "python tests/test_readme.py writes it anew"


def commands() -> list[str]:
    """Every command line of the README that begins no training, in its order."""
    lines = re.findall(r"^    aegen (.*?)(?:  +#.*)?$", README.read_text(encoding="utf-8"), re.MULTILINE)
    return [line.strip() for line in lines if not line.startswith("train") or line.startswith("train --resume")]


LESS = {
    "evaluate": ["--limit", 20, "-n", 20],
    "fit-sampler": ["--steps", 2, "--sampler.width", 8],
    "compare": ["--no-evaluate"],
    "report": ["--no-evaluate"],
}
"""What makes them quick, and changes nothing else."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as somebody has it who follows the page: runs, and images of their own."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("a", "b", "faces"):
            library.train(objective="vae", run_dir=f"runs/{name}", **SMALL, **{"train.steps": 2})
        library.fit_sampler("runs/faces", "flow", steps=2, options={"width": 8})
        Path("photos").mkdir()
        for name in ("a", "b", "img", "photo", "photos/c"):
            pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
            for ending in ("png", "jpg"):
                Image.fromarray(pixels).save(f"{name}.{ending}")
        shutil.copy("a.jpg", "huge.jpg")
        save_file({"encoder.0.weight": torch.eye(4, 64), "decoder.0.weight": torch.eye(64, 4)}, "mine.safetensors")
    return folder


@pytest.mark.parametrize("line", commands())
def test_every_command_does_what_it_is_there_for(aegen: Aegen, home: Path, tmp_path: Path, line: str) -> None:
    shutil.copytree(home, tmp_path, symlinks=True, dirs_exist_ok=True)
    words = shlex.split(line)
    more = LESS.get(words[0], [])
    if words[0] == "fit-sampler":
        shutil.rmtree("runs/faces/samplers")
    if "--size" in words:  # of the line before it, which trains a map
        maps = {"arch.name": "conv", "arch.spatial": True, "arch.width": 4, "arch.depth": 1, "bottleneck.dim": 2}
        settings = {key: value for key, value in SMALL.items() if not key.startswith(("arch", "bottleneck"))}
        library.train(objective="vae", run_dir="runs/maps", **settings, **maps, **{"train.steps": 2})
    if "mine-imported.safetensors" in words and words[0] != "import":
        library.import_model("mine.safetensors")
    words = ["digits" if word == "mnist" else word for word in words]
    if "mig" in words:  # of what the line before it trains on
        library.train(objective="vae", data="shapes", run_dir="runs/shapes", **SMALL, **{"train.steps": 2})
    assert aegen(*words, *more).worked().out.strip(), "it does not say what came of it"


if __name__ == "__main__":
    whole = README.read_text(encoding="utf-8")
    head, _, rest = whole.partition(BEGIN)
    README.write_text(head + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
