"""What a file asks to be read is read where this user's aegen wrote the file, or where the user names it; on nobody else's word."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Aegen
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from aegen import signing
from aegen.checkpoint import Checkpoint

_looked_at: list[str] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.scandir", "os.listdir", "glob.glob") and isinstance(
        arguments[0], str | bytes | os.PathLike
    ):
        _looked_at.append(os.path.abspath(os.fsdecode(arguments[0])))


sys.addaudithook(_note)


@pytest.fixture
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that lie somewhere else on this machine."""
    folder = tmp_path_factory.mktemp("private")
    draw = np.random.default_rng(0)
    for number in range(20):
        Image.fromarray(draw.integers(0, 256, (16, 16), np.uint8)).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def untouched(private: Path) -> Iterator[None]:
    """Nothing below `private` is opened or listed."""
    _looked_at.clear()
    yield
    assert not [name for name in _looked_at if Path(name).is_relative_to(private)]


@pytest.fixture
def somebody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """From when it is called on, another user works here."""
    return lambda: monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))


def trained_on(aegen: Aegen, data: Path, run: str = "run") -> None:
    words = [*TINY, "--batch-size", 4, "--steps", 2, "--data", data, "--run-dir", run]
    aegen("train", *words, "--set", "checkpoint.best=false").worked()


def altered(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The run with another header, as somebody makes it who has a text editor."""
    path = run / "checkpoints/last.safetensors"
    with safe_open(path, "pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["aegen"])
    change(header)
    save_file({k: v.clone() for k, v in kept.items()}, path, {"aegen": json.dumps(header)})


def reading(run: str) -> list[list[str]]:
    """Command lines that look at a run's images of their own accord."""
    return [
        ["evaluate", "-c", run, "--metric", "reconstruction"],
        ["train", "--resume", run, "--steps", "4"],
        ["train", "--resume", run, "--help"],
        ["sample", "-c", run, "--sampler", "gaussian", "-n", "2", "-o", "never.png"],
    ]


def test_ones_own_run_needs_no_word_more(
    aegen: Aegen, private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on(aegen, private)
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree("run", "elsewhere/copy")
    shutil.copy("run/checkpoints/last.safetensors", "alone.safetensors")
    aegen("evaluate", "-c", "alone.safetensors", "--metric", "reconstruction").worked()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for words in reading("copy"):
        aegen(*words).worked()
    aegen("report", "copy", "--no-evaluate", "-o", "page.html").worked()
    assert 'id="reconstructions"' in Path("page.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("untouched")
def test_a_path_that_only_a_header_names_is_not_looked_at(aegen: Aegen, private: Path, tmp_path: Path) -> None:
    aegen("train", *TINY, "--steps", 2, "--run-dir", "run", "--set", "checkpoint.best=false").worked()

    def points(header: dict[str, Any]) -> None:
        header["spec"]["data"]["name"] = str(private)
        header["samplers"] = {}

    altered(tmp_path / "run", points)
    _looked_at.clear()
    for words in reading("run"):
        aegen(*words).refused(2, str(private), "without a seal of your aegen")
    aegen("evaluate", "-c", "run", "--metric", "reconstruction").refused(2, f"--data {private}")
    said = aegen("report", "run", "-o", "page.html").worked()
    assert "could not be evaluated" in said.err
    assert "not looked at on its word" in Path("page.html").read_text(encoding="utf-8")
    # What needs no images works as before.
    aegen("sample", "-c", "run", "-n", 2, "-o", "s.png", "--sampler", "prior").worked()
    aegen("export", "-c", "run", "-o", "e.safetensors").worked()


def test_anothers_run_is_used_with_the_images_that_are_named(
    aegen: Aegen, private: Path, somebody_else: Callable[[], None]
) -> None:
    trained_on(aegen, private)
    somebody_else()
    for words in reading("run")[:2]:
        aegen(*words).refused(2, str(private), "without a seal of your aegen")
    said = aegen("evaluate", "-c", "run", "--metric", "reconstruction", "--data", private, "--json").worked()
    assert json.loads(said.out)["data"]["held_out"] == 2  # they are its own, and its split is known
    assert "another set" not in said.err
    # What they go on with is theirs from then on.
    aegen("train", "--resume", "run", "--steps", 4, "--data", private).worked()
    aegen("train", "--resume", "run", "--steps", 5).worked()
    aegen("evaluate", "-c", "run", "--metric", "reconstruction").worked()


@pytest.mark.usefixtures("untouched")
def test_a_root_that_only_a_header_names_is_not_looked_at(aegen: Aegen, private: Path, tmp_path: Path) -> None:
    aegen("train", *TINY, "--steps", 2, "--run-dir", "run", "--set", "checkpoint.best=false").worked()
    altered(tmp_path / "run", lambda header: header["spec"]["data"].update(name="mnist", root=str(private)))
    # Sets are looked for where they usually lie, or where the user says.
    for words in reading("run")[:2]:
        aegen(*words).refused(4, str(tmp_path / "data"))
    aegen("evaluate", "-c", "run", "--data", "mnist").refused(4, str(tmp_path / "data"))
    aegen("evaluate", "-c", "run", "--data", "fashion-mnist").refused(4, str(tmp_path / "data"))
    aegen("train", "--resume", "run", "--steps", 4, "--data", "mnist").refused(4, str(tmp_path / "data"))
    aegen("evaluate", "-c", "run", "--data-root", "mine").refused(4, str(tmp_path / "mine"))
    aegen("train", "--resume", "run", "--steps", 4, "--data-root", "mine").refused(4, str(tmp_path / "mine"))


def test_a_set_by_name_needs_nobodys_word(aegen: Aegen, trained: Path, somebody_else: Callable[[], None]) -> None:
    somebody_else()
    aegen(
        "evaluate", "-c", trained / "checkpoints/best.safetensors", "--metric", "reconstruction", "-o", "e.json"
    ).worked()


def test_first_weights_and_folders_of_others_are_not_followed(aegen: Aegen, private: Path, tmp_path: Path) -> None:
    trained_on(aegen, private, "first")
    words = [*TINY, "--batch-size", 4, "--steps", 2, "--data", private, "--init-from", "first", "--run-dir", "run"]
    aegen("train", *words).worked()
    for path in (tmp_path / "run/checkpoints").iterdir():
        path.unlink()
    shutil.copytree("run", "kept")
    for key, value in (("init_from", str(private / "w.safetensors")), ("folder", str(private))):
        about = json.loads((tmp_path / "kept/environment.json").read_text())
        (tmp_path / "run/environment.json").write_text(json.dumps(about | {key: value}))
        aegen("train", "--resume", "run").refused(2, "without a seal of your aegen")
    said = aegen("train", "--resume", "run", "--data", private)
    said.refused(2, "names weights to begin with", "--init-from")
    aegen("train", "--resume", "kept").worked()


def test_a_tracker_that_only_a_file_names_is_not_told(aegen: Aegen, tmp_path: Path) -> None:
    aegen("train", *TINY, "--steps", 2, "--run-dir", "run", "--set", "checkpoint.best=false").worked()
    altered(tmp_path / "run", lambda header: header["spec"]["log"].update(trackers=["tensorboard"]))
    aegen("train", "--resume", "run", "--steps", 3).worked()
    assert Checkpoint(Path("run/checkpoints/last.safetensors")).spec.log.trackers == []
    assert not list(tmp_path.rglob("events.*"))


# ---------------------------------------------------------------------------------------------------- the key


def test_a_seal_is_of_the_very_words_and_of_one_user(somebody_else: Callable[[], None]) -> None:
    told = signing.seal({"data": "a", "root": "b"})
    assert len(told) == 64
    assert signing.holds({"root": "b", "data": "a"}, told)
    for words in ({"data": "a", "root": "c"}, {"data": "a"}, []):
        assert not signing.holds(words, told)
    for wrong in ("", None, 3, "é" * 64, told[:-1]):
        assert not signing.holds({"data": "a", "root": "b"}, wrong)
    somebody_else()
    assert not signing.holds({"data": "a", "root": "b"}, told)
    assert signing.seal({"data": "a", "root": "b"}) not in ("", told)


def test_many_that_begin_at_once_have_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "new"))
    with ThreadPoolExecutor(16) as pool:
        told = set(pool.map(lambda _: signing.seal("x"), range(64)))
    assert len(told) == 1
    folder = tmp_path / "new/aegen"
    assert [path.name for path in folder.iterdir()] == [signing.NAME]
    assert stat.S_IMODE((folder / signing.NAME).stat().st_mode) == 0o600


def test_where_settings_cannot_be_kept_the_key_lies_in_the_cache_or_nowhere(
    aegen: Aegen, private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("AEGEN_CACHE", str(tmp_path / "cached"))
    told = signing.seal("x")
    assert (tmp_path / "cached" / signing.NAME).is_file()
    assert signing.holds("x", told)
    monkeypatch.setenv("AEGEN_CACHE", "")
    assert signing.seal("x") == ""
    assert not signing.holds("x", told)
    trained_on(aegen, private)
    assert "seal" not in Checkpoint(Path("run/checkpoints/last.safetensors")).header
    aegen("evaluate", "-c", "run", "--metric", "reconstruction").refused(2, f"--data {private}")
    aegen("evaluate", "-c", "run", "--metric", "reconstruction", "--data", private).worked()


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("AEGEN_CACHE", "")
    (tmp_path / "aegen").mkdir()
    (tmp_path / "aegen" / signing.NAME).write_bytes(content)
    assert signing.seal("x") == ""


SET = '''
from pathlib import Path
from typing import Annotated

import torch

from aegen import Dataset, DataSettings, File, Images


class Set(Dataset):
    """Images of a list."""

    def __init__(self, *, names: Annotated[str, File()] = "") -> None:
        self.names = names

    def load(self, settings: DataSettings) -> Images:
        """As many as the list has lines."""
        count = len(Path(self.names).read_text().split())
        return Images(torch.arange(count * 256, dtype=torch.int32).remainder(251).to(torch.uint8).view(count, 1, 16, 16))
'''


def test_a_file_that_data_would_read_is_typed_too(aegen: Aegen, tmp_path: Path) -> None:
    (tmp_path / "sets.py").write_text(SET)
    (tmp_path / "list.txt").write_text("x\n" * 20)
    words = ["--data", "./sets.py:Set", "--data.names", "list.txt", "--batch-size", 4, "--steps", 2]
    aegen("train", *TINY, *words, "--run-dir", "run").worked()
    seen = ["evaluate", "-c", "run", "--metric", "reconstruction", "--component", "./sets.py:Set"]
    aegen(*seen).refused(2, "'list.txt'", "--component list.txt")
    aegen(*seen, "--component", "list.txt").worked()
