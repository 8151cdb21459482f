"""No image is lost in silence: what is left out is counted and named, by one rule for every command."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Aegen
from PIL import Image

from aegen import evaluate
from aegen.data.listing import list_folder, match
from aegen.data.source import load_data
from aegen.inference.reading import find_images
from aegen.settings import DataSettings


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16), value, np.uint8)).save(path)
    return path


def fill(folder: Path, count: int, start: int = 0) -> None:
    for n in range(count):
        picture(folder / f"{n}.png", start + n)


def read(name: Path) -> tuple[int, list[str]]:
    """How many images a data set has, and what is said."""
    said: list[str] = []
    data = load_data(DataSettings(name=str(name), cache=False), {}, said.append)
    return len(data.train) + len(data.validation), said


def test_linked_folders_are_followed_once_and_never_in_a_circle(tmp_path: Path) -> None:
    fill(tmp_path / "store/cats", 3)
    fill(tmp_path / "d/birds", 2)
    (tmp_path / "d/cats").symlink_to(tmp_path / "store/cats")
    (tmp_path / "d/again").symlink_to(tmp_path / "d/birds")  # goes by its own name
    (tmp_path / "store/cats/up").symlink_to(tmp_path / "d")
    (tmp_path / "d/self").symlink_to("self")
    names = ["/".join(name) for name in list_folder(tmp_path / "d").images]
    assert names == ["birds/0.png", "birds/1.png", "cats/0.png", "cats/1.png", "cats/2.png"]
    assert load_data(DataSettings(name=str(tmp_path / "d"), cache=False)).classes == ["birds", "cats"]
    assert len(find_images([str(tmp_path / "d")])) == 5
    assert len(find_images([str(tmp_path / "d/**/*.png")])) == 5


def test_hidden_images_and_links_to_nothing_are_named_by_every_command(
    aegen: Aegen, trained: Path, tmp_path: Path
) -> None:
    fill(tmp_path / "d", 4)
    picture(tmp_path / "d/.thumbs/deep/a.png")
    picture(tmp_path / "d/.b.png")
    picture(tmp_path / "d/__MACOSX/c.jpg")
    (tmp_path / "d/gone.png").symlink_to("nowhere.png")
    hidden = "3 images are left out: .b.png (hidden), .thumbs/deep/a.png (hidden), __MACOSX/c.jpg (hidden)"
    said = aegen("train", *TINY, "--data", "d", "--dry-run").worked().err
    assert hidden in said and "gone.png (a link to nothing)" in said
    assert "4 images" not in said.replace("3 images for training, 1 for validation", "")
    words = ["-c", trained]
    said = aegen("evaluate", "--data", "d", "--metric", "reconstruction", *words).worked().err
    assert hidden in said and "gone.png (a link to nothing)" in said
    said = aegen("reconstruct", "d", "-o", "r.png", *words).worked().err
    assert "4 images are left out: .b.png (hidden)" in said and "gone.png (a link to nothing)" in said
    said = aegen("reconstruct", "d/*.png", "-o", "r2.png", *words).worked().err
    assert "d/.b.png (hidden)" in said
    aegen("train", *TINY, "--data", "d", "--dry-run", "--strict-data").refused(2, "gone.png")
    (tmp_path / "d/gone.png").unlink()
    aegen("train", *TINY, "--data", "d", "--dry-run", "--strict-data").worked()


def test_python_hears_of_it_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path / "d", 3)
    picture(tmp_path / "d/.hidden.png")
    with caplog.at_level(logging.WARNING, "aegen"):
        data = load_data(DataSettings(name=str(tmp_path / "d"), cache=False))
    assert "1 image is left out: .hidden.png (hidden)" in caplog.text
    assert data.left_out.count == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "d", 3)
    fill(tmp_path / "d/closed", 3)
    (tmp_path / "d/closed").chmod(0)
    try:
        assert any("closed (a folder that cannot be read" in text for text in read(tmp_path / "d")[1])
    finally:
        (tmp_path / "d/closed").chmod(0o700)


def test_a_pattern_means_what_it_says_in_deep_folders(tmp_path: Path) -> None:
    for name in ("a/x1.png", "a/b/x2.png", "a/b/y[1].png", "x3.png", "a/.h/x4.png"):
        picture(tmp_path / name)

    def names(pattern: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in match(str(tmp_path / pattern))[0]]

    assert names("**/x?.png") == ["a/b/x2.png", "a/x1.png", "x3.png"]
    assert names("a/**/x[!1].png") == ["a/b/x2.png"]
    assert names("**/y[[]1].png") == ["a/b/y[1].png"]
    assert names("*.png") == ["x3.png"]
    assert len(match(str(tmp_path / "**/*.png"))[1]) == 1


# ---------------------------------------------------------------------------------------------------- shards


def shard(path: Path, names: list[str], links: dict[str, str] | None = None) -> Path:
    """A tar of images of values 0, 1, …, and hard links."""
    with tarfile.open(path, "w") as archive:
        for n, name in enumerate(names):
            if name.endswith(".cls"):
                content = b"1"
            else:
                file = io.BytesIO()
                Image.fromarray(np.full((16, 16), n, np.uint8)).save(file, "PNG")
                content = file.getvalue()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            archive.addfile(member)
    return path


def test_names_with_dots_in_a_shard_are_images_of_their_own(tmp_path: Path) -> None:
    names = ["./0.png", "./22.05.png", "./22.06.png", "v1.2/cat.left.png", "v1.2/cat.right.png"]
    assert read(shard(tmp_path / "a.tar", names))[0] == 5


def test_other_parts_of_a_sample_hidden_images_and_links_in_a_shard_are_named(tmp_path: Path) -> None:
    names = ["a.png", "a.seg.png", "a.cls", "b.png", "._b.png", ".x/c.png", "d.left.png", "d.left.cls"]
    count, said = read(shard(tmp_path / "a.tar", names, {"e.png": "b.png", "f.png": "outside.png"}))
    assert count == 4  # a, b, d.left and e
    (text,) = [text for text in said if "left out" in text]
    assert "4 images are left out" in text
    for part in ("a.seg.png (another part of a.png)", "._b.png (hidden)", ".x/c.png (hidden)", "f.png (a link)"):
        assert part in text


def test_images_beyond_what_sizes_json_says_are_counted(tmp_path: Path) -> None:
    (tmp_path / "sizes.json").write_text(json.dumps({"a.tar": 3}))
    count, said = read(shard(tmp_path / "a.tar", [f"{n}.png" for n in range(5)]))
    assert count == 3
    assert any("2 images are left out: a.tar, images 3 and after" in text for text in said)


# ---------------------------------------------------------------------------------------------------- evaluation


def test_all_of_a_foreign_folder_is_evaluated_and_of_the_runs_own_what_was_held_out(
    aegen: Aegen, tmp_path: Path
) -> None:
    fill(tmp_path / "own", 20)
    fill(tmp_path / "foreign", 10, 100)
    aegen("train", *TINY, "--data", "own", "--steps", 1, "--run-dir", "run").worked()

    def used(*words: str) -> int:
        said = aegen("evaluate", "-c", "run", "--metric", "reconstruction", "--json", *words).worked()
        return int(json.loads(said.out)["data"]["held_out"])

    assert used() == 2
    assert used("--data", "foreign") == 10
    (tmp_path / "own").rename(tmp_path / "moved")
    assert used("--data", "moved") == 2
    found = evaluate("run", metrics=["reconstruction"], data={"name": "foreign"})
    assert found.data["held_out"] == 10
    picture(tmp_path / "moved/new.png", 77)
    assert used("--data", "moved") == 21
    with np.load(_arrays(tmp_path)) as _:
        assert used("--data", "split.npz") == 3  # a split of its own is kept


def _arrays(folder: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 255, (9, 16, 16), dtype=np.uint8)
    np.savez(folder / "split.npz", images=images[:6], validation_images=images[6:])
    return folder / "split.npz"
