"""Training throughput on MNIST: aegen's engine beside a loop written by hand and beside pythae, on the CPU.

    python benchmarks/speed.py --data-root DIR

Each contender has a process of its own; they train in turn, in short segments over several rounds, each round beginning with another
one. Read the ratios: they compare segments of the same round, so that a busy machine slows both sides. The targets stand in TARGETS.

DIR/MNIST/raw holds the four idx files, as torchvision keeps them; the README beside this file says how to get them.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from contenders import NETS, Watch, contender
from pairs import ratio, spread

from aegen.cli import SPIN_COUNT

WARM_UP = 2.0  # seconds
NAMES = ("aegen", "by hand", "pythae", "DataLoader", "aegen, compiled", "by hand, compiled")
TARGETS = {
    "mlp": {"by hand": 0.97, "pythae": 2, "DataLoader": 3},
    "conv": {"by hand": 0.97, "pythae": 1.3},
    "resnet": {"by hand": 0.97, "pythae": 1.3},
    "wide": {"by hand": 0.97, "pythae": 1.3},
}
COMPILED = {"by hand, compiled": 0.97, "pythae": 1.8}  # targets of aegen with all switches


def work(pipe: Connection, name: str, net: str, data_root: Path) -> None:
    """Build a contender; then, for each number of seconds received, train that long and send images per second."""
    with TemporaryDirectory() as folder, open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
        try:
            mine = contender(name, net, data_root, Path(folder))
        except ImportError as error:
            pipe.send(str(error))
            return
        pipe.send("")
        while seconds := pipe.recv():
            watch = Watch(seconds)
            mine.train(watch)
            pipe.send(watch.images_per_second)


def race(
    net: str, data_root: Path, rounds: int, seconds: float, names: Sequence[str] = NAMES
) -> dict[str, list[float]]:
    """Images per second, by contender and round."""
    start = multiprocessing.get_context("spawn")
    pipes = {}
    for name in names:
        # The loop by hand gets the settings of the process that `aegen train` makes; pythae does without, as it does.
        os.environ.pop("GOMP_SPINCOUNT", None)
        if name.startswith(("aegen", "by hand")) and "OMP_WAIT_POLICY" not in os.environ:
            os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
        pipes[name], theirs = start.Pipe()
        start.Process(target=work, args=(theirs, name, net, data_root), daemon=True).start()
        if problem := pipes[name].recv():
            print(f"without {name} ({problem})")
            del pipes[name]
    rates: dict[str, list[float]] = {name: [] for name in pipes}

    def segment(name: str, length: float) -> float:
        pipes[name].send(length)
        rate: float = pipes[name].recv()
        return rate

    for name in pipes:
        segment(name, WARM_UP)
    order = list(pipes)
    for number in range(rounds):
        first = number % len(order)
        for name in order[first:] + order[:first]:
            rates[name].append(segment(name, seconds))
    for pipe in pipes.values():
        pipe.send(0)
    return rates


def report(net: str, rates: dict[str, list[float]]) -> None:
    """Print what was measured, and the ratios with their targets."""
    print(f"\n{net:<10}  images/s (min..max)")
    for name, values in rates.items():
        print(f"  {name:<17}  {median(values):>8,.0f} ({spread(values, ',.0f')})")
    for name, target in TARGETS[net].items():
        if name in rates:
            print(f"  aegen / {name:<8} {ratio(rates['aegen'], rates[name])}, target {target}", flush=True)
    best = "aegen, compiled"
    for name, target in COMPILED.items() if best in rates else ():
        if name in rates:
            print(f"  {best} / {name:<8} {ratio(rates[best], rates[name])}, target {target}", flush=True)


def main() -> None:
    """Race on each net and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=[*NETS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one segment")
    parser.add_argument("--contenders", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds MNIST/raw")
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.rounds} rounds of {given.seconds:g} s")
    for net in NETS if given.net == "all" else [given.net]:
        report(net, race(net, given.data_root, given.rounds, given.seconds, given.contenders))


if __name__ == "__main__":
    main()
