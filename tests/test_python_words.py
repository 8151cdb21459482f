"""Errors of the handle name its arguments, where those of commands name flags."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import aegen
from aegen.errors import UsageError
from aegen.inference.arguments import spoken


def test_an_error_of_the_handle_names_the_argument_and_that_of_the_command_the_flag(
    trained: Path, tmp_path: Path
) -> None:
    model = aegen.load(trained)
    with pytest.raises(UsageError) as told:
        model.sample(2, label="7")
    text = str(told.value)
    assert "label='7' needs a model that was told classes" in text and "objective='conditional-vae'" in text
    assert "--" not in text and "--" not in told.value.args[0]
    with pytest.raises(UsageError, match="--label 7 needs"):
        aegen.inference.sample(trained, label="7", out=tmp_path / "x.png")


def test_data_that_is_gone_is_told_with_the_sampler_that_needs_none(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    model = aegen.load(run)
    gone = replace(model.spec, data=replace(model.spec.data, name=str(tmp_path / "gone")))
    monkeypatch.setattr(type(model), "spec", gone)
    with pytest.raises(UsageError) as told:
        model.sample(2, sampler="gaussian")
    assert "sampler='prior'" in str(told.value) and "--" not in str(told.value)


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ("draw with --sampler prior", "draw with sampler='prior'"),
        ("--label 'x y' is no class", "label='x y' is no class"),
        ("give --sampler ./m.py:M", "give sampler='./m.py:M'"),
        ("name them: --data '/x/y', --set data.cache_gb=3", "name them: --data '/x/y', --set data.cache_gb=3"),
        ("a -- b", "a -- b"),
    ],
)
def test_flags_become_arguments(flags: str, arguments: str) -> None:
    assert spoken(flags) == arguments


def test_help_of_load_names_what_the_handle_does() -> None:
    text = aegen.load.__doc__ or ""
    for word in ("reconstruct", "interpolate", "lookup", "score", "sample", "encode", "decode", "read"):
        assert re.search(rf"model\.{word}\(", text) and callable(getattr(aegen.inference.model.Model, word))
