"""How things are called: settings in Python, names of runs, suggestions, lists at the terminal's width."""

from __future__ import annotations

import inspect
import os
import pydoc
from pathlib import Path

import numpy as np
import pytest
from conftest import Aegen

import aegen as package
from aegen import UsageError
from aegen.cli.app import COMMANDS
from aegen.cli.text_width import wrapped
from aegen.config import keyword_layers, resolve, spellings
from aegen.settings import FLAGS, RunSpec
from aegen.training.warm_start import run_name

# -------------------------------------------------------------------------------- Python


def test_train_takes_the_words_of_the_command_line(tmp_path: Path) -> None:
    result = package.train(
        arch={"name": "mlp", "hidden": [8]},
        epochs=1,
        latent_dim=3,
        size=8,
        batch_size=200,
        run_dir=str(tmp_path / "run"),
    )
    assert (result.epochs, result.run) == (1, tmp_path / "run")
    model = package.load(tmp_path / "run").model
    assert (model.latent_shape, tuple(model.image)) == ((3,), (1, 8, 8))


def test_every_flag_has_its_word() -> None:
    flags = {flag: key for table in FLAGS.values() for flag, key in table.items()}
    for flag, key in flags.items():
        assert spellings()[flag.removeprefix("--").replace("-", "_")] == key
    spec = resolve(keyword_layers({"track": "tensorboard", "strict_data": True, "compile": True, "size": (8, 16)})).spec
    assert (spec.log.trackers, spec.data.strict, spec.train.compile, spec.data.size) == (
        ["tensorboard"],
        True,
        "on",
        [8, 16],
    )


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        ({"epoch": 1}, "no argument 'epoch'; did you mean 'epochs'?"),
        ({"clip": 1.0}, "no argument 'clip'; write **{'train.clip': 1.0}"),
        ({"weight": 3}, "no argument 'weight'; aegen train --help lists them"),
        ({"epochs": "x"}, "train.epochs in train(epochs=…) is 'x', but takes integer"),
        ({"arch": {"name": "mlp", "width": 3}}, "unknown option arch.width"),
    ],
)
def test_a_word_that_is_none(words: dict[str, object], piece: str) -> None:
    with pytest.raises(UsageError) as caught:
        package.train(**words)  # type: ignore[arg-type]
    assert piece in str(caught.value)


@pytest.mark.parametrize(
    ("given", "piece"),
    [("mlp", "write train(arch='mlp')"), ("vae", "write train(objective='vae')"), ("photos/", "write train(data='photos/')"),
     ("gaussian", "write train(bottleneck='gaussian') or train(likelihood='gaussian')"),
     ({"arch": "mlp"}, "takes settings by name"), ([1], "takes settings by name")],
)  # fmt: skip
def test_a_name_alone_explains_itself(given: object, piece: str) -> None:
    with pytest.raises(UsageError) as caught:
        package.train(given)  # type: ignore[arg-type]
    assert piece in str(caught.value)


def test_help_shows_the_words_their_types_and_defaults() -> None:
    parameters = inspect.signature(package.train).parameters
    assert parameters["epochs"].default == 20
    assert parameters["arch"].default == "conv"
    text = pydoc.render_doc(package.train, renderer=pydoc.plaintext)
    assert all(word in text for word in ("epochs: int", "latent_dim: int", "batch_size", "data: str = 'digits'"))
    for name in ("load", "sample", "reconstruct", "interpolate", "export", "evaluate"):
        assert "(" in pydoc.render_doc(getattr(package, name), renderer=pydoc.plaintext)


# -------------------------------------------------------------------------------- runs


def spec(**words: object) -> RunSpec:
    return resolve(keyword_layers(words)).spec


def test_a_run_is_named_by_what_it_is_of(aegen: Aegen, tmp_path: Path) -> None:
    from aegen import registry

    assert run_name(spec()) == "conv-vae-digits"
    assert run_name(spec(bottleneck="vq")) == "conv-vae-vq-digits"
    assert (
        run_name(spec(objective="vq-vae"))
        == run_name(spec(objective="vq-vae", bottleneck="vq"))
        == "conv-vq-vae-digits"
    )
    (tmp_path / "mine.py").write_text(
        "from aegen import Objective, Wrapper\nclass Mine(Objective):\n    def loss(self, model, x): ...\nclass W(Wrapper): ...\n"
    )
    registry.trust("./mine.py:Mine+./mine.py:W")
    assert run_name(spec(objective="./mine.py:Mine")) == "conv-Mine-digits"
    assert run_name(spec(objective="vae+./mine.py:W+aegen/adversarial")) == "conv-vae+W+adversarial-digits"


# -------------------------------------------------------------------------------- suggestions


@pytest.mark.parametrize(
    ("given", "meant"),
    [("plot", "report"), ("score", "evaluate"), ("generate", "sample"), ("eval", "evaluate"), ("convert", "export"),
     ("trian", "train"), ("sampel", "sample"), ("exprot", "export"), ("evalute", "evaluate"), ("list_plugins", "list-plugins")],
)  # fmt: skip
def test_a_command_is_suggested_by_what_it_means(aegen: Aegen, given: str, meant: str) -> None:
    aegen(given).refused(2, f"no such command {given!r}; did you mean {meant!r}?")


@pytest.mark.parametrize("given", ["compress", "quantum", "x"])
def test_no_command_is_suggested_that_is_not_meant(aegen: Aegen, given: str) -> None:
    said = aegen(given)
    said.refused(2, "aegen --help lists them")
    assert "did you mean" not in said.err


def test_every_command_that_is_meant_is_there() -> None:
    words = [word for _, _, some in COMMANDS.values() for word in some]
    assert len(words) == len(set(words)) and not set(words) & set(COMMANDS)


def test_what_was_meant_stands_before_the_others(aegen: Aegen) -> None:
    said = aegen("train", "--objective", "vea")
    said.refused(2, "unknown objective 'vea'; did you mean 'vae'? aegen list-plugins --kind objective shows all")
    assert len(said.err) < 150
    aegen("train", "--arch", "zzz").refused(2, "unknown architecture 'zzz'; installed: conv, mlp")


# -------------------------------------------------------------------------------- width


def test_lines_are_as_long_as_the_terminal(aegen: Aegen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = aegen("list-plugins", "vae").worked().out
    assert max(len(line) for line in out.splitlines() if "source:" not in line) <= 60
    assert "Nats that each latent dimension may carry" in " ".join(out.split())
    monkeypatch.delenv("COLUMNS")
    assert max(map(len, aegen("list-plugins", "vae").worked().out.splitlines())) > 100  # a pipe has no width


def test_text_keeps_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "COLUMNS", "30")
    text = wrapped("one two three four five six seven eight\n\nnine", 4)
    assert text.split() == ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert max(map(len, text.splitlines())) <= 30
    assert "\n\n    nine" in text


# -------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("kind", "piece"),
    [("uint16", "(images // 256).astype('uint8')"), ("bool", "(255 * images).astype('uint8')"), ("uint32", "(images // 16777216)"),
     ("int64", ".astype('uint8')"), ("float32", "bring values to 0…255")],
)  # fmt: skip
def test_arrays_of_other_kinds_say_what_to_do(aegen: Aegen, tmp_path: Path, kind: str, piece: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8), dtype=kind))
    aegen("train", "--data", "a.npy", "--dry-run").refused(2, kind, piece)
