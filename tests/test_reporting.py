"""`aegen compare` and `aegen report`: what a page says is what stands in the runs, and it asks nobody for anything."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Aegen
from PIL import Image

import aegen.reporting.comparison as making
from aegen import evaluate, load
from aegen.data.batches import normalize
from aegen.data.source import load_data
from aegen.evaluation import Number, save
from aegen.pictures import to_uint8
from aegen.reporting.card import command, known_limits
from aegen.reporting.charts import charts, svg, thinned
from aegen.reporting.figures import Sights, choose
from aegen.reporting.formats import as_latex, escape, grid
from aegen.reporting.runs import read_runs
from aegen.reporting.speed import duration, file_size, training_seconds
from aegen.reporting.sprites import sprite
from aegen.reporting.tables import Cell, Row, Table, marked, tables
from aegen.settings import DataSettings
from aegen.training.run import train

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "b<script>alert(1)</script>&'\"`${x}"
VOID = {"meta", "img", "input", "link", "br", "hr"}


class Reader(HTMLParser):
    """Reads a page and holds it to the rules: every tag is closed in order, every id is there once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.section = ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"{tag} has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.section = str(dict(attrs)["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.setdefault(self.section, []).append(data.strip())

    def said(self, section: str) -> str:
        return " ".join(self.words.get(section, []))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def two(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A vae and, under a name that is not polite, an ae, evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained, folder / "a", ignore=shutil.ignore_patterns("evaluations"))
    settings: dict[str, Any] = {"arch.hidden": [32], "data.size": 16, "train.steps": 9, "log.images_every_epochs": 0}
    name = HOSTILE.replace("/", "-")
    train(arch="mlp", objective="ae", run_dir=folder / name, **settings, **{"log.every_steps": 3})
    runs = folder / "a", folder / name
    for run in runs:
        save(evaluate(run, metrics=["reconstruction"]), None)
    return runs


@pytest.fixture(scope="module")
def page(two: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their comparison."""
    out = tmp_path_factory.mktemp("page") / "c.html"
    return making.write_comparison(making.compare(two), out)


@pytest.fixture
def alone(trained: Path, tmp_path: Path) -> Path:
    """A copy of a run, to alter, without any evaluation."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "alone", ignore=shutil.ignore_patterns("evaluations")))


def numbers_of(run: Path) -> dict[str, dict[str, Any]]:
    (file,) = (run / "evaluations").glob("*.json")
    return {entry["name"]: entry for entry in json.loads(file.read_text())["numbers"]}


# ------------------------------------------------------------------------------------------------------ the page


def test_a_page_is_well_formed_and_its_links_lead_somewhere(page: Path) -> None:
    read = Reader(page.read_text(encoding="utf-8"))
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert [a["href"] for a in read.all("a")] == [f"#{section['id']}" for section in read.all("section")]
    assert all(img["alt"] and img["width"] and img["height"] for img in read.all("img"))


def test_a_page_fetches_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for word in ("http:", "https:", "@import", "url(", "fetch(", "XMLHttp", "<link", "<iframe"):
        assert word not in text, word
    read = Reader(text)
    for tag, attrs in read.tags:
        assert str(attrs.get("src", "data:")).startswith("data:") and str(attrs.get("href", "#")).startswith("#"), tag
    (policy,) = [meta for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy["content"]).startswith("default-src 'none'")


def test_a_name_that_is_markup_stays_a_name(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert HOSTILE.replace("/", "-") in Reader(text).said("cost")


def test_the_numbers_are_those_of_the_evaluations_and_the_better_one_is_marked(
    two: tuple[Path, Path], page: Path
) -> None:
    read = Reader(page.read_text(encoding="utf-8"))
    a, b = (numbers_of(run) for run in two)
    for name in ("mse", "mae", "psnr"):
        for entry in (a[name], b[name]):
            for key in ("value", "low", "high"):
                assert f"{entry[key]:#.4g}" in read.said("metrics"), (name, key)
    marks = [attrs.get("class") for attrs in read.all("b")]
    ends = [(a[name], b[name]) for name in ("mse", "mae", "psnr")]
    overlapping = sum(one["low"] <= two["high"] and two["low"] <= one["high"] for one, two in ends)
    assert (marks.count("best"), marks.count("tie")) == (3, overlapping)


def test_the_curves_are_those_of_the_log(two: tuple[Path, Path], page: Path) -> None:
    read = Reader(page.read_text(encoding="utf-8"))
    drawn: dict[tuple[int, str], set[tuple[int, float]]] = {}
    for chart in read.all("svg"):
        if chart.get("class") == "chart" and str(chart["aria-label"]) == "loss by step":
            for line in json.loads(str(chart["data-lines"])):
                drawn[line["run"], line["split"]] = {(s, v) for s, v in line["points"]}
    for index, run in enumerate(two):
        for split in ("train", "validation"):
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            logged = {(line["step"], float(f"{line['loss']:.5g}")) for line in lines if line["split"] == split}
            assert drawn[index, split] == logged, (run.name, split)


def pixels(picture: str) -> torch.Tensor:
    """Of an `img` that shows one row of 16×16 images with one transparent pixel between them: (N, 16, 16)."""
    image = Image.open(io.BytesIO(base64.b64decode(picture.partition("base64,")[2])))
    sheet = torch.from_numpy(np.array(image)[:, :, 0]).long()
    return torch.stack([sheet[:, x : x + 16] for x in range(0, image.width, 17)])


def test_the_pictures_are_the_held_out_images_and_what_the_models_make_of_them(
    two: tuple[Path, Path], page: Path
) -> None:
    pictures = {str(img["alt"]): str(img["src"]) for img in Reader(page.read_text(encoding="utf-8")).all("img")}
    data = load_data(DataSettings(size=16))
    index = choose(len(data.validation), data.validation_labels)
    assert data.validation_labels is not None and data.validation_labels[index].tolist() == list(range(10))
    x = data.validation[index]
    assert torch.equal(pixels(pictures["held-out images"]), x[:, 0].long())
    for run in two:
        with torch.no_grad():
            recon = to_uint8(load(run, device="cpu").model.reconstruct(normalize(x)))
        (src,) = [src for alt, src in pictures.items() if alt.startswith(f"reconstructions by {run.name}")]
        assert (pixels(src) - recon[:, 0].long()).abs().max() <= 1, run.name


def test_only_settings_that_differ_are_in_the_table_of_differences(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    table = text[text.index('<section id="configuration">') :].partition("</table>")[0]
    keys = Reader(f"{table}</table></div></section>").said("configuration").split()
    assert {"objective.name", "bottleneck.name", "train.steps", "log.every_steps"} <= set(keys)
    assert not {"arch.name", "data.name", "train.lr", "likelihood.name"} & set(keys)


def test_every_section_of_a_report_is_there_and_the_command_does_it_again(alone: Path, tmp_path: Path) -> None:
    (alone / "environment.json").write_text(
        json.dumps({"command": ["train", "--data", "my pictures", "--lr", "0.001"], "versions": {"torch": "2.10"}})
    )
    out = making.write_report(making.compare([alone], evaluates=False), tmp_path / "r.html")
    read = Reader(out.read_text(encoding="utf-8"))
    assert "aegen train --data 'my pictures' --lr 0.001" in read.said("training").replace("  ", " ")
    assert "1,617 images for training" in read.said("data")
    assert "fitted to its latents" in read.said("limits") and "one seed" in read.said("limits")
    assert "Licence Not stated" in read.said("author")
    assert "hidden = [32]" in read.said("configuration")
    assert "no evaluation" in read.said("metrics")
    assert read.said("traversals").count("z") >= 10


def test_a_resumed_run_is_made_again_from_its_configuration(alone: Path) -> None:
    (run,) = read_runs([alone])
    run.environment = {"command": ["train", "--resume", "runs/alone"]}
    assert command(run) == "aegen train --config alone/config.toml"


def test_limits_say_what_the_run_shows(alone: Path) -> None:
    (run,) = read_runs([alone])
    run.lines = [{"step": s, "split": "validation", "loss": loss} for s, loss in ((10, 5.0), (20, 3.0), (30, 4.0))]
    told = " ".join(known_limits(run, Sights(offers=frozenset({"codes"}), active=(3, 10))))
    assert "lowest after 20 of 30 steps" in told and "has no prior" in told and "7 of its 10" in told


# ---------------------------------------------------------------------------------------------- what is missing


def test_what_is_missing_is_said_and_nothing_fails(two: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("empty", "bare"):
        shutil.copytree(two[0], tmp_path / name)
        shutil.rmtree(tmp_path / name / "evaluations")
    shutil.rmtree(tmp_path / "empty" / "checkpoints")
    for name in ("metrics.jsonl", "environment.json"):
        (tmp_path / "bare" / name).unlink()
    settings: dict[str, Any] = {"arch.hidden": [8], "data.size": 8, "train.steps": 2, "log.images_every_epochs": 0}
    train(arch="mlp", objective="gan", run_dir=tmp_path / "gan", **settings)
    places = [two[0], *(tmp_path / name for name in ("empty", "bare", "gan"))]
    found = making.compare(places, evaluates=False)
    read = Reader(making.write_comparison(found, tmp_path / "c.html").read_text(encoding="utf-8"))
    for section in ("reconstructions", "samples", "interpolations", "traversals"):
        assert "empty : holds no checkpoint" in read.said(section), section
    for section in ("reconstructions", "interpolations", "traversals"):
        assert "gan : objective gan trains no encoder" in read.said(section), section
    assert "bare : has no metrics.jsonl" in read.said("curves")
    assert "environment.json is missing" in read.said("")
    assert str(tmp_path) not in (tmp_path / "c.html").read_text(encoding="utf-8")


def test_runs_of_other_data_show_their_own_images(two: tuple[Path, Path], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"arch.hidden": [8], "data.size": 8, "train.steps": 2, "log.images_every_epochs": 0}
    train(arch="mlp", run_dir=tmp_path / "small", **settings)
    found = making.compare([two[0], tmp_path / "small"], evaluates=False)
    read = Reader(making.write_comparison(found, tmp_path / "c.html").read_text(encoding="utf-8"))
    assert "digits, 16×16×1" in read.said("reconstructions") and "digits, 8×8×1" in read.said("reconstructions")


def test_codes_and_maps_are_not_traversed_and_the_page_says_why(tmp_path: Path) -> None:
    common: dict[str, Any] = {"data.size": 8, "train.steps": 1, "log.images_every_epochs": 0}
    train(arch="mlp", objective="vq-vae", run_dir=tmp_path / "vq", **{"arch.hidden": [8]}, **common)
    spatial = {"arch.width": 8, "arch.blocks": 1, "arch.spatial": True, "bottleneck.dim": 2}
    train(arch="conv", run_dir=tmp_path / "maps", **spatial, **common)
    found = making.compare([tmp_path / "vq", tmp_path / "maps"], evaluates=False)
    read = Reader(making.write_comparison(found, tmp_path / "c.html").read_text(encoding="utf-8"))
    assert "vq : its latents are codes" in read.said("traversals")
    assert "maps : its latents are maps of 2×" in read.said("traversals")


# ---------------------------------------------------------------------------------------------- the command line


def test_compare_evaluates_what_was_not_and_keeps_it(
    aegen: Aegen, two: tuple[Path, Path], alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "evaluate", partial(evaluate, metrics=["reconstruction"]))
    said = aegen("compare", two[0], alone).worked()
    assert "evaluating alone by aegen-1" in said.err and "evaluating a by" not in said.err
    assert said.out.splitlines()[-1] == "compare.html" and (tmp_path / "compare.html").is_file()
    assert numbers_of(alone) == numbers_of(two[0])  # the very same model
    again = aegen("compare", two[0], alone).worked()
    assert "evaluating" not in again.err and again.out.splitlines()[-1] == "compare-2.html"
    assert "≈" in again.out or " *" in again.out


def test_no_evaluate_leaves_it_out_and_says_so(aegen: Aegen, two: tuple[Path, Path], alone: Path) -> None:
    said = aegen("compare", two[0], alone, "--no-evaluate", "-o", "c.html").worked()
    assert "no numbers of alone" in said.err and not (alone / "evaluations").exists()


def test_formats_are_alone_on_stdout_and_hold_the_numbers(aegen: Aegen, two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = (numbers_of(run) for run in two)
    rows = list(csv.DictReader(io.StringIO(aegen("compare", *two, "--format", "csv").worked().out)))
    assert [float(row["a"]) for row in rows] == [entry["value"] for entry in a.values()]
    assert [float(row["a low"]) for row in rows] == [entry["low"] for entry in a.values()]
    assert [row["a mark"] for row in rows] == ["best"] * 3
    (table,) = json.loads(aegen("compare", *two, "--format", "json").worked().out)
    cell = table["rows"][0]["cells"][two[1].name]
    assert (cell["value"], cell["high"]) == (b["mse"]["value"], b["mse"]["high"])
    said = aegen("compare", *two, "--format", "latex", "-o", "both.html").worked()
    assert said.out.startswith("% \\usepackage{booktabs}") and "both.html" in said.err
    assert not list(tmp_path.glob("compare*.html"))


def test_report_takes_the_latest_run_and_an_output_that_exists(aegen: Aegen, alone: Path, tmp_path: Path) -> None:
    (alone.parent / "latest").symlink_to("alone")
    (tmp_path / "r.html").write_text("old")
    aegen("report", "--no-evaluate", "-o", "r.html").refused(2, "r.html exists already", "--force")
    said = aegen("report", "--no-evaluate", "-o", "r.html", "--force", "--json").worked()
    assert json.loads(said.out) == {"files": ["r.html"]}
    assert "<h1>alone</h1>" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_glob_that_also_finds_latest_gives_each_run_once(aegen: Aegen, alone: Path, two: tuple[Path, Path]) -> None:
    (alone.parent / "latest").symlink_to("alone")
    told = json.loads(aegen("compare", *sorted(alone.parent.iterdir()), two[0], "--no-evaluate", "--json").worked().out)
    assert told["tables"][0]["runs"] == ["a"] and told["files"] == ["compare.html"]
    aegen("compare", *sorted(alone.parent.iterdir())).refused(2, "the same run", "2 or more")


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (("compare", "A"), ("one run", "two or more", "aegen report")),
        (("compare", "A", "A"), ("a is given twice", "once")),
        (("compare", "A", "nowhere"), ("there is no nowhere", "run folders")),
        (("compare", "A", "."), ("no run folder", "config.toml")),
        (("compare", "A", "B", "-o", "c.pdf"), ("c.pdf", ".html")),
        (("compare", "A", "B", "-o", "no/such/c.html"), ("no/such/c.html", "-o")),
        (("compare", "A", "B", "--format", "xml"), ("'xml'", "table|csv|json|latex")),
        (("compare", "A", "B", "--json", "--format", "csv"), ("--json", "csv")),
        (("compare", "A", "B", "--protocol", "aegen1"), ("unknown protocol 'aegen1'", "aegen-1")),
        (("report", "nowhere"), ("there is no nowhere",)),
        (("report", "A/metrics.jsonl"), ("no run folder", "a file")),
        (("report",), ("no run under ./runs",)),
        (("report", "A", "-o", "."), ("page",)),
    ],
)
def test_a_wrong_line_is_one_sentence(
    aegen: Aegen, two: tuple[Path, Path], words: tuple[str, ...], pieces: tuple[str, ...]
) -> None:
    a, b = map(str, two)
    line = [a if word == "A" else b if word == "B" else word.replace("A/", f"{a}/") for word in words]
    aegen(*line).refused(2, *pieces)


def test_a_folder_is_no_page(aegen: Aegen, two: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "dir.html").mkdir()
    aegen("compare", *two, "-o", "dir.html").refused(2, "dir.html", "folder")


@pytest.mark.parametrize("text", ["[arch", "a = 1", "[arch]\nname = 3\n"])
def test_a_damaged_configuration_is_one_sentence(aegen: Aegen, alone: Path, text: str) -> None:
    (alone / "config.toml").write_text(text)
    aegen("report", alone).refused(2, "config.toml")


# ------------------------------------------------------------------------------------------------------- tables


def test_the_best_and_what_overlaps_it_are_marked() -> None:
    cells = [Cell(1.0, 0.8, 1.2), Cell(1.1, 1.0, 1.3), Cell(2.0, 1.9, 2.1), None, Cell(float("nan"))]
    assert [c and c.mark for c in marked(cells, "lower")] == ["best", "tie", "", None, ""]
    assert [c and c.mark for c in marked(cells, "higher")] == ["", "", "best", None, ""]
    assert not any(c and c.mark for c in marked(cells, ""))
    assert marked([Cell(1.0), None], "lower") == [Cell(1.0), None]
    assert [c and c.mark for c in marked([Cell(1.0), Cell(1.0), Cell(1.1)], "lower")] == ["best", "best", ""]


def test_numbers_of_other_images_are_shown_but_none_is_marked(two: tuple[Path, Path], alone: Path) -> None:
    save(evaluate(alone, metrics=["reconstruction"], data={"validation": 0.3}), None)
    (table,) = tables(read_runs([two[0], alone]), "aegen-1")
    assert not [cell for row in table.rows for cell in row.cells if cell and cell.mark]
    assert any("held-out images differs: a 180, alone 539" in note for note in table.notes)
    assert any("none is marked" in note for note in table.notes)


def test_the_newest_evaluation_of_the_same_checkpoint_counts_and_junk_is_noted(alone: Path) -> None:
    file = save(evaluate(alone, metrics=["reconstruction"]), None)
    entry = json.loads(file.read_text())
    for number, (value, steps) in enumerate([(0.5, None), (0.7, 3)]):
        entry["numbers"][0]["value"] = value
        entry["model"]["steps"] = steps or entry["model"]["steps"]
        later = file.with_name(f"later-{number}.json")
        later.write_text(json.dumps(entry))
        os.utime(later, (4e9 + number, 4e9 + number))
    (file.parent / "junk.json").write_text('{"numbers": 3}')
    (run,) = read_runs([alone])
    found = run.evaluated("aegen-1")
    assert found is not None and found.numbers[0].value == 0.5  # not that of step 3, though it is newer
    assert run.notes == ["evaluations/junk.json is no evaluation and was left out"]


def test_each_protocol_has_a_table_and_the_shared_one_is_first(two: tuple[Path, Path], alone: Path) -> None:
    save(evaluate(alone, metrics=["reconstruction"], changes={"seed": 1}), None)
    runs = read_runs([two[0], alone])
    assert [table.protocol for table in tables(runs, "aegen-1 with seed=1")] == ["aegen-1 with seed=1", "aegen-1"]
    found = making.compare([two[0], alone], evaluates=False)
    assert [(table.protocol, table.runs) for table in found.tables] == [
        ("aegen-1", ["a"]),
        ("aegen-1 with seed=1", ["alone"]),
    ]


def test_what_two_metrics_say_stands_once_and_a_number_a_dimension_stands_last(two: tuple[Path, Path]) -> None:
    runs = read_runs(two)
    for run, value in zip(runs, (1.0, 2.0), strict=True):
        (one,) = run.evaluations
        long = [Number("each", f"kl_{i}", value) for i in range(7)]
        same = [Number(metric, "kl", value * off) for metric, off in (("bound", 1), ("terms", 1.00001), ("other", 2))]
        one.numbers[:] = [*long, *same]
        one.notes[:] = ["of few images", f"of {value:g}"]
    (table,) = tables(runs, "aegen-1")
    shown = [(row.metric, row.name) for row in table.rows]
    assert shown == [("bound", "kl"), ("other", "kl"), *(("each", f"kl_{i}") for i in range(7))]
    a, b = table.runs
    assert table.notes[-3:] == ["of few images", f"of 1 ({a})", f"of 2 ({b})"]


def lots(runs: int, rows: int) -> Table:
    cells = tuple(Cell(12345.0 + i, 12000.0, 13000.0, "best" if i == 0 else "tie") for i in range(runs))
    return Table(
        "p_1", "50% & more", [f"run_{i}" for i in range(runs)], [Row("m", f"n{i}", "lower", cells) for i in range(rows)]
    )


def test_many_runs_become_rows() -> None:
    head, body = grid(lots(2, 3))
    assert head == ["number", "run_0", "run_1"] and body[0][:2] == ["n0 ↓", "12,345 * [12,000, 13,000]"]
    head, body = grid(lots(7, 3))
    assert head == ["run", "n0 ↓", "n1 ↓", "n2 ↓"] and [row[0] for row in body] == [f"run_{i}" for i in range(7)]
    assert body[1][1].startswith("12,346 ≈")


def test_latex_is_escaped_and_has_as_many_columns_as_it_says() -> None:
    text = as_latex([lots(3, 2)])
    assert "\\begin{tabular}{lrrr}" in text and r"run\_0" in text and r"\textbf{12{,}345}" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 3 and all(line.count("&") == 3 for line in body)
    assert escape("50% & a_b {#} ~^\\ ↓") == (
        r"50\% \& a\_b \{\#\} \textasciitilde{}\textasciicircum{}\textbackslash{} $\downarrow$"
    )


# --------------------------------------------------------------------------------------------------- small parts


def test_thinned_curves_keep_their_last_point() -> None:
    points = [(i, float(i)) for i in range(1001)]
    kept = thinned(points)
    assert len(kept) <= 240 and kept[-1] == points[-1] and kept == sorted(kept)
    assert thinned(points[:5]) == points[:5] and thinned([]) == []


@pytest.mark.parametrize("values", [[1e-9, 3e-7], [-5.0, 5.0], [0.0, 0.0], [2.0, 2.0], [1e7, 3e9], [1.0, 1.0001]])
def test_any_values_make_a_chart(alone: Path, values: list[float]) -> None:
    (run,) = read_runs([alone])
    run.lines = [{"step": i, "split": "train", "loss": v} for i, v in enumerate(values)]
    (chart,) = charts([run])
    drawn = svg(chart)
    Reader(drawn)
    assert "nan" not in drawn and "inf" not in drawn
    assert drawn.count('class="tick"') >= 4
    assert ('class="log"' in drawn) == (min(values) > 0)


def test_training_time_is_that_of_the_steps(alone: Path) -> None:
    (run,) = read_runs([alone])
    run.tables["train"] |= {"batch_size": 10, "accumulate": 2}
    run.environment = {"device": {"processes": 3}}
    run.lines = [
        {"step": 10, "split": "train", "images_per_second": 60.0},
        {"step": 40, "split": "train", "images_per_second": 600.0},
        {"step": 40, "split": "validation", "loss": 1.0},
    ]
    assert training_seconds(run) == pytest.approx(10 * 60 / 60 + 30 * 60 / 600)
    assert [duration(s) for s in (4.21, 75, 7320)] == ["4.2 s", "1 min 15 s", "2 h 2 min"]
    assert [file_size(n) for n in (12, 1500, 2_340_000)] == ["12 B", "1.5 kB", "2.3 MB"]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_any_channels_and_large_ones_fit(channels: int) -> None:
    read = Reader(sprite(torch.rand(3, channels, 600, 300) * 2 - 1, "three", columns=2))
    (img,) = read.all("img")
    assert (img["width"], img["height"]) == (str(2 * 128 + 16), str(2 * 256 + 16))


def test_runs_of_one_name_are_told_apart_by_their_folders(alone: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(alone, tmp_path / "old" / "alone"))
    third = Path(shutil.copytree(alone, tmp_path / "third"))
    assert [run.name for run in read_runs([alone, other, third])] == ["runs/alone", "old/alone", "third"]


# ------------------------------------------------------------------------------------------------------ a browser


def browse(page: Path, tmp_path: Path) -> tuple[str, str]:
    """The document as Chromium has it after loading, and the lines of its log."""
    assert CHROMIUM is not None
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *words, profile, "--window-size=500,900", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if not done.stdout.strip():
        pytest.skip(f"Chromium does not run here: {done.stderr[-200:]}")
    return done.stdout, done.stderr


PROBE = """
  const chart = document.querySelector(".chart");
  const box = chart.getBoundingClientRect();
  chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.right, clientY: box.top + 9}));
  const broken = [...document.images].filter(i => !i.complete || !i.naturalWidth).length;
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.title = `broken ${broken} wide ${wide} hidden ${tip.hidden}`;
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_loads_the_page_without_complaint_and_shows_values_under_the_pointer(
    page: Path, tmp_path: Path, two: tuple[Path, Path]
) -> None:
    copy = tmp_path / "probe.html"
    allowed = f"script-src '{'sha256-' + base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()}' "
    html = page.read_text(encoding="utf-8").replace("</body>", f"<script>{PROBE}</script></body>")
    assert html.count("; script-src ") == 1
    copy.write_text(html.replace("script-src ", allowed, 1), encoding="utf-8")
    shown, log = browse(copy, tmp_path)
    assert "CONSOLE" not in log, log
    assert "<title>broken 0 wide 0 hidden false</title>" in shown
    lines = [json.loads(line) for line in (two[0] / "metrics.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(lines) if line["split"] == "validation")
    tip, value = shown[shown.index('<div class="tip"') :], float(f"{last['loss']:.5g}")
    assert f"step {last['step']}" in tip and f"a, validation {value:.4g}" in tip


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_runs_no_script_and_takes_no_style_that_the_page_did_not_come_with(
    page: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "foreign.html"
    foreign = '<script>document.title = "taken"</script><img src="x" onerror="document.title = `taken`">'
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", foreign + "</body>"), encoding="utf-8")
    shown, log = browse(copy, tmp_path)
    assert "<title>taken</title>" not in shown
    assert log.count("Content Security Policy") >= 2, log
