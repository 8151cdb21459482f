"""What a name promises: those that mean a map of codes have one where the architecture can keep it, and a vector is said."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from aegen_builtin.nets.conv import Conv
from conftest import Aegen

from aegen import Architecture, ImageShape, load
from aegen.autoencoder import build_model
from aegen.config import resolve
from aegen.testing import check_architecture

# What each name's paper has: a map of codes, or of the channels of a Gaussian.
MAPS = ["vq-vae", "vq-vae-2", "fsq-vae", "vqgan", "kl-gan"]
VECTORS = ["ae", "vae", "svae", "vamp-vae", "categorical-vae", "wae-mmd", "gan", "vae+perceptual+adversarial"]
SMALL = {"arch.width": 2, "data.size": 8, "train.batch_size": 100, "log.images_every_epochs": 0}


def resolved(**options: Any) -> dict[str, Any]:
    named = {f"{k}.name" if k in ("arch", "objective", "bottleneck") else k: v for k, v in options.items()}
    return resolve([("test", named)]).spec.to_dict()


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(("side", "across"), [(8, 2), (28, 7), (32, 8), (64, 16)])
def test_a_name_that_means_a_map_has_one(name: str, side: int, across: int) -> None:
    """A quarter of the side, as van den Oord et al., 2017, section 4, also of the smallest images."""
    spec = resolve([("test", {"arch.name": "conv", "arch.width": 2, "objective.name": name})]).spec
    model = build_model(spec.arch, spec.bottleneck, spec.likelihood, ImageShape(1, side, side))
    assert model.latent_shape[1:] == (across, across)
    x = torch.rand(3, 1, side, side) * 2 - 1
    latent = model.eval().encode(x)
    if latent.codes is not None:
        assert latent.codes.shape[-2:] == (across, across)


@pytest.mark.parametrize("name", VECTORS)
def test_other_names_keep_their_vector(name: str) -> None:
    arch = resolved(arch="conv", objective=name)["arch"]
    assert (arch["spatial"], arch["depth"]) == (False, 3)


def test_where_a_default_of_a_map_came_from_is_shown(aegen: Aegen) -> None:
    said = aegen("train", "--objective", "kl-gan", "--print-config").worked().out
    for section, line in (("arch", "spatial = true"), ("arch", "depth = 2"), ("bottleneck", "dim = 4")):
        own = said.partition(f"[{section}]\n")[2].partition("\n[")[0]
        (found,) = [text for text in own.splitlines() if text.startswith(line)]
        assert found.endswith("# objective kl-gan")
    said = aegen("train", "--objective", "vqgan", "--print-config").worked().out
    assert [text.split("# ")[1] for text in said.splitlines() if text.startswith("spatial")] == ["objective vq-vae"]


@pytest.mark.parametrize(
    "words",
    [["--no-arch.spatial"], ["--set", "arch.spatial=false"], ["--config", "vector.toml"]],
)
def test_whatever_a_user_says_of_the_map_is_stronger(aegen: Aegen, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "vector.toml").write_text("[arch]\nspatial = false\n")
    found = tomllib.loads(aegen("train", "--objective", "vq-vae", "--print-config", *words).worked().out)
    assert found["arch"]["spatial"] is False
    assert (found["arch"]["depth"], found["bottleneck"]["dim"]) == (3, 16), "a vector has the defaults of a vector"


def test_options_of_a_map_may_be_said_one_by_one(aegen: Aegen) -> None:
    words = ("--objective", "vq-vae", "--arch.depth", 3, "--bottleneck.dim", 8)
    found = tomllib.loads(aegen("train", "--print-config", *words).worked().out)
    assert found["arch"]["spatial"] is True
    assert (found["arch"]["depth"], found["bottleneck"]["dim"]) == (3, 8)


def test_another_bottleneck_is_not_given_the_options_of_the_usual_one() -> None:
    found = resolved(arch="conv", objective="vq-vae", bottleneck="product-vq")
    assert found["arch"]["spatial"] is True
    assert found["bottleneck"] == resolved(arch="conv", objective="ae", bottleneck="product-vq")["bottleneck"]
    assert "dim" not in resolved(arch="conv", objective="vq-vae", bottleneck="fsq")["bottleneck"]


def test_an_architecture_without_the_choice_is_left_alone() -> None:
    found = resolved(arch="mlp", objective="vq-vae")
    assert found["arch"] == resolved(arch="mlp", objective="ae")["arch"]
    assert found["bottleneck"]["dim"] == 16


NET = '''
from aegen_builtin.nets.conv import Conv


class Net(Conv):
    """A net whose switch has another name.

    Options:
        grid: keep a feature map.
    """

    map_options = {"grid": True}

    def __init__(self, image, fan_in, *, grid: bool = False):
        super().__init__(image, fan_in, width=2, depth=1, spatial=grid)
'''


def test_a_third_partys_net_says_how_it_keeps_a_map(aegen: Aegen, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NET)
    said = aegen("train", "--arch", "./mine.py:Net", "--objective", "fsq-vae", "--size", 8, "--dry-run").worked()
    assert "bottleneck of 4×4×4" in said.err and "vector" not in said.err
    said = aegen(
        "train", "--arch", "./mine.py:Net", "--objective", "fsq-vae", "--no-arch.grid", "--size", 8, "--dry-run"
    )
    assert "one vector" in said.worked().err


class Lying(Conv):
    """Names options that give no map."""

    map_options = {"depth": 1}  # noqa: RUF012


class Dreaming(Conv):
    """Names an option that it has not."""

    map_options = {"grid": True}  # noqa: RUF012


@pytest.mark.parametrize(("net", "says"), [(Lying, "no feature map"), (Dreaming, "has no option grid")])
def test_the_contract_holds_a_net_to_its_map(net: type[Architecture], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_architecture(net)


# ------------------------------------------------------------------------------------------ a vector is said

SAID = "usually has a feature map, but here the latent of an image is one vector"


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (["--objective", "vq-vae", "--arch", "mlp"], f"objective vq-vae {SAID}, so that at most 256 different"),
        (["--objective", "vqgan", "--no-arch.spatial"], f"objective vq-vae {SAID}, so that at most 256 different"),
        (["--objective", "kl-gan", "--arch", "mlp"], f"objective kl-gan {SAID}; --arch conv"),
        (["--objective", "fsq-vae", "--arch", "mlp"], f"objective fsq-vae {SAID}, so that at most 1,000 different"),
        (
            ["--objective", "vq-vae", "--arch.depth", 3],
            f"objective vq-vae {SAID}, so that",
        ),  # of 8×8 pixels one position is left
        (
            ["--objective", "ae", "--bottleneck", "vq"],
            "bottleneck vq: the latent of an image is one vector, so that at most 256",
        ),
    ],
)
def test_a_vector_is_said_in_one_sentence(aegen: Aegen, words: list[object], piece: str) -> None:
    said = aegen("train", "--size", 8, *words, "--dry-run").worked().err
    assert len([line for line in said.splitlines() if "one vector" in line]) == 1 and piece in said


@pytest.mark.parametrize(
    "words",
    [
        ["--objective", "vq-vae"],
        ["--objective", "vae"],
        ["--objective", "ae", "--bottleneck", "vq", "--arch.spatial", "--arch.depth", 2],
        ["--objective", "categorical-vae", "--arch", "mlp"],  # 10 to the 16th codes
    ],
)
def test_a_latent_that_can_tell_images_apart_is_not_remarked_upon(aegen: Aegen, words: list[object]) -> None:
    assert "vector" not in aegen("train", "--size", 8, *words, "--dry-run").worked().err


# ------------------------------------------------------------------------------------------ what was trained before


def test_a_run_with_a_vector_goes_on_with_it(aegen: Aegen, tmp_path: Path) -> None:
    """Its configuration may have been written before there were such defaults."""
    words = ("train", "--objective", "vq-vae", "--no-arch.spatial", "--arch.width", 2, "--size", 8, "--epochs", 1)
    aegen(*words, "--run-dir", "run").worked()
    before = load("run", device="cpu").spec
    aegen("train", "--resume", "run", "--epochs", 2, "--objective", "vq-vae").worked()
    after = load("run", device="cpu")
    assert (after.spec.arch, after.spec.bottleneck) == (before.arch, before.bottleneck)
    assert after.model.latent_shape == (16,)


def test_a_configuration_without_the_option_resumes_as_it_was(aegen: Aegen, tmp_path: Path) -> None:
    """Stopped before its first checkpoint, by an aegen whose conv had no such option."""
    aegen(
        "train",
        "--objective",
        "vq-vae",
        "--no-arch.spatial",
        "--arch.width",
        2,
        "--size",
        8,
        "--epochs",
        1,
        "--run-dir",
        "run",
    )
    shutil.rmtree("run/checkpoints")
    Path("run/checkpoints").mkdir()
    config = Path("run/config.toml")
    lines = config.read_text().splitlines()
    config.write_text("\n".join(line for line in lines if not line.startswith(("spatial", "depth"))) + "\n")
    aegen("train", "--resume", "run").worked()
    arch = load("run", device="cpu").spec.arch.options
    assert (arch["spatial"], arch["depth"]) == (False, 3)
