"""What somebody reads who uses aegen for the first time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Aegen

from aegen import train
from aegen.data.batches import Batches


@pytest.mark.parametrize(
    ("count", "batch", "world", "accumulate", "left"),
    [(10, 4, 1, 1, 2), (12, 4, 1, 1, 0), (10, 2, 2, 2, 2), (3, 8, 1, 1, 0)],
)
def test_what_fills_no_step_is_what_an_epoch_does_not_look_at(
    count: int, batch: int, world: int, accumulate: int, left: int
) -> None:
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    parts = [
        Batches(pixels, batch, seed=0, device=torch.device("cpu"), rank=rank, world=world, accumulate=accumulate)
        for rank in range(world)
    ]
    seen = [
        part.micro(step, micro)[0] for part in parts for step in range(part.per_epoch) for micro in range(accumulate)
    ]
    assert parts[0].left == left == count - len(torch.cat(seen).unique())


def test_images_that_sit_an_epoch_out_are_told_once(tmp_path: Path) -> None:
    said: list[str] = []
    settings = {"arch.hidden": [8], "log.images_every_epochs": 0, "train.batch_size": 1000}
    train(arch="mlp", run_dir=tmp_path / "r", say=said.append, epochs=2, **settings)
    assert [line for line in said if "sit an epoch out" in line] == [
        "617 of the 1,617 training images do not fill a batch, and sit an epoch out: others in each"
    ]


def test_sample_names_its_sampler_and_seed_and_how_to_draw_others(aegen: Aegen, trained: Path) -> None:
    said = aegen("sample", "-c", trained, "-n", "2", "--sampler", "prior", "--seed", "3").worked()
    assert "sampler prior, seed 3 (--seed N draws others), model" in said.err


@pytest.mark.parametrize("command", ["sample", "export", "reconstruct", "interpolate", "report", "compare", "evaluate"])
def test_help_says_that_default_names_count_up(aegen: Aegen, command: str) -> None:
    assert "-2, -3 and so on" in " ".join(aegen(command, "--help").worked().out.split())
