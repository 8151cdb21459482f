"""Every kind of picture and data set → uint8 images, and images → batches."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import simplejpeg
import torch
from conftest import Aegen
from PIL import Image, ImageOps
from torch import Tensor

from aegen.data import decode
from aegen.data.batches import Batches, normalize
from aegen.data.decode import SUFFIXES, Target, Unreadable, probe, read, read_many
from aegen.data.source import Data, load_data
from aegen.data.values import Note
from aegen.errors import EnvironmentFault, UsageError
from aegen.pictures import to_uint8
from aegen.settings import DataSettings

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
CPU = torch.device("cpu")


def values(pixels: Tensor, row: int = 0, column: int = 0) -> tuple[int, ...]:
    """The channels of one pixel."""
    return tuple(pixels[:, row, column].tolist())


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    """Write and give the path back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def photo(path: Path, size: tuple[int, int] = (16, 16), colour: tuple[int, ...] = RED) -> Path:
    """A picture of one colour, (width, height)."""
    return saved(Image.new("RGB", size, colour), path)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than anyone has memory for."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


# ---------------------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255,)),
        ("L", 77, (77,)),
        ("LA", (77, 255), (77,)),
        ("LA", (0, 51), (204,)),  # a fifth of black on white paper
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
    ],
)
def test_a_png_of_every_mode_has_the_colours_it_shows_on_white(
    tmp_path: Path, mode: str, colour: int | tuple[int, ...], expected: tuple[int, ...]
) -> None:
    pixels = read(saved(Image.new(mode, (4, 3), colour), tmp_path / "a.png"), Target())
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (len(expected), 3, 4)
    assert values(pixels) == expected


def palette(transparent: int | None = None) -> Image.Image:
    """Two by one: index 0 red, index 1 blue."""
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


def test_a_palette_is_resolved_to_its_colours(tmp_path: Path) -> None:
    pixels = read(saved(palette(), tmp_path / "a.png"), Target())
    assert (values(pixels), values(pixels, column=1)) == (RED, BLUE)


def test_the_transparent_colour_of_a_palette_is_transparent(tmp_path: Path) -> None:
    path = saved(palette(), tmp_path / "a.png", transparency=1)
    flat, alpha = read(path, Target()), read(path, Target(channels=4))
    assert (values(flat), values(flat, column=1)) == (RED, WHITE)
    assert (values(alpha), values(alpha, column=1)) == ((*RED, 255), (*WHITE, 0))


@pytest.mark.parametrize("ending", [".gif", ".bmp", ".webp", ".tiff", ".TIF", ".PNG"])
def test_every_format_is_read(tmp_path: Path, ending: str) -> None:
    options = {"lossless": True} if ending == ".webp" else {}
    pixels = read(saved(Image.new("RGB", (4, 3), (0, 102, 204)), tmp_path / f"a{ending}", **options), Target())
    assert values(pixels) == (0, 102, 204)
    assert ending.lower() in SUFFIXES


def test_a_jpeg_in_cmyk_is_read(tmp_path: Path) -> None:
    path = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=100)
    red, green, blue = values(read(path, Target()))
    assert red > 250 and green < 5 and blue < 5


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    known = np.array([[0, 257, 200 * 257, 65535]], dtype=np.uint16)
    path = saved(Image.fromarray(known), tmp_path / "a.png")
    with Image.open(path) as image:
        assert image.mode.startswith("I;16")
    assert read(path, Target()).tolist() == [[[0, 1, 200, 255]]]


@pytest.mark.parametrize("white", [None, 1.0, 255.0, 65535.0])
def test_of_floats_the_same_value_is_white_in_every_file(tmp_path: Path, white: float | None) -> None:
    top = white or 1.0
    for most in (0.1, 1.0, 1.5, 300.0):  # whatever else a file holds
        known = np.array([[0, 0.2 * top, top, most * top]], dtype=np.float32)
        path = saved(Image.fromarray(known), tmp_path / "a.tiff")
        assert read(path, Target(white=white)).tolist() == [[[0, 51, 255, min(255, round(most * 255))]]]


def test_floats_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    known = np.array([[0, np.nan]], dtype=np.float32)
    with pytest.raises(Unreadable, match="not finite"):
        read(saved(Image.fromarray(known), tmp_path / "a.tiff"), Target())


def test_of_a_gif_the_first_frame_is_read(tmp_path: Path) -> None:
    second = Image.new("RGB", (4, 4), BLUE)
    path = saved(Image.new("RGB", (4, 4), RED), tmp_path / "a.gif", save_all=True, append_images=[second])
    assert values(read(path, Target())) == RED


@pytest.mark.parametrize("size", [None, (16, 8)])
def test_exif_orientation_comes_out_upright(tmp_path: Path, size: tuple[int, int] | None) -> None:
    lying = Image.new("RGB", (16, 8), RED)
    lying.paste(BLUE, (8, 0, 16, 8))  # left red, right blue; turned clockwise by 6: above red, below blue
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(lying, tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    pixels = read(path, Target(size=size))
    assert pixels.shape == (3, 16, 8)
    assert probe(path) == ((16, 8), 3)
    assert values(pixels, 1, 4)[0] > 200 and values(pixels, 14, 4)[2] > 200


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_mode_gives_any_number_of_channels(tmp_path: Path, mode: str, channels: int) -> None:
    path = saved(Image.new("RGB", (4, 4), WHITE).convert(mode), tmp_path / "a.png")
    pixels = read(path, Target(channels=channels))
    assert pixels.shape == (channels, 4, 4)
    assert values(pixels) == (255,) * channels


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("size", [None, (4, 4), (5, 7)])
def test_colours_that_nobody_sees_do_not_matter(tmp_path: Path, channels: int, size: tuple[int, int] | None) -> None:
    rng = np.random.default_rng(0)
    alpha = np.where(rng.random((8, 8, 1)) < 0.5, 0, 255).astype(np.uint8)
    seen = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    read_as = []
    for i in range(2):
        hidden = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        array = np.concatenate([np.where(alpha > 0, seen, hidden), alpha], axis=2)
        read_as.append(read(saved(Image.fromarray(array), tmp_path / f"{i}.png"), Target(size, channels)))
    assert torch.equal(*read_as)


# ---------------------------------------------------------------------------------------------------- geometry


def flag(path: Path) -> Path:
    """Twelve by four: four columns each of red, green and blue."""
    image = Image.new("RGB", (12, 4), GREEN)
    image.paste(RED, (0, 0, 4, 4))
    image.paste(BLUE, (8, 0, 12, 4))
    return saved(image, path)


def test_crop_keeps_the_centre_and_the_proportions(tmp_path: Path) -> None:
    pixels = read(flag(tmp_path / "a.png"), Target((4, 4), fit="crop"))
    assert {values(pixels, r, c) for r in range(4) for c in range(4)} == {GREEN}


def test_resize_keeps_everything_and_distorts(tmp_path: Path) -> None:
    pixels = read(flag(tmp_path / "a.png"), Target((4, 12), fit="resize"))
    assert [values(pixels, 0, c) for c in (0, 5, 11)] == [RED, GREEN, BLUE]
    squeezed = read(flag(tmp_path / "a.png"), Target((8, 3), fit="resize"))
    red, _, blue = (values(squeezed, 4, c) for c in range(3))
    assert squeezed.shape == (3, 8, 3)
    assert red[0] > 200 > red[2] and blue[2] > 200 > blue[0]


@pytest.mark.parametrize(
    ("size", "at_pixels"), [(24, True), (60, True), (72, True), ((40, 17), False), ((61, 37), False)]
)
def test_a_jpeg_decoded_small_looks_like_the_whole(
    tmp_path: Path, size: int | tuple[int, int], at_pixels: bool
) -> None:
    """What begins and ends at whole pixels is cut out before it is made smaller; Pillow, for the rest, looks across the edge."""
    size = (size, size) if isinstance(size, int) else size
    wave = np.sin(np.arange(400) / 5) * 120 + 128  # a period is a few pixels of the small picture
    array = np.stack(np.broadcast_arrays(wave[:304, None], wave, wave[::-1]), -1).astype(np.uint8)
    whole = Image.fromarray(array)
    path = saved(whole, tmp_path / "a.jpg", quality=95)
    pixels = read(path, Target(size)).permute(1, 2, 0).numpy().astype(int)
    square = whole.crop((48, 0, 352, 304)).resize(size, Image.Resampling.BICUBIC)
    expected = square if at_pixels else ImageOps.fit(whole, size[::-1], Image.Resampling.BICUBIC)
    assert np.abs(pixels - np.asarray(expected).astype(int)).max() <= 6


# ---------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(32, 32), (20, 40), (40, 30), (90, 90), None])
@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_a_jpeg_is_what_pillow_makes_of_it(tmp_path: Path, mode: str, size: tuple[int, int] | None, fit: str) -> None:
    """60×48 pixels: some parts begin at a whole pixel, which another decoder and filter read, others at a half."""
    noise = np.random.default_rng(0).normal(size=(6, 5, 3)).clip(-1, 1) * 90 + 128
    image = Image.fromarray(noise.astype(np.uint8)).resize((60, 48), Image.Resampling.BICUBIC).convert(mode)
    path = saved(image, tmp_path / "a.jpg", quality=95)
    wanted = Image.open(path)
    if size is not None:
        turned = size[1], size[0]
        crop = ImageOps.fit(wanted, turned, Image.Resampling.BICUBIC)
        wanted = crop if fit == "crop" else wanted.resize(turned, Image.Resampling.BICUBIC)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read(path, Target(size, fit=fit)).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(pixels - np.asarray(wanted).reshape(pixels.shape)).max() <= (2 if size else 0)


@pytest.mark.parametrize("size", [None, (20, 20), (8, 10)])
def test_a_jpeg_of_odd_bytes_is_what_pillow_makes_of_it(tmp_path: Path, size: tuple[int, int] | None) -> None:
    """The decoder that is used for whole ones refuses these, as it may; Pillow reads them."""
    path = saved(Image.linear_gradient("L").resize((60, 48)).convert("RGB"), tmp_path / "a.jpg")
    usual = read(path, Target(size))
    content = path.read_bytes()
    odd = content[:-2] + bytes(40) + content[-2:]
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(odd)
    assert torch.equal(read(odd, Target(size)), usual)


@pytest.mark.parametrize(("mode", "target"), [("RGB", Target((16, 16), 3)), ("L", Target((8, 8))), ("RGB", Target())])
def test_a_plain_jpeg_is_read_without_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, target: Target
) -> None:
    """Which takes longer, so nobody would notice if it were read by it again."""
    path = saved(Image.linear_gradient("L").resize((64, 64)).convert(mode), tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "open", lambda *args, **options: pytest.fail("Pillow was asked"))
    assert read(path, target).shape == (len(mode), *(target.size or (64, 64)))


def bad_files(folder: Path) -> dict[str, str]:
    """Files that are no usable images, and a word of the reason for each."""
    rng = np.random.default_rng(0)
    whole = saved(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), folder / "whole.png")
    (folder / "cut.png").write_bytes(whole.read_bytes()[:3000])
    saved(Image.open(whole), folder / "cut.jpg", quality=95)
    (folder / "head.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:30])
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:2000])
    whole.unlink()
    (folder / "zero.png").touch()
    (folder / "text.jpg").write_text("not a picture at all")
    (folder / "bomb.png").write_bytes(png_claiming(60_000, 60_000))
    (folder / "large.png").write_bytes(png_claiming(10_000, 10_000))
    (folder / "program.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n"
    )
    (folder / "notes.txt").write_text("not even by its name")
    return {
        "cut.png": "cut short",
        "cut.jpg": "cut short",
        "head.jpg": "cut short",
        "zero.png": "empty",
        "text.jpg": "not an image",
        "bomb.png": "too large",
        "large.png": "too large",
        "program.png": "not an image",
        "notes.txt": "not an image",
    }


def test_bad_files_are_skipped_counted_and_named_with_a_reason(tmp_path: Path) -> None:
    for i in range(3):
        photo(tmp_path / f"good-{i}.png")
    reasons = bad_files(tmp_path)
    data = load_data(DataSettings(name=str(tmp_path)))
    assert len(data.train) + len(data.validation) == 3
    skipped = {line.partition(" (")[0]: line.partition(" (")[2] for line in data.skipped}
    assert skipped.keys() == reasons.keys()
    assert [name for name, why in reasons.items() if why not in skipped[name]] == []


def test_strict_refuses_bad_files_and_names_them(tmp_path: Path) -> None:
    for i in range(2):
        photo(tmp_path / f"{i}.png")
    (tmp_path / "zero.png").touch()
    with pytest.raises(UsageError, match=r"1 file .*zero\.png \(empty file\).*--strict-data refuses"):
        load_data(DataSettings(name=str(tmp_path), strict=True))


def test_postscript_under_another_name_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: ran.append(args))
    bad_files(tmp_path)
    with pytest.raises(Unreadable, match="not an image"):
        read(tmp_path / "program.png", Target())
    assert not ran


def test_a_decompression_bomb_is_found_whatever_other_threads_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`warnings.catch_warnings` is not for threads: who leaves first takes the others' filters away."""
    good, bomb = photo(tmp_path / "good.png"), tmp_path / "large.png"
    bomb.write_bytes(png_claiming(10_000, 10_000))
    both_inside, good_left = Event(), Event()
    opened, decoded = Image.open, decode.noted

    def open_in_turn(path: Path, **options: object) -> Image.Image:
        if path == good:
            both_inside.wait(10)
        else:
            both_inside.set()
            good_left.wait(10)
        return opened(path, **options)

    def read_and_tell(path: Path, target: Target) -> tuple[Tensor, Note]:
        try:
            return decoded(path, target)
        finally:
            if path == good:
                good_left.set()

    monkeypatch.setattr(decode.Image, "open", open_in_turn)
    monkeypatch.setattr(decode, "noted", read_and_tell)
    monkeypatch.setattr(decode, "workers", lambda: 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pytest's own filters would hide it
        before = list(warnings.filters)
        _, bad = read_many([good, bomb], Target((8, 8)))
        assert warnings.filters == before
    assert [(path, reason.partition(":")[0]) for path, reason in bad] == [(bomb, "too large to open safely")]


# ---------------------------------------------------------------------------------------------------- folders


def load(folder: Path, **settings: object) -> Data:
    """A folder as data."""
    return load_data(DataSettings(name=str(folder), **settings))  # type: ignore[arg-type]


def test_a_folder_is_searched_through_and_through(tmp_path: Path) -> None:
    for place in ("a.png", "deep/b.jpg", "deep/deeper/c.webp"):
        photo(tmp_path / place)
    data = load(tmp_path)
    assert len(data.train) + len(data.validation) == 3
    assert data.image == (3, 16, 16)
    assert data.classes == [] and data.train_labels is None


def test_a_folder_a_class_gives_labels(tmp_path: Path) -> None:
    for name, colour in (("red", RED), ("blue", BLUE)):
        for i in range(4):
            photo(tmp_path / name / f"{i}.png", colour=colour)
    data = load(tmp_path)
    assert data.classes == ["blue", "red"]
    assert data.train_labels is not None and data.validation_labels is not None
    labels = torch.cat([data.train_labels, data.validation_labels])
    images = torch.cat([data.train, data.validation])
    assert [values(i) for i in images] == [RED if label else BLUE for label in labels.tolist()]


def test_pictures_beside_the_classes_mean_that_there_are_none(tmp_path: Path) -> None:
    for place in ("a/1.png", "b/2.png", "3.png"):
        photo(tmp_path / place)
    assert load(tmp_path).classes == []


def test_hidden_files_are_no_data(tmp_path: Path) -> None:
    for place in ("a.png", "b.png", "._a.png", ".git/c.png", "__MACOSX/a.png"):
        photo(tmp_path / place)
    (tmp_path / "Thumbs.db").touch()
    data = load(tmp_path)
    assert len(data.train) + len(data.validation) == 2
    assert data.skipped == []


def test_a_size_that_all_share_is_kept(tmp_path: Path) -> None:
    for i in range(3):
        photo(tmp_path / f"{i}.png", size=(20, 12))
    assert load(tmp_path).image == (3, 12, 20)


def test_mixed_sizes_become_64_by_64(tmp_path: Path) -> None:
    for i in range(3):
        photo(tmp_path / f"{i}.png", size=(20 + i, 12))
    assert load(tmp_path).image == (3, 64, 64)
    assert load(tmp_path, size=[8, 24], channels=1).image == (1, 8, 24)


def test_grey_pictures_stay_grey_and_one_coloured_makes_all_coloured(tmp_path: Path) -> None:
    for i in range(3):
        saved(Image.new("L", (16, 16), i), tmp_path / f"{i}.png")
    assert load(tmp_path).image == (1, 16, 16)
    photo(tmp_path / "coloured.png")
    assert load(tmp_path).image == (3, 16, 16)


def test_the_number_of_readable_pictures_decides_whether_there_are_classes(tmp_path: Path) -> None:
    for place in ("a/1.png", "b/2.png", "b/3.png"):
        photo(tmp_path / place)
    (tmp_path / "empty.png").touch()
    assert load(tmp_path).classes == ["a", "b"]


@pytest.mark.parametrize(("files", "message"), [((), "and nothing else"), (("a.txt", "b.md"), "but 2 other files")])
def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=f"holds no image {message}; PNG, JPEG"):
        load(tmp_path)


def test_a_folder_of_bad_files_only_names_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(UsageError, match=r"none of the 1 images .*a\.png \(empty file\)"):
        load(tmp_path)


@pytest.fixture
def nobody() -> Iterator[None]:
    """The superuser may read everything; for a while we are not the superuser."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("below", [".", "photos"])
def test_a_folder_that_may_not_be_read_is_a_usage_error(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    photo(tmp_path / "open" / "1.png")
    photo(tmp_path / "open" / "2.png")
    load(tmp_path / "open")  # imports what it needs, which nobody may not be able to read
    locked = tmp_path / "locked"
    photo(locked / "photos" / "1.png")
    monkeypatch.chdir(tmp_path)  # the folders above tmp_path are locked too
    tmp_path.chmod(0o755)
    locked.chmod(0)
    request.getfixturevalue("nobody")
    with pytest.raises(UsageError, match=r"(?i)locked.*(permission|denied)"):
        load(Path("locked") / below)


# ---------------------------------------------------------------------------------------------------- arrays


def numbered(count: int = 20, *shape: int) -> np.ndarray:
    """Images that can be told apart: all pixels of the i-th are i."""
    shape = shape or (8, 8)
    return np.broadcast_to(np.arange(count, dtype=np.uint8).reshape(-1, *[1] * len(shape)), (count, *shape)).copy()


def numbers(images: Tensor) -> list[int]:
    """Which images these are."""
    return images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(("shape", "image"), [((8, 9), (1, 8, 9)), *(((8, 9, c), (c, 8, 9)) for c in (1, 2, 3, 4))])
def test_npy_and_npz_of_every_shape(tmp_path: Path, shape: tuple[int, ...], image: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", numbered(20, *shape))
    np.savez_compressed(tmp_path / "a.npz", images=numbered(20, *shape), labels=np.arange(20) % 3)
    bare, labelled = load(tmp_path / "a.npy"), load(tmp_path / "a.npz")
    assert bare.image == labelled.image == image
    assert sorted(numbers(bare.train) + numbers(bare.validation)) == list(range(20))
    assert bare.train_labels is None
    assert labelled.classes == ["0", "1", "2"]
    assert labelled.train_labels is not None
    assert labelled.train_labels.tolist() == [n % 3 for n in numbers(labelled.train)]


def test_an_array_is_brought_to_size_and_channels(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbered(4, 8, 12))
    assert load(tmp_path / "a.npy", size=16, channels=3).image == (3, 16, 16)


@pytest.mark.parametrize(
    ("array", "pieces"),
    [
        (numbered(4).astype(np.float32), ["float32", "uint8", "0…255"]),
        (numbered(4, 3, 8, 8), ["(4, 3, 8, 8)", "channels come last"]),
        (numbered(4, 8, 8, 5), ["(4, 8, 8, 5)", "1 to 4 channels"]),
        (numbered(64)[:, 0, 0], ["(64,)", "(N, H, W)"]),
        (numbered(4, 4, 4), ["4×4", "8×8", "--size"]),
        (numbered(1), ["holds 1 image", "at least 2"]),
        (numbered(0), ["holds 0 image", "at least 2"]),
    ],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_arrays_that_are_no_images_are_refused(
    tmp_path: Path, array: np.ndarray, pieces: list[str], ending: str
) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, array)
    else:
        np.savez(path, images=array)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert [p for p in pieces if p not in str(caught.value)] == []


def test_an_empty_array_that_is_to_be_resized_is_refused_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbered(0))
    with pytest.raises(UsageError, match="holds 0 image"):
        load(tmp_path / "a.npy", size=16)


@pytest.mark.parametrize(
    "labels", [np.zeros(3, int), np.zeros((4, 1), int), np.zeros(4), np.array([0, 1, -1, 2]), np.array(list("abcd"))]
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=numbered(4), labels=labels)
    with pytest.raises(UsageError, match=r"labels .* needs one integer from 0 to 65535 an image"):
        load(tmp_path / "a.npz")


def test_an_npz_may_bring_its_own_split(tmp_path: Path) -> None:
    arrays = {"images": numbered(7), "labels": np.arange(7) % 2}
    held = {"validation_images": numbered(3), "validation_labels": np.array([0, 4, 1])}
    np.savez(tmp_path / "both.npz", **arrays, **held)
    data = load(tmp_path / "both.npz")
    assert len(data.train) == 7 and data.validation.shape[0] == 3
    assert data.validation_labels is not None and data.validation_labels.tolist() == [0, 4, 1]
    assert data.classes == ["0", "1", "2", "3", "4"]
    np.savez(tmp_path / "half.npz", **arrays, validation_images=held["validation_images"])
    assert load(tmp_path / "half.npz").train_labels is None
    np.savez(tmp_path / "odd.npz", **arrays, validation_images=numbered(3, 9, 9))
    with pytest.raises(UsageError, match="different shapes"):
        load(tmp_path / "odd.npz")


def test_an_npz_without_images_says_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=numbered(4), y=np.arange(4))
    with pytest.raises(UsageError, match="holds x, y, but needs an array named images"):
        load(tmp_path / "a.npz")


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_pickled_objects_are_refused_and_never_run(tmp_path: Path, ending: str) -> None:
    objects = np.array([Trap(tmp_path / "mark")], dtype=object)
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, objects, allow_pickle=True)
    else:
        np.savez(path, images=objects, allow_pickle=True)
    with pytest.raises(UsageError, match="cannot be read"):
        load(path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY\x01\x00", b"PK\x03\x04 and no more"])
def test_damaged_array_files_are_refused(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.np. cannot be read .*uint8"):
        load(path)


# ---------------------------------------------------------------------------------------------------- splits


def test_the_split_is_disjoint_complete_and_always_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbered(50))
    first = load(tmp_path / "a.npy", validation=0.2)
    torch.manual_seed(123)  # the seed of a run must not move it
    second = load(tmp_path / "a.npy", validation=0.2)
    assert sorted(numbers(first.train) + numbers(first.validation)) == list(range(50))
    assert len(first.validation) == 10
    assert numbers(first.validation) == numbers(second.validation)
    assert numbers(first.validation) != list(range(40, 50))  # not just the tail, which in sorted sets is one class


@pytest.mark.parametrize(("count", "share"), [(2, 0.1), (2, 0.5), (3, 0.01), (11, 0.5)])
def test_neither_part_of_a_split_is_empty(tmp_path: Path, count: int, share: float) -> None:
    np.save(tmp_path / "a.npy", numbered(count))
    data = load(tmp_path / "a.npy", validation=share)
    assert len(data.train) >= 1 and len(data.validation) >= 1


def test_a_fingerprint_tells_images_apart_but_not_readings(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbered(20))
    changed = numbered(20)
    changed[:, 3, 3] += 1
    np.save(tmp_path / "b.npy", changed)
    prints = [load(tmp_path / name).fingerprint() for name in ("a.npy", "a.npy", "b.npy")]
    assert prints[0] == prints[1] != prints[2]


# ---------------------------------------------------------------------------------------------------- batches


def batches(count: int, size: int, **options: int) -> Batches:
    """Over numbered images."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return Batches(pixels, size, **{"seed": 0, **options}, device=CPU)


def drawn(source: Batches, step: int) -> list[int]:
    """Which images an optimizer step sees."""
    parts = [source.micro(step, part)[0] for part in range(source.accumulate)]
    return numbers(torch.cat(parts).add(1).mul(127.5).round().int())


def epoch(source: Batches, number: int) -> list[int]:
    """Which images an epoch sees."""
    steps = range(number * source.per_epoch, (number + 1) * source.per_epoch)
    return [i for step in steps for i in drawn(source, step)]


def test_pixels_go_from_0_255_to_minus_one_one() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    values = normalize(every)
    torch.testing.assert_close(values, every / 127.5 - 1, rtol=0, atol=2e-7)
    assert values.min() == -1
    assert values.max() <= 1
    assert torch.equal(to_uint8(values), every)


@pytest.mark.parametrize(("count", "size"), [(40, 8), (43, 8), (5, 64), (1, 1)])
def test_an_epoch_sees_no_image_twice_and_leaves_out_less_than_a_batch(count: int, size: int) -> None:
    source = batches(count, size)
    seen = epoch(source, 0)
    assert len(seen) == len(set(seen))
    assert count - len(seen) < source.batch_size


def test_every_epoch_has_its_own_order() -> None:
    source = batches(40, 8)
    assert epoch(source, 0) != epoch(source, 1)
    assert sorted(epoch(source, 0)) == sorted(epoch(source, 1)) == list(range(40))


def test_the_order_is_a_function_of_the_seed_and_the_step_alone() -> None:
    one, again, other = batches(40, 8, seed=3), batches(40, 8, seed=3), batches(40, 8, seed=4)
    torch.manual_seed(99)
    assert drawn(again, 7) == [drawn(one, step) for step in range(8)][7]
    assert epoch(one, 0) != epoch(other, 0)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_share_the_batch_of_one_process(accumulate: int) -> None:
    whole = batches(40, 8, accumulate=accumulate)
    ranks = [batches(40, 4, rank=rank, world=2, accumulate=accumulate) for rank in (0, 1)]
    for step in range(2 * whole.per_epoch):
        halves = [drawn(rank, step) for rank in ranks]
        assert not set(halves[0]) & set(halves[1])
        assert set(halves[0]) | set(halves[1]) == set(drawn(whole, step))


# ---------------------------------------------------------------------------------------------------- torchvision


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "celeba"])
def test_a_missing_set_names_both_ways_out(aegen: Aegen, name: str) -> None:
    said = aegen("train", "--data", name, "--data-root", "nowhere")
    said.refused(4, name, "nowhere", "--download", "--data-root")
    assert not Path("runs").exists() and not Path("nowhere").exists()


def idx(path: Path, array: np.ndarray) -> None:
    """The format of MNIST's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def test_mnist_is_read_with_its_labels_and_its_own_split(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    for part, count in (("train", 6), ("t10k", 3)):
        idx(raw / f"{part}-images-idx3-ubyte", numbered(count, 28, 28))
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))
    data = load_data(DataSettings(name="mnist", root=str(tmp_path)))
    assert data.image == (1, 28, 28)
    assert numbers(data.train) == list(range(6)) and numbers(data.validation) == list(range(3))
    assert data.train_labels is not None and data.train_labels.tolist() == list(range(6))
    assert len(data.classes) == 10
    assert load_data(DataSettings(name="mnist", root=str(tmp_path), size=32, channels=3)).image == (3, 32, 32)


def test_mnist_cut_short_is_not_taken_for_missing(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    for part in ("train", "t10k"):
        idx(raw / f"{part}-images-idx3-ubyte", numbered(6, 28, 28))
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(6, dtype=np.uint8))
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises((EnvironmentFault, UsageError), match=r"(?i)damaged|cut short|cannot be read"):
        load_data(DataSettings(name="mnist", root=str(tmp_path)))


def test_the_digits_are_there_without_a_network(aegen: Aegen) -> None:
    data = load_data(DataSettings())
    assert data.image == (1, 32, 32)
    assert len(data.train) + len(data.validation) == 1797
    assert data.classes == [str(n) for n in range(10)]
    assert (data.train.amin(), data.train.amax()) == (0, 255)
