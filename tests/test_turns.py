"""Every objective with every bottleneck that it goes with: stopped and resumed to the bit, and two processes as one.

Some of these turns train parameters that their loss does not reach: `ae` has no use for a prior of `vamp`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from test_parallel import Pool, double, pool_of
from torch import Tensor

from aegen import FeatureNetwork, registry
from aegen.checkpoint import Checkpoint
from aegen.data.source import Data
from aegen.engine.loop import Trainer
from aegen.engine.parallel import World
from aegen.errors import UsageError
from aegen.model import Autoencoder, build_model, build_objective, combinations, expand
from aegen.plugins import Hooks
from aegen.protocols import ImageShape
from aegen.rundir import RunDir
from aegen.settings import RunSpec, TrainSettings
from aegen.spec import Spec

IMAGE = ImageShape(1, 16, 16)
CLASSES, BATCH, STEPS, SAVED = 3, 8, 3, 2
HERE = World(torch.device("cpu"))
# Small, and so often due that all of it happens within a few steps.
SMALL: dict[str, dict[str, Any]] = {
    "vamp": {"components": 5},
    "mixture-prior": {"components": 5},
    "flow-posterior": {"hidden": 8},
    **{name: {"codes": 12, "dim": 4, "restart": 1} for name in ("vq", "vq-2", "residual-vq", "product-vq")},
}


class Brightness(FeatureNetwork):
    """A network without weights."""

    channels, width, least = (1,), 1, 1

    def maps(self, x: Tensor) -> list[Tensor]:
        return [x.mean(1, keepdim=True)]

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)).unsqueeze(1)


Pair = tuple[str, str]


def pairs() -> list[Pair]:
    """The table of `aegen list-plugins --combinations`; a wrapper goes around `vae`."""
    rows = {row["objective"]: row for row in combinations()}
    wraps = {name: f"vae+{name}" if row["wraps"] else name for name, row in rows.items()}
    return [(wraps[name], neck) for name, row in rows.items() for neck in rows[wraps[name].split("+")[0]]["goes_with"]]


def parts(objective: str, neck: str) -> tuple[Spec, Spec]:
    name = expand(objective)
    registry.trust(f"{__file__}:Brightness")
    seen = {"perceptual": {"features": f"{__file__}:Brightness"}} if "perceptual" in name else {}
    return Spec(name, seen), Spec(neck, SMALL.get(neck, {}))


def nets(objective: str) -> Spec:
    """Maps for what turns them, else the fastest."""
    spatial = {"width": 4, "depth": 2, "spatial": True}
    return Spec("conv", spatial) if "equivariance" in objective else Spec("mlp", {"hidden": [8]})


@cache
def _model(arch: str, neck: str, dtype: torch.dtype) -> Autoencoder:
    torch.manual_seed(0)
    part = Spec(neck, SMALL.get(neck, {}))
    return build_model(nets(arch), part, Spec("gaussian"), IMAGE, classes=CLASSES)


def model_of(objective: str, neck: str) -> Autoencoder:
    return copy.deepcopy(_model("equivariance" * ("equivariance" in objective), neck, torch.get_default_dtype()))


@cache
def images() -> Data:
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (4 * BATCH, *IMAGE), dtype=torch.uint8)
    labels = torch.arange(len(pixels)) % CLASSES
    return Data(pixels, pixels[:BATCH], train_labels=labels, validation_labels=labels[:BATCH])


def trainer(objective: Spec, neck: Spec, world: World = HERE, **settings: Any) -> Trainer:
    """As `aegen train` builds one, without a folder; a batch is that of all processes."""
    model = model_of(objective.name, neck.name)
    given = TrainSettings(**{"batch_size": BATCH // world.size, "steps": STEPS, "lr": 1e-3, **settings})
    spec = RunSpec(
        arch=nets(objective.name), objective=objective, bottleneck=neck, likelihood=Spec("gaussian"), train=given
    )
    torch.manual_seed(1)
    built = build_objective(objective, model, size=len(images().train))
    made = Trainer(spec, model, built, images(), world, run=None, header={}, hooks=Hooks())
    made.model.train()
    made.objective.train()
    return made


def walk(made: Trainer, last: int) -> Trainer:
    """Up to a step."""
    while made.progress.step < last:
        made.take_step(made.progress.step)
        made.progress.step += 1
    return made


def saved(made: Trainer, folder: Path) -> Path:
    """The checkpoint of a trainer."""
    (folder / "checkpoints").mkdir(parents=True)
    data = {"name": "digits", "count": 1, "classes": [], "fingerprint": ""}
    shapes = {"image": list(made.model.image), "latent": list(made.model.latent_shape)}
    made.header = {"spec": {}, **shapes, "data": data, "plugins": {}, "samplers": {}, "versions": {}}
    made.run_dir = RunDir(folder)
    made.save("last", final=True)
    return folder / "checkpoints" / "last.safetensors"


def copied(made: Trainer) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in made.state().items()}


def together(world: World, pair: Pair, **settings: Any) -> dict[str, Tensor]:
    with double():
        return copied(walk(trainer(*parts(*pair), world, **settings), STEPS))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    yield from pool_of(2, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("pair", pairs(), ids="-".join)
def test_a_pair_is_resumed_to_the_bit_and_shared_by_two_processes(pair: Pair, two: Pool, tmp_path: Path) -> None:
    with double():
        try:
            first = trainer(*parts(*pair))
        except UsageError as refused:  # a wrapper may need more than what it wraps
            pytest.skip(str(refused))
        path = saved(walk(first, SAVED), tmp_path)
        straight = copied(walk(first, STEPS))
        second = trainer(*parts(*pair))
        second.restore(Checkpoint(path))
        resumed = copied(walk(second, STEPS))
    assert resumed.keys() == straight.keys()
    for key, value in straight.items():
        assert torch.equal(value, resumed[key]), key
    several = two(together, pair=pair)
    assert several.keys() == straight.keys()
    for key, value in straight.items():
        torch.testing.assert_close(several[key], value, rtol=1e-7, atol=1e-10, msg=lambda m, k=key: f"{k}: {m}")
