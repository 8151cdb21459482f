"""`--precision auto` and `--compile auto`: what they choose, what they say, and that they leave no trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Aegen

from aegen.checkpoint import Checkpoint
from aegen.training import autotune

TINY = ("train", "--arch", "mlp", "--arch.hidden", "[8]", "--size", 8, "--device", "cpu", "--set", "log.images=4")
TINY += ("--set", "log.images_every_epochs=0", "--set", "log.every_steps=1")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Seconds of a step by precision or mode, in place of a clock; a candidate that has none fails."""
    seconds: dict[str, Any] = {"first": 1.0}
    begin = autotune._begun

    def begun(spec: Any, *rest: Any) -> Any:
        train = spec.train
        if train.precision not in seconds or train.compile not in seconds:
            return "RuntimeError: no such kernel"
        eager = autotune._with(spec, compile="off")  # no compiler is needed to see what is chosen
        candidate = begin(eager, *rest)
        candidate.spec, candidate.first = spec, seconds["first"]
        candidate.loss *= seconds.get("loss", 1.0) if train.precision != "fp32" else 1.0
        return candidate

    def clock(candidates: Any, here: Any) -> None:
        for c in candidates:
            c.step = seconds[c.spec.train.precision] * seconds[c.spec.train.compile]

    monkeypatch.setattr(torch, "compile", lambda stage, **_: stage)
    monkeypatch.setattr(autotune, "_begun", begun)
    monkeypatch.setattr(autotune, "_time", clock)
    return seconds


@pytest.mark.parametrize(
    ("seconds", "words", "chosen", "said"),
    [
        ({"fp32": 1, "bf16": 0.5, "off": 1}, (), ("bf16", "off"), "precision bf16: bf16 2.00 times as fast as fp32"),
        ({"fp32": 1, "bf16": 0.98, "off": 1}, (), ("fp32", "off"), "precision fp32: bf16 1.02 times"),
        ({"fp32": 1, "off": 1}, (), ("fp32", "off"), "precision fp32: bf16 fails (RuntimeError: no such kernel)"),
        ({"fp32": 1, "bf16": 0.1, "off": 1, "loss": 1.03}, (), ("fp32", "off"), "bf16 gives a loss of"),
        ({"fp32": 1, "off": 1, "on": 0.5}, ("--compile", "auto"), ("fp32", "on"), "compile on: on 2.00 times"),
        ({"fp32": 1, "off": 1, "on": 0.99}, ("--compile", "auto"), ("fp32", "off"), "compile off: on 1.01 times"),
        ({"fp32": 1, "off": 1}, ("--compile", "auto"), ("fp32", "off"), "compile off: on fails (RuntimeError"),
        ({"fp32": 0.1, "off": 1, "on": 0.5}, ("--compile", "auto"), ("fp32", "off"), "which no compilation repays"),
        ({"fp32": 1, "off": 1, "on": 0.5, "first": 60}, ("--compile", "auto"), ("fp32", "off"), "60 s of compiling"),
    ],
)
def test_the_fastest_that_is_worth_it_is_chosen_and_said(
    aegen: Aegen, timed: dict[str, Any], seconds: Any, words: Any, chosen: Any, said: str
) -> None:
    timed |= seconds
    precision = () if words else ("--precision", "auto")
    told = aegen(*TINY, "--steps", 40, *words, *precision, "--dry-run").worked().err
    assert said in told
    assert f" in {chosen[0]}" in told
    assert f"compile {chosen[1]}" in told or not words


def test_a_trial_leaves_the_run_as_it_would_have_been(aegen: Aegen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "_WORTH", float("inf"))  # whatever the clock says, it stays with fp32
    monkeypatch.setattr(autotune, "_SECONDS", 0.01)
    losses = []
    for words in ((), ("--precision", "auto", "--compile", "auto")):
        run = f"r{len(losses)}"
        aegen(*TINY, "--steps", 5, "--objective", "vae+adversarial", *words, "--run-dir", run).worked()
        lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines])
    assert losses[0] == losses[1]
    plain, tried = (Checkpoint(Path(f"r{i}/checkpoints/last.safetensors")).tensors("model.") for i in (0, 1))
    assert all(torch.equal(plain[key], tried[key]) for key in plain)


def test_a_run_remembers_what_was_chosen_and_resumes_without_a_trial(
    aegen: Aegen, timed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed |= {"fp32": 1, "bf16": 0.5, "off": 1}
    aegen(*TINY, "--steps", 2, "--precision", "auto", "--run-dir", "r").worked()
    assert 'precision = "bf16"' in Path("r/config.toml").read_text()
    monkeypatch.setattr(autotune, "settle", None)
    assert "precision bf16" not in aegen("train", "--resume", "r", "--steps", 4).worked().err


def test_compile_is_a_switch_and_takes_a_word(aegen: Aegen) -> None:
    Path("c.toml").write_text("[train]\ncompile = true\n")
    for words, value in (
        (("--compile",), "on"),
        (("--compile", "--seed", 1), "on"),
        (("--no-compile",), "off"),
        (("--compile", "auto"), "auto"),
        (("--config", "c.toml"), "on"),
        (("--set", "train.compile=false"), "off"),
        ((), "off"),
    ):
        assert f'compile = "{value}"' in aegen(*TINY, *words, "--print-config").worked().out
    aegen(*TINY, "--compile", "fast").refused(2, "--compile", "off|on|reduce-overhead|auto")
