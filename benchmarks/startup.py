"""How long `aegen --help` takes beside the help of an empty Typer app, alone and among twenty plugins that import torch.

    python benchmarks/startup.py

Both are started by this interpreter, in turn. Help reads names from package metadata and imports no component, so that
neither torch nor a plugin may show in the figures. The target is 1.5 times the empty app in both.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pairs import ratio, spread

EMPTY_APP = """\
import typer

app = typer.Typer()


@app.command()
def one() -> None: ...


@app.command()
def two() -> None: ...


app()
"""
PLUGINS, TARGET = 20, 1.5


class Cost(NamedTuple):
    """Seconds of one process."""

    wall: float
    cpu: float


def install(folder: Path) -> None:
    """Twenty packages as pip leaves them, each with an objective whose module imports torch."""
    for number in range(PLUGINS):
        name = f"aegen_fake_{number}"
        (folder / f"{name}.py").write_text(
            "import torch\n\nfrom aegen import Objective\n\n\nclass Fake(Objective): ...\n"
        )
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[aegen.objectives]\nfake-{number} = {name}:Fake\n")


def cost(command: list[str], path: Path | None) -> Cost:
    """Run once with `path` on PYTHONPATH."""
    environment = os.environ | ({"PYTHONPATH": str(path)} if path is not None else {})
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def compare(title: str, pairs: int, empty: list[str], path: Path | None) -> None:
    """Print both costs and their ratios."""
    aegen = [sys.executable, "-m", "aegen", "--help"]
    costs: dict[str, list[Cost]] = {"aegen": [], "empty app": []}
    for number in range(pairs + 2):  # two to warm up
        for name, command in (("aegen", aegen), ("empty app", empty)):
            found = cost(command, path)
            if number >= 2:
                costs[name].append(found)
    print(f"\n{title:<24}  wall ms (min..max)      CPU ms (min..max)")
    for name, found in costs.items():
        columns = [[1000 * value for value in column] for column in zip(*found, strict=True)]
        print(f"  {name:<22}" + "".join(f"  {median(c):>5.0f} ({spread(c, '.0f')})".ljust(24) for c in columns))
    for kind in Cost._fields:
        ours, theirs = ([getattr(c, kind) for c in costs[name]] for name in ("aegen", "empty app"))
        of_medians = median(ours) / median(theirs)
        print(f"  {kind:<4}  ratio of medians {of_medians:.2f}, by pairs {ratio(ours, theirs)}, target {TARGET}")


def main() -> None:
    """Compare alone, then among plugins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    given = parser.parse_args()
    with TemporaryDirectory() as text:
        folder = Path(text)
        script, site = folder / "empty.py", folder / "site"
        script.write_text(EMPTY_APP)
        site.mkdir()
        install(site)
        empty = [sys.executable, str(script), "--help"]
        compare("alone", given.pairs, empty, None)
        compare(f"with {PLUGINS} plugins", given.pairs, empty, site)


if __name__ == "__main__":
    main()
