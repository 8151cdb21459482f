"""No command writes over what is there: it refuses, or counts up, or replaces it when it is told to."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Aegen
from PIL import Image
from safetensors.torch import save_file

import aegen as library
from aegen import reporting
from aegen.atomic import write_text
from aegen.data import decode
from aegen.errors import UsageError
from aegen.evaluation import evaluate, save
from aegen.inference.loading import Output, folder_for_each
from aegen.inference.reading import Source
from aegen.inference.reconstruction import _own_names
from aegen.rundir import RunDir


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16), value, np.uint8)).save(path)
    return path


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder and what is in it, but for the cache."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "cache" not in path.parts]
    return {str(path): hashlib.blake2b(path.read_bytes()).hexdigest() for path in files}


# Command line without the output, the output, and one of the files that stand there afterwards.
FOREIGN = {"encoder.0.weight": torch.zeros(2, 64), "decoder.0.weight": torch.zeros(64, 2)}
WRITERS: dict[str, tuple[list[str], str, str]] = {
    "sample": (["sample", "-n", "2", "-o"], "s.png", "s.png"),
    "sample --each": (["sample", "-n", "2", "--each", "-o"], "s", "s/0001.png"),
    "reconstruct": (["reconstruct", "a.png", "-o"], "r.png", "r.png"),
    "reconstruct --each": (["reconstruct", "a.png", "in", "--each", "-o"], "r", "r/b.png"),
    "interpolate": (["interpolate", "a.png", "in/b.png", "-o"], "i.png", "i.png"),
    "interpolate film": (["interpolate", "a.png", "in/b.png", "--steps", "3", "-o"], "i.gif", "i.gif"),
    "evaluate": (["evaluate", "--metric", "reconstruction", "--limit", "20", "-o"], "e.json", "e.json"),
    "report": (["report", "RUN", "--no-evaluate", "-o"], "p.html", "p.html"),
    "compare": (["compare", "RUN", "other", "--no-evaluate", "-o"], "c.html", "c.html"),
    "export": (["export", "-o"], "m.safetensors", "m.safetensors"),
    "import": (["import", "foreign.safetensors", "-o"], "n.safetensors", "n.safetensors"),
    "train": (["train", *TINY, "--steps", "1", "--run-dir"], "new", "new/config.toml"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_there_is_refused_and_replaced_only_when_that_is_said(
    name: str, aegen: Aegen, trained: Path, tmp_path: Path
) -> None:
    words, out, one = WRITERS[name]
    picture(tmp_path / "a.png")
    picture(tmp_path / "in/b.png", 90)
    if words[0] == "import":
        save_file(FOREIGN, tmp_path / "foreign.safetensors")
    if "other" in words:
        (tmp_path / "other").symlink_to(_copy(trained, tmp_path / "copied"))
    words = [str(trained) if word == "RUN" else word for word in words]
    model = [] if words[0] in ("train", "report", "compare", "import") else ["-c", str(trained)]
    aegen(*words, out, *model).worked()
    assert (tmp_path / one).is_file()
    (tmp_path / one).write_bytes(b"somebody's own")
    before = digests(tmp_path)
    aegen(*words, out, *model).refused(2, f"{out}", "exists already", "--force")
    assert digests(tmp_path) == before
    aegen(*words, out, *model, "--force").worked()
    assert (tmp_path / one).read_bytes() != b"somebody's own"
    assert digests(tmp_path).keys() == before.keys()


def _copy(run: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(run, to))


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("train", "evaluate", "interpolate film")])
def test_default_names_count_up(name: str, aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    words, _, _ = WRITERS[name]
    picture(tmp_path / "a.png")
    picture(tmp_path / "in/b.png", 90)
    if words[0] == "import":
        save_file(FOREIGN, tmp_path / "foreign.safetensors")
    if "other" in words:
        _copy(trained, tmp_path / "other")
    words = [str(trained) if word == "RUN" else word for word in words[:-1]]
    model = [] if words[0] in ("train", "report", "compare", "import") else ["-c", str(trained)]
    seen: set[str] = set()
    for _ in range(2):
        before = digests(tmp_path)
        aegen(*words, *model).worked()
        after = digests(tmp_path)
        assert {key: after[key] for key in before} == before
        assert len(after) > len(before)
        seen |= after.keys()


def test_python_refuses_and_replaces_alike(trained: Path, tmp_path: Path) -> None:
    image, other = str(picture(tmp_path / "a.png")), str(picture(tmp_path / "b.png", 9))
    found = evaluate(trained, metrics=["reconstruction"], changes={"limit": 20})
    writers: dict[str, Callable[..., Any]] = {
        "s.png": lambda out, **more: library.sample(trained, count=2, out=out, **more),
        "r.png": lambda out, **more: library.reconstruct([image], trained, out=out, **more),
        "i.png": lambda out, **more: library.interpolate([image, other], trained, out=out, **more),
        "m.safetensors": lambda out, **more: library.export(trained, out=out, **more),
        "e.json": lambda out, **more: save(found, out, **more),
        "p.html": lambda out, **more: reporting.write_report(
            reporting.compare([trained], evaluates=False), out, **more
        ),
        "run": lambda out, **more: library.train(
            arch="mlp", run_dir=out, **{"arch.hidden": [8], "data.size": 8, "train.steps": 1}, **more
        ),
    }
    for name, write in writers.items():
        out = tmp_path / name
        write(out)
        before = digests(tmp_path)
        with pytest.raises(UsageError, match="exists already"):
            write(out)
        assert digests(tmp_path) == before
        write(out, force=True)


def test_force_replaces_a_run_and_no_other_folder(aegen: Aegen, tmp_path: Path) -> None:
    picture(tmp_path / "mine/a.png")
    before = digests(tmp_path)
    aegen("train", *TINY, "--steps", 1, "--run-dir", "mine", "--force").refused(2, "mine is no run folder")
    assert digests(tmp_path) == before


def test_a_reconstruction_never_takes_the_place_of_a_neighbour(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    Image.new("L", (16, 16), 9).save(tmp_path / "x.gif")
    neighbour = picture(tmp_path / "x.png", 200).read_bytes()
    aegen("reconstruct", "x.gif", "-c", trained, "--each", "-o", ".").refused(2, "x.png exists already")
    assert (tmp_path / "x.png").read_bytes() == neighbour
    aegen("reconstruct", "x.png", "-c", trained, "--each", "-o", ".", "--force").refused(2, "x.png is also an input")
    assert (tmp_path / "x.png").read_bytes() == neighbour


def test_equal_names_are_numbered_without_looking_at_all_others() -> None:
    sources = [Source(Path(f"{n}/a.png"), Path("a.png"), True) for n in range(20_000)]
    sources.insert(1, Source(Path("a-2.png"), Path("a-2.png"), True))
    names = [path.name for path in _own_names(sources, Path("o"))]
    assert names[:4] == ["a.png", "a-2.png", "a-3.png", "a-4.png"]
    assert len(set(names)) == len(names)


def test_two_writers_of_one_default_name_get_one_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aegen import pictures
    from aegen.inference import loading

    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "samples.png", 7)
    names = itertools.chain([Path("samples.png")], itertools.repeat(Path("samples-2.png")))
    monkeypatch.setattr(
        loading, "free_name", lambda path: next(names)
    )  # what is free when it is asked for is not when it is written
    sheet = Image.new("L", (8, 8), 99)
    written = loading.Output(None, "samples.png").write(
        lambda path, replaces: pictures.save(sheet, path, replaces=replaces)
    )
    assert written == Path("samples-2.png")
    assert Image.open("samples.png").getpixel((0, 0)) == 7


@pytest.mark.skipif(os.name != "posix", reason="links are those of POSIX")
def test_a_link_to_nothing_has_its_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "folder", "runs/mlp"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).symlink_to("nowhere")
    assert Output(None, "a.png").write(lambda path, replaces: write_text(path, "", replaces=replaces)) == Path(
        "a-2.png"
    )
    assert folder_for_each(None, "folder") == Path("folder-2")
    assert RunDir.create(None, "mlp").path == Path("runs/mlp-2")
    assert [os.readlink(name) for name in ("a.png", "folder", "runs/mlp")] == ["nowhere"] * 3


def test_an_ending_that_is_no_pictures_is_refused_before_the_work(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    for words in (["sample", "-n", "2"], ["reconstruct", "a.png"]):
        done = aegen(*words, "-c", trained, "-o", "x.txt")
        done.refused(2, "cannot write a picture as x.txt")
        assert "sampler" not in done.err and "converted" not in done.err


@pytest.mark.parametrize(("command", "each"), [("reconstruct", False), ("reconstruct", True), ("interpolate", False)])
def test_what_is_there_is_refused_before_anything_is_decoded(
    aegen: Aegen, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, each: bool
) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (16, 16), 90).save(tmp_path / name)
    (tmp_path / "out").mkdir()
    for name in ("out.png", "out/a.png"):
        (tmp_path / name).write_bytes(b"mine")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("images were decoded")

    monkeypatch.setattr(decode, "read_many", never)
    words = ["--each", "-o", "out"] if each else ["-o", "out.png"]
    aegen(command, "a.png", "b.png", "-c", trained, *words).refused(2, "exists already")
