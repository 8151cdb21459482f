"""Films keep still what stands still, and sheets of long images are about as wide as high."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aegen import pictures


def frames_of(path: Path) -> np.ndarray:
    """Every frame as it is shown, int (T, H, W, 3)."""
    with Image.open(path) as film:
        found = []
        for number in range(film.n_frames):
            film.seek(number)
            found.append(np.asarray(film.convert("RGB")).astype(int))
        return np.stack(found)


def moving(count: int) -> list[Image.Image]:
    """The left half stands still, the right one changes its colours."""
    y, x = np.mgrid[0:64, 0:64]
    still = np.stack([x * 4, y * 4, (x + y) * 2], 2).astype(np.uint8)
    film = []
    for t in range(count):
        frame = still.copy()
        frame[:, 32:] = frame[:, 32:] // 2 + np.array([12 * t, 127 - 12 * t, 6 * t], np.uint8)
        film.append(Image.fromarray(frame))
    return film


def test_what_stands_still_in_a_film_stands_still_in_a_gif(tmp_path: Path) -> None:
    film = moving(10)
    pictures.animate(film, tmp_path / "a.gif")
    shown = frames_of(tmp_path / "a.gif")
    assert len(shown) == 18  # there and back
    assert (shown[:, :, :32].max(0) == shown[:, :, :32].min(0)).all()
    away = np.abs(shown[:10] - np.stack([np.asarray(frame) for frame in film]))
    assert away.mean() < 12


def test_a_gif_of_grey_or_of_few_colours_is_exact(tmp_path: Path) -> None:
    grey = [Image.fromarray((np.arange(256, dtype=np.uint8).reshape(16, 16) + t).astype(np.uint8)) for t in range(4)]
    few = [
        Image.fromarray(np.stack([np.asarray(frame) // 2, np.asarray(frame) // 2, np.asarray(frame) // 2 + 7], 2))
        for frame in grey
    ]
    for name, film in (("grey", grey), ("few", few)):
        pictures.animate(film, tmp_path / f"{name}.gif")
        wanted = np.stack([np.asarray(frame.convert("RGB")) for frame in film]).astype(int)
        assert (frames_of(tmp_path / f"{name}.gif")[:4] == wanted).all()


@pytest.mark.parametrize(("height", "width"), [(8, 1000), (1000, 8), (16, 256), (30, 400)])
def test_sheets_of_long_images_are_not_long(height: int, width: int) -> None:
    images = torch.zeros(64, 3, height, width, dtype=torch.uint8)
    for sheet in (pictures.grid(images), pictures.pairs(images[:24], images[:24]), pictures.strip([images[:12]])):
        across, down = sheet.size
        assert max(across, down) <= 10 * min(across, down) or max(across, down) <= 1100


def test_a_strip_of_wide_images_goes_down_in_order() -> None:
    ways = [torch.arange(k, k + 3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 64, 256) for k in (10, 20)]
    sheet = np.asarray(pictures.strip(ways))
    assert [[sheet[2 + 66 * row, 2 + 258 * column] for column in (0, 1)] for row in range(3)] == [
        [10, 20],
        [11, 21],
        [12, 22],
    ]
    square = [way[..., :64] for way in ways]
    assert pictures.strip(square).size == pictures.grid(torch.cat(square), columns=3).size


def test_square_images_lie_as_they_did() -> None:
    images = torch.zeros(24, 3, 64, 64, dtype=torch.uint8)
    assert pictures.grid(images).size == (5 * 66 + 2, 5 * 66 + 2)
    assert pictures.pairs(images, images).size == (12 * 66 + 2, 4 * 66 + 2)
