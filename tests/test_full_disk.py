"""A disk that is full or fails ends every command with 1, a place that takes nothing with 2; nothing is left half-written."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from conftest import TINY, Aegen
from PIL import Image

from aegen import atomic

WRITING = {
    "sample": ["sample", "-c", "run", "-n", 2, "-o", "out.png"],
    "each": ["sample", "-c", "run", "-n", 2, "--each", "-o", "folder"],
    "usual": ["sample", "-c", "run", "-n", 2],
    "reconstruct": ["reconstruct", "a.png", "-c", "run", "-o", "out.png"],
    "interpolate": ["interpolate", "a.png", "a.png", "-c", "run", "-o", "out.png"],
    "export": ["export", "-c", "run", "-o", "out.safetensors"],
    "evaluate": ["evaluate", "-c", "run", "--metric", "reconstruction", "-o", "out.json"],
    "report": ["report", "run", "--no-evaluate", "-o", "out.html"],
    "compare": ["compare", "run", "other", "--no-evaluate", "-o", "out.html"],
    "train": ["train", *TINY, "--steps", 1, "--run-dir", "new"],
}


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 1), (errno.EDQUOT, 1), (errno.EIO, 1), (errno.EROFS, 2), (errno.EACCES, 2)]
)
def test_every_command_ends_with_the_same_code(
    aegen: Aegen, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    for name in ("run", "other"):
        shutil.copytree(trained, tmp_path / name)
    Image.new("L", (16, 16)).save("a.png")
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}

    def refused(draft: Path, path: Path, *, replaces: bool) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(atomic, "publish", refused)
    for name, words in WRITING.items():
        said = aegen(*words)
        # A run that has begun says how it goes on, whatever the reason.
        assert said.code == (1 if name == "train" else code), (name, said)
        assert os.strerror(number) in said.err and said.err.splitlines()[-1].startswith("error: cannot write"), said
    left = {path for path in tmp_path.rglob("*") if "cache" not in path.parts} - before
    assert {path.name for path in left} <= {"folder"}


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 1), (errno.EROFS, 2)])
def test_a_run_folder_that_cannot_be_made_goes_by_the_same_rule(
    aegen: Aegen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    make = Path.mkdir

    def refused(self: Path, *words: object, **more: object) -> None:
        if "new" in str(self):
            raise OSError(number, os.strerror(number), str(self))
        make(self, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refused)
    aegen("train", *TINY, "--steps", 1, "--run-dir", "new").refused(code, "cannot make the run folder new")
    assert not (tmp_path / "new").exists()
