"""What help and `list-plugins NAME` show: whole names at every width, and defaults that are what is done."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import TextIO

import pytest
from conftest import TINY, Aegen

from aegen import registry
from aegen.cli.app import COMMANDS, build
from aegen.cli.help_format import Command, panel
from aegen.cli.render import table
from aegen.cli.text_width import fitted
from aegen.config import resolve
from aegen.descriptions import describe
from aegen.evaluation import PROTOCOLS
from aegen.settings import flatten

WIDTHS = [60, 80, 120]
LONG = ("train", "--objective", "vae+ms-ssim+equivariance+consistency+perceptual+adversarial", "--arch", "conv")
LINES = [*((name,) for name in COMMANDS), LONG, ("train", "--objective", "vqgan"), ("sample", "--sampler", "mixture"),
         ("export", "--format", "onnx"), ("evaluate", "--metric", "nll")]  # fmt: skip


def names(words: tuple[str, ...]) -> list[str]:
    """Every name of every option of the command of this line."""
    root = build(words)
    _, built, _ = root.resolve_command(None, [*words, "--help"])
    assert isinstance(built, Command)
    return [name for option in built.params for name in (*option.opts, *option.secondary_opts) if name.startswith("-")]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_no_name_is_cut_however_narrow_the_terminal(
    aegen: Aegen, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = aegen(*words, "--help").worked().out
    shown = set(re.findall(r"(?<![\w-])--?[\w.-]*\w", out))
    assert set(names(words)) <= shown
    wide = [
        line for line in out.splitlines() if len(line) > width and "    aegen " not in line
    ]  # examples are to be copied
    assert not wide
    assert "…" not in out.replace("1.weight …", "").replace(",…]", "")


def test_choices_and_bounds_are_whole_in_80_columns(aegen: Aegen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = aegen(*LONG, "--help").worked().out
    assert "--objective.adversarial.form hinge|non-saturating|least-squares\n" in out
    assert "--arch.width integer 1≤x≤16384 " in out
    assert "--objective.adversarial.spectral-norm\n    / --no-objective.adversarial.spectral-norm\n" in out


def test_the_help_of_all_commands_says_what_each_is_for(aegen: Aegen, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        out = " ".join(aegen("--help").worked().out.split())
        assert all(f"{name} {text}" in out for name, (_, text, _) in COMMANDS.items())


def test_a_switch_says_whether_it_is_on(aegen: Aegen) -> None:
    out = " ".join(aegen("train", "--objective", "vq-vae", "--help").worked().out.split())
    assert re.search(r"--cache / --no-cache [^[]*\[default: on\]", out)
    assert re.search(r"--download / --no-download [^[]*\[default: off\]", out)
    assert re.search(r"--arch.spatial / --no-arch.spatial [^[]*\[default: on\]", out)  # vq-vae keeps a map
    assert "[default: arch.spatial]" not in out


def test_what_is_typed_is_no_default(aegen: Aegen, tmp_path: Path) -> None:
    def defaults(*words: str) -> dict[str, str]:
        out = " ".join(aegen("train", *words, "--help").worked().out.split())
        return {name: re.search(rf"--{name} text [^[]*\[default: ([^]]*)\]", out)[1] for name in ("objective", "data")}  # type: ignore[index]

    assert defaults("--objective", "vae+adversarial", "--data", "mnist") == {"objective": "vae", "data": "digits"}
    (tmp_path / "c.toml").write_text('objective = "beta-vae"\ndata = "mnist"\n')
    assert defaults("--config", "c.toml") == {"objective": "beta-vae", "data": "mnist"}
    assert defaults("--config", "c.toml", "--objective", "gan") == {"objective": "beta-vae", "data": "mnist"}


def test_the_defaults_of_train_are_those_of_a_run(aegen: Aegen) -> None:
    """Every default in the help of `train` is what an empty line resolves to."""
    done = flatten(resolve([]).spec.to_dict())
    out = " ".join(aegen("train", "--arch", "conv", "--help").worked().out.split())
    for key, value in done.items():
        told = re.search(rf"--{re.escape(key.replace('_', '-'))} [^[]*(?:\[[a-z]+,…\][^[]*)?\[default: ([^]]*)\]", out)
        if told is not None:
            assert told[1] == ({True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)), key


def test_where_evaluate_and_the_others_write_is_what_their_help_says(
    aegen: Aegen, trained: Path, tmp_path: Path
) -> None:
    """Into the current folder, but for an evaluation, which is kept with the run."""
    import shutil

    shutil.copytree(trained, tmp_path / "run")
    place = {
        "evaluate": ["-c", "run", "--metric", "reconstruction"],
        "sample": ["-c", "run", "-n", 1],
        "report": ["run", "--no-evaluate"],
    }
    made = {name: json.loads(aegen(name, *words, "--json").worked().out) for name, words in place.items()}
    told = {name: " ".join(aegen(name, "--help").worked().out.split()) for name in place}
    assert made["evaluate"]["file"] == "run/evaluations/aegen-1.json"
    assert "[default: the protocol's name .json, in the folder evaluations of the run]" in told["evaluate"]
    assert made["sample"]["files"] == ["samples.png"] and "[default: samples.png, or" in told["sample"]
    assert made["report"]["files"] == ["report.html"] and "[default: report.html]" in told["report"]


def test_the_knobs_of_an_evaluation_show_the_protocols_values(aegen: Aegen) -> None:
    out = " ".join(aegen("evaluate", "--help").worked().out.split())
    usual = PROTOCOLS["aegen-1"]
    for flag, value in (
        ("--samples", usual.samples),
        ("--features", usual.features),
        ("--features-side", usual.side),
        ("--seed", usual.seed),
    ):
        assert re.search(rf"{flag} [^[]*\[default: the protocol's, {value} in aegen-1\]", out), flag
    assert all(name in out for name in PROTOCOLS)


def test_a_panel_is_plain_where_colours_are_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[36m--x\x1b[0m" in panel("Head", [("--x", "what")], 80)
    monkeypatch.setenv("NO_COLOR", "1")
    assert panel("Head", [("--x", "a\x1b[31mb"), ("--long-one integer", "c")], 80) == (
        "\nHead:\n  --x                 a\\x1b[31mb\n  --long-one integer  c\n"
    )


def terminal(columns: int) -> TextIO:
    """The writing end of a terminal so wide; nobody reads it."""
    _, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return os.fdopen(end, "w")


def test_talk_and_errors_break_between_words_on_a_terminal_and_are_a_line_elsewhere(tmp_path: Path) -> None:
    text = "error: " + "word-with-hyphens " * 20 + "/a/path/" + "x" * 80
    with terminal(60) as stream:
        lines = fitted(text, stream).splitlines()
        assert fitted("short", stream) == "short"
    assert lines[0] == "error: word-with-hyphens word-with-hyphens word-with-hyphens" and lines[1].startswith(
        "  word-with-hyphens "
    )
    assert max(map(len, lines[:-1])) <= 60 and lines[-1] == "  /a/path/" + "x" * 80  # left to the terminal
    assert " ".join(" ".join(lines).split()) == text
    with (tmp_path / "log").open("w") as file:
        assert fitted(text, file) == text


def test_cells_of_a_table_are_folded_rather_than_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["mutual-information", "gaussian_total_correlation"]
    monkeypatch.setenv("COLUMNS", "40")
    with terminal(40) as stream:
        said: list[str] = []
        monkeypatch.setattr(stream, "write", said.append)
        monkeypatch.setattr(sys, "stdout", stream)
        table(["metric", "number", "value"], [[*names, "0.7999"]])
        monkeypatch.undo()
    head, *lines = re.sub(r"\x1b\[[0-9;]*m", "", "".join(said)).splitlines()
    starts = [*(head.index(word) for word in ("metric", "number", "value")), 40]
    cells = ["".join(line[left:right].strip() for line in lines) for left, right in itertools.pairwise(starts)]
    assert cells == [*names, "0.7999"]


@pytest.mark.parametrize(("file", "folder"), [("emoji", "emoji/"), ("tokenizer", "photos/")])
def test_an_example_whose_images_are_not_here_asks_for_them(
    aegen: Aegen, tmp_path: Path, file: str, folder: str
) -> None:
    config = Path(__file__).parents[1] / f"examples/{file}.toml"
    aegen("train", "--config", config).refused(2, f"--data '{folder}' is no existing path")
    (tmp_path / "mine").mkdir()
    aegen("train", "--config", config, "--data", "mine", "--print-config").worked()


# -------------------------------------------------------------------------------- list-plugins NAME


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("vq-vae", ["--bottleneck.codes integer 1≤x≤1048576", "[default: 512]", "--set arch.spatial=true",
                    "--bottleneck.dim integer 1≤x≤65536", "[default: 4]", "`ae` with a codebook"]),
        ("vae", ["--objective.beta number 0≤x|schedule", "[default: 1.0]", "--likelihood.scale number|learned"]),
        ("kl-gan", ["--objective.adversarial.width integer 1≤x", "--objective.perceptual.weight"]),
        ("gan", ["--set train.betas=[0.0, 0.99]"]),
        ("adversarial", ["--objective.adversarial.adaptive / --no-objective.adversarial.adaptive", "[default: off]"]),
        ("conv", ["--arch.depth integer 1≤x≤10", "[default: 3]"]),
        ("nll", ["--nll.samples integer"]),
        ("onnx", ["--export.opset integer 18≤x", "[default: 18]"]),
    ],
)  # fmt: skip
def test_a_component_is_shown_with_its_options_and_nothing_else(
    aegen: Aegen, monkeypatch: pytest.MonkeyPatch, name: str, pieces: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a sentence in one line
    out = aegen("list-plugins", name).worked().out
    missing = [piece for piece in pieces if piece not in out]
    assert not missing, out
    kind = next(c.kind for c in registry.every_component() if c.name == name)
    told = describe(registry.find(kind, name))
    lines = out.splitlines()
    assert lines[0] == f"{kind} {registry.find(kind, name).title}"
    assert " ".join(lines[1].split()).startswith(told.summary.split(".")[0])
    assert lines[2].strip() == f"source: {told.source}" and lines[3] == ""  # no history of its module
    assert "[default: ]" not in out and "None" not in out


def test_completion_in_zsh_needs_no_rich(tmp_path: Path, environment: dict[str, str]) -> None:
    typed = "aegen train --objective beta-vae --objective.b"
    extra = {"_AEGEN_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": typed}
    code = "import sys, atexit; atexit.register(lambda: print(sorted(m for m in sys.modules if m.partition('.')[0] == 'rich' and sys.modules[m])));"
    code += "from aegen.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | extra, cwd=tmp_path, capture_output=True, text=True
    )
    assert '"--objective.beta":"Weight of the bottleneck' in done.stdout.replace("''", "'")
    assert done.stdout.rstrip().endswith("[]"), done.stdout + done.stderr


def test_help_of_a_run_in_a_folder_with_brackets_in_its_name(aegen: Aegen) -> None:
    """Rich would take them for markup."""
    aegen("train", *TINY, "--epochs", 1, "--run-dir", "[bold]r[/x]").worked()
    out = aegen("train", "--resume", "[bold]r[/x]", "--help").worked().out
    assert "[default: mlp]" in out


def test_comparing_runs_of_different_images_says_so(aegen: Aegen) -> None:
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
    np.savez("mine.npz", images=pixels)
    for run, data in (("a", "digits"), ("b", "mine.npz"), ("c", "digits")):
        aegen("train", *TINY, "--steps", 1, "--data", data, "--run-dir", run).worked()
        aegen("evaluate", "-c", run, "--metric", "reconstruction").worked()
    said = aegen("compare", "a", "b", "c", "--no-evaluate", "-o", "x.html").worked()
    page = Path("x.html").read_text()
    for note in (
        "these are numbers of digits; not to be compared with those of other images (b on mine.npz)",
        "these are numbers of mine.npz; not to be compared with those of other images (a, c on digits)",
    ):
        assert note in said.err and note in page
    assert "not to be compared" not in aegen("compare", "a", "c", "--no-evaluate", "-o", "y.html").worked().err
