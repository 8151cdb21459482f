"""Kill a run fifty times and see whether it ends with the same weights as one that was left alone.

    python benchmarks/crash.py

Real processes: `aegen train` on the embedded digits, killed with SIGKILL and resumed until it is done. A third of the kills come
at a random moment; the others aim at a moment at which a file is being written: the process is watched, and killed as soon as
a temporary file of a checkpoint, of the fitted sampler or of a small file appears, or just after its rename.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file

STEPS = 1500
OPTIONS = [
    *(
        "--arch",
        "mlp",
        "--arch.hidden",
        "[512]",
        "--size",
        "16",
        "--objective",
        "vae+adversarial",
        "--steps",
        str(STEPS),
    ),
    *("--objective.beta", "linear(0,1,200)", "--objective.adversarial.width", "4"),
    *("--set", "train.ema=0.99", "--set", "train.accumulate=2", "--set", "checkpoint.every_steps=7"),
    *("--set", "log.images_every_epochs=20", "--set", "log.every_steps=10"),
]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """One process of its own."""
    command = [sys.executable, "-m", "aegen", "train", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def half_written(run: Path) -> list[str]:
    """Temporary files of the run and beside it."""
    found = [p for folder in (run, run / "checkpoints", run / "samples") for p in folder.glob(".*.tmp")]
    return [p.name for p in [*found, *run.parent.glob(f".{run.name}.*.tmp")]]


def wait_to_kill(process: subprocess.Popen[str], run: Path, chance: random.Random, begin: float) -> str:
    """Wait until the process is at a moment worth killing it at; what that moment was, or "" when it has ended."""
    aim = chance.choice(["any", "writing", "written", "late"])
    wait = chance.uniform(0, 8) if aim == "any" else chance.uniform(0.5, 8)
    if aim == "late":  # the last step is taken: the sampler is being fitted and kept
        log = run / "metrics.jsonl"
        while process.poll() is None and not (log.exists() and f'"step": {STEPS},' in log.read_text()[-2000:]):
            time.sleep(0.01)
        wait = time.monotonic() - begin + chance.uniform(0, 1.0)
    while process.poll() is None and time.monotonic() - begin < wait:
        time.sleep(0.002)
    if aim in ("writing", "written"):
        seen: list[str] = []
        while process.poll() is None and not (seen := half_written(run)):
            time.sleep(0)
        while aim == "written" and process.poll() is None and half_written(run) == seen:
            time.sleep(0)
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0, 0.002))
    return aim if process.poll() is None else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    aims: Counter[str] = Counter()
    kills, rounds, different = 0, 0, 0
    with TemporaryDirectory() as place:
        folder = Path(place)
        whole = start(folder, *OPTIONS, "--run-dir", "whole")
        _, said = whole.communicate()
        assert whole.returncode == 0, said
        wanted = {name: load_file(folder / f"whole/checkpoints/{name}.safetensors") for name in ("last", "best")}
        while kills < options.kills:
            rounds += 1
            run = folder / f"killed-{rounds}"
            while True:
                begin = time.monotonic()
                words = ["--resume", run.name] if run.exists() else [*OPTIONS, "--run-dir", run.name]
                process = start(folder, *words)
                aim = wait_to_kill(process, run, chance, begin) if kills < options.kills else ""
                if aim:
                    left = half_written(run)
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
                    aims[f"{aim}, {'a file half written' if left else 'between writes'}"] += 1
                _, said = process.communicate()
                if not aim:
                    assert process.returncode == 0, f"could not go on: {said}"
                    if (run / "samples.png").exists():
                        break
            for name, tensors in wanted.items():
                found = load_file(run / f"checkpoints/{name}.safetensors")
                wrong = [k for k in tensors if k not in found or not torch.equal(tensors[k], found[k])]
                different += len(wrong) + len(found.keys() - tensors.keys())
                print(
                    f"run {rounds}, {kills} kills so far: {name} has {len(tensors)} tensors, {len(wrong)} differ {wrong[:3]}"
                )
            assert not half_written(run), half_written(run)
    for aim, count in sorted(aims.items()):
        print(f"{count:3} kills: {aim}")
    print("every tensor is the same" if not different else f"{different} tensors differ")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
