"""What a picture may cost, what is left out of it, and what is said about both."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from pathlib import Path
from typing import Any

import images
import numpy as np
import pytest
import tifffile
from conftest import Aegen
from PIL import Image

from aegen.data import decode, jpeg, shards
from aegen.data.decode import Target, Unreadable, noted, probe, read
from aegen.data.decode_memory import Room
from aegen.data.shards import ShardRows
from aegen.data.source import load_data
from aegen.data.values import Note, remarks
from aegen.errors import UsageError
from aegen.settings import DataSettings

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The content of an image's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------- texts


def text_chunks(size: int) -> dict[str, tuple[bytes, bytes]]:
    """A text of that many bytes, in every chunk that can hold one."""
    body = b"a" * size
    return {
        "tEXt": (b"tEXt", b"prompt\0" + body),
        "zTXt": (b"zTXt", b"prompt\0\0" + zlib.compress(body)),
        "iTXt": (b"iTXt", b"prompt\0\0\0\0\0" + body),
        "iTXt packed": (b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(body)),
        "iCCP": (b"iCCP", b"profile\0\0" + zlib.compress(body)),
    }


@pytest.mark.parametrize("name", ["tEXt", "zTXt", "iTXt", "iTXt packed", "iCCP"])
@pytest.mark.parametrize("size", [0, 100, 2_000_000, 70_000_000])
def test_a_png_with_a_text_of_any_length_is_read(tmp_path: Path, name: str, size: int) -> None:
    if size > 10**7 and "packed" not in name and name not in ("zTXt", "iCCP"):
        return  # bytes that nobody packed are in the file, whatever reads it
    chunk = text_chunks(size)[name]
    for before, after in ([[chunk], ()], [[], (chunk,)]):
        content = images.png(GREY, 8, 0, *before, after=after)
        assert np.array_equal(read(content, Target())[0].numpy(), GREY)
        assert probe(content) == ((8, 8), 1)
        (tmp_path / "a.png").write_bytes(content)
        assert probe(tmp_path / "a.png") == ((8, 8), 1)


def test_many_texts_of_a_png_are_no_more_than_one() -> None:
    content = images.png(GREY, 8, 0, *[text_chunks(60_000)["zTXt"]] * 1200)
    assert np.array_equal(read(content, Target())[0].numpy(), GREY)


def test_an_orientation_in_a_short_text_is_still_seen() -> None:
    turned = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    xmp = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + turned)
    content = images.png(GREY[:4], 8, 0, xmp, text_chunks(2_000_000)["zTXt"])
    assert np.array_equal(read(content, Target())[0].numpy(), np.rot90(GREY[:4], -1))


# ------------------------------------------------------------------------------------------------- sizes


def photo(size: tuple[int, int], **options: Any) -> bytes:
    return encoded(Image.linear_gradient("L").resize(size).convert("RGB"), "JPEG", **options)


def test_a_jpeg_counts_as_large_as_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Telephones take photographs of 108 and 200 megapixels; here of 12,000 pixels, where 5,000 are too many, and 10,000 twice as many."""
    exif = Image.Exif()
    exif[0x0112] = 6
    inks = encoded(Image.new("CMYK", (120, 100)), "JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    for content in (photo((120, 100)), photo((120, 100), exif=exif), inks):
        for target in (Target((8, 8)), Target((10, 12)), Target((9, 7)), Target((9, 7), fit="resize")):
            assert read(content, target).shape[1:] == target.size
        with pytest.raises(Unreadable, match=r"too large .* 5,000 pixels that AEGEN_MAX_PIXELS allows"):
            read(content, Target())
        assert probe(content) in (((100, 120), 3), ((120, 100), 3))
    with pytest.raises(Unreadable, match="AEGEN_MAX_PIXELS"):
        read(photo((120, 100), progressive=True), Target((8, 8)))  # all of which is held before anything is seen


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG"])
@pytest.mark.parametrize("allowed", [None, 7000, 12_000])
def test_the_largest_image_can_be_said(monkeypatch: pytest.MonkeyPatch, kind: str, allowed: int | None) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # Pillow's own refusal begins at twice that
    content = encoded(Image.linear_gradient("L").resize((120, 100)).convert("RGB"), kind)
    if allowed is not None:
        monkeypatch.setenv("AEGEN_MAX_PIXELS", str(allowed))
    if allowed == 12_000:
        assert read(content, Target()).shape[1:] == (100, 120)
    else:
        with pytest.raises(Unreadable, match=r"^too large to open safely: .*AEGEN_MAX_PIXELS"):
            read(content, Target())


@pytest.mark.parametrize("text", ["many", "0", "-5", "1e8"])
def test_a_limit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("AEGEN_MAX_PIXELS", text)
    with pytest.raises(UsageError, match=f"AEGEN_MAX_PIXELS is '{text}', but takes a number of pixels"):
        read(photo((8, 8)), Target())


# ------------------------------------------------------------------------------------------------- memory


def test_threads_share_room_and_the_largest_is_alone() -> None:
    room, lock, used, most, alone = Room(100 * 2**20), threading.Lock(), [0], [0], []

    def take(size: int) -> None:
        for _ in range(20):
            with room.hold(size):
                with lock:
                    used[0] += size
                    most[0] = max(most[0], used[0])
                    if size > room.most:
                        alone.append(used[0] == size)
                with room.hold(size):  # who holds what it needs does not wait for more
                    pass
                with lock:
                    used[0] -= size

    threads = [threading.Thread(target=take, args=(n * 2**20,)) for n in (5, 20, 30, 30, 45, 60, 99, 100, 130, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert len(alone) == 40 and all(alone)
    assert most[0] == 500 * 2**20


def test_room_is_given_back_when_an_image_is_damaged() -> None:
    whole = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(whole), "PNG")
    for _ in range(3):
        with pytest.raises(Unreadable, match="cut short"):
            read(content[: len(content) // 2], Target((8, 8)))
    assert decode.ROOM._used == 0
    with decode.ROOM.hold(decode.ROOM.most):
        assert read(content, Target()).shape == (3, 900, 900)


WORK = """
import re, sys
from pathlib import Path
from aegen.data import decode
from aegen.data.decode import Target, read_many
decode.workers = lambda: 16
decode.ROOM.most = int(sys.argv[1])
def held():  # at most; ru_maxrss begins with what the parent held
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = held()
found, bad = read_many([Path(name) for name in sys.argv[2:]] * 8, Target((8, 8)))
assert not bad, bad
print((held() - before) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the most that a process held")
def test_memory_is_bounded_for_all_threads_together(tmp_path: Path, environment: dict[str, str]) -> None:
    """Sixteen images at once, each of which needs 30 to 50 MB: as much as one or two of them, and not as sixteen."""
    side = 1700
    floats = io.BytesIO()
    tifffile.imwrite(floats, np.zeros((side, side)), photometric="minisblack", compression="zlib")
    contents = [
        encoded(Image.new("RGBA", (side, side), (9, 8, 7, 6)), "PNG"),
        floats.getvalue(),
    ]
    paths = [tmp_path / str(n) for n in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)

    def megabytes(most: int) -> int:
        command = [sys.executable, "-c", WORK, str(most), *map(str, paths)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert megabytes(2**26) < 260


def test_only_the_named_members_of_an_npz_are_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("unused.npy", b"no array at all")
        archive.writestr("notes.txt", "nor this")
    data = load_data(DataSettings(name=str(path)))
    assert len(data.train) + len(data.validation) == 20 and len(data.classes) == 20
    np.savez(tmp_path / "b.npz", pictures=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20))
    with pytest.raises(UsageError, match="holds labels, pictures, but needs an array named images"):
        load_data(DataSettings(name=str(tmp_path / "b.npz")))


def test_large_images_of_shards_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what lies between images, as a film beside each, is not read with them."""
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(20):
            for name, content in (
                (f"{number:02d}.jpg", photo((16, 16))),
                (f"{number:02d}.mp4", bytes(200_000)),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    data = load_data(DataSettings(name=str(path), size=8), {"kept_gb": 0})
    assert isinstance(data.train, ShardRows)
    whole = data.train[0:18]
    held = [piece.result().size for piece in data.train._pieces.values()]
    assert 0 < sum(held) < 20_000
    monkeypatch.setattr("aegen.data.shards._HELD", 8 * 1000)
    again = load_data(DataSettings(name=str(path), size=8), {"kept_gb": 0}).train
    assert isinstance(again, ShardRows)
    assert again[0:18].equal(whole)
    assert [piece.result().size for piece in again._pieces.values()] == [0]


# ------------------------------------------------------------------------------------------------- notes


def moving(kind: str, frames: int) -> bytes:
    """A picture of that many pages or frames, the first of them black."""
    every = [Image.new("RGB", (8, 8), (90 * n, 0, 0)) for n in range(frames)]
    return encoded(every[0], kind, **({"save_all": True, "append_images": every[1:]} if frames > 1 else {}))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_pages_and_frames_that_are_left_out_are_noted(kind: str) -> None:
    for frames, note in ((1, Note.NOTHING), (3, Note.FRAMES)):
        pixels, found = noted(moving(kind, frames), Target())
        assert found == note
        assert int(pixels.max()) <= 2


def test_smaller_copies_in_a_tiff_are_no_pages() -> None:
    for kind, samples, note in (("reduced", "u1", 0), ("reduced", "u2", 0), ("page", "u1", 1), ("page", "f4", 1)):
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as writer:
            writer.write(np.zeros((16, 16), samples), photometric="minisblack")
            writer.write(np.zeros((8, 8), samples), photometric="minisblack", subfiletype=kind == "reduced")
        assert noted(file.getvalue(), Target())[1] == Note(note)


def test_what_is_left_out_is_said_also_of_images_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegen.data.decoded_cache._LEAST", 0)
    monkeypatch.setenv("AEGEN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(6):
        (folder / f"{n}.gif").write_bytes(moving("GIF", 1 + n // 2))
    file = folder / "x.tif"
    tifffile.imwrite(file, np.full((8, 8), 2.0, "f4"), photometric="minisblack")
    for cache, how in ((False, "memory"), (True, "decoded once"), (True, "read from the cache")):
        told: list[str] = []
        data = load_data(DataSettings(name=str(folder), cache=cache), say=told.append)
        assert how in data.how
        frames, cut = told
        assert frames.startswith("4 images hold several pages or frames, of which the first is used: ")
        assert "2.gif" in frames and "1.gif" not in frames and "and 1 more" in frames
        assert cut.startswith("1 image holds values below black or beyond white") and "x.tif" in cut
    told = []
    white = load_data(DataSettings(name=str(folder), white=2.0), say=told.append)
    assert len(told) == 1 and "decoded once" in white.how


def test_remarks_name_a_few() -> None:
    assert remarks({}) == []
    (one,) = remarks({"a": Note.CUT})
    assert one.startswith("1 image holds values") and one.endswith(": a")


# ------------------------------------------------------------------------------------------------- reasons


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"\0\0\0\x1cftypavif", "an image in AVIF, which is not read"),
        (b"\0\0\0\x18ftypheic", "an image in HEIC"),
        (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        (b"8BPS\0\1", "Photoshop"),
        (b"v/1\x01\2\0\0\0", "OpenEXR"),
        (b"\x89PNG\r\n\x1a\n rest", "a damaged PNG"),
        (b"GIF89a", "GIF"),
        (b"II*\0\x08\0\0\0", "a damaged TIFF"),
        (b"RIFF\0\0\0\0WAVE", "a damaged WebP"),
        (b"hello", "not an image"),
    ],
)
def test_a_file_is_called_what_it_is(content: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        read(content, Target())
    assert probe(content) is None


def test_white_belongs_to_the_run_and_not_to_a_file(tmp_path: Path, aegen: Aegen) -> None:
    """What reconstructs single files scales them as the images were that the model has learned."""
    folder = tmp_path / "d"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(8):
        tifffile.imwrite(folder / f"{n}.tif", rng.random((8, 8)).astype("f4") * 200, photometric="minisblack")
    tifffile.imwrite(tmp_path / "dark.tif", np.full((8, 8), 51, "f4"), photometric="minisblack")
    run = tmp_path / "run"
    tiny = "--set data.white=255 --arch mlp --arch.hidden [8] --latent-dim 2 --steps 1 --no-cache"
    aegen("train", "--data", folder, "--run-dir", run, *tiny.split()).worked()
    aegen("reconstruct", tmp_path / "dark.tif", "-c", run, "-o", tmp_path / "r.png").worked()
    with Image.open(tmp_path / "r.png") as shown:
        assert shown.convert("L").getpixel((5, 5)) == 51


def test_modules_share_one_room_and_one_target() -> None:
    assert shards.ROOM is decode.ROOM is jpeg.ROOM
