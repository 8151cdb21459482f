"""What a run leaves for others, and what is left of those that ended: nothing of another's is written, no draft stays, no key is common."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL
from PIL import Image
from test_takeover import taken_over

from aegen import checkpoint, hookimpl, signing
from aegen.atomic import draft_of
from aegen.data import decoded_cache, source
from aegen.data.cache_file import Store
from aegen.errors import AegenError, RunError
from aegen.hooks import Hooks
from aegen.settings import DataSettings
from aegen.training.checkpointing import Keeper
from aegen.training.run import train


def test_a_run_that_is_lost_gets_no_more_metrics_and_pictures(tmp_path: Path) -> None:
    """Another process has taken it over, and this one, which stood still, has not been told."""
    run, kept = tmp_path / "run", {}

    class Thief:
        @hookimpl
        def aegen_step_end(self, step: int) -> None:
            if step == 3:
                taken_over(run)
                kept.update({path: path.read_bytes() for path in run.rglob("*") if path.is_file()})

    settings = {**SMALL, "train.steps": 6, "log.every_steps": 1, "log.images_every_epochs": 1, "checkpoint.best": False}
    with pytest.raises(RunError, match="another process took over the run"):
        train([("test", settings)], run_dir=run, listeners=[Thief()])
    assert kept and {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == kept
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3]


@pytest.mark.parametrize("what", ["draw", "_log"])
def test_pictures_and_metrics_ask_before_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    from aegen.training.loop import Trainer

    asked: list[str] = []
    whole = getattr(Trainer, what)

    def lost() -> None:
        raise RunError("the run is another's")

    def late(self: Trainer, *words: Any, **more: Any) -> Any:
        self.keeper.may = lost
        asked.append(what)
        return whole(self, *words, **more)

    monkeypatch.setattr(Trainer, what, late)
    settings = {**SMALL, "train.steps": 2, "log.images_every_epochs": 1, "checkpoint.best": False}
    with pytest.raises(RunError, match="the run is another's"):
        train([("test", settings)], run_dir=tmp_path / "run")
    assert len(asked) == 1 and not list((tmp_path / "run/samples").iterdir())
    assert what == "draw" or not (tmp_path / "run/metrics.jsonl").exists()


def test_a_header_that_cannot_be_read_is_told_in_a_sentence(trained: Path, tmp_path: Path) -> None:
    """Also where it is the thread beside the loop that finds it."""
    header = checkpoint.Checkpoint(trained / "checkpoints/last.safetensors").header
    keeper = Keeper(Hooks(), print)
    odd = {**header, "validation": {"loss": object()}}
    keeper.save(tmp_path / "last.safetensors", lambda: {"model.w": torch.ones(3)}, odd, 7, final=False)
    with pytest.raises(AegenError, match="the header of a checkpoint is no JSON") as told:
        keeper.tell(wait=True)
    assert told.value.exit_code == 1 and "aegen.testing" in told.value.hint
    assert not list(tmp_path.iterdir())


def test_held_out_images_are_summed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = source.load_data(DataSettings())
    asked: list[int] = []
    whole = source.fingerprint

    def counted(pixels: Any) -> str:
        asked.append(len(pixels))
        return whole(pixels)

    monkeypatch.setattr(source, "fingerprint", counted)
    first = data.held_out_fingerprint()
    assert data.held_out_fingerprint() == first and len(asked) == 1
    data.validation = data.validation[:5]
    assert data.held_out_fingerprint() == whole(data.validation) != first  # they are others now


# ---------------------------------------------------------------------------------------------------- drafts


def test_what_was_begun_and_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded_cache, "_LEAST", 0)
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.new("L", (16, 16), i).save(tmp_path / f"photos/{i}.png")
    settings = DataSettings(name=str(tmp_path / "photos"))
    wanted = source.read_data(settings).pixels[:]
    root = tmp_path / "cache/images"
    (path,) = root.glob("*.safetensors")
    path.unlink()
    damaged, other = root / f"{path.stem}.1111.part", root / f"{path.stem}.2222.part"
    damaged.write_bytes(b"cut short")
    Store.make(other, (4, 1, 32, 32))  # as many images of another size
    stale, fresh = root / "0123.3333.part", root / "0123.4444.part"
    for part in (stale, fresh):
        part.write_bytes(b"of another set")
    long_ago = time.time() - 8 * 24 * 3600
    os.utime(stale, (long_ago, long_ago))
    assert torch.equal(source.read_data(settings).pixels[:], wanted)
    assert sorted(root.iterdir()) == sorted([path, fresh])


# ---------------------------------------------------------------------------------------------------- the key

posix = pytest.mark.skipif(os.name != "posix", reason="rights are those of POSIX")


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("AEGEN_CACHE", "")
    return tmp_path / "aegen" / signing.NAME


@posix
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o444])
def test_a_key_that_others_could_read_is_for_its_owner_alone_from_then_on(key: Path, mode: int) -> None:
    mark = signing.seal("x")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(mode)
    assert signing.holds("x", mark) and stat.S_IMODE(key.stat().st_mode) == 0o600


@posix
@pytest.mark.parametrize("mode", [0o622, 0o660, 0o606, 0o666])
def test_a_key_that_others_could_have_written_is_none(key: Path, mode: int) -> None:
    mark = signing.seal("x")
    key.chmod(mode)
    assert not signing.holds("x", mark)
    new = signing.seal("x")
    assert new and new != mark and signing.holds("x", new) and stat.S_IMODE(key.stat().st_mode) == 0o600


def test_what_is_left_of_a_key_that_was_being_made_is_swept(key: Path) -> None:
    key.parent.mkdir()
    draft = draft_of(key)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    draft = draft.with_name(draft.name.replace(f"-{os.getpid()}.tmp", f"-{gone.pid}.tmp"))
    draft.write_bytes(b"x")
    assert signing.seal("x")
    assert [path.name for path in key.parent.iterdir()] == [signing.NAME]
