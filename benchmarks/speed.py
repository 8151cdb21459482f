"""Training throughput on MNIST: aegen's engine beside a loop written by hand and beside pythae, on the CPU.

    OMP_WAIT_POLICY=passive python benchmarks/speed.py --data-root DIR

The three run in one process, in turn, in short segments over several rounds, each round beginning with another one.
Read the ratios: they compare segments of the same round, so that a busy machine slows both sides. The target is 0.95 of
the loop by hand, and 1.5 (mlp) and 1.2 (conv) times pythae. Without OMP_WAIT_POLICY, two threads that spin for each other
on a machine that others use train up to a hundred times slower.

DIR/MNIST/raw holds the four idx files, as torchvision keeps them; the README beside this file says how to get them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from contenders import NETS, Aegen, ByHand, Contender, Pythae, Watch, run_spec
from pairs import ratio, spread

from aegen.data.source import load_data

WARM_UP = 1.0  # seconds
TARGETS = {"mlp": {"by hand": 0.95, "pythae": 1.5}, "conv": {"by hand": 0.95, "pythae": 1.2}}


def line_up(net: str, data_root: Path, folder: Path) -> list[Contender]:
    """Every contender that can be had."""
    spec = run_spec(net, data_root)
    data = load_data(spec.data, spec.data_options)
    contenders: list[Contender] = [Aegen(spec, data, folder), ByHand(spec, data)]
    try:
        contenders.append(Pythae(spec, data, folder))
    except ImportError as error:
        print(f"without pythae ({error})")
    return contenders


def race(contenders: list[Contender], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images per second, by contender and round."""
    for contender in contenders:
        _segment(contender, WARM_UP)
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        first = number % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            rates[contender.name].append(_segment(contender, seconds))
    return rates


def _segment(contender: Contender, seconds: float) -> float:
    """Progress bars and epoch lines are drawn, into nothing."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
        watch = Watch(seconds)
        contender.train(watch)
    return watch.images_per_second


def report(net: str, rates: dict[str, list[float]]) -> None:
    """Print what was measured, and the ratios with their targets."""
    print(f"\n{net:<10}  images/s (min..max)")
    for name, values in rates.items():
        print(f"  {name:<8}  {median(values):>8,.0f} ({spread(values, ',.0f')})")
    for name, target in TARGETS[net].items():
        if name in rates:
            print(f"  aegen / {name:<8} {ratio(rates['aegen'], rates[name])}, target {target}")


def main() -> None:
    """Race on each net and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=[*NETS, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one segment")
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds MNIST/raw")
    given = parser.parse_args()
    # Adam's moments of a dead unit sink into denormal numbers, which halve the speed of all three, each at another time.
    torch.set_flush_denormal(True)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.rounds} rounds of {given.seconds:g} s")
    for net in NETS if given.net == "both" else [given.net]:
        with TemporaryDirectory() as folder:
            report(net, race(line_up(net, given.data_root, Path(folder)), given.rounds, given.seconds))


if __name__ == "__main__":
    main()
