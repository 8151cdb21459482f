"""Whole numbers of 24 and 32 bits that files seldom fill: refused where they would come out black, and scaled as said where white is said."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
import torch

from aegen.data.decode import Target, noted, read
from aegen.data.source import read_data
from aegen.data.values import Note, Unreadable
from aegen.errors import UsageError
from aegen.settings import DataSettings


def stored(values: np.ndarray, packing: str | None = None) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb" if values.ndim == 3 else "minisblack", compression=packing)
    return file.getvalue()


def pixels(content: bytes, white: float | None) -> np.ndarray:
    found = read(content, Target(white=white)).permute(1, 2, 0).numpy()
    return found[..., 0] if found.shape[2] == 1 else found


@pytest.mark.parametrize("kind", ["i4", "u4"])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3)])
@pytest.mark.parametrize("packing", [None, "zlib"])
def test_small_numbers_of_32_bits_are_refused_with_the_value_that_would_be_white(
    kind: str, shape: tuple[int, ...], packing: str | None
) -> None:
    values = np.random.default_rng(0).integers(0, 900, shape).astype(kind)
    values.flat[5] = 1000
    content = stored(values, packing)
    with pytest.raises(Unreadable, match=r"go up to 1,000 only.*black where white is [24],\d.*--set data.white=1000"):
        read(content, Target())
    # Two other decoders agree on what the file holds, and that is what is scaled.
    theirs = [tifffile.imread(io.BytesIO(content)), pyvips.Image.new_from_buffer(content, "").numpy()]
    for other in theirs:
        assert np.array_equal(other.squeeze(), values)
        assert np.array_equal(pixels(content, 1000.0), np.rint(other.squeeze() / 1000 * 255))


@pytest.mark.parametrize("kind", ["i4", "u4"])
def test_numbers_that_fill_their_bits_are_scaled_by_them(kind: str) -> None:
    top = np.iinfo(kind).max
    values = np.linspace(0, top, 63).astype(kind).reshape(9, 7)
    content = stored(values)
    for other in (tifffile.imread(io.BytesIO(content)), pyvips.Image.new_from_buffer(content, "").numpy()):
        assert np.array_equal(pixels(content, None), np.rint(other.squeeze() / top * 255))


def test_black_is_black_and_what_is_below_is_noted() -> None:
    assert not pixels(stored(np.zeros((4, 4), np.int32)), None).any()
    below = np.full((4, 4), -7, np.int32)
    _, note = noted(stored(below), Target())
    assert note == Note.CUT
    below[0, 0] = 7
    with pytest.raises(Unreadable, match="go up to 7 only"):
        read(stored(below), Target())


def test_a_folder_of_them_says_so_and_white_makes_it_usable(tmp_path: Path) -> None:
    for number in range(4):
        values = np.full((8, 8), 250 * (number + 1), np.int32)
        (tmp_path / f"{number}.tif").write_bytes(stored(values))
    said: list[str] = []
    with pytest.raises(UsageError, match=r"black where white is 2,147,483,647"):
        read_data(DataSettings(name=str(tmp_path)), {}, said.append)
    found = read_data(DataSettings(name=str(tmp_path), white=1000.0), {}, said.append)
    assert sorted(int(found.pixels[torch.tensor([n])].flatten()[0]) for n in range(4)) == [64, 128, 191, 255]
