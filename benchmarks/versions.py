"""Training throughput of two versions of aegen beside each other, before and after a change that must cost nothing.

    python benchmarks/versions.py OLD/.venv/bin/python NEW/.venv/bin/python

Each version has a process of its own, started by its own Python; both train the same small nets on the same images in turn, in short
segments over several rounds. Read the ratios of a round: a busy machine slows both sides.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from pairs import ratio, spread

NETS = {
    "mlp": {"arch.name": "mlp", "train.steps": 800},
    "conv": {"arch.name": "conv", "arch.width": 16, "train.steps": 60},
    "conv vq": {
        "arch.name": "conv",
        "arch.width": 16,
        "arch.spatial": True,
        "objective.name": "vq-vae",
        "train.steps": 60,
    },
}

# What a version runs: a segment for each line that it is given, and images per second of it.
SEGMENTS = """
import contextlib, json, os, sys, tempfile
import aegen
options = json.loads(sys.argv[1])
for line in sys.stdin:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        run = os.path.join(folder, "run")
        aegen.train(**{"objective.name": "vae", **options}, run_dir=run)
        rows = [json.loads(row) for row in open(os.path.join(run, "metrics.jsonl"))]
    rates = sorted(row["images_per_second"] for row in rows if row["split"] == "train")
    print(rates[len(rates) // 2], flush=True)
"""


def started(python: Path, options: dict[str, object]) -> subprocess.Popen[str]:
    """A version's process, which waits for its turn."""
    import json

    words = [str(python), "-c", SEGMENTS, json.dumps(options)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def segment(process: subprocess.Popen[str]) -> float:
    """Let one train; its images per second."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        sys.exit("a version ended: run its training by hand to see why")
    return float(line)


def main() -> None:
    """Race on each net and print the ratios, new over old."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=11)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        images = np.random.default_rng(0).integers(0, 256, (1000, 28, 28), dtype=np.uint8)
        np.save(Path(folder, "images.npy"), images)
        usual = {
            "data.name": str(Path(folder, "images.npy")),
            "train.batch_size": 100,
            "log.every_steps": 20,
            "log.images_every_epochs": 0,
            "checkpoint.best": False,
            "train.device": "cpu",
        }
        for net, options in NETS.items():
            old, new = (started(python, {**usual, **options}) for python in (given.old, given.new))
            rates: dict[str, list[float]] = {"old": [], "new": []}
            for process in (old, new):
                segment(process)
            for number in range(given.rounds):
                turn = [("old", old), ("new", new)]
                for name, process in turn if number % 2 else turn[::-1]:
                    rates[name].append(segment(process))
            for process in (old, new):
                process.kill()
            shown = "  ".join(f"{n} {median(v):,.0f} ({spread(v, ',.0f')})" for n, v in rates.items())
            print(f"{net:<8}  images/s  {shown}  new / old {ratio(rates['new'], rates['old'])}", flush=True)


if __name__ == "__main__":
    main()
