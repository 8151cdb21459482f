"""How fast batches come from a folder of JPEGs, the first time and later, beside ImageFolder with a DataLoader; and what memory it takes.

    python benchmarks/data_path.py                 # speed, about ten minutes
    python benchmarks/data_path.py --memory        # resident memory against the size of the folder, needs 20 GB of disk

The folder holds 512×512 crops of the photographs that come with scikit-image, in a temporary folder, as do caches and shards. Each contender
runs in a process of its own, with two workers, and gives float32 batches of 64 in [-1, 1]; nothing is trained. A round is one run of each
contender, in turn; ratios are taken within a round. The time of a first epoch begins before the folder is looked at, with torch loaded; for
aegen an epoch ends with the tenth of the images that are held out, as it does in a run.

Beside the time of the clock stands the processor's, of all threads and workers together, which other programs on the machine change little.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from pairs import ratio, spread

WORKERS, BATCH, SIDE, QUALITY = 2, 64, 512, 90
NAMES = (
    "ImageFolder, first epoch",
    "ImageFolder, second",
    "aegen, first epoch",
    "aegen, second",
    "aegen, first of the next run",
    "aegen from shards, first epoch",
    "aegen from shards, second",
)
AIMS = (
    ("aegen, first epoch", "ImageFolder, first epoch", 2.0),
    ("aegen, second", "ImageFolder, second", 15.0),
    ("aegen, first of the next run", "ImageFolder, first epoch", None),
    ("aegen from shards, second", "ImageFolder, second", None),
)
SOURCES = ("coffee.png", "astronaut.png", "hubble_deep_field.jpg", "retina.jpg", "rocket.jpg", "chelsea.png")


def make_photos(folder: Path, count: int) -> None:
    """JPEGs in one subfolder, which ImageFolder wants."""
    import skimage
    from PIL import Image

    draw = np.random.default_rng(0)
    pictures = []
    for name in SOURCES:
        image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        scale = max(1.0, 1.25 * SIDE / min(image.size))
        size = round(image.width * scale), round(image.height * scale)
        pictures.append(image.resize(size, Image.Resampling.LANCZOS))
    (folder / "all").mkdir(parents=True)
    for number in range(count):
        image = pictures[number % len(pictures)]
        x, y = draw.integers(0, image.width - SIDE + 1), draw.integers(0, image.height - SIDE + 1)
        image.crop((x, y, x + SIDE, y + SIDE)).save(folder / "all" / f"{number:06d}.jpg", quality=QUALITY)


def make_shards(photos: Path, folder: Path, most: int = 500) -> str:
    """The same files in tars."""
    folder.mkdir()
    files = sorted((photos / "all").iterdir())
    for shard in range(0, len(files), most):
        with tarfile.open(folder / f"s-{shard // most:03d}.tar", "w") as archive:
            for file in files[shard : shard + most]:
                archive.add(file, file.name)
    return str(folder / f"s-{{000..{(len(files) - 1) // most:03d}}}.tar")


# ---------------------------------------------------------------------------------------------------- contenders


def plain(photos: Path, side: int, epochs: int) -> list[list[float]]:
    """What people write; images a second of each epoch, and milliseconds of processor an image, the same for each."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    begin, spent = time.perf_counter(), _processor()
    shape = [] if side == SIDE else [transforms.Resize(side), transforms.CenterCrop(side)]
    normal = [transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
    source = datasets.ImageFolder(str(photos), transforms.Compose([*shape, *normal]))
    loader = DataLoader(source, BATCH, shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True)
    rates = []
    for _ in range(epochs):
        given = sum(len(x) for x, _ in loader)
        rates.append(given / (time.perf_counter() - begin))
        begin = time.perf_counter()
    del loader  # its workers end, and their time becomes known
    gc.collect()
    each = (_processor() - spent) / (given * epochs) * 1000
    return [[rate, each] for rate in rates]


def _processor() -> float:
    """Seconds of processor that this process and its children that ended have spent."""
    told = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in told)


def aegen(photos: str, side: int, epochs: int) -> list[list[float]]:
    """The same from aegen's batches, with whatever cache there is."""
    import torch

    from aegen.data import encoded
    from aegen.data.batches import Batches, normalize
    from aegen.data.source import load_data
    from aegen.settings import DataSettings
    from aegen.training import cpu

    cpu.prepare()  # as the command does
    encoded.workers = lambda: WORKERS
    begin, spent = time.perf_counter(), _processor()
    data = load_data(DataSettings(name=photos, size=side))
    batches = Batches(data.train, BATCH, seed=0, device=torch.device("cpu"))
    rates, step = [], 0
    for _ in range(epochs):
        given = 0
        for _ in range(batches.per_epoch):
            given += len(batches.micro(step, 0)[0])
            step += 1
        given += sum(len(normalize(part)) for part in data.validation.split(BATCH))  # as at the end of an epoch
        rates.append([given / (time.perf_counter() - begin), (_processor() - spent) / given * 1000])
        begin, spent = time.perf_counter(), _processor()
    return rates


def everything(photos: str, side: int) -> dict[str, float]:
    """All that a run does with its images, without a net: split, fingerprint, batches, validation, pictures, one pass for a sampler."""
    import torch

    from aegen.data.batches import Batches
    from aegen.data.source import load_data
    from aegen.settings import DataSettings

    idle = _resident()
    begin = time.perf_counter()
    data = load_data(DataSettings(name=photos, size=side))
    data.fingerprint()
    opened = time.perf_counter() - begin
    batches = Batches(data.train, BATCH, seed=0, device=torch.device("cpu"))
    for step in range(min(batches.per_epoch, 100)):
        batches.micro(step, 0)
    for part in data.validation.split(BATCH):
        part.sum()
    data.validation[torch.linspace(0, len(data.validation) - 1, 24).long()]
    for part in data.train.split(BATCH):
        part.sum()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds to open": opened, "idle MB": idle, "end MB": _resident(), "peak MB": peak}


def _resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def apart(cache: Path, *words: object) -> Any:
    """Run one of these functions in a process of its own."""
    command = [sys.executable, __file__, "--one", *map(str, words)]
    told = subprocess.run(
        command, env={**os.environ, "AEGEN_CACHE": str(cache)}, check=True, capture_output=True, text=True
    )
    return json.loads(told.stdout.splitlines()[-1])


def one(words: list[str]) -> None:
    """What `apart` asked for, as a line of JSON."""
    import torch
    import torchvision  # noqa: F401

    kind, place, side, epochs = words[0], words[1], int(words[2]), int(words[3])
    torch.zeros(1).sum()
    if kind == "plain":
        print(json.dumps(plain(Path(place), side, epochs)))
    elif kind == "aegen":
        print(json.dumps(aegen(place, side, epochs)))
    else:
        print(json.dumps(everything(place, side)))


# ---------------------------------------------------------------------------------------------------- tables


def speed(folder: Path, count: int, sides: list[int], rounds: int) -> None:
    """Images a second, and ratios to the plain loader's."""
    photos = folder / "photos"
    make_photos(photos, count)
    shards = make_shards(photos, folder / "shards")
    print(f"{count:,} JPEGs of {SIDE}×{SIDE}, {WORKERS} workers, {rounds} rounds; images a second, median (min..max)")
    for side in sides:
        found: dict[str, list[list[float]]] = {}
        for number in range(rounds):
            first, second = apart(folder, "plain", photos, side, 2)
            cache = folder / f"cache-{side}-{number}"
            decoding, later, _ = apart(cache, "aegen", photos, side, 3)
            (again,) = apart(cache, "aegen", photos, side, 1)
            streamed, streamed_later = apart(cache, "aegen", shards, side, 2)
            subprocess.run(["rm", "-r", str(cache)], check=True)
            told = (first, second, decoding, later, again, streamed, streamed_later)
            for name, value in zip(NAMES, told, strict=True):
                found.setdefault(name, []).append(value)
        print(f"\n{side}×{side}{'images a second':>48}{'ms of processor an image':>40}")
        for name, values in found.items():
            rates, costs = ([value[column] for value in values] for column in (0, 1))
            print(
                f"  {name:32} {median(rates):10,.0f} ({spread(rates, ',.0f')}) {median(costs):18.2f} ({spread(costs, '.2f')})"
            )
        for name, under, aim in AIMS:
            (rate, cost), (base_rate, base_cost) = (list(zip(*found[key], strict=True)) for key in (name, under))
            told_aim = f", aim {aim:g}" if aim else ""
            print(f"  {name} / {under}: {ratio(rate, base_rate)}; by processor {ratio(base_cost, cost)}{told_aim}")
        sys.stdout.flush()


def memory(folder: Path, counts: list[int]) -> None:
    """Resident memory of all that a run does with its images, at 512×512, in its first run and its second."""
    print("images  run     opened in   resident before   at the end   at most")
    for count in counts:
        photos = folder / f"photos-{count}"
        make_photos(photos, count)
        for run in ("first", "second"):
            told = apart(folder / "cache", "everything", photos, SIDE, 0)
            print(
                f"{count:6,}  {run:6} {told['seconds to open']:8.1f} s {told['idle MB']:14.0f} MB"
                f" {told['end MB']:9.0f} MB {told['peak MB']:6.0f} MB",
                flush=True,
            )
        subprocess.run(["rm", "-r", str(photos), str(folder / "cache")], check=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.one:
        one(told.one)
        return
    with tempfile.TemporaryDirectory(dir=told.folder) as name:
        if told.memory:
            memory(Path(name), told.counts)
        else:
            speed(Path(name), told.count, told.sides, told.rounds)


if __name__ == "__main__":
    main()
