"""Every objective with every sampler, on MNIST and on emoji, with an equal budget, by `aegen` commands alone.

    python benchmarks/leaderboard.py --data-root DIR --emoji DIR/64 --out leaderboard/ --docs docs/
    python benchmarks/leaderboard.py --data-root DIR --emoji DIR/64 --out leaderboard/ --only vae gan --sets mnist

What is installed is asked of `aegen list-plugins`, so a new objective or sampler only adds rows. It can be stopped and started
again: a run that was begun is resumed, one that is done is not trained again, and numbers that are written are not measured
again. A command that refuses becomes a row with its sentence. `--print` shows the commands and runs none.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cells import cell

WRAPPED = ("vae+adversarial", "vae+perceptual", "vae+ms-ssim", "vae+consistency", "vae+equivariance")
ENCODED = ("bound", "nll", "reconstruction", "ssim", "rkid", "mmd", "codebook", "probe")
DRAWN = ("kid", "precision-recall")
SAMPLES = 1000
_CONV = "--arch conv --arch.width 16"


@dataclass(frozen=True)
class Board:
    """One data set with its net and budget.

    Attributes:
        words: of `aegen train`, those that say the data first.
        net: of names that mean a vector.
        map_net: of names that mean a feature map as latent.
        dim: latent dimensions of a vector, where the bottleneck counts in dimensions.
    """

    title: str
    words: str
    net: str
    map_net: str
    dim: int


@dataclass
class Row:
    """What an objective came to: its numbers by name, those of each sampler, and the sentences of what refused."""

    name: str
    numbers: dict[str, float] = field(default_factory=dict)
    drawn: dict[str, dict[str, float]] = field(default_factory=dict)
    refused: str = ""
    title: str = ""


def boards(given: argparse.Namespace) -> dict[str, Board]:
    """The boards whose data was given."""
    found = {}
    if given.data_root:
        words = f"--data mnist --data-root {given.data_root} --batch-size 100 --steps 2000"
        found["mnist"] = Board("MNIST", words, '--arch mlp --arch.hidden "[400]"', _CONV, 10)
    if given.emoji:
        words = f"--data {given.emoji} --size 32 --channels 3 --batch-size 50 --steps 1000"
        found["emoji"] = Board("Emoji, 32×32", words, _CONV, _CONV, 32)
    return {name: board for name, board in found.items() if name in given.sets}


class Commands:
    """Runs `aegen`, or only says what it would run."""

    def __init__(self, *, only_print: bool) -> None:
        self.only_print = only_print

    def __call__(self, line: str) -> tuple[int, str, str]:
        """Exit status, what it said on stdout, and its last line on stderr."""
        if self.only_print:
            print(f"aegen {line}", flush=True)
            return 0, "", ""
        done = subprocess.run([sys.executable, "-m", "aegen", *shlex.split(line)], capture_output=True, text=True)
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return done.returncode, done.stdout, last.removeprefix("error: ")

    def listed(self, words: str) -> list[dict[str, Any]]:
        """A list that `aegen list-plugins` prints; asked also when the rest is only printed."""
        done = subprocess.run(
            [sys.executable, "-m", "aegen", "list-plugins", *words.split(), "--json"], capture_output=True, text=True
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


def objectives(aegen: Commands) -> dict[str, tuple[str, bool]]:
    """Every objective that stands alone, and some wrappers around `vae`: its bottleneck, and whether it means a feature map."""
    listed = [row for row in aegen.listed("--combinations") if not row["wraps"]]
    found = {row["objective"]: (row["bottleneck"], row["map"]) for row in listed}
    return found | dict.fromkeys(WRAPPED, found["vae"])


def row(aegen: Commands, board: Board, name: str, has_map: bool, counts: bool, samplers: list[str], out: Path) -> Row:
    """Train what is not trained, measure what is not measured, draw what is not drawn."""
    other = has_map and board.map_net != board.net
    run, result = out / name.replace("+", "-"), Row(name, title=f"{name} (conv)" if other else name)
    dim = f" {board.map_net}" if has_map else f" {board.net}" + f" --latent-dim {board.dim}" * counts
    status, note = 0, ""
    if not run.exists():
        quiet = "--set log.images_every_epochs=0 --set checkpoint.every_steps=500 --json"
        status, _, note = aegen(f"train --objective {name} {board.words}{dim} --run-dir {run} {quiet}")
    elif not (run / "samples.png").exists():
        status, _, note = aegen(f"train --resume {run} --json")
    if status:
        result.refused = re.sub(r"(/[^ /]+)+/", "DIR/", note)  # a folder of this machine says nothing to a reader
        return result
    metrics = " ".join(f"--metric {metric}" for metric in ENCODED)
    result.numbers = numbers(
        aegen, f"{metrics} --nll.images 500 --nll.samples 100 --limit 2000", run, out / f"{run.name}.json"
    )
    for sampler in samplers:
        where = f"--sampler {sampler}"
        metrics = " ".join(f"--metric {metric}" for metric in DRAWN)
        found = numbers(aegen, f"{metrics} {where} -n {SAMPLES}", run, out / f"{run.name}-{sampler}.json")
        if "kid" in found or aegen.only_print:
            result.drawn[sampler] = found
            strip = out / f"{run.name}-{sampler}.png"
            if not strip.exists():
                aegen(f"sample -c {run} {where} -n 16 -o {strip}")
    return result


def numbers(aegen: Commands, words: str, run: Path, file: Path) -> dict[str, float]:
    """What `aegen evaluate` wrote, by name."""
    if not file.exists():
        status, _, note = aegen(f"evaluate -c {run} {words} -o {file}")
        if status or aegen.only_print:
            if status:
                print(f"{run.name}: {note}", flush=True)
            return {}
    written = json.loads(file.read_text())
    return {entry["name"]: entry["value"] for entry in written["numbers"]}


ENCODED_COLUMNS = {
    "negative_elbo": ("negative ELBO", ".1f"),
    "nll": ("NLL", ".1f"),
    "psnr": ("PSNR", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "rkid": ("rKID", ".3f"),
    "mmd": ("MMD²", ".4f"),
    "usage": ("codes used", ".0%"),
    "linear_probe": ("linear probe", ".1%"),
}
DRAWN_COLUMNS = {"kid": ("KID", ".3f"), "precision": ("precision", ".2f"), "recall": ("recall", ".2f")}


def table(board: str, rows: list[Row], pictures: str) -> str:
    """Two tables: what encodes, and what draws, the best KID first."""
    lines = [
        "| objective | " + " | ".join(title for title, _ in ENCODED_COLUMNS.values()) + " |",
        "|---|" + "---:|" * len(ENCODED_COLUMNS),
    ]
    for one in rows:
        if any(key in one.numbers for key in ENCODED_COLUMNS):
            lines.append(f"| {cell(one.title)} | " + " | ".join(cells(one.numbers, ENCODED_COLUMNS)) + " |")
    lines += [
        "",
        "| objective | sampler | " + " | ".join(title for title, _ in DRAWN_COLUMNS.values()) + " | samples |",
        "|---|---|" + "---:|" * len(DRAWN_COLUMNS) + "---|",
    ]
    drawn = [(one, sampler, found) for one in rows for sampler, found in one.drawn.items()]
    for one, sampler, found in sorted(drawn, key=lambda entry: entry[2].get("kid", 0)):
        place = quote(f"{pictures}/{board}-{one.name.replace('+', '-')}-{sampler}.png")
        picture = f"![{cell(one.name)}, {cell(sampler)}]({place})"
        lines.append(
            f"| {cell(one.title)} | {cell(sampler)} | " + " | ".join(cells(found, DRAWN_COLUMNS)) + f" | {picture} |"
        )
    refused = [f"- <code>{cell(one.name)}</code>: {cell(one.refused)}" for one in rows if one.refused]
    return "\n".join([*lines, *(["", "Not here:", "", *refused] if refused else [])]) + "\n"


def cells(found: dict[str, float], columns: dict[str, tuple[str, str]]) -> list[str]:
    """A cell a column, empty where there is no number."""
    return [format(found[key], form) if key in found else "" for key, (_, form) in columns.items()]


def publish(docs: Path, board: str, out: Path, text: str, rows: list[Row]) -> None:
    """The tables between the marks of docs/leaderboard.md, and the strips beside it."""
    folder = docs / "leaderboard"
    folder.mkdir(exist_ok=True)
    for one in rows:
        for sampler in one.drawn:
            name = f"{one.name.replace('+', '-')}-{sampler}.png"
            if (out / name).exists():
                (folder / f"{board}-{name}").write_bytes((out / name).read_bytes())
    page = docs / "leaderboard.md"
    head, mark, rest = page.read_text().partition(f"<!-- {board} -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    page.write_text(head + mark + kept(text, rest.partition(end)[0]) + end + tail)


def kept(new: str, old: str) -> str:
    """The tables `new`, with those rows of `old` that were not made again; what draws sorted by KID, the rest as it stood."""
    before, parts = old.strip().split("\n\n"), new.strip().split("\n\n")
    for index, block in enumerate(parts[:2]):
        head, rule, *lines = block.splitlines()
        own = {key(line): line for line in lines}
        table = next((b.splitlines()[2:] for b in before if b.startswith(head)), [])
        table = [own.pop(key(line), line) for line in table] + list(own.values())
        if "KID" in rule + head.partition("sampler")[2]:
            table.sort(key=lambda line: float(line.split("|")[3] or 0))
        parts[index] = "\n".join([head, rule, *table])
    stood, refused = (
        [line for b in blocks for line in b.splitlines() if _refused(line)] for blocks in (before, parts[2:])
    )
    rest = [line for line in stood if _refused(line) not in {_refused(one) for one in refused}] + refused
    return "\n\n".join([*parts[:2], *(["Not here:", "\n".join(rest)] if rest else [])]) + "\n"


def _refused(line: str) -> str:
    """The name in a line of the list of what is not there, as it is written now or was before; nothing of another line."""
    found = re.match(r"- (?:`|<code>)(.*?)(?:`|</code>)", line)
    return found[1] if found else ""


def key(line: str) -> tuple[str, str]:
    """Objective, without the net, and sampler if there is one."""
    first, second, *_ = (cell.strip() for cell in line.strip("|").split("|"))
    return first.removesuffix(" (conv)"), "" if any(c.isdigit() for c in second) else second


def main() -> None:
    """Fill the boards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder that holds MNIST/raw")
    parser.add_argument("--emoji", type=Path, help="folder of emoji, 64×64")
    parser.add_argument("--out", type=Path, default=Path("leaderboard"))
    parser.add_argument("--sets", nargs="*", default=["mnist", "emoji"])
    parser.add_argument("--only", nargs="*", help="these objectives; all that are installed if left out")
    parser.add_argument("--docs", type=Path, help="folder of leaderboard.md")
    parser.add_argument("--print", action="store_true", dest="only_print", help="show the commands, run none")
    given = parser.parse_args()
    aegen = Commands(only_print=given.only_print)
    necks = objectives(aegen)
    samplers = [entry["name"] for entry in aegen.listed("--kind sampler")]
    wanted = given.only or list(necks)
    counted = {neck: "dim" in options(aegen, neck) for neck in {necks[name][0] for name in wanted}}
    for board, what in boards(given).items():
        out = given.out / board
        out.mkdir(parents=True, exist_ok=True)
        rows = []
        for name in wanted:
            neck, has_map = necks[name]
            rows.append(row(aegen, what, name, has_map, counted[neck], samplers, out))
            if not given.only_print:
                print(board, name, rows[-1].refused or rows[-1].drawn, flush=True)
                text = table(board, rows, "leaderboard")
                (out / "table.md").write_text(text)
        if given.docs and not given.only_print:
            publish(given.docs, board, out, text, rows)


def options(aegen: Commands, bottleneck: str) -> set[str]:
    """Names of a bottleneck's options."""
    found = aegen.listed(f"--kind bottleneck {bottleneck}")
    return {option["name"] for entry in found for option in entry.get("options", [])}


if __name__ == "__main__":
    main()
