"""What a person types → the file that is meant, the same for every command and for `aegen.load`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Aegen

import aegen as library
from aegen import PluginError, UsageError, places, registry, testing
from aegen.places import locate, resolve


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with runs/faces, which has both checkpoints."""
    shutil.copytree(trained, tmp_path / "runs" / "faces")
    held = tmp_path / "runs" / "faces" / "checkpoints"
    for name in ("last", "best"):
        if not (held / f"{name}.safetensors").exists():
            shutil.copy(next(held.glob("*.safetensors")), held / f"{name}.safetensors")
    (tmp_path / "runs" / "latest").symlink_to("faces")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        (None, "best"), ("faces", "best"), ("runs/faces", "best"), ("latest", "best"), ("runs/latest", "best"),
        ("best", "best"), ("last", "last"), ("faces/last", "last"), ("runs/faces/last", "last"), ("latest/last", "last"),
        ("runs/faces/checkpoints/last.safetensors", "last"),
    ],
)  # fmt: skip
def test_every_way_of_saying_it_comes_to_the_file(here: Path, typed: str | None, name: str) -> None:
    wanted = here / "runs" / "faces" / "checkpoints" / f"{name}.safetensors"
    assert resolve(typed).resolve() == wanted
    assert library.load(typed, device="cpu").path.resolve() == wanted


def test_for_training_on_the_last_is_meant(here: Path) -> None:
    assert resolve("faces", prefer="last").name == "last.safetensors"


def test_a_file_of_that_name_is_meant_before_a_run(here: Path) -> None:
    shutil.copy(resolve("last"), here / "faces")
    assert resolve("faces") == Path("faces")


def test_commands_take_the_same(here: Path, aegen: Aegen) -> None:
    aegen("sample", "-c", "faces", "-n", "1", "--sampler", "prior").worked()
    aegen("report", "faces", "--no-evaluate").worked()
    aegen("train", "--resume", "faces", "--steps", "1").worked()
    aegen("train", *TINY, "--steps", "1", "--init-from", "faces/last", "--dry-run").worked()
    aegen("sample", "-c", "face").refused(2, "there is no face", "did you mean 'faces' of ./runs?")
    aegen("sample", "-c", "hf://me/model").refused(2, "begins with hf://, which no installed package knows")


def test_a_scheme_is_a_plugin_that_is_asked_where_it_was_typed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    result: Any = here / "runs" / "faces"

    def fetch(rest: str) -> Any:
        asked.append(rest)
        return result

    one = registry.Component("scheme", "mine", "mine_package:fetch", "mine-package", "1")
    monkeypatch.setattr(registry, "_scan", lambda: {**dict.fromkeys(registry.KINDS, ()), "scheme": (one,)})
    monkeypatch.setattr(places.registry, "load", lambda component: fetch)
    assert locate("mine://a/b") == here / "runs" / "faces"
    assert locate(Path("mine://a/b")) == here / "runs" / "faces"
    assert asked == ["a/b", "a/b"]
    result = here / "nothing"
    with pytest.raises(PluginError, match="which is no file or folder here"):
        locate("mine://a/b")
    with pytest.raises(UsageError, match="schemes are mine"):
        locate("yours://a")


def test_the_contract_holds_what_fetches(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    def fetch(rest: str) -> Path:
        if not (tmp_path / rest).exists():
            raise UsageError(f"mine:// has no {rest}")
        return tmp_path / rest

    testing.check_scheme(fetch, "a")
    with pytest.raises(AssertionError, match="is no file or folder here"):
        testing.check_scheme(lambda rest: tmp_path / "b", "a")
    with pytest.raises(AssertionError, match=r"where aegen\.UsageError was to be raised"):
        testing.check_scheme(lambda rest: tmp_path / "a", "a")
    with pytest.raises(AssertionError, match=r"raises KeyError, not aegen\.UsageError"):
        testing.check_scheme({"a": tmp_path / "a"}.__getitem__, "a")
