"""The examples in the docstrings of the façade and of the shelf are run: `help(aegen.load)` shows what works."""

from __future__ import annotations

import doctest
import inspect
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL
from PIL import Image
from safetensors.torch import save_file

import aegen
from aegen.inference.coding import Coder
from aegen.nn import densities, importance, kernels, precision, spectral

SHELF = (densities, importance, kernels, precision, spectral)
USED = (aegen.load, aegen.train, aegen.evaluate, aegen.fit_sampler, aegen.import_model)
TOLD = {"Reconstruction", "outcome"}
"""Of the shelf, what no one calls outside of a bound."""


def own(module: Any) -> list[Any]:
    """The public functions and classes that a module defines."""
    made = [value for name, value in vars(module).items() if not name.startswith("_") and callable(value)]
    return [value for value in made if getattr(value, "__module__", None) == module.__name__]


def methods() -> list[Any]:
    """Of the handle itself, public ones."""
    both = {**vars(aegen.Model), **vars(Coder)}
    found = [value for name, value in both.items() if not name.startswith("_")]
    return [value for value in found if inspect.isfunction(value)]


OBJECTS = [*USED, aegen.Model, *methods(), *(one for module in SHELF for one in own(module))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny runs, some pictures, and weights of a net of somebody's own."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("AEGEN_CACHE", str(folder / "cache"))
        aegen.train(objective="vae", run_dir="runs/digits", **SMALL, **{"train.steps": 4})
        codes = {"bottleneck.codes": 8, "bottleneck.kmeans_iterations": 0, "train.steps": 4}
        aegen.train(objective="vq-vae", run_dir="runs/codes", **SMALL, **codes)
        Path("photos").mkdir()
        for i in range(12):
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8)).save(f"photos/{i}.png")
        for name in "ab":
            Image.open(f"photos/{ord(name) % 12}.png").save(f"{name}.png")
        layers = (
            [torch.nn.Flatten(), torch.nn.Linear(64, 3)],
            [torch.nn.Linear(3, 64), torch.nn.Unflatten(1, (1, 8, 8))],
        )
        net = torch.nn.ModuleDict(
            {k: torch.nn.Sequential(*v) for k, v in zip(("encoder", "decoder"), layers, strict=True)}
        )
        save_file(net.state_dict(), "weights.safetensors")
    return folder


@pytest.fixture
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """In a copy of that folder, what the examples know: `aegen`, `model`, `x`, and the net within."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    model = aegen.load("runs/digits")
    return {"aegen": aegen, "torch": torch, "model": model, "net": model.model, "x": model.read(["a.png", "b.png"])}


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda thing: f"{thing.__module__}.{thing.__qualname__}")
def test_an_example_does_what_it_says(thing: Any, place: dict[str, Any]) -> None:
    known = {**vars(inspect.getmodule(thing)), **place}  # type: ignore[arg-type]
    text = inspect.getdoc(thing) or ""
    test = doctest.DocTestParser().get_doctest(text, known, thing.__qualname__, None, None)
    assert test.examples or thing.__name__ in TOLD, f"{thing.__qualname__} has no example"
    assert len(test.examples) <= 10, "keep it short"
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=told.append)
    assert not told, "".join(told)
