"""Of a run's data, a file that others wrote says what images are like, and nothing that reads or writes elsewhere on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Aegen
from test_seals import _looked_at, altered, private, trained_on, untouched

from aegen import registry
from aegen.checkpoint import Checkpoint
from aegen.data import source
from aegen.settings import DataSettings

__all__ = ["private", "untouched"]


PHOTOS = """
import torch
from aegen import Dataset, Images
from typing import Literal

class Photos(Dataset):
    '''Images.

    Options:
        place: where they lie.
        places: more of them.
        tone: of all.
        count: of images.
    '''

    def __init__(self, *, place: str = "", places: list[str] = [], tone: Literal["dark", "light"] = "dark", count: int = 20):
        self.place, self.count, self.places, self.tone = place, count, places, tone

    def load(self, settings):
        for place in (self.place, *self.places):
            if place:
                open(place).close()
        g = torch.Generator().manual_seed(0)
        return Images(torch.randint(0, 200 if self.tone == "dark" else 255, (self.count, 1, 16, 16), generator=g, dtype=torch.uint8))
"""


@pytest.fixture
def photos(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with a data set is installed."""
    site = tmp_path_factory.mktemp("site")
    info = site / "photos_set-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: photos-set\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[aegen.datasets]\nphotos = photos_set:Photos\n", encoding="utf-8")
    (site / "photos_set.py").write_text(PHOTOS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(site))
    registry.forget()
    yield
    monkeypatch.undo()
    registry.forget()


@pytest.mark.usefixtures("untouched")
def test_what_else_a_header_says_of_data_is_not_followed(
    aegen: Aegen, private: Path, photos: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither text in the options of a data set, which may be a path, nor what the cache may hold and throw away."""
    words = [*TINY, "--steps", 1, "--data", "photos", "--set", "data.count=30", "--set", "data.tone=light"]
    aegen("train", *words, "--set", "checkpoint.best=false", "--run-dir", "run").worked()

    def asks(header: dict[str, Any]) -> None:
        header["samplers"] = {}
        more = {"place": str(private / "00.png"), "places": [str(private / "01.png")], "cache": False, "cache_gb": 1e-9}
        header["spec"]["data"] |= more

    altered(tmp_path / "run", asks)
    asked: list[tuple[DataSettings, Any]] = []
    read = source.read_data

    def watched(settings: DataSettings, options: Any = None, *more: Any) -> Any:
        asked.append((settings, options))
        return read(settings, options, *more)

    monkeypatch.setattr(source, "read_data", watched)
    monkeypatch.setattr("aegen.evaluation.evaluator.read_data", watched)
    _looked_at.clear()
    aegen("evaluate", "-c", "run", "--metric", "reconstruction").worked()
    aegen("evaluate", "-c", "run", "--metric", "reconstruction", "--data", "photos", "--force").worked()
    aegen("sample", "-c", "run", "-n", 1, "--sampler", "gaussian", "-o", "s.png").worked()
    aegen("report", "run", "--no-evaluate", "-o", "page.html").worked()
    aegen("train", "--resume", "run", "--steps", 2).worked()
    aegen("train", "--resume", "run", "--steps", 3, "--data", "photos").worked()
    assert len(asked) == 6
    for settings, options in asked:
        assert (settings.cache, settings.cache_gb) == (True, 32.0)
        assert {k: v for k, v in options.items() if v} == {"count": 30, "tone": "light"}


def test_how_much_the_cache_may_take_is_under_the_seal(aegen: Aegen, private: Path, tmp_path: Path) -> None:
    """As usual it is in no seal, so that those of earlier versions hold."""
    trained_on(aegen, private)
    path = tmp_path / "run/checkpoints/last.safetensors"
    assert Checkpoint(path).own and set(Checkpoint(path).spec.asks) == {"data", "root", "options", "trackers"}

    def fills(header: dict[str, Any]) -> None:
        header["spec"]["data"]["cache_gb"] = 1e-9

    altered(tmp_path / "run", fills)
    assert not Checkpoint(path).own
    aegen("evaluate", "-c", "run", "--metric", "reconstruction").refused(2, "without a seal of your aegen")
    words = [*TINY, "--batch-size", 4, "--steps", 2, "--data", private, "--set", "data.cache_gb=3"]
    aegen("train", *words, "--run-dir", "own", "--set", "checkpoint.best=false").worked()
    assert Checkpoint(tmp_path / "own/checkpoints/last.safetensors").spec.asks["cache_gb"] == 3
    aegen("evaluate", "-c", "own", "--metric", "reconstruction").worked()
