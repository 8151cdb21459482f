"""Files may be called by any bytes: what is no UTF-8 goes through every command, and through JSON, TOML and checkpoints."""

from __future__ import annotations

import io
import json
import os
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Aegen, Said
from PIL import Image

from aegen import registry
from aegen.checkpoint import Checkpoint
from aegen.cli import main
from aegen.filenames import native, portable
from aegen.settings import to_toml

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere take text alone")
CAFE = os.fsdecode(b"caf\xe9")


def test_names_come_back_from_text_as_they_were() -> None:
    value = {"name": CAFE, CAFE: [os.fsdecode(bytes([n])) for n in range(128, 256)], "n": 3, "plain": "café"}
    kept = portable(value)
    json.dumps(kept, ensure_ascii=False).encode()
    assert native(json.loads(json.dumps(kept))) == value
    assert portable("café") == "café"


def test_a_configuration_holds_them_as_escapes() -> None:
    text = to_toml({"data": {"name": CAFE}})
    assert 'name = "caf\\uf7e9"' in text
    assert native(tomllib.loads(text)) == {"data": {"name": CAFE}}


@pytest.fixture
def raw(aegen: Aegen, monkeypatch: pytest.MonkeyPatch) -> Aegen:
    """As the fixture `aegen`, with outputs that take bytes, as files and pipes do."""

    def call(*words: object) -> Said:
        monkeypatch.setattr(registry, "_trusted_files", set())
        ways = ("surrogateescape", "backslashreplace")  # as a process of its own sets them
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=way) for way in ways]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        code: object = 0
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code or 0
        texts = []
        for stream in streams:
            stream.flush()
            texts.append(os.fsdecode(stream.buffer.getvalue()))  # type: ignore[attr-defined]
        assert isinstance(code, int)
        assert "should not have happened" not in texts[1], texts[1]
        return Said(code, *texts)

    return call


def fill(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        Image.fromarray(np.full((16, 16), 20 * n, np.uint8)).save(folder / os.fsdecode(b"%d-\xe4.png" % n))


def test_every_command_takes_them(raw: Aegen, tmp_path: Path) -> None:
    """Data, classes, the run, its checkpoint, images and outputs: all in one life of a model."""
    run, data = os.fsdecode(b"r\xfcn"), CAFE
    for name in (b"\xe9l\xe8ve", b"ma\xeetre"):
        fill(tmp_path / data / os.fsdecode(name), 10)
    words = [*TINY, "--batch-size", 4, "--objective", "conditional-vae", "--latent-dim", 3]
    raw("train", *words, "--data", data, "--steps", 2, "--run-dir", run).worked()
    file = Checkpoint(tmp_path / run / "checkpoints/last.safetensors")
    assert file.header["data"]["name"] == data
    assert file.header["data"]["classes"] == [os.fsdecode(b"ma\xeetre"), os.fsdecode(b"\xe9l\xe8ve")]
    assert file.spec.data.name == data
    for place in (f"{run}/config.toml", f"{run}/environment.json"):
        (tmp_path / place).read_text(encoding="utf-8")
    raw("train", "--resume", run, "--steps", 3).worked()
    raw("train", "--config", f"{run}/config.toml", "--dry-run").worked()
    raw("train", "--print-config", "--config", f"{run}/config.toml").worked()
    image = f"{data}/{os.fsdecode(b'ma')}{os.fsdecode(bytes([0xEE]))}tre/{os.fsdecode(b'1-' + bytes([0xE4]))}.png"
    model = ["-c", run]
    out = raw("sample", *model, "-n", 2, "--label", os.fsdecode(b"\xe9l\xe8ve"), "-o", f"{data}.png").worked().out
    assert os.fsencode(out.strip()) == b"caf\xe9.png"
    raw("sample", *model, "-n", 2, "--sampler", "gaussian", "--each", "-o", f"{data}-each", "--json").worked()
    raw("reconstruct", image, data, *model, "--each", "-o", f"{data}-again").worked()
    raw("interpolate", image, data, *model, "-o", f"{data}.gif").worked()
    raw("evaluate", *model, "--metric", "reconstruction", "--json").worked()
    raw(
        "evaluate", *model, "--data", f"{data}/{os.fsdecode(b'ma' + bytes([0xEE]))}tre", "--metric", "reconstruction"
    ).worked()
    raw("export", *model, "-o", f"{data}.safetensors").worked()
    raw("sample", "-c", f"{data}.safetensors", "-n", 2, "-o", "s.png").worked()
    report = raw("report", run, "--no-evaluate", "-o", f"{data}.html").worked()
    assert "environment.json is missing" not in (tmp_path / f"{data}.html").read_text(encoding="utf-8") + report.err
    raw("train", *words, "--data", data, "--steps", 1, "--run-dir", "two").worked()
    raw("compare", run, "two", "--no-evaluate", "--format", "csv").worked()
    raw("train", "--init-from", run, *words, "--data", data, "--steps", 1, "--run-dir", "three").worked()
    raw("sample", "-c", f"{run}x").refused(2, "there is no")


def test_shards_and_arrays_take_them(raw: Aegen, tmp_path: Path) -> None:
    import tarfile

    fill(tmp_path / "d", 6)
    name = os.fsdecode(b"s\xe9.tar")
    with tarfile.open(tmp_path / name, "w") as archive:
        archive.add(tmp_path / "d", arcname="d")
    raw("train", *TINY, "--data", name, "--dry-run").worked()
    array = os.fsdecode(b"a\xe9.npy")
    with open(tmp_path / array, "wb") as file:
        np.save(file, np.zeros((6, 16, 16), np.uint8))
    raw("train", *TINY, "--data", array, "--steps", 1, "--run-dir", "r").worked()
    raw("train", "--resume", "r", "--steps", 2).worked()
