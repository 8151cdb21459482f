"""A run that another process took over is not written any more by the one that stood still: not even what it had begun to write."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import SMALL, TINY, Aegen

from aegen import atomic, checkpoint, lock
from aegen.checkpoint import Checkpoint
from aegen.errors import RunError
from aegen.hooks import Hooks
from aegen.training.checkpointing import Keeper
from aegen.training.run import train


def taken_over(run: Path) -> None:
    """What another process does that thinks the holder dead: it puts its own mark in place of the holder's."""
    mark = run / lock.NAME
    lines = [f"pid={os.getppid()}" if line.startswith("pid=") else line for line in mark.read_text().splitlines()]
    mark.unlink()
    mark.write_text("\n".join(lines) + "\n")


def deleted(run: Path) -> None:
    (run / lock.NAME).unlink()


@pytest.mark.parametrize("lose", [taken_over, deleted])
def test_a_pending_write_is_dropped_where_the_run_is_lost_meanwhile(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Path], None]
) -> None:
    path, header = tmp_path / "last.safetensors", Checkpoint(trained / "checkpoints/last.safetensors").header
    checkpoint.save(path, {"model.w": torch.zeros(3)}, header)
    before = path.read_bytes()
    go, flush = threading.Event(), atomic.flush

    def slow(file: Path) -> None:
        go.wait(20)
        flush(file)

    monkeypatch.setattr(atomic, "flush", slow)
    held = lock.Lock(tmp_path)
    held.take()
    keeper = Keeper(Hooks(), print)
    keeper.may = lambda: held.check(now=True)
    keeper.save(path, lambda: {"model.w": torch.ones(3)}, header, 7, final=False)
    lose(tmp_path)
    go.set()
    with pytest.raises(RunError, match="another process took over"):
        keeper.tell(wait=True)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))
    assert keeper.last_good is None
    held.give_back()


def test_a_run_that_is_lost_ends_with_the_checkpoint_that_the_other_left(tmp_path: Path) -> None:
    class Thief:
        """Takes the run over after the first checkpoint."""

        def aegen_checkpoint_saved(self, path: Path, step: int) -> None:
            if (tmp_path / "run" / lock.NAME).exists() and not kept:
                taken_over(tmp_path / "run")
                kept.append(path.read_bytes())

    kept: list[bytes] = []
    from aegen import hookimpl

    Thief.aegen_checkpoint_saved = hookimpl(Thief.aegen_checkpoint_saved)  # type: ignore[method-assign]
    settings = {**SMALL, "train.steps": 8, "checkpoint.every_steps": 2, "checkpoint.best": False}
    with pytest.raises(RunError, match="another process took over the run"):
        train([("test", settings)], run_dir=tmp_path / "run", listeners=[Thief()])
    last = tmp_path / "run/checkpoints/last.safetensors"
    assert last.read_bytes() == kept[0]
    assert not (tmp_path / "run/samplers").exists()


# ---------------------------------------------------------------------------------------------------- odd locks


def test_a_dead_process_of_this_machine_leaves_no_lock(tmp_path: Path) -> None:
    code = f"import os\nfrom pathlib import Path\nfrom aegen.lock import Lock\nlock = Lock(Path({str(tmp_path)!r})); lock.take()\nos._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 9
    assert (tmp_path / lock.NAME).exists()
    with lock.held(tmp_path):
        pass
    assert not (tmp_path / lock.NAME).exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"x" * 100_000, b"pid=\nhost=\n", b"pid=-1\nhost=a\n"])
def test_a_lock_that_makes_no_sense_is_refused_in_a_sentence(aegen: Aegen, tmp_path: Path, content: bytes) -> None:
    aegen("train", *TINY, "--steps", 1, "--run-dir", "r").worked()
    (tmp_path / "r" / lock.NAME).write_bytes(content)
    aegen("train", "--resume", "r", "--steps", 2).refused(2, "training.lock", "delete it")
    aegen("sample", "-c", "r", "-n", 2, "-o", "s.png").worked()
    aegen("evaluate", "-c", "r", "--metric", "reconstruction", "--limit", 9).worked()


def test_a_lock_that_is_a_folder_or_a_link_is_refused(aegen: Aegen, tmp_path: Path) -> None:
    aegen("train", *TINY, "--steps", 1, "--run-dir", "r").worked()
    (tmp_path / "r" / lock.NAME).mkdir()
    said = aegen("train", "--resume", "r", "--steps", 2)
    assert said.code in (1, 2) and lock.NAME in said.err
    (tmp_path / "r" / lock.NAME).rmdir()
    (tmp_path / "r" / lock.NAME).symlink_to(tmp_path / "made")
    said = aegen("train", "--resume", "r", "--steps", 2)
    assert said.code in (1, 2) and lock.NAME in said.err
    assert not (tmp_path / "made").exists()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write everywhere")
def test_a_run_whose_folder_is_read_only_is_not_trained(aegen: Aegen, tmp_path: Path) -> None:
    aegen("train", *TINY, "--steps", 1, "--run-dir", "r").worked()
    (tmp_path / "r").chmod(stat.S_IRUSR | stat.S_IXUSR)
    aegen("train", "--resume", "r", "--steps", 2).refused(1, "cannot write r")
    (tmp_path / "r").chmod(stat.S_IRWXU)


def test_of_two_that_resume_at_the_same_moment_one_trains(aegen: Aegen, tmp_path: Path) -> None:
    """Both wait for a word, so that they ask at once; whoever is refused says so, and what is left is whole."""
    aegen("train", *TINY, "--steps", 1, "--run-dir", "r").worked()
    code = (
        "import sys\nfrom pathlib import Path\nfrom aegen.errors import UsageError\nfrom aegen.lock import Lock\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "lock = Lock(Path('r'))\ntry:\n    lock.take()\n    print('held', flush=True)\n    sys.stdin.readline()\n"
        "except UsageError as error:\n    print(error.message, flush=True)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for one in both:
            assert one.stdout is not None and one.stdout.readline() == "ready\n"
        for one in both:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        said = sorted(one.stdout.readline().strip() for one in both if one.stdout is not None)
    finally:
        for one in both:
            one.kill()
            one.communicate()
    assert said[0] == "held" and "r is being trained by process" in said[1], said
    aegen("train", "--resume", "r", "--steps", 2).worked()
    assert Checkpoint(Path("r/checkpoints/last.safetensors")).header["step"] == 2
