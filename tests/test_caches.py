"""Whatever lies in a cache by accident or by intent: it is made anew, nothing is waited for, and no link is written through."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from aegen import descriptions
from aegen.data import decoded_cache
from aegen.data.cache_file import Store
from aegen.data.source import load_data
from aegen.evaluation import feature_cache as features
from aegen.settings import DataSettings

SHAPE = (6, 3, 8, 8)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def doubled(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    os.link(path.with_name("elsewhere"), path)


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def foldered(path: Path) -> None:
    path.unlink()
    path.mkdir()


def headless(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(
        raw.replace(b'"data_offsets": [0, ', b'"data_offsets": [], "x": [', 1).replace(b"6, 3, 8, 8", b"6, 3, 8, 0")
    )


def offsetless(path: Path) -> None:
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    header["pixels"]["data_offsets"] = []
    text = json.dumps(header).encode().ljust(size)
    path.write_bytes(path.read_bytes()[:8] + text + path.read_bytes()[8 + size :])


ODD: list[Callable[[Path], None]] = [emptied, linked, doubled, piped, foldered, headless, offsetless]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six pictures, and a cache that takes them."""
    monkeypatch.setenv("AEGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded_cache, "_LEAST", 0)
    draw = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(SHAPE[0]):
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"photos/{number}.png")
    return tmp_path / "photos"


def pixels(photos: Path) -> Tensor:
    data = load_data(DataSettings(name=str(photos)))
    return torch.cat([torch.as_tensor(part[0 : len(part)]) for part in (data.train, data.validation)])


def bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


@pytest.mark.parametrize("odd", ODD)
def test_decoded_images_are_read_anew_where_their_file_is_odd(photos: Path, odd: Callable[[Path], None]) -> None:
    wanted = pixels(photos)
    (path,) = (photos.parent / "cache/images").iterdir()
    odd(path)
    kept = bytes_of(path.with_name("elsewhere"))
    assert Store.open(path) is None
    assert torch.equal(pixels(photos), wanted)
    assert bytes_of(path.with_name("elsewhere")) == kept
    if odd is not foldered:
        store = Store.open(path)
        assert store is not None and bool(store.there.all())


def test_a_half_of_a_cache_has_a_name_that_nobody_guesses_and_is_no_link(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = pixels(photos)
    root = photos.parent / "cache/images"
    (path,) = root.iterdir()
    path.unlink()
    victim = photos.parent / "victim"
    victim.write_bytes(b"mine")
    for name in (f"{path.stem}.part", f"{path.stem}.0000000000000000.part"):
        (root / name).symlink_to(victim)
    names: list[str] = []
    make = Store.make

    def seen(where: Path, shape: tuple[int, int, int, int]) -> Store:
        names.append(where.name)
        return make(where, shape)

    monkeypatch.setattr(Store, "make", seen)
    assert torch.equal(pixels(photos), wanted)
    path.unlink()
    assert torch.equal(pixels(photos), wanted)
    assert victim.read_bytes() == b"mine"
    assert len(set(names)) == 2
    with pytest.raises(FileExistsError):
        make(path, SHAPE)


def test_a_lock_that_is_a_link_is_not_made_elsewhere(photos: Path) -> None:
    wanted = pixels(photos)
    root = photos.parent / "cache/images"
    (path,) = root.iterdir()
    path.unlink()
    (root / f"{path.stem}.lock").symlink_to(photos.parent / "made")
    assert torch.equal(pixels(photos), wanted)
    assert not (photos.parent / "made").exists()


@pytest.mark.parametrize("odd", [emptied, piped, foldered])
def test_features_are_none_where_their_file_is_odd(tmp_path: Path, odd: Callable[[Path], None]) -> None:
    place = tmp_path / f"{'0' * 32}.safetensors"
    features.write(place, torch.ones(3, 4))
    found = features.read(place, (3, 4))
    assert found is not None and torch.equal(found, torch.ones(3, 4))
    odd(place)
    assert features.read(place, (3, 4)) is None


@pytest.mark.parametrize(
    "content", ["", "[]", "[" * 100_000, '{"components": 3}', '{"components": {}, "stamp": null, "files": []}', None]
)
def test_descriptions_are_none_where_their_file_is_odd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setenv("AEGEN_CACHE", str(tmp_path))
    place: Any = descriptions._place("p")
    place.parent.mkdir(parents=True)
    if content is None:
        os.mkfifo(place)
    else:
        place.write_text(content)
    assert descriptions._read("p") == {}


def test_descriptions_that_are_whole_are_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(descriptions, "_loaded", dict)
    monkeypatch.setattr(descriptions, "_files", {})
    descriptions._keep("p", {"objective/x=y": {"title": "X"}})
    assert descriptions._read("p") == {"objective/x=y": {"title": "X"}}
    place: Any = descriptions._place("p")
    place.write_text(place.read_text().replace('"X"', "null"))
    assert descriptions._read("p") == {}
