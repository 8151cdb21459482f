"""From a folder or shards to the device: the cache of decoded images, rows that are read when asked for, batches made ahead, changes."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import aegen_builtin.data.shards
import numpy as np
import pytest
import torch
from conftest import TINY, Aegen
from PIL import Image
from torch import Tensor

from aegen.checkpoint import Checkpoint
from aegen.data import decode, decoded_cache
from aegen.data.augment import Augment, changed
from aegen.data.batches import Batches, normalize
from aegen.data.cache_file import Store
from aegen.data.image_rows import MemoryRows, Rows
from aegen.data.prefetch import Ahead
from aegen.data.source import Data, load_data
from aegen.errors import RunError, UsageError
from aegen.settings import DataSettings
from aegen.training.run import train

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that takes even the smallest set, and memory that takes none."""
    monkeypatch.setenv("AEGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded_cache, "_LEAST", 0)
    monkeypatch.setattr(decoded_cache, "SMALL", 0)
    return tmp_path / "cache" / "images"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty noisy pictures, 9×11 pixels, so that an image is no whole number of words."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for n in range(40):
        Image.fromarray(draw.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(folder / f"{n:02d}.png")
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each image had that was decoded since."""
    seen: list[int] = []
    noted = decode.noted

    def count(source: Path | bytes, target: decode.Target) -> tuple[Tensor, Any]:
        seen.append(len(source) if isinstance(source, bytes) else 0)
        return noted(source, target)

    monkeypatch.setattr(decode, "noted", count)
    return seen


def load(folder: Path, **settings: Any) -> Data:
    return load_data(DataSettings(name=str(folder), **settings))


def every(data: Data) -> Tensor:
    """All pixels, as one tensor."""
    return torch.cat([torch.as_tensor(part[0 : len(part)]) for part in (data.train, data.validation)])


def files(cache: Path) -> list[str]:
    return sorted(path.suffix for path in cache.iterdir())


# ---------------------------------------------------------------------------------------------------- the cache


def test_a_folder_is_decoded_once_and_is_the_same_in_memory_in_the_cache_and_from_it(
    photos: Path, cache: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(photos)
    assert "decoded once into the cache" in first.how and "40 " in first.how
    assert isinstance(first.train, Rows) and len(first.train) == 36
    assert len(decoded) == 40
    again = load(photos)
    assert "read from the cache" in again.how
    assert len(decoded) == 40
    plain = load(photos, cache=False)
    assert "into memory" in plain.how and isinstance(plain.train, Tensor)
    assert torch.equal(every(first), every(plain)) and torch.equal(every(again), every(plain))
    assert first.fingerprint() == again.fingerprint() == plain.fingerprint()
    assert files(cache) == [".safetensors"]
    monkeypatch.setattr(decoded_cache, "SMALL", 2**20)
    held = load(photos)
    assert isinstance(held.train, Tensor) and torch.equal(every(held), every(plain))
    assert held.fingerprint() == plain.fingerprint()


def test_an_empty_name_of_the_cache_and_no_cache_leave_nothing_behind(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(photos, cache=False)
    monkeypatch.setenv("AEGEN_CACHE", "")
    load(photos)
    assert not cache.exists() and not Path("images").exists()


@pytest.mark.parametrize("change", ["touched", "added", "removed", "renamed", "size", "channels", "fit", "version"])
def test_what_decoding_depends_on_is_in_the_key(
    photos: Path, cache: Path, decoded: list[int], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(photos)
    settings: dict[str, Any] = {}
    if change == "touched":
        os.utime(photos / "00.png", ns=(1, 1))
    elif change == "added":
        (photos / "40.png").write_bytes((photos / "00.png").read_bytes())
    elif change == "removed":
        (photos / "39.png").unlink()
    elif change == "renamed":
        (photos / "39.png").rename(photos / "zz.png")
    elif change == "version":
        monkeypatch.setattr(decode, "VERSION", decode.VERSION + 1)
    else:
        settings = {"size": {"size": 8}, "channels": {"channels": 1}, "fit": {"fit": "resize"}}[change]
    before = len(decoded)
    load(photos, **settings)
    assert len(decoded) - before == {"added": 41, "removed": 39}.get(change, 40)


def test_the_fingerprint_tells_contents_apart_and_not_places_or_times(
    photos: Path, cache: Path, tmp_path: Path
) -> None:
    before = load(photos).fingerprint()
    moved = photos.rename(tmp_path / "moved")
    os.utime(moved / "00.png", ns=(1, 1))
    assert load(moved).fingerprint() == before
    Image.new("RGB", (11, 9)).save(moved / "00.png")
    Image.new("RGB", (11, 9)).save(moved / "01.png")  # one of the two is a training image
    assert load(moved).fingerprint() != before


def test_bad_files_are_named_each_time_and_read_once_they_can_be(photos: Path, cache: Path) -> None:
    whole = (photos / "07.png").read_bytes()
    (photos / "07.png").write_bytes(b"no image" + bytes(len(whole) - 8))
    told = os.stat(photos / "07.png")
    for _ in range(2):
        data = load(photos)
        assert data.skipped == ["07.png (not an image)"]
        assert len(every(data)) == 39
    (photos / "07.png").write_bytes(whole)
    os.utime(photos / "07.png", ns=(told.st_atime_ns, told.st_mtime_ns))  # as if only permissions had been in the way
    for _ in range(2):
        data = load(photos)
        assert not data.skipped
        assert torch.equal(every(data), every(load(photos, cache=False)))


@pytest.mark.parametrize("harm", ["cut", "empty", "header", "no json", "length"])
def test_a_cache_that_is_no_longer_whole_is_made_anew(photos: Path, cache: Path, decoded: list[int], harm: str) -> None:
    wanted = every(load(photos))
    (file,) = cache.iterdir()
    content = file.read_bytes()
    file.write_bytes(
        {
            "cut": content[:-1],
            "empty": b"",
            "header": content[:6],
            "no json": content[:8] + b"x" + content[9:],
            "length": b"\xff" * 8 + content[8:],
        }[harm]
    )
    decoded.clear()
    data = load(photos)
    assert len(decoded) == 40
    assert torch.equal(every(data), wanted)


@pytest.mark.parametrize("place", ["pixels", "table"])
def test_a_damaged_image_is_decoded_anew_and_the_others_are_not(
    photos: Path, cache: Path, decoded: list[int], place: str
) -> None:
    wanted = load(photos)
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    store = Store.open(file)
    assert store is not None
    at = store._pixels_at + 5 * store._stride + 17 if place == "pixels" else store._table_at + 5 * 40 + 3
    content[at] ^= 0x40
    file.write_bytes(content)
    decoded.clear()
    for _ in range(2):
        data = load(photos)
        assert torch.equal(every(data), every(wanted))
        assert len(decoded) == 1
        assert data.fingerprint() == wanted.fingerprint()


def test_a_damaged_image_whose_file_is_gone_ends_the_run_with_both_names(photos: Path, cache: Path) -> None:
    data = load(photos)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-5000] + bytes(5000))
    (photos / "39.png").unlink()
    with pytest.raises(RunError, match=r"39\.png is damaged in the cache .*no such file.*delete") as error:
        every(data)
    assert str(file) in str(error.value)


def test_a_cache_cut_short_under_a_run_does_no_harm(photos: Path, cache: Path) -> None:
    data = load(photos)
    wanted = every(data)
    (file,) = cache.iterdir()
    os.truncate(file, 3000)
    assert torch.equal(every(data), wanted)


def test_a_run_that_was_killed_leaves_what_it_decoded_to_the_next(
    photos: Path, cache: Path, decoded: list[int], environment: dict[str, str]
) -> None:
    """SIGKILL after the 25th image, with one thread, and images written by fives."""
    code = f"""
import os, signal
from aegen.data import cache_file, decode, decoded_cache, encoded
from aegen.data.source import load_data
from aegen.settings import DataSettings
decoded_cache._LEAST, encoded.workers, read, seen = 0, lambda: 1, decode.noted, []
cache_file._TOGETHER = 5 * 3 * 9 * 11
def count(source, target):
    seen.append(1)
    if len(seen) == 26:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(source, target)
decode.noted = count
load_data(DataSettings(name={str(photos)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert files(cache) == [".lock", ".part"]
    data = load(photos)
    assert len(decoded) == 15
    assert torch.equal(every(data), every(load(photos, cache=False)))
    assert files(cache) == [".safetensors"]


def test_two_runs_at_once_decode_once_and_the_second_waits(
    photos: Path, cache: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads hold the lock as two processes do: each opens the file for itself."""
    inside, go = threading.Event(), threading.Event()
    held = decoded_cache.decode_all

    def slow(*args: Any) -> dict[int, str]:
        inside.set()
        go.wait(20)
        return held(*args)

    monkeypatch.setattr(decoded_cache, "decode_all", slow)
    found: dict[str, Data] = {}
    talk: list[str] = []

    def second() -> None:
        def say(text: str) -> None:
            talk.append(text)
            go.set()

        found["second"] = load_data(DataSettings(name=str(photos)), say=say)

    threads = [threading.Thread(target=lambda: found.update(first=load(photos))), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    for thread in threads:
        thread.join(30)
    assert len(talk) == 1 and "waiting" in talk[0]
    assert len(decoded) == 40
    assert torch.equal(every(found["first"]), every(found["second"]))
    assert "read from the cache" in found["second"].how


def no_room(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("trouble", ["full", "full at the end", "a file", "limit", "little room"])
def test_without_room_for_the_cache_the_run_goes_on_and_says_so(
    photos: Path, cache: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {}
    wanted = every(load(photos, cache=False))
    if trouble == "full":
        monkeypatch.setattr(Store, "put", no_room)
    elif trouble == "full at the end":
        monkeypatch.setattr(Store, "finish", no_room)
    elif trouble == "a file":
        cache.parent.write_text("not a folder")
    elif trouble == "limit":
        settings = {"cache_gb": 1e-6}
    else:
        monkeypatch.setattr(decoded_cache, "_SPARE", 2**62)
    talk: list[str] = []
    data = load_data(DataSettings(name=str(photos), **settings), say=talk.append)
    assert len(talk) == 1 and "cannot be kept" in talk[0] and str(cache) in talk[0]
    reason = {"limit": "data.cache_gb is 1e-06", "little room": "too little room", "a file": "ot a directory"}
    assert reason.get(trouble, "No space left on device") in talk[0]
    assert "into memory" in data.how
    assert torch.equal(every(data), wanted)
    assert trouble == "a file" or not files(cache)


def test_a_cache_that_may_only_be_read_is_read(photos: Path, cache: Path, decoded: list[int]) -> None:
    (photos / "07.png").write_bytes(b"no image")
    wanted = every(load(photos))
    (file,) = cache.iterdir()
    file.chmod(0o444)
    cache.chmod(0o555)
    opened = os.open

    def refuse(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(cache)):
            raise PermissionError(errno.EACCES, "Permission denied")  # also for root
        return opened(path, flags, *rest, **more)

    decoded.clear()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", refuse)
            data = load(photos)
    finally:
        cache.chmod(0o755)
    assert len(decoded) == 1
    assert "read from the cache" in data.how and torch.equal(every(data), wanted)


def test_the_oldest_decoded_images_go_when_there_are_too_many(
    photos: Path, cache: Path, tmp_path: Path, decoded: list[int]
) -> None:
    room = 2.5 * Path(_only(load(photos), cache)).stat().st_size / 1e9
    mine = cache / "mine.txt"
    mine.write_text("not the cache's")
    for age, size in enumerate((8, 9)):
        for path in cache.glob("*.safetensors"):
            os.utime(path, (age, age))
        load(photos, size=[9, size + 3], cache_gb=room)  # of nearly the same size
    assert len(list(cache.glob("*.safetensors"))) == 2
    assert mine.exists()
    decoded.clear()
    load(photos, size=[9, 12], cache_gb=room)
    assert not decoded


def _only(data: Data, cache: Path) -> Path:
    (file,) = cache.glob("*.safetensors")
    return file


def test_sets_too_large_for_memory_and_without_a_cache_are_decoded_as_they_are_asked_for(
    photos: Path, cache: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load(photos, cache=False)
    monkeypatch.setattr(decoded_cache, "_free_memory", lambda: 0)
    decoded.clear()
    data = load(photos, cache=False)
    assert "whenever they are asked for" in data.how
    assert len(decoded) == 40
    assert torch.equal(every(data), every(plain)) and data.fingerprint() == plain.fingerprint()
    assert len(decoded) == 80
    for path in photos.iterdir():
        path.unlink()
    with pytest.raises(RunError, match="can no longer be read"):
        data.train[0:1]


# ---------------------------------------------------------------------------------------------------- rows


class Counted(MemoryRows):
    """Rows that remember how many images were read at once."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__(pixels)
        self.asked: list[int] = []

    def read(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        self.asked.append(len(index))
        return super().read(index, out)


def numbered(count: int) -> Tensor:
    """Images that are their number."""
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()


def test_rows_slice_and_split_as_a_tensor_does_and_read_no_more_than_that() -> None:
    pixels = numbered(50)
    index = torch.tensor([4, 40, 3, 9, 9, 21, 30])
    rows = Counted(pixels)
    picked = rows.pick(index).pick(torch.arange(6))
    wanted = pixels[index][:6]
    assert picked.shape == wanted.shape and len(picked) == 6
    assert torch.equal(picked[1:4], wanted[1:4])
    assert torch.equal(picked[torch.tensor([5, 0])], wanted[torch.tensor([5, 0])])
    parts = picked.split(4)
    assert len(parts) == 2 and rows.asked == [3, 2]
    assert torch.equal(torch.cat(list(parts)), wanted)
    assert torch.equal(torch.cat(list(parts[1::2])), wanted[4:])
    assert max(rows.asked) == 4


# ---------------------------------------------------------------------------------------------------- ahead


def batches(pixels: Tensor | Rows, size: int = 4, **options: Any) -> Batches:
    return Batches(pixels, size, **{"seed": 3, "device": CPU, **options})


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("world", [1, 2])
def test_batches_of_rows_are_those_of_a_tensor_whatever_step_is_asked_for(world: int, accumulate: int) -> None:
    pixels, labels = numbered(50), torch.arange(50)
    for rank in range(world):
        options = {"rank": rank, "world": world, "accumulate": accumulate, "labels": labels}
        plain, ahead = batches(pixels, **options), batches(MemoryRows(pixels), **options)
        steps = [0, 1, 2, 9, 3, 2, 40, *range(2 * plain.per_epoch)]
        for step in steps:
            for part in range(accumulate):
                (x, y), (u, v) = plain.micro(step, part), ahead.micro(step, part)
                assert torch.equal(x, u) and y is not None and v is not None and torch.equal(y, v)


def test_what_comes_next_is_made_while_the_loop_does_something_else() -> None:
    made: dict[int, threading.Thread] = {}
    second = threading.Event()

    def make(number: int) -> int:
        made[number] = threading.current_thread()
        if number == 1:
            second.set()
        return number

    ahead = Ahead(make, 1)
    assert ahead.take(0) == 0
    assert second.wait(20)
    assert threading.main_thread() not in made.values()
    assert ahead.take(1) == 1
    assert sorted(made) in ([0, 1], [0, 1, 2])


def test_an_error_of_a_batch_is_raised_where_it_is_taken() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise RunError("gone")
        return number

    ahead = Ahead(make, 3)
    assert [ahead.take(0), ahead.take(1)] == [0, 1]
    with pytest.raises(RunError, match="gone"):
        ahead.take(2)


def test_threads_end_with_their_batches() -> None:
    before = threading.active_count()
    for _ in range(5):
        one = batches(MemoryRows(numbered(20)))
        one.micro(0, 0)
        del one
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


# ---------------------------------------------------------------------------------------------------- changes


def test_a_change_mirrors_and_moves_and_nothing_else() -> None:
    image = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4)
    row = image[0, 0, 0].tolist()
    assert row == [0, 1, 2, 3]

    def first(flip: int, down: int, right: int) -> list[list[int]]:
        told: list[list[int]] = changed(image, torch.tensor([[flip, down, right]]))[0, 0].tolist()
        return told

    assert first(0, 0, 0) == image[0, 0].tolist()
    assert first(1, 0, 0) == image.flip(3)[0, 0].tolist()
    assert first(0, 0, 1)[0] == [1, 0, 1, 2]  # what comes in is mirrored about the edge
    assert first(0, 0, -2)[0] == [2, 3, 2, 1]
    assert [line[0] for line in first(0, 1, 0)] == [4, 0, 4]
    assert [line[0] for line in first(0, -1, 0)] == [4, 8, 4]


def test_changes_are_of_every_kind_and_a_function_of_seed_step_and_place() -> None:
    draws = Augment(True, 2, seed=5).draw(7, 1000, 0, 1000)
    assert torch.equal(draws, Augment(True, 2, seed=5).draw(7, 1000, 0, 1000))
    for other in (Augment(True, 2, seed=5).draw(8, 1000, 0, 1000), Augment(True, 2, seed=6).draw(7, 1000, 0, 1000)):
        assert not torch.equal(draws, other)
    flips, moves = draws[:, 0].float(), draws[:, 1:]
    assert 0.4 < flips.mean() < 0.6
    for column in (0, 1):
        shares = [(moves[:, column] == n).float().mean().item() for n in range(-2, 3)]
        assert min(shares) > 0.14 and sum(shares) == pytest.approx(1)
    assert not Augment(False, 2).draw(0, 100, 0, 100)[:, 0].any()
    assert not Augment(True, 0).draw(0, 100, 0, 100)[:, 1:].any()


@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 2), (4, 1), (2, 1)])
def test_an_image_is_changed_alike_however_many_processes_share_the_step(world: int, accumulate: int) -> None:
    pixels = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augment = Augment(True, 3, seed=1)
    whole = batches(pixels, 16, augment=augment)
    ranks = [
        batches(pixels, 16 // (world * accumulate), rank=r, world=world, accumulate=accumulate, augment=augment)
        for r in range(world)
    ]
    for step in (0, 5):
        parts = [rank.micro(step, part)[0] for part in range(accumulate) for rank in ranks]
        assert torch.equal(torch.cat(parts), whole.micro(step, 0)[0])
        bare = batches(pixels, 16).micro(step, 0)[0]
        assert not torch.equal(bare, whole.micro(step, 0)[0])


def test_a_crop_must_be_smaller_than_the_image(aegen: Aegen) -> None:
    aegen("train", *TINY, "--set", "data.crop=16").refused(2, "data.crop is 16", "16×16")


# ---------------------------------------------------------------------------------------------------- shards


def write_shards(folder: Path, counts: list[int], *, labels: bool = True, sizes: bool = False) -> str:
    """Shards of 8×8 images that are their number, as webdataset writes them, with what others put there too."""
    from webdataset import TarWriter

    folder.mkdir(exist_ok=True)
    number = 0
    for shard, count in enumerate(counts):
        with TarWriter(str(folder / f"s-{shard:02d}.tar"), encoder=False) as out:
            for _ in range(count):
                sample = {"__key__": f"{number:06d}", "PNG" if number % 2 else "png": as_png(number)}
                if labels:
                    sample["cls"] = str(number % 3).encode()
                sample["txt"] = b"a caption"
                out.write(sample)
                number += 1
    if sizes:
        (folder / "sizes.json").write_text(json.dumps({f"s-{n:02d}.tar": c for n, c in enumerate(counts)}))
    return str(folder / f"s-{{00..{len(counts) - 1:02d}}}.tar")


def as_png(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (8, 8), number).save(content, "PNG")
    return content.getvalue()


def numbers(pixels: Tensor) -> list[int]:
    return [int(n) for n in pixels[:, 0, 0, 0]]


def seen(source: Batches, steps: range) -> list[list[int]]:
    """The numbers of the images of each step."""
    return [
        [
            n
            for p in range(source.accumulate)
            for n in ((source.micro(s, p)[0][:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        ]
        for s in steps
    ]


def stream(name: str, shuffle: int = 16, kept_gb: float = 0, **settings: Any) -> Data:
    return load_data(DataSettings(name=name, **settings), {"shuffle": shuffle, "kept_gb": kept_gb})


def test_shards_hold_what_webdataset_finds_in_them(tmp_path: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    pattern = write_shards(tmp_path / "w", [20, 0, 31, 9])
    wanted = {}
    for path in sorted((tmp_path / "w").iterdir()):
        with open(path, "rb") as file:
            for sample in group_by_keys(member | {"__url__": ""} for member in tar_file_iterator(file)):
                wanted[int(Image.open(io.BytesIO(sample["png"])).getpixel((0, 0)))] = int(sample["cls"])
    assert len(wanted) == 60
    data = stream(pattern, validation=0.2)
    assert data.train_labels is not None and data.validation_labels is not None
    found = dict(zip(numbers(data.train[0 : len(data.train)]), data.train_labels.tolist(), strict=True))
    held = dict(zip(numbers(data.validation[0 : len(data.validation)]), data.validation_labels.tolist(), strict=True))
    assert found | held == wanted and not found.keys() & held.keys()
    assert len(held) == 4 + 6 + 2
    assert data.classes == ["0", "1", "2"]
    assert data.image == (1, 8, 8)
    assert "48 streamed from 4 shards" in data.how


@pytest.mark.parametrize("sizes", [False, True])
def test_shards_of_small_images_are_kept_as_a_folder_is(tmp_path: Path, sizes: bool) -> None:
    """An 8×8 PNG takes more room in a tar than decoded."""
    pattern = write_shards(tmp_path / "w", [20, 0, 31, 9], sizes=sizes)
    last, gone = tmp_path / "w/s-03.tar", as_png(58)
    last.write_bytes(last.read_bytes().replace(gone, b"x" * len(gone)))
    data = load_data(DataSettings(name=pattern))
    assert "59 decoded once" in data.how and data.skipped == ["s-03.tar, image 7 (not an image)"]
    every = [numbers(part[0 : len(part)]) for part in (data.train, data.validation)]
    assert sorted(every[0] + every[1]) == [n for n in range(60) if n != 58] and len(every[1]) == 6
    if sizes:
        assert data.train_labels is None
    else:
        labels = [part.tolist() for part in (data.train_labels, data.validation_labels) if part is not None]
        assert labels == [[n % 3 for n in part] for part in every] and data.classes == ["0", "1", "2"]
    (tmp_path / "w/sizes.json").unlink(missing_ok=True)
    assert load_data(DataSettings(name=pattern)).fingerprint() == data.fingerprint()
    with pytest.raises(UsageError, match=r"1 file.*cannot be used: s-03.tar, image 7"):
        load_data(DataSettings(name=pattern, strict=True))


def test_shards_of_photographs_are_streamed(tmp_path: Path) -> None:
    """Decoded, a JPEG takes many times its room."""
    folder = tmp_path / "w"
    folder.mkdir()
    photo = io.BytesIO()
    Image.linear_gradient("L").save(photo, "JPEG")
    with tarfile.open(folder / "s.tar", "w") as archive:
        for number in range(20):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = len(photo.getvalue())
            archive.addfile(member, io.BytesIO(photo.getvalue()))
    assert "18 streamed from 1 shards" in load_data(DataSettings(name=str(folder / "s.tar"))).how


def test_a_sizes_json_that_promises_too_much(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path / "w", [3, 4], sizes=True)
    (tmp_path / "w/sizes.json").write_text('{"s-00.tar": 3, "s-01.tar": 5}')
    with pytest.raises(UsageError, match=r"s-01.tar holds 4 images, but sizes.json says 5"):
        load_data(DataSettings(name=pattern))


def test_large_images_of_shards_are_decoded_by_several_threads_and_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = stream(write_shards(tmp_path / "w", [20, 0, 31, 9]), size=8, channels=1).train
    index = torch.randperm(len(images))
    alone = images[index]
    monkeypatch.setattr("aegen.data.encoded._SMALL", 0)
    names: set[str] = set()
    noted = decode.noted

    def told(*given: Any) -> tuple[Tensor, Any]:
        names.add(threading.current_thread().name.rpartition("_")[0])
        return noted(*given)

    monkeypatch.setattr(decode, "noted", told)
    assert torch.equal(images[index], alone)
    assert names == {"aegen-decode"}


def test_of_many_shards_some_are_held_out_whole(tmp_path: Path) -> None:
    data = stream(write_shards(tmp_path / "w", [4] * 10), validation=0.2)
    assert numbers(data.validation[0:8]) == [16, 17, 18, 19, 36, 37, 38, 39]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_an_epoch_of_shards_shows_no_image_twice_and_each_has_its_own_order(tmp_path: Path, world: int) -> None:
    data = stream(write_shards(tmp_path / "w", [30, 5, 12, 25, 17]))
    count = len(data.train)
    ranks = [batches(data.train, 4, rank=r, world=world) for r in range(world)]
    per_epoch = ranks[0].per_epoch
    epochs = [
        [n for rank in ranks for step in seen(rank, range(e * per_epoch, (e + 1) * per_epoch)) for n in step]
        for e in (0, 1)
    ]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == per_epoch * world * 4 > count - 4 * world
    assert epochs[0] != epochs[1]
    firsts = [rank.micro(0, 0)[0] for rank in (batches(data.train, 4, seed=3), batches(data.train, 4, seed=4))]
    assert not torch.equal(*firsts)


def test_the_order_of_shards_mixes_within_a_few_shards_and_is_the_same_from_any_step(tmp_path: Path) -> None:
    data = stream(write_shards(tmp_path / "w", [16] * 15, labels=False))
    order = data.train.order(torch.Generator().manual_seed(0)) if isinstance(data.train, Rows) else torch.empty(0)
    for block in order.split(16)[:8]:
        shards = (block // 16).tolist()
        assert len(set(shards)) == 8  # from eight shards,
        assert sum(one != other for one, other in pairwise(shards)) > 8  # and mixed
    whole = seen(batches(data.train, 8), range(60))
    again = batches(stream(data.name).train, 8)
    for step in (50, 3, 4, 29, 0):
        assert seen(again, range(step, step + 1)) == [whole[step]]


def test_a_sizes_json_spares_looking_into_shards_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    contents = aegen_builtin.data.shards.shard_contents

    def count(path: Path, group: Any) -> Any:
        looked.append(path.name)
        return contents(path, group)

    monkeypatch.setattr(aegen_builtin.data.shards, "shard_contents", count)
    pattern = write_shards(tmp_path / "w", [6] * 10, sizes=True)
    data = stream(pattern, size=8, channels=1)
    assert looked == ["s-09.tar"]
    assert data.train_labels is None
    seen(batches(data.train, 4), range(data.train.shape[0] // 4))
    assert sorted(looked) == [f"s-{n:02d}.tar" for n in range(10)]
    told = load_data(DataSettings(name=pattern), {"labels": True, "kept_gb": 0})
    assert told.train_labels is not None and told.classes == ["0", "1", "2"]
    sizes = tmp_path / "w" / "sizes.json"
    sizes.write_text(sizes.read_text().replace('"s-03.tar": 6', '"s-03.tar": 7'))
    with pytest.raises(RunError, match=r"s-03\.tar holds 6 images, but sizes\.json says 7"):
        seen(batches(stream(pattern, size=8, channels=1).train, 4), range(14))
    for text in ("[]", "{", '{"a": "x"}', '{"s-00.tar": -1}'):
        sizes.write_text(text)
        with pytest.raises(UsageError, match=r"sizes\.json"):
            stream(pattern)


def test_nothing_but_images_and_classes_is_opened_in_a_shard(tmp_path: Path) -> None:
    """A pickle beside an image is what webdataset's own decoder would load."""
    place = tmp_path / "ran"
    evil = f"cos\nsystem\n(S'touch {place}'\ntR.".encode()
    with tarfile.open(tmp_path / "a.tar", "w") as out:
        for n in range(12):
            for ending, content in (("pyd", evil), ("pickle", evil), ("pth", evil), ("png", as_png(n)), ("cls", evil)):
                member = tarfile.TarInfo(f"{n:03d}.{ending}")
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))
    data = stream(str(tmp_path / "a.tar"))
    assert sorted(numbers(data.train[0:11]) + numbers(data.validation[0:1])) == list(range(12))
    assert data.train_labels is None and not place.exists()


def test_a_damaged_image_in_a_shard_is_named_and_a_neighbour_takes_its_place(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path / "w", [20])
    content = (tmp_path / "w/s-00.tar").read_bytes()
    at = content.index(as_png(4))
    (tmp_path / "w/s-00.tar").write_bytes(content[: at + 8] + bytes(8) + content[at + 16 :])
    talk: list[str] = []
    data = load_data(DataSettings(name=pattern), {"kept_gb": 0}, say=talk.append)
    assert numbers(data.train[2:7]) == [2, 3, 5, 5, 6]
    assert len(talk) == 1 and "image 4 of the shard" in talk[0] and "s-00.tar" in talk[0]
    with pytest.raises(RunError, match=r"image 4 .*--strict-data"):
        stream(pattern, strict=True).train[2:7]


def test_shards_that_changed_are_other_images(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path / "w", [20, 20])
    before = stream(pattern).fingerprint()
    moved = shutil.move(tmp_path / "w", tmp_path / "moved")
    assert stream(str(moved / "s-{00..01}.tar")).fingerprint() == before
    assert stream(write_shards(tmp_path / "w", [20, 20], labels=False)).fingerprint() != before


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("gone-{00..03}.tar", ("gone-00.tar", "4 of 4 shards")),
        ("pipe:cat a.tar", ("is no file",)),
        ("http://example.org/a.tar", ("is no file", "fetch")),
        ("zipped.tar", ("zipped.tar cannot be read", "not compressed")),
        ("empty.tar", ("holds no image",)),
        ("text.tar", ("text.tar cannot be read",)),
        ("twice.tar", ("two files of one name",)),
    ],
)
def test_shards_that_cannot_be_used_are_refused(aegen: Aegen, name: str, pieces: tuple[str, ...]) -> None:
    with tarfile.open("zipped.tar", "w:gz") as out:
        out.addfile(tarfile.TarInfo("a.png"))
    with tarfile.open("empty.tar", "w"):
        pass
    with tarfile.open("twice.tar", "w") as out:
        for _ in range(2):
            out.addfile(tarfile.TarInfo("a.png"))
    Path("text.tar").write_text("no tar" * 1000)
    aegen("train", "--data", name, *TINY).refused(2, *pieces)


def test_without_webdataset_the_extra_is_named(aegen: Aegen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webdataset.shardlists", None)
    aegen("train", "--data", "a-{0..3}.tar", *TINY).refused(4, "webdataset", "pip install 'aegen[wds]'")


# ---------------------------------------------------------------------------------------------------- whole runs

SMALL: dict[str, Any] = {
    "arch.name": "mlp",
    "arch.hidden": [16],
    "bottleneck.dim": 3,
    "train.batch_size": 6,
    "train.device": "cpu",
    "log.images_every_epochs": 0,
    "log.images": 4,
    "data.flip": True,
    "data.crop": 2,
}


def weights(folder: Path, steps: int, values: dict[str, Any], resume: bool = False) -> dict[str, Tensor]:
    layers = [("test", {"train.steps": steps, **({} if resume else {**SMALL, **values})})]
    result = train(layers, resume=folder if resume else None, run_dir=None if resume else folder)
    assert result.checkpoint is not None
    return Checkpoint(result.checkpoint).tensors("")


def test_a_run_on_the_cache_is_that_in_memory_and_resumes_to_the_bit(photos: Path, cache: Path, tmp_path: Path) -> None:
    """Seven and six steps, six an epoch, with flips and crops."""
    values = {"data.name": str(photos)}
    whole = weights(tmp_path / "whole", 13, values)
    weights(tmp_path / "halves", 7, values)
    halves = weights(tmp_path / "halves", 13, {}, resume=True)
    memory = weights(tmp_path / "memory", 13, {**values, "data.cache": False})
    for other in (halves, memory):
        assert whole.keys() == other.keys()
        assert not [name for name in whole if not torch.equal(whole[name], other[name])]


def test_the_command_says_where_the_images_are_and_no_cache_is_an_option(
    aegen: Aegen, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(decoded_cache, "_LEAST", 0)
    words = ("train", "--data", photos, "--dry-run", *TINY)
    assert f"images: 40 decoded once into the cache {tmp_path / 'cache' / 'images'}" in aegen(*words).worked().err
    assert "images: 40 read from the cache" in aegen(*words).worked().err
    assert "images: 40 decoded once into memory" in aegen(*words, "--no-cache").worked().err
    assert "images: 1,797 in memory, " in aegen("train", "--dry-run", *TINY).worked().err


def test_normalising_follows_the_gather() -> None:
    pixels = numbered(20)
    x, _ = batches(MemoryRows(pixels), 20).micro(0, 0)
    assert torch.equal(x.sort(0).values, normalize(pixels))


def test_images_too_few_for_the_processes_are_refused() -> None:
    with pytest.raises(UsageError, match="fewer than 3 processes"):
        batches(numbered(2), world=3)


def test_a_run_on_shards_resumes_to_the_bit_and_samples_and_evaluates(
    aegen: Aegen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = write_shards(tmp_path / "w", [30, 30])
    values = {
        "data.name": pattern,
        "data.shuffle": 8,
        "data.kept_gb": 0,
        "objective.name": "conditional-vae",
        "data.flip": False,
        "data.crop": 1,
    }
    whole = weights(tmp_path / "whole", 13, values)
    weights(tmp_path / "halves", 7, values)
    halves = weights(tmp_path / "halves", 13, {}, resume=True)
    assert not [name for name in whole if not torch.equal(whole[name], halves[name])]
    said = aegen("evaluate", "-c", tmp_path / "whole", "--metric", "reconstruction", "--json").worked()
    assert "other images" not in said.err
    aegen("sample", "-c", tmp_path / "whole", "--sampler", "gaussian").worked()
