"""Bad input gives one sentence, the right exit code and no traceback, and nothing is lost or overwritten."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Aegen
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from aegen import registry
from aegen.checkpoint import Checkpoint
from aegen.checkpoint import save as save_checkpoint


def picture(name: str, mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> str:
    """A picture in the current folder."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, "red").save(name)
    return name


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to be altered."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


# ---------------------------------------------------------------------------------------------------- names and values


@pytest.mark.parametrize(
    ("flag", "given", "meant"),
    [
        ("--arch", "conf", "conv"),
        ("--objective", "vea", "vae"),
        ("--objective", "vae+adversarail", "adversarial"),
        ("--bottleneck", "gausian", "gaussian"),
        ("--likelihood", "bernouli", "bernoulli"),
        ("--data", "digit", "digits"),
        ("--track", "tensorbord", "tensorboard"),
    ],
)
def test_an_unknown_component_is_answered_with_a_suggestion(aegen: Aegen, flag: str, given: str, meant: str) -> None:
    aegen("train", flag, given).refused(2, given.rpartition("+")[2], f"did you mean '{meant}'?")
    assert not Path("runs").exists()


def test_an_unknown_sampler_or_format_is_answered_with_a_suggestion(aegen: Aegen) -> None:
    aegen("sample", "--sampler", "mixtur").refused(
        2, "'mixtur'; did you mean 'mixture'? installed: flow, gaussian, mixture, prior"
    )
    aegen("export", "--format", "onx").refused(2, "'onx'", "did you mean 'onnx'?")
    aegen("list-plugins", "--kind", "objectiv").refused(2, "'objectiv'", "did you mean 'objective'?")
    aegen("list-plugins", "vea").refused(2, "'vea'", "did you mean 'vae'?")


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        (["train", "--arch", "conv", "--arch.widht", 3], "--arch.width"),
        (["train", "--arch", "mlp", "--arch.width", 3], "--arch.hidden"),
        (["train", "--objective", "vae", "--objective.betta", 3], "--objective.beta"),
        (["train", "--epoch", 3], "--epochs"),
        (["sample", "--sampler", "mixture", "--sampler.compnents", 3], "--sampler.components"),
        (["trian"], "train"),
    ],
)
def test_an_unknown_option_is_answered_with_a_suggestion(aegen: Aegen, line: list[object], meant: str) -> None:
    aegen(*line).refused(2, str(line[-2 if len(line) > 1 else 0]), "did you mean", meant)


OUT_OF_RANGE = [
    ("train.lr", "-1", "0<x"),
    ("train.lr", "nan", "0<x"),
    ("train.lr", "much", "number"),
    ("train.epochs", "0", "1≤x"),
    ("train.batch_size", "1.5", "integer 1≤x"),
    ("train.precision", "fp8", "fp32|tf32|bf16|fp16"),
    ("train.optimizer", "Adma", "adamw|adam|rmsprop|sgd"),
    ("train.seed", "-1", "0≤x"),
    ("train.seed", "99999999999999999999", "x≤"),
    ("data.channels", "9", "1≤x≤4"),
    ("data.size", "huge", "integer"),
    ("data.fit", "stretch", "crop|resize"),
    ("bottleneck.dim", "0", "1≤x"),
    ("objective.beta", "-1", "0≤x"),
    ("objective.beta", "linear(0,-1,10)", "0≤x"),
    ("arch.width", "-3", "1≤x"),
]
FLAGS = {
    key: f"--{key.partition('.')[2].replace('_', '-')}" for key, _, _ in OUT_OF_RANGE if key[:4] in ("trai", "data")
}


@pytest.mark.parametrize("way", ["flag", "--set", "--config"])
@pytest.mark.parametrize(("key", "value", "accepted"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_whatever_way_it_comes(
    aegen: Aegen, key: str, value: str, accepted: str, way: str
) -> None:
    section, _, name = key.partition(".")
    Path("run.toml").write_text(
        f"[{section}]\n{name} = {value if re.fullmatch('[-.0-9]+|nan', value) else json.dumps(value)}\n"
    )
    ways = {
        "flag": [FLAGS.get(key, f"--{key}"), value],
        "--set": ["--set", f"{key}={value}"],
        "--config": ["--config", "run.toml"],
    }
    aegen("train", "--arch", "conv", "--print-config", *ways[way]).refused(
        2, ways["flag"][0] if way == "flag" else key, value, accepted
    )


@pytest.mark.parametrize("line", [("train", "--print-config"), ("sample",)])
def test_a_seed_that_torch_cannot_take_is_refused(aegen: Aegen, trained: Path, line: tuple[str, ...]) -> None:
    where = ("-c", trained) if line[0] == "sample" else ()
    said = aegen(*line, *where, "--seed", 2**70)
    assert said.code == 2 and "seed" in said.err


@pytest.mark.parametrize("size", ["0", "-8", "[16,16,16]", "[16]", "[0,16]"])
def test_a_size_that_is_not_one_number_or_two_is_refused(aegen: Aegen, size: str) -> None:
    aegen("train", "--size", size).refused(2, "--size", size.replace(",", ", ") if size.count(",") > 1 else size)


@pytest.mark.parametrize("way", [("--size", "[8,24]"), ("--set", "data.size=[8,24]"), ("--config", "run.toml")])
def test_a_size_of_two_numbers_is_taken_by_whatever_way_it_comes(aegen: Aegen, way: tuple[str, str]) -> None:
    Path("run.toml").write_text("[data]\nsize = [8, 24]\n")
    assert "size = [8, 24]" in aegen("train", "--print-config", *way).worked().out


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 2**45, 2**63])
def test_a_seed_is_taken_to_the_end_or_refused_at_once(aegen: Aegen, seed: int) -> None:
    said = aegen("train", *TINY, "--steps", 1, "--seed", seed)
    assert said.code in (0, 2), said.err
    assert said.code == 0 or ("seed" in said.err and not Path("runs").exists())


def test_more_micro_batches_than_images_are_refused(aegen: Aegen) -> None:
    for i in range(4):
        picture(f"photos/{i}.png")
    said = aegen("train", *TINY, "--data", "photos", "--steps", 1, "--set", "train.accumulate=100")
    said.refused(2, "train.accumulate", "100", "3 training images")


def test_images_too_small_are_refused(aegen: Aegen) -> None:
    aegen("train", "--size", 4).refused(2, "4×4", "at least 8×8", "--size 8")


@pytest.mark.parametrize(
    ("toml", "pieces"),
    [
        ("[train]\nlrr = 1", ["train.lrr", "did you mean 'lr'?"]),
        ("[trian]\nlr = 1", ["'trian'", "did you mean 'train'?"]),
        ("[arch]\nwidht = 3", ["arch.widht", "did you mean 'width'?"]),
        ("[objective]\nbetta = 3", ["objective.betta", "did you mean 'beta'?"]),
        ("[data]\nsizes = 3", ["data.sizes", "did you mean 'size'?"]),
        ("arch = 3", ["arch is 3", "takes a name"]),
        ("train = 3", ["train", "3"]),
        ("lr = ?", ["run.toml is not TOML", "line 1"]),
        ("[train]\nlr = 1\nlr = 2", ["run.toml is not TOML"]),
        ("\udcff", ["run.toml is not TOML"]),
    ],
)
def test_a_configuration_that_is_wrong_says_where(aegen: Aegen, toml: str, pieces: list[str]) -> None:
    Path("run.toml").write_bytes(toml.encode(errors="surrogateescape"))
    aegen("train", "--config", "run.toml").refused(2, *pieces)
    assert not Path("runs").exists()


@pytest.mark.parametrize("key", ["lr", "train.lrr", "nonsense.deep.er", "arch.name.x", "train", "", ".", "data"])
def test_a_setting_that_is_no_setting_is_refused(aegen: Aegen, key: str) -> None:
    said = aegen("train", "--print-config", "--set", f"{key}=")
    assert said.code == 2 and "error: " in said.err


def test_a_set_without_a_value_shows_how(aegen: Aegen) -> None:
    aegen("train", "--set", "train.epochs").refused(
        2, "'train.epochs' is not key=value", "--set checkpoint.every_steps=20"
    )


@pytest.mark.parametrize("place", ["nowhere.toml", "."])
def test_a_configuration_that_cannot_be_read(aegen: Aegen, place: str) -> None:
    aegen("train", "--config", place).refused(2, f"cannot read --config {place}")


@pytest.mark.parametrize(
    ("objective", "pieces"),
    [
        ("adversarial", ["wraps another", "vae+adversarial"]),
        ("vae+ae", ["'ae'", "wraps nothing"]),
        ("vae+adversarial+adversarial", ["names a part twice"]),
        ("", ["unknown objective ''"]),
    ],
)
def test_stacks_that_make_no_sense_say_why(aegen: Aegen, objective: str, pieces: list[str]) -> None:
    aegen("train", "--objective", objective).refused(2, *pieces)


def test_a_sampler_that_needs_a_prior_is_refused_without_one(aegen: Aegen) -> None:
    aegen("train", *TINY, "--objective", "ae", "--steps", 1, "--run-dir", "run").worked()
    said = aegen("sample", "--sampler", "prior", "-c", "run")
    said.refused(2, "sampler 'prior' needs a prior", "deterministic bottleneck has not", "choose --bottleneck gaussian")


def test_a_dry_run_writes_nothing(aegen: Aegen) -> None:
    aegen("train", *TINY, "--dry-run").worked()
    assert {path.name for path in Path().iterdir()} <= {"cache"}  # what can be computed again


# ---------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    ("place", "pieces"),
    [
        ("nowhere", ["'nowhere' is no existing path", "give an existing folder"]),
        ("empty", ["--data empty holds no image and nothing else", "PNG, JPEG"]),
        ("texts", ["--data texts holds no image but 1 other file", "PNG, JPEG"]),
        ("a.txt", ["--data a.txt is a file", "a folder, a .npy or a .npz"]),
        ("one", ["--data one holds 1 image", "at least 2"]),
        ("", ["--data ''"]),
    ],
)
def test_data_that_is_none_is_refused(aegen: Aegen, place: str, pieces: list[str]) -> None:
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/a.txt").touch()
    Path("a.txt").touch()
    picture("one/a.png")
    aegen("train", "--data", place).refused(2, *pieces)
    assert not Path("runs").exists()


def test_bad_files_among_good_ones_are_named_and_training_goes_on_or_not_as_told(aegen: Aegen) -> None:
    for i in range(4):
        picture(f"photos/{i}.png")
    Path("photos/zero.png").touch()
    Path("photos/text.jpg").write_text("no picture")
    pieces = ("2 files of photos", "zero.png (empty file)", "text.jpg (not an image)")
    said = aegen("train", "--data", "photos", *TINY, "--epochs", 1).worked()
    assert [p for p in (*pieces, "goes on without them") if p not in said.err] == []
    aegen("train", "--data", "photos", *TINY, "--strict-data").refused(2, *pieces, "--strict-data refuses")


def test_a_data_set_that_is_larger_than_memory_is_refused_in_words(aegen: Aegen) -> None:
    aegen("train", "--size", 1_000_000_000).refused(2, "size", "1000000000")


# ---------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("command", ["reconstruct", "interpolate"])
@pytest.mark.parametrize(
    ("place", "pieces"),
    [
        ("nope.png", ["nope.png does not exist", "give images (PNG"]),
        ("text.png", ["text.png cannot be read (not an image)"]),
        ("zero.png", ["zero.png cannot be read (empty file)"]),
        ("empty", ["empty holds no image"]),
        ("*.webp", ["*.webp matches no file", "globs"]),
        ("", ["names no image"]),
    ],
)
def test_pictures_that_are_none_are_refused(
    aegen: Aegen, trained: Path, command: str, place: str, pieces: list[str]
) -> None:
    Path("empty").mkdir()
    Path("text.png").write_text("no picture")
    Path("zero.png").touch()
    good = picture("good.png")
    before = everything(Path())
    aegen(command, good, place, "-c", trained, "-o", "out.png").refused(2, *pieces)
    assert everything(Path()) == before


def test_pictures_of_another_shape_are_converted_and_that_is_said(aegen: Aegen, trained: Path) -> None:
    wide, clear = picture("wide.png", size=(30, 20)), picture("clear.png", "RGBA")
    fits = picture("fits.png", "L")
    said = aegen("reconstruct", wide, clear, fits, "-c", trained).worked()
    assert "wide.png is 20×30 (height×width) in colour, converted to the model's 16×16×1" in said.err
    assert "clear.png is 16×16 (height×width) in colour" in said.err
    assert "fits.png" not in said.err
    assert Path(said.out.strip()).is_file()


def test_weights_that_are_not_numbers_draw_nothing(aegen: Aegen, trained: Path) -> None:
    source = Checkpoint(trained / "checkpoints/last.safetensors")
    tensors = {
        k: torch.full_like(v, torch.nan) if k.startswith("model.decoder") else v for k, v in source.tensors("").items()
    }
    save_checkpoint(Path("bad.safetensors"), tensors, source.header)
    image = picture("one.png", size=(16, 16))
    for line in (["sample", "--each"], ["sample"], ["reconstruct", image]):
        aegen(*line, "-c", "bad.safetensors", "-o", "out.png").refused(
            1, "bad.safetensors", "not finite", "another checkpoint"
        )
        assert not Path("out.png").exists()


def test_more_pictures_than_one_can_hold_are_refused_before_they_are_made(aegen: Aegen, trained: Path) -> None:
    one, two = picture("one.png"), picture("two.png")
    aegen("sample", "-n", 10**9, "-c", trained).refused(2, "1,000,000,000 images of 16×16", "at most", "--each")
    aegen("interpolate", one, two, "--steps", 10**9, "-c", trained).refused(2, "1,000,000,000", "fewer --steps")


def test_a_folder_with_bad_pictures_is_reconstructed_without_them(aegen: Aegen, trained: Path) -> None:
    picture("photos/good.png")
    Path("photos/zero.png").touch()
    said = aegen("reconstruct", "photos", "-c", trained, "--each", "-o", "again").worked()
    assert "1 file of 2 given cannot be used: zero.png (empty file); it goes on without them" in said.err
    assert [p.name for p in Path("again").iterdir()] == ["good.png"]


def test_a_way_needs_two_pictures_two_steps_and_a_method(aegen: Aegen, trained: Path) -> None:
    one, two = picture("one.png"), picture("two.png")
    aegen("interpolate", one, "-c", trained).refused(2, "1 image", "two or more")
    aegen("interpolate", one, two, "-c", trained, "--steps", 1).refused(2, "--steps is '1'", "2≤x")
    aegen("interpolate", one, two, "-c", trained, "--method", "lurp").refused(2, "'lurp'", "lerp|slerp")
    aegen("interpolate", one, two, "-c", trained, "-o", "way.mp4").refused(2, "way.mp4", ".png", ".gif")


# ---------------------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize(
    "line",
    [
        ["reconstruct", "a.png", "b.png", "-o", "a.png"],
        ["reconstruct", "a.png", "-o", "./sub/../a.png"],
        ["reconstruct", "a.png", "b.png", "--each", "-o", "."],
        ["reconstruct", ".", "--each", "-o", "."],
        ["interpolate", "a.png", "b.png", "-o", "b.png"],
        ["export", "-o", "a.png"],
        ["export", "-o", "run/checkpoints/last.safetensors"],
        ["export", "-o", "run/config.toml"],
    ],
)
def test_nothing_that_was_given_is_overwritten(aegen: Aegen, run: Path, line: list[str]) -> None:
    picture("a.png")
    picture("b.png", size=(20, 20))
    Path("sub").mkdir()
    before = everything(Path())
    said = aegen(*line, "-c", run)
    assert everything(Path()) == before
    said.refused(2, line[-1].rpartition("/")[2] if line[-1] != "." else ".png", "-o")


@pytest.mark.parametrize("command", [["sample", "-n", 2], ["reconstruct", "a.png"], ["interpolate", "a.png", "b.png"]])
@pytest.mark.parametrize("out", ["x.xyz", "folder", "a.txt/x.png"])
def test_an_output_that_cannot_be_written_is_refused(
    aegen: Aegen, trained: Path, command: list[object], out: str
) -> None:
    picture("a.png")
    picture("b.png")
    Path("folder").mkdir()
    Path("a.txt").touch()
    before = everything(Path())
    aegen(*command, "-c", trained, "-o", out).refused(2, "cannot write", Path(out).name)
    assert everything(Path()) == before


@pytest.mark.parametrize("line", [["sample", "-n", 2], ["reconstruct", "a.png"]])
def test_each_writes_into_a_folder_and_says_so(aegen: Aegen, trained: Path, line: list[object]) -> None:
    picture("a.png")
    Path("file").write_text("mine")
    aegen(*line, "-c", trained, "--each", "-o", "file").refused(2, "file", "-o")
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize("out", ["folder", "a.txt/x.safetensors"])
def test_an_export_that_cannot_be_written_is_refused(aegen: Aegen, trained: Path, out: str) -> None:
    Path("folder").mkdir()
    Path("a.txt").touch()
    said = aegen("export", "-c", trained, "-o", out)
    said.refused(2, out)


def test_a_default_name_never_overwrites(aegen: Aegen, trained: Path) -> None:
    names = [aegen("sample", "-n", 2, "-c", trained).worked().out.strip() for _ in range(2)]
    assert names == ["samples.png", "samples-2.png"]


# ---------------------------------------------------------------------------------------------------- checkpoints

Alter = Callable[..., Path]


@pytest.fixture
def alter(run: Path) -> Alter:
    """`alter(header={…}, tensors={…}, drop="model.…")`: last.safetensors of the copied run, with changes."""

    def change(header: dict[str, Any] | None = None, tensors: dict[str, Tensor] | None = None, drop: str = "") -> Path:
        path = run / "checkpoints" / "last.safetensors"
        with safe_open(path, "pt") as file:
            kept = {k: file.get_tensor(k) for k in file.keys() if k != drop}  # noqa: SIM118
            about = json.loads(file.metadata()["aegen"])
        save_file(kept | (tensors or {}), path, {"aegen": json.dumps({**about, **(header or {})})})
        (run / "checkpoints" / "best.safetensors").unlink()
        return path

    return change


def header_of(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    with safe_open(path, "pt") as file:
        return dict(json.loads(file.metadata()["aegen"]))


WEIGHT = "model.decoder.1.weight"


@pytest.mark.parametrize("keep", [0, 4, 3000, -1])
def test_a_checkpoint_cut_short_is_refused(aegen: Aegen, run: Path, keep: int) -> None:
    path = run / "checkpoints" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    aegen("sample", "-c", path).refused(2, str(path), "not a whole safetensors file", "another checkpoint")
    aegen("train", "--resume", path).refused(2, str(path), "not a whole safetensors file")


def test_foreign_files_are_refused(aegen: Aegen) -> None:
    save_file({"weight": torch.zeros(2)}, "foreign.safetensors")
    aegen("sample", "-c", "foreign.safetensors").refused(2, "foreign.safetensors was not written by aegen")
    torch.save({"weight": torch.zeros(2)}, "model.pt")
    aegen("sample", "-c", "model.pt").refused(2, "model.pt is not a whole safetensors file")
    aegen("sample", "-c", "nowhere").refused(2, "there is no nowhere", "give a run folder")
    Path("empty").mkdir()
    aegen("sample", "-c", "empty").refused(2, "empty holds no checkpoint")
    aegen("sample").refused(2, "there is no run under ./runs", "aegen train")


def test_a_newer_format_says_what_to_install(aegen: Aegen, alter: Alter) -> None:
    aegen("sample", "-c", alter({"format": 99})).refused(2, "format 99", "up to 2", "pip install --upgrade aegen")


@pytest.mark.parametrize("use", [["sample", "-c"], ["train", "--epochs", 2, "--resume"]])
def test_a_checkpoint_with_a_tensor_missing_names_it(aegen: Aegen, alter: Alter, use: list[object]) -> None:
    aegen(*use, alter(drop=WEIGHT)).refused(2, f"{WEIGHT} is missing")


@pytest.mark.parametrize("use", [["sample", "-c"], ["train", "--epochs", 2, "--resume"]])
def test_a_checkpoint_with_a_tensor_too_many_names_it(aegen: Aegen, alter: Alter, use: list[object]) -> None:
    path = alter(tensors={"model.nope": torch.zeros(2)})
    aegen(*use, path).refused(2, "model.nope is unknown to the model")


@pytest.mark.parametrize("use", [["sample", "-c"], ["train", "--epochs", 2, "--resume"]])
def test_a_checkpoint_with_a_tensor_of_another_shape_names_it(aegen: Aegen, alter: Alter, use: list[object]) -> None:
    path = alter(tensors={WEIGHT: torch.zeros(3, 3)})
    aegen(*use, path).refused(2, WEIGHT, "(3, 3)", "the model has (32, 16)")


MOMENT = f"optim/autoencoder/{WEIGHT}/exp_avg"


def test_a_resume_without_the_optimizers_state_is_refused(aegen: Aegen, alter: Alter) -> None:
    """It would go on, but not bit for bit."""
    aegen("train", "--epochs", 2, "--resume", alter(drop=MOMENT)).refused(2, MOMENT, "missing")


def test_a_resume_with_an_optimizers_state_of_another_shape_is_refused(aegen: Aegen, alter: Alter) -> None:
    """A fused kernel would read beyond its end."""
    path = alter(tensors={MOMENT: torch.zeros(7)})
    aegen("train", "--epochs", 2, "--resume", path).refused(2, MOMENT, "(7,)")


@pytest.mark.parametrize(
    "header",
    [
        {"format": "one"},
        {"spec": []},
        {"spec": {}},
        {"image": [1, 16]},
        {"image": "1×16×16"},
        {"image": [1, 0, -4]},
        {"plugins": 3},
        {"plugins": {"architecture:mlp": 3}},
        {"samplers": 3},
    ],
)
def test_a_damaged_header_is_refused(aegen: Aegen, alter: Alter, header: dict[str, Any]) -> None:
    path = alter(header)
    said = aegen("sample", "-c", path)
    said.refused(2, str(path))


@pytest.mark.parametrize("change", [{"arch": {"name": 3}}, {"train": 3}, {"arch": {"name": "mlp", "hidden": "x"}}])
def test_a_damaged_configuration_in_a_header_is_refused(aegen: Aegen, alter: Alter, change: dict[str, Any]) -> None:
    spec = header_of(alter())["spec"]
    said = aegen("sample", "-c", resaved(Path("run"), {"spec": {**spec, **change}}))
    said.refused(2, next(iter(change)))


def resaved(run: Path, header: dict[str, Any]) -> Path:
    """The checkpoint of a run with another header."""
    path = run / "checkpoints" / "last.safetensors"
    about = header_of(path)
    with safe_open(path, "pt") as file:
        kept = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    save_file(kept, path, {"aegen": json.dumps({**about, **header})})
    return path


def test_a_plugin_that_is_not_installed_is_named_with_its_package(aegen: Aegen, alter: Alter) -> None:
    about = header_of(alter())
    spec = {**about["spec"], "bottleneck": {"name": "nope"}}
    origin = {"bottleneck:nope": {"package": "aegen-nope", "version": "0.3"}}
    path = resaved(Path("run"), {"spec": spec, "plugins": about["plugins"] | origin})
    for line in (["sample", "-c"], ["export", "-c"], ["train", "--resume"]):
        aegen(*line, path).refused(3, "'nope' of aegen-nope 0.3", "not installed", "pip install aegen-nope")


# ---------------------------------------------------------------------------------------------------- plugins

Install = Callable[..., None]
GOOD = (
    "from aegen import Objective\nfrom aegen_builtin.objectives.ae import AE\nclass Thing(AE):\n    'A good thing.'\n"
)


@pytest.fixture
def install(aegen: Aegen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """`install("aegen-x", "name = module:Class", code)`: a package as pip leaves it, on the path of this test only."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def put(package: str, entry: str, code: str, *, kind: str = "aegen.objectives", api: str = "") -> None:
        info = site / f"{package.replace('-', '_')}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
        extra = f"[aegen.api]\n{api} = x\n" if api else ""
        (info / "entry_points.txt").write_text(f"[{kind}]\n{entry}\n{extra}")
        module = entry.partition("= ")[2].partition(":")[0]
        (site / f"{module}.py").write_text(code)
        monkeypatch.delitem(sys.modules, module, raising=False)
        registry.forget()

    return put


def listed(aegen: Aegen, *words: str) -> dict[str, dict[str, str]]:
    """What list-plugins says, by package/name."""
    rows = json.loads(aegen("list-plugins", "--json", *words).worked().out)
    return {f"{row['package']}/{row['name']}": row for row in rows}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('no licence\\nsee our site')", "RuntimeError: no licence"),
        ("import a_package_that_is_not_there", "ModuleNotFoundError"),
        ("def (", "SyntaxError"),
        ("x = 1", "has no attribute 'Thing'"),
        ("raise SystemExit(7)", "SystemExit"),
        ("from aegen import NoSuchName", "ImportError"),
    ],
)
def test_a_broken_plugin_is_shown_with_its_reason_and_hurts_nobody_else(
    aegen: Aegen, install: Install, trained: Path, code: str, reason: str
) -> None:
    install("aegen-bad", "bad = aegen_bad_module:Thing", code)
    rows = listed(aegen)
    assert rows["aegen-bad/bad"]["status"].startswith("broken: ") and reason in rows["aegen-bad/bad"]["status"]
    assert rows["aegen/vae"]["status"] == "ok"
    assert aegen("list-plugins", "--check").code == 3
    aegen("sample", "-n", 2, "-c", trained).worked()
    aegen("train", "--objective", "ae", "--print-config").worked()
    aegen("train", "--objective", "bad").refused(3, "'bad' of aegen-bad", reason)


def test_a_plugin_that_is_no_such_component_is_refused(aegen: Aegen, install: Install) -> None:
    install("aegen-odd", "odd = aegen_odd_module:Thing", "class Thing:\n    'Something else.'\n")
    aegen("train", "--objective", "odd").refused(3, "'odd' of aegen-odd is not an aegen.Objective")


def test_two_owners_of_a_name_are_an_error_only_when_it_is_used(aegen: Aegen, install: Install) -> None:
    for package in ("aegen-one", "aegen-two"):
        install(package, f"shared = {package.replace('-', '_')}_module:Thing", GOOD)
    rows = listed(aegen, "--kind", "objective")
    assert rows["aegen-one/shared"]["status"] == "conflict: say aegen-one/shared"
    aegen("train", "--objective", "ae", "--print-config").worked()
    aegen("train", "--objective", "shared").refused(3, "2 packages", "say aegen-one/shared or aegen-two/shared")
    said = aegen("train", *TINY, "--objective", "aegen-two/shared", "--epochs", 1).worked()
    run = Path(said.out.split()[1]).parent.parent
    assert run.parent == Path("runs")
    aegen("train", "--resume", run, "--epochs", 2).worked()


def test_plugins_can_be_switched_off(aegen: Aegen, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("aegen-one", "one = aegen_one_off_module:Thing", GOOD)
    assert "aegen-one/one" in listed(aegen)
    aegen("--no-plugins", "train", "--objective", "one").refused(3, "'one' is in aegen-one", "AEGEN_DISABLE_PLUGINS")
    for value in ("1", "all", "aegen-one", "other, Aegen-One"):
        monkeypatch.setenv("AEGEN_DISABLE_PLUGINS", value)
        assert "aegen-one/one" not in listed(aegen)
        assert "aegen/vae" in listed(aegen)
    monkeypatch.setenv("AEGEN_DISABLE_PLUGINS", "other")
    assert "aegen-one/one" in listed(aegen)


def test_a_plugin_for_a_newer_aegen_is_refused_with_the_line_that_mends_it(aegen: Aegen, install: Install) -> None:
    install("aegen-new", "new = aegen_new_module:Thing", GOOD, api="99")
    assert "needs plugin interface 99" in listed(aegen)["aegen-new/new"]["status"]
    aegen("train", "--objective", "new").refused(
        3, "aegen-new 0.1 needs plugin interface 99", "pip install --upgrade aegen"
    )


# ---------------------------------------------------------------------------------------------------- files as components

MINE = """
from pathlib import Path
from aegen import Objective, Outcome
Path("ran").touch()

class Mine(Objective):
    '''The plainest of objectives.'''
    bottleneck, likelihood = "deterministic", "gaussian"

    def loss(self, model, x):
        latent = model.encode(x)
        pixels = model.decode(latent.z)
        return Outcome({"error": pixels.nll(x)}, pixels.mean, latent)
"""


def test_a_file_runs_when_it_is_typed_and_not_when_only_a_file_says_so(aegen: Aegen) -> None:
    Path("mine.py").write_text(MINE)
    Path("run.toml").write_text('objective = "./mine.py:Mine"\n')
    ways = ("./mine.py:Mine' is a file", "never run", "--objective ./mine.py:Mine")
    aegen("train", "--config", "run.toml").refused(2, *ways)
    assert not Path("ran").exists()
    aegen("train", *TINY, "--objective", "./mine.py:Mine", "--epochs", 1, "--run-dir", "run").worked()
    assert Path("ran").exists()
    Path("ran").unlink()
    registry.forget()
    aegen("train", "--resume", "run", "--epochs", 2).refused(2, *ways)
    aegen("sample", "-n", 2, "-c", "run").worked()  # which the objective has no part in
    assert not Path("ran").exists()
    sys.modules.pop("aegen_file_mine")
    aegen("train", "--resume", "run", "--epochs", 2, "--component", "./mine.py:Mine").worked()
    assert Path("ran").exists()


def test_a_checkpoint_cannot_have_a_file_run(aegen: Aegen, alter: Alter) -> None:
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\nclass Evil: pass\n")
    about = header_of(alter())
    path = resaved(Path("run"), {"spec": {**about["spec"], "bottleneck": {"name": "./evil.py:Evil"}}})
    for line in (["sample", "-c"], ["export", "-c"], ["train", "--resume"], ["train", "--print-config", "--resume"]):
        aegen(*line, path).refused(2, "./evil.py:Evil' is a file", "never run")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("name", "pieces", "code"),
    [
        ("./nowhere.py:Mine", ["there is no file ./nowhere.py"], 2),
        ("./mine.py", ["names no class", "./mine.py:ClassName"], 2),
        ("./mine.py:Mien", ["has no 'Mien'", "did you mean 'Mine'?"], 2),
        ("./broken.py:Mine", ["ZeroDivisionError"], 3),
        ("./leaves.py:Mine", ["SystemExit"], 3),
    ],
)
def test_a_file_that_gives_no_component_is_refused(aegen: Aegen, name: str, pieces: list[str], code: int) -> None:
    Path("mine.py").write_text(MINE)
    Path("broken.py").write_text("1 / 0")
    Path("leaves.py").write_text("raise SystemExit(0)")
    aegen("train", "--objective", name).refused(code, *pieces)
    sys.modules.pop("aegen_file_mine", None)


# ---------------------------------------------------------------------------------------------------- devices and runs


@pytest.mark.parametrize("line", [["train"], ["sample"], ["reconstruct", "a.png"], ["interpolate", "a.png", "b.png"]])
def test_a_device_that_is_not_there_is_the_machines_fault(
    aegen: Aegen, trained: Path, monkeypatch: pytest.MonkeyPatch, line: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    picture("a.png")
    picture("b.png")
    where = ["-c", trained] if line[0] != "train" else []
    aegen(*line, *where, "--device", "cuda").refused(4, "--device is 'cuda'", "no cuda device", "--device cpu")
    aegen(*line, *where, "--device", "gpu").refused(2, "--device is 'gpu'", "auto, cpu, cuda, cuda:N or mps")


def test_a_run_folder_that_exists_is_left_as_it_is(aegen: Aegen, run: Path) -> None:
    before = everything(run)
    aegen("train", *TINY, "--run-dir", run).refused(2, f"{run} exists already", f"--resume {run}")
    Path("empty").mkdir()
    aegen("train", *TINY, "--run-dir", "empty").refused(2, "empty exists already")
    Path("file").write_text("mine")
    aegen("train", *TINY, "--run-dir", "file").refused(2, "file exists already")
    aegen("train", *TINY, "--run-dir", "file/run").refused(2, "cannot make the run folder file/run")
    assert everything(run) == before
    assert Path("file").read_text() == "mine" and not list(Path("empty").iterdir())


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["--lr", 0.1], "train.lr"),
        (["--set", "train.lr=0.1"], "train.lr"),
        (["--batch-size", 8], "train.batch_size"),
        (["--seed", 5], "train.seed"),
        (["--objective.beta", 4], "objective.beta"),
        (["--arch.hidden", "[16]"], "arch.hidden"),
        (["--arch", "conv"], "arch.name"),
        (["--objective", "ae"], "objective.name"),
        (["--size", 8], "data.size"),
    ],
)
def test_a_resumed_run_stays_what_it_is(aegen: Aegen, run: Path, words: list[object], key: str) -> None:
    before = everything(run)
    aegen("train", "--resume", run, "--epochs", 2, *words).refused(2, key, "cannot change", "--init-from")
    assert everything(run) == before


def test_a_resumed_run_that_is_done_is_told_how_to_go_further(aegen: Aegen, run: Path) -> None:
    assert "nothing to do" in aegen("train", "--resume", run).worked().err
    aegen("train", "--resume", run, "--run-dir", "new").refused(2, "--resume goes on in the run's own folder")
    aegen("train", "--resume", "nowhere").refused(2, "there is no nowhere", "run folder")


def test_a_checkpoint_outside_a_run_is_not_resumed_into_the_folder_around_it(aegen: Aegen, run: Path) -> None:
    Path("mine/models").mkdir(parents=True)
    shutil.copy(run / "checkpoints" / "last.safetensors", "mine/models/best-so-far.safetensors")
    Path("mine/config.toml").write_text("my own")
    before = everything(Path("mine"))
    said = aegen("train", "--resume", "mine/models/best-so-far.safetensors", "--epochs", 2)
    assert everything(Path("mine")) == before
    said.refused(2, "best-so-far.safetensors", "--init-from")


def test_a_run_is_not_resumed_on_other_images(aegen: Aegen) -> None:
    def write(seed: int) -> None:
        np.save("a.npy", np.random.default_rng(seed).integers(0, 256, (16, 8, 8), dtype=np.uint8))

    write(0)
    aegen("train", "--arch", "mlp", "--data", "a.npy", "--epochs", 1, "--run-dir", "run").worked()
    write(1)
    aegen("train", "--resume", "run", "--epochs", 2).refused(2, "a.npy holds other images")


def test_weights_of_another_model_are_refused(aegen: Aegen, run: Path) -> None:
    aegen("train", "--arch", "conv", "--init-from", run).refused(2, "--init-from", "arch mlp", "conv")
    small = [word if word != "16" else "12" for word in TINY]
    said = aegen("train", *small, "--init-from", run)
    said.refused(2, "--init-from", "16×16", "12×12")


# ---------------------------------------------------------------------------------------------------- trouble on the way


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may become larger than `size` bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_good_checkpoint(aegen: Aegen, run: Path) -> None:
    last = run / "checkpoints" / "last.safetensors"
    before = last.read_bytes()
    with disk_of(100_000):
        said = aegen("train", "--resume", run, "--epochs", 2)
    said.refused(1, "cannot write", f"the last good checkpoint is {last}", "free space")
    assert last.read_bytes() == before
    aegen("train", "--resume", run, "--epochs", 2).worked()


def test_a_disk_that_is_full_from_the_start_says_that_there_is_no_checkpoint(aegen: Aegen) -> None:
    with disk_of(100):
        aegen("train", *TINY).refused(1, "cannot write", "there is no checkpoint yet")


def test_a_disk_that_is_full_when_a_picture_is_drawn_costs_no_training(
    aegen: Aegen, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Image.Image, *args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    last = run / "checkpoints" / "last.safetensors"
    monkeypatch.setattr(Image.Image, "save", full)
    said = aegen("train", "--resume", run, "--epochs", 2, "--set", "log.images_every_epochs=1")
    said.refused(1, "No space left", f"the last good checkpoint is {last}")
    assert header_of(last)["step"] == 50


def test_a_loss_that_is_not_finite_names_the_term_the_step_and_the_last_good_checkpoint(aegen: Aegen) -> None:
    words = ("--run-dir", "run", "--epochs", 3, "--objective.beta", "step(1,1e38,30)", "--set", "log.every_steps=10")
    said = aegen("train", *TINY, *words)
    last = Path("run/checkpoints/last.safetensors")
    said.refused(1, "'penalty'", "at step 30", f"the last good checkpoint is {last}", "--lr")
    assert header_of(last)["step"] == 25
    aegen("sample", "-n", 2, "-c", last).worked()


def test_a_loss_that_is_not_finite_at_once_says_that_there_is_no_checkpoint(aegen: Aegen) -> None:
    said = aegen("train", *TINY, "--lr", "1e30")
    said.refused(1, "of the loss became nan at step 1", "there is no checkpoint yet", "a lower --lr")


def test_the_line_that_resumes_can_be_pasted_whatever_the_folder_is_called(
    aegen: Aegen, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("aegen.training.stop_signal.Stop.__call__", lambda self: True)
        said = aegen("train", *TINY, "--run-dir", "my run", "--steps", 3)
    said.refused(130, "stopped at step 1 of 3", "the state is saved")
    line = shlex.split(said.err.rpartition("go on with: ")[2])
    assert line[:2] == ["aegen", "train"]
    aegen(*line[1:]).worked()
    assert header_of(Path("my run/checkpoints/last.safetensors"))["step"] == 3


def interrupt(line: list[str], number: int, environment: dict[str, str], cwd: Path) -> str:
    """Start, wait for an epoch to be over, send the signal: everything on stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", *line],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment,
    )
    assert process.stderr is not None
    heard = ""
    with process:
        for text in process.stderr:
            heard += text
            if text.startswith("epoch "):
                process.send_signal(number)
                break
        heard += process.communicate(timeout=60)[1]
    assert process.returncode == 130, heard
    assert "Traceback" not in heard
    return heard


def test_interrupted_runs_are_saved_and_go_on_by_the_line_that_they_print(
    aegen: Aegen, tmp_path: Path, environment: dict[str, str]
) -> None:
    line = ["aegen", "train", *TINY, "--epochs", "100000"]
    for number in (signal.SIGINT, signal.SIGTERM):
        heard = interrupt(line, number, environment, tmp_path)
        found = re.search(
            r"stopped at step (\d+) of 2500000; the state is saved; go on with: (aegen train .*)\n$", heard
        )
        assert found, heard
        line = found[2].split()
        last = next(tmp_path.glob("runs/mlp*/checkpoints/last.safetensors"))
        assert header_of(last)["step"] == int(found[1])
    step = int(found[1])
    assert "from step" in heard
    said = aegen(*line[1:], "--epochs", step // 25 + 1).worked()
    assert f"from step {step}" in said.err
    assert len(list(tmp_path.glob("runs/mlp*/config.toml"))) == 1
