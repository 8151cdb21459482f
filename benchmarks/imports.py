"""What every command imports and how long that takes: `python -X importtime`, by package, and the time of the whole command.

    python benchmarks/imports.py --runs 5

Each command is run once to fill the caches (bytecode, descriptions of components), once with `-X importtime`, and then `--runs` times for
the medians. Help, listings, completion and refusals must import neither torch nor anything that is made for it.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from statistics import median
from tempfile import TemporaryDirectory

HEAVY = ("torch", "torchvision", "sklearn", "scipy", "onnx", "onnxruntime", "tensorboard", "torchmetrics")
_OPTION = "aegen train --objective beta-vae --objective.b"
LIGHT: dict[str, list[str]] = {
    "--help": ["--help"],
    "train --help": ["train", "--help"],
    "train --arch conv --objective kl-gan --help": ["train", "--arch", "conv", "--objective", "kl-gan", "--help"],
    "list-plugins": ["list-plugins"],
    "list-plugins vae": ["list-plugins", "vae"],
    "list-plugins --combinations": ["list-plugins", "--combinations"],
    "a combination refused": ["train", "--objective", "vae", "--bottleneck", "deterministic"],
    "completion of --objective.b": [],
    "the same for zsh, with help": ["zsh"],
}
HEAVIER: dict[str, list[str]] = {
    "train --dry-run": ["train", "--arch", "mlp", "--size", "8", "--dry-run"],
    "reconstruct": ["reconstruct", "-c", "RUN", "pictures/0000.png", "-o", "FILE.png"],
    "sample": ["sample", "-c", "RUN", "-n", "4", "-o", "FILE.png"],
    "interpolate": ["interpolate", "-c", "RUN", "pictures/0000.png", "pictures/0001.png", "-o", "FILE.png"],
    "evaluate": ["evaluate", "-c", "RUN", "--metric", "reconstruction"],
    "compare": ["compare", "RUN", "RUN", "-o", "FILE.html"],
    "report": ["report", "RUN", "--no-evaluate", "-o", "FILE.html"],
    "export": ["export", "-c", "RUN", "-o", "FILE.safetensors"],
}


def run(words: list[str], *, importtime: bool = False) -> tuple[float, float, str]:
    """Wall and CPU seconds of one process, and what it said on stderr."""
    extra = {}
    if words in ([], ["zsh"]):
        extra = {
            "_AEGEN_COMPLETE": "complete_zsh" if words else "complete_bash",
            "COMP_WORDS": _OPTION,
            "COMP_CWORD": "4",
            "_TYPER_COMPLETE_ARGS": _OPTION,
        }
    command = [sys.executable, *(["-X", "importtime"] if importtime else []), "-m", "aegen", *([] if extra else words)]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=os.environ | extra, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stderr


def packages(text: str) -> Counter[str]:
    """Seconds of importing by top-level package, of what `-X importtime` wrote."""
    found: Counter[str] = Counter()
    for line in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", text, re.MULTILINE):
        found[line[1].partition(".")[0]] += int(line[0]) / 1e6  # type: ignore[assignment]
    return found


def main() -> None:
    """Print a row for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    print(f"{'command':<44} {'wall s':>7} {'CPU s':>6} {'imports s':>9}  heavy packages; the three slowest")
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        words = ["train", "--arch", "mlp", "--size", "8", "--epochs", "1", "--run-dir", "run"]
        subprocess.run([sys.executable, "-m", "aegen", *words], check=True, capture_output=True)
        for title, line in [*LIGHT.items(), *HEAVIER.items()]:
            times = []
            for number in range(given.runs + 2):
                place = f"out{len(os.listdir())}-{number}"
                told = [w.replace("FILE", place) if "FILE" in w else w.replace("RUN", "run") for w in line]
                wall, cpu, said = run(told, importtime=number == 1)
                if number == 1:
                    imported = packages(said)
                elif number > 1:
                    times.append((wall, cpu))
            heavy = [name for name in HEAVY if name in imported]
            slowest = ", ".join(f"{name} {seconds:.2f}" for name, seconds in imported.most_common(3))
            wall, cpu = (median(column) for column in zip(*times, strict=True))
            print(
                f"{title:<44} {wall:>7.2f} {cpu:>6.2f} {imported.total():>9.2f}  {' '.join(heavy) or '-'}; {slowest}",
                flush=True,
            )


if __name__ == "__main__":
    main()
