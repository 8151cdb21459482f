"""A thousand short epochs: whether memory, open files or threads grow.

    python benchmarks/soak.py                    # about half an hour
    python benchmarks/soak.py --epochs 200

Each run validates, saves two checkpoints and draws pictures at every epoch, which a run of weeks does less often. The cases: what a
first run does; a game with an EMA codebook and averaged weights, that skips steps which are not finite; images read from the file of the
cache by background threads. Growth is what the second half of the epochs added to the most of the first half.
"""

from __future__ import annotations

import argparse
import os
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aegen import hookimpl, train
from aegen.data import decoded_cache

CASES: dict[str, dict[str, Any]] = {
    "vae": {},
    "vq-vae+adversarial": {
        "objective": "vq-vae+adversarial",
        "objective.adversarial.width": 4,
        "bottleneck.dim": 4,
        "train.ema": 0.9,
        "train.on_nan": "skip",
    },
    "vae, from a file": {},
}
SMALL = {"arch": "mlp", "arch.hidden": [16], "data.size": 8, "train.batch_size": 500, "log.images": 4}
MOST = 1.02  # of memory


class Watcher:
    """Resident megabytes, open files and threads at the end of each epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int, int]] = []

    @hookimpl
    def aegen_epoch_end(self) -> None:
        """Look."""
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        self.seen.append((pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files, threads))


def soak(name: str, epochs: int, folder: Path, data: Path) -> bool:
    """Train, print what was seen, and say whether nothing grew."""
    watcher = Watcher()
    reads = name.endswith("from a file")
    decoded_cache.SMALL = 0 if reads else 256 * 2**20  # bytes from which a set is read from its file
    os.environ["AEGEN_CACHE"] = str(folder / "cache")
    options = {**SMALL, **CASES[name], **({"data": str(data), "data.size": 40, "data.channels": 3} if reads else {})}
    train(
        run_dir=folder / name.replace(" ", "-"),
        listeners=[watcher],
        **options,
        **{"train.epochs": epochs, "checkpoint.every_epochs": 1, "log.images_every_epochs": 1},
    )
    half = epochs // 2
    print(f"\n{name}, {epochs:,} epochs: epoch, resident MB, open files, threads")
    for epoch in sorted({1, *range(0, epochs + 1, max(1, epochs // 10))} - {0}):
        print("  {:5,} {:8.1f} {:4} {:4}".format(epoch, *watcher.seen[epoch - 1]))
    early, late = (
        [max(column) for column in zip(*part, strict=True)] for part in (watcher.seen[:half], watcher.seen[half:])
    )
    steady = late[0] <= early[0] * MOST and late[1] <= early[1] and late[2] <= early[2]
    print(
        f"  second half over first: memory {late[0] / early[0]:.4f}, files {late[1] - early[1]:+}, threads {late[2] - early[2]:+}",
        flush=True,
    )
    return steady


def make_images(folder: Path) -> None:
    """2,000 small pictures, 9.6 MB decoded, so that they are kept in the cache's file."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (2000, 5, 5, 3), dtype=np.uint8)):
        Image.fromarray(pixels).resize((40, 40)).save(folder / f"{number:04d}.png")


def main() -> None:
    """Soak all, and exit with 1 if anything grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1000)
    given = parser.parse_args()
    with TemporaryDirectory() as place:
        make_images(Path(place) / "data")
        grown = [name for name in CASES if not soak(name, given.epochs, Path(place), Path(place) / "data")]
    print(f"grows: {', '.join(grown)}" if grown else "nothing grows")
    raise SystemExit(bool(grown))


if __name__ == "__main__":
    main()
