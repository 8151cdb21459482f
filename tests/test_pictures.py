"""Images → files that people look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aegen import pictures
from aegen.errors import UsageError


def plain(value: int, *shape: int) -> torch.Tensor:
    """uint8 images of one value."""
    return torch.full(shape, value, dtype=torch.uint8)


def test_to_uint8_rounds_where_truncating_would_darken() -> None:
    every = torch.arange(256, dtype=torch.float32)
    assert pictures.to_uint8(every / 127.5 - 1).tolist() == list(range(256))
    assert pictures.to_uint8(torch.tensor([0.6 / 127.5 - 1])).item() == 1


def test_to_uint8_clamps_where_wrapping_would_turn_white_black() -> None:
    """Pythae's `save_img` casts without clamping: 1.01 comes out as 1 instead of 255."""
    beyond = torch.tensor([-7.0, -1.001, 1.001, 1.01, 3.0])
    assert pictures.to_uint8(beyond).tolist() == [0, 0, 255, 255, 255]


def test_to_uint8_takes_half_precision_and_gradients() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.bfloat16, requires_grad=True)
    assert pictures.to_uint8(x).tolist() == [0, 128, 255]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_a_tensor_is_a_picture_of_its_mode_and_values(channels: int, mode: str) -> None:
    image = torch.arange(channels * 6, dtype=torch.uint8).view(channels, 2, 3)
    picture = pictures.to_pil(image)
    assert (picture.mode, picture.size) == (mode, (3, 2))
    assert np.array_equal(np.asarray(picture).reshape(2, 3, channels), image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("count", "columns", "across", "down"), [(9, None, 3, 3), (7, None, 3, 3), (7, 4, 4, 2), (1, None, 1, 1)]
)
def test_a_grid_has_rows_and_columns_with_gaps(count: int, columns: int | None, across: int, down: int) -> None:
    sheet = pictures.grid(plain(0, count, 3, 64, 80), columns)
    assert sheet.size == (across * 82 + 2, down * 66 + 2)


def test_a_grid_puts_images_in_reading_order_with_grey_between() -> None:
    images = torch.cat([plain(v, 1, 1, 64, 64) for v in (10, 20, 30)])
    sheet = np.asarray(pictures.grid(images, columns=2))
    assert [sheet[2, 2], sheet[2, 68], sheet[68, 2], sheet[68, 68], sheet[0, 0]] == [10, 20, 30, 128, 128]


@pytest.mark.parametrize(("side", "shown"), [(8, 32), (16, 64), (28, 56), (64, 64), (100, 100), (1000, 1000)])
def test_small_images_are_enlarged_without_blur(side: int, shown: int) -> None:
    image = torch.zeros(1, side, side, dtype=torch.uint8)
    image[0, 0, 0] = 200
    picture = pictures.enlarge(pictures.to_pil(image))
    assert picture.size == (shown, shown)
    assert set(np.unique(np.asarray(picture))) == {0, 200}
    assert pictures.grid(image[None]).size == (shown + 4, shown + 4)


@pytest.mark.parametrize("channels", [2, 4])
def test_transparent_images_lie_on_white_in_a_grid(channels: int) -> None:
    clear = torch.zeros(1, channels, 64, 64, dtype=torch.uint8)  # black, and invisible
    assert set(np.unique(np.asarray(pictures.grid(clear))[2:-2, 2:-2])) == {255}
    half = clear.clone()
    half[:, -1] = 51
    assert np.asarray(pictures.grid(half))[10, 10].tolist() in (204, [204] * 3)


def test_pairs_put_each_reconstruction_below_its_original() -> None:
    originals = torch.cat([plain(v, 1, 1, 64, 64) for v in (1, 2, 3)])
    sheet = np.asarray(pictures.pairs(originals, originals + 100, columns=2))
    assert sheet.shape == (4 * 66 + 2, 2 * 66 + 2)
    assert [[sheet[2 + 66 * r, 2 + 66 * c] for c in (0, 1)] for r in range(4)] == [
        [1, 2],
        [101, 102],
        [3, 128],
        [103, 128],
    ]
    clear = torch.full((3, 2, 64, 64), 255, dtype=torch.uint8)
    assert np.asarray(pictures.pairs(clear, clear, columns=2))[160, 100] == 128  # nothing, and no transparent image


@pytest.mark.parametrize("value", [0, 255])
def test_lines_between_images_are_seen_beside_dark_and_light_ones(value: int) -> None:
    sheet = np.asarray(pictures.grid(plain(value, 4, 1, 64, 64), columns=2)).astype(int)
    for line in (sheet[0], sheet[:, 0], sheet[66], sheet[:, 67], sheet[-1]):
        assert np.abs(line - value).min(initial=999, where=line != value) > 100 and (line != value).any()


def test_pairs_of_a_few_are_as_wide_as_they_are_many() -> None:
    assert pictures.pairs(plain(0, 1, 3, 64, 64), plain(0, 1, 3, 64, 64)).size == (68, 2 * 66 + 2)


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_an_animation_goes_there_and_back_and_loops(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(4)]
    pictures.animate(frames, tmp_path / f"way{ending}")
    with Image.open(tmp_path / f"way{ending}") as film:
        assert film.n_frames == 6  # 0 1 2 3 2 1
        assert film.info["loop"] == 0
        reds = []
        for i in range(film.n_frames):
            film.seek(i)
            reds.append(film.convert("RGB").getpixel((8, 8))[0])
    assert np.abs(np.array(reds) - [0, 60, 120, 180, 120, 60]).max() < 12


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("ending", [*pictures.STILLS, ".PNG"])
def test_any_mode_is_written_in_any_format_and_nothing_else_is_left(tmp_path: Path, mode: str, ending: str) -> None:
    path = tmp_path / "new" / f"a{ending}"
    pictures.save(Image.new(mode, (16, 16)), path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        assert image.size == (16, 16)


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.eps", "a.gif", "a.pdf"])
def test_endings_of_other_things_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"as {name}; end its name in \.png"):
        pictures.save(Image.new("L", (8, 8)), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"before")

    def fails(self: Image.Image, to: Path, *args: object, **options: object) -> None:
        Path(to).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(OSError, match="No space left on device"):
        pictures.save(Image.new("L", (8, 8)), path)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_that_is_a_file_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        pictures.save(Image.new("L", (8, 8)), tmp_path / "file" / "a.png")
