"""Sampling and encoding beside the bare decoder and encoder, and how the cost of training grows.

    python benchmarks/use.py                 # ratios: what aegen's own work around the nets costs
    python benchmarks/use.py --growth        # images/s of training against width, image side and number of images

Contenders take turns within a round; a ratio compares what ran side by side.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from pairs import ratio, spread
from PIL import Image

from aegen import load, pictures
from aegen.autoencoder import build_model, build_objective
from aegen.config import resolve
from aegen.data.batches import normalize
from aegen.data.source import Data, load_data
from aegen.hooks import Hooks
from aegen.settings import DataSettings
from aegen.training import cpu
from aegen.training.distributed import world
from aegen.training.loop import Trainer
from aegen.training.run import train

COUNT, PART, MANY = 4096, 256, 1_000_000
NETS: dict[str, dict[str, Any]] = {
    "mlp": {"arch": "mlp", "arch.hidden": [400]},
    "conv": {"arch": "conv", "arch.width": 32},
}


def timed(work: Callable[[], object]) -> float:
    """Images a second."""
    begin = time.perf_counter()
    work()
    return COUNT / (time.perf_counter() - begin)


def race(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Images a second by contender and round, after a round that is not counted."""
    names = list(contenders)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rate = timed(contenders[name])
            if number:
                rates[name].append(rate)
    return rates


def use(net: str, rounds: int, folder: Path) -> None:
    """Print the ratios of one net, trained for a moment on the embedded digits."""
    options = {**NETS[net], "data.size": 28, "train.steps": 300, "train.device": "cpu", "log.images_every_epochs": 0}
    train(run_dir=folder / net, **options)
    loaded = load(folder / net, device="cpu")
    model = loaded.model
    z = torch.randn(COUNT, *model.latent_shape)
    pixels = torch.randint(0, 256, (COUNT, *model.image), dtype=torch.uint8)

    @torch.inference_mode()
    def bare_decoder() -> None:
        for part in z.split(PART):
            model.decoder(part)

    @torch.inference_mode()
    def bare_encoder() -> None:
        for part in pixels.split(PART):
            model.encoder(part.float().div(127.5).sub(1))

    def sampled() -> None:
        list(loaded.sample_batches(COUNT, sampler="prior"))

    def written() -> None:  # as `aegen sample` does
        parts = [pictures.to_uint8(part) for part in loaded.sample_batches(COUNT, sampler="prior")]
        pictures.save(pictures.grid(torch.cat(parts)), folder / "grid.png")

    @torch.no_grad()
    def encoded() -> None:
        for part in pixels.split(PART):
            _ = model.encode(normalize(part)).mean

    rates = race(
        {"decoder": bare_decoder, "sampled": sampled, "written": written, "encoder": bare_encoder, "encoded": encoded},
        rounds,
    )
    print(f"\n{net}, {COUNT:,} images of {model.image}, images/s (min..max)")
    for name, values in rates.items():
        print(f"  {name:<8} {median(values):>9,.0f} ({spread(values, ',.0f')})")
    print(f"  sampled / decoder {ratio(rates['sampled'], rates['decoder'])}, target 0.9")
    print(f"  sampled, and written as one PNG / decoder {ratio(rates['written'], rates['decoder'])}, target 0.9")
    print(f"  encoded / encoder {ratio(rates['encoded'], rates['encoder'])}, target 0.9", flush=True)


def growth(folder: Path | None) -> None:
    """Print the table: conv, batch 64, everything else as it is by default."""
    print("| width | side | images | images/s | ns an image, by pixel and width² |\n|---:|---:|---:|---:|---:|")
    cases = [(w, 28, 10_000) for w in (8, 16, 32, 64, 128)] + [(16, s, 1000) for s in (28, 32, 64, 96, 128, 192, 256)]
    cases += [(16, 28, n) for n in (1_000, 10_000, 100_000)]
    for width, side, count in cases:
        pixels = torch.randint(0, 256, (count, 1, side, side), dtype=torch.uint8)
        rate = training(width, Data(pixels, pixels[:64]))
        print(
            f"| {width} | {side} | {count:,} | {rate:,.0f} | {1e9 / rate / side**2 / width**2:.2f} |",
            flush=True,
        )
    with TemporaryDirectory(dir=folder) as place:
        os.environ["AEGEN_CACHE"] = f"{place}/cache"
        shards = make_shards(Path(place), MANY)
        for number in ("first", "second"):
            begin = time.perf_counter()
            data = load_data(DataSettings(name=shards, size=28, channels=1))
            opened = time.perf_counter() - begin
            rate = training(16, data)
            print(
                f"| 16 | 28 | {MANY:,} in shards, opened in {opened:.0f} s the {number} time | {rate:,.0f} | |",
                flush=True,
            )


def make_shards(folder: Path, count: int) -> str:
    """Tars of 10,000 PNGs of noise, 28×28."""
    draw, each = np.random.default_rng(0), 10_000
    for shard in range(count // each):
        with tarfile.open(folder / f"s-{shard:03d}.tar", "w") as archive:
            for number, pixels in enumerate(draw.integers(0, 256, (each, 28, 28), dtype=np.uint8)):
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG", compress_level=0)
                entry = tarfile.TarInfo(f"{number:06d}.png")
                entry.size = file.tell()
                file.seek(0)
                archive.addfile(entry, file)
    return str(folder / f"s-{{000..{count // each - 1:03d}}}.tar")


def training(width: int, data: Data) -> float:
    """Images a second of the engine's own loop."""
    options = {"arch.name": "conv", "arch.width": width, "train.device": "cpu", "train.epochs": 1000}
    spec = resolve([("benchmark", options | {"checkpoint.every_epochs": 0, "checkpoint.best": False})]).spec
    model = build_model(spec.arch, spec.bottleneck, spec.likelihood, data.image)
    with world("cpu") as here:
        objective = build_objective(spec.objective, model, size=len(data.train))
        trainer = Trainer(spec, model, objective, data, here, run=None, header={}, hooks=Hooks())
        model.train()
        for step in range(3):
            trainer.take_step(step)
        rates = []
        for number in range(3):
            begin, steps = time.perf_counter(), 0
            while time.perf_counter() - begin < 2 or steps < 3:
                trainer.take_step(3 + 1000 * number + steps)
                steps += 1
            trainer.recorded()
            rates.append(steps * trainer.batches.batch_size / (time.perf_counter() - begin))
    return median(rates)


def main() -> None:
    """Race, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--folder", type=Path, help="for shards and cache of --growth, 4 GB")
    given = parser.parse_args()
    cpu.prepare()
    if given.growth:
        growth(given.folder)
        return
    with TemporaryDirectory() as folder:
        for net in NETS:
            use(net, given.rounds, Path(folder))


if __name__ == "__main__":
    main()
