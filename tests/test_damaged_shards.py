"""A shard that is damaged or cut short is refused wherever that is, and never read as a shorter one."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Aegen
from PIL import Image

from aegen.data.source import load_data
from aegen.errors import UsageError
from aegen.settings import DataSettings

IMAGES = 12


def shard(path: Path) -> bytes:
    """A shard of small pictures, each of one block after its header."""
    with tarfile.open(path, "w") as archive:
        for number in range(IMAGES):
            picture = io.BytesIO()
            Image.fromarray(np.full((9, 9), 20 * number, np.uint8)).save(picture, "PNG")
            member = tarfile.TarInfo(f"{number:04}.png")
            member.size = len(picture.getvalue())
            archive.addfile(member, io.BytesIO(picture.getvalue()))
    return path.read_bytes()


def count(path: Path) -> int:
    data = load_data(DataSettings(name=str(path), size=(9, 9)))
    return len(data.train) + len(data.validation)


@pytest.mark.parametrize("keep", [100, 511, 600, 1024 + 1, 5 * 1024 + 300, 5 * 1024 + 530, IMAGES * 1024 - 600])
def test_one_that_is_cut_short(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(shard(path)[:keep])
    with pytest.raises(UsageError, match=r"the shard .* cannot be read"):
        load_data(DataSettings(name=str(path), size=(9, 9)))


@pytest.mark.parametrize("member", range(IMAGES))
def test_one_whose_header_is_damaged(tmp_path: Path, member: int) -> None:
    """Half of a set was left out without a word."""
    path = tmp_path / "a.tar"
    content = bytearray(shard(path))
    content[member * 1024 + 3] ^= 1  # of its name, so that its sum does not fit
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"the shard .* cannot be read"):
        load_data(DataSettings(name=str(path), size=(9, 9)))


@pytest.mark.parametrize("end", [0, 100, 512, 1024, 10240])
def test_whole_ones_however_they_end(tmp_path: Path, end: int) -> None:
    """Some writers leave out the zeros at the end, or some of them."""
    path = tmp_path / "a.tar"
    path.write_bytes(shard(path)[: IMAGES * 1024] + bytes(end))
    assert count(path) == IMAGES


def test_it_is_told(aegen: Aegen, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(shard(path)[: 5 * 1024 + 300])
    aegen("train", *TINY, "--data", path, "--steps", 1).refused(2, "a.tar", "damaged or cut short at byte 5,120")
