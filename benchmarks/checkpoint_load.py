"""How long it takes until a checkpoint of 300 MB can decode, beside `safetensors.torch.load_file` of the model's tensors alone.

    python benchmarks/checkpoint_load.py

The file has the optimizer's state too, which decoding leaves on disk. `load_file` maps a file and reads nothing of it; what it
returns costs its price when it is first read, so the contender to compare with is `load_file` and one reading. "by hand" is what
one writes without aegen: build the net, `load_file`, `load_state_dict`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pairs import ratio, spread
from safetensors.torch import load_file, save_file

import aegen
from aegen.autoencoder import build_model
from aegen.checkpoint import Checkpoint
from aegen.inference import load
from aegen.protocols import ImageShape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=3200, help="of two hidden layers; 3200 makes a file of 300 MB")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with TemporaryDirectory() as place:
        folder = Path(place)
        sizes = {"arch.hidden": [options.width] * 2, "data.size": 28, "train.steps": 1, "log.images_every_epochs": 0}
        run = aegen.train(arch="mlp", run_dir=folder / "run", **sizes)
        assert run.checkpoint is not None
        whole, alone, bare = run.checkpoint, folder / "alone.safetensors", folder / "bare.safetensors"
        file = Checkpoint(whole)
        save_file(file.tensors("model."), alone)
        save_file(file.tensors(""), bare, {"aegen": _metadata(whole)["aegen"]})
        spec, image = file.spec, ImageShape(*file.header["image"])

        def mapped() -> Any:
            return load_file(alone)

        def read() -> Any:
            return [value.sum() for value in load_file(alone).values()]

        def by_hand() -> Any:
            model = build_model(spec.arch, spec.bottleneck, spec.likelihood, image)
            model.load_state_dict(load_file(alone))
            return model

        def first_read(path: Path) -> Callable[[], Any]:
            return lambda: [value.sum() for value in load(path, device="cpu").model.state_dict().values()]

        contenders: dict[str, Callable[[], Any]] = {
            "load_file, nothing read": mapped,
            "load_file and one reading": read,
            "by hand": by_hand,
            "aegen.load": lambda: load(whole, device="cpu"),
            "aegen.load and one reading": first_read(whole),
            "the same without checksums": first_read(bare),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(options.rounds + 1):
            for name, contender in contenders.items():
                begin = time.perf_counter()
                kept = contender()
                if turn:  # the first round warms the cache of the file system
                    seconds[name].append(time.perf_counter() - begin)
                del kept
        size = sum(value.nbytes for value in load_file(alone).values())
        print(f"{whole.stat().st_size / 1e6:.0f} MB, of which the model has {size / 1e6:.0f}; {options.rounds} rounds")
        for name, found in seconds.items():
            against = ratio(found, seconds["load_file and one reading"])
            print(f"{name:28} {spread([1e3 * s for s in found], '.0f'):>10} ms, {against} of load_file and one reading")


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata())


if __name__ == "__main__":
    main()
