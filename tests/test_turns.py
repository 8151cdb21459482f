"""Every objective with every bottleneck that it goes with: stopped and resumed to the bit, and two processes as one.

Some of these turns train parameters that their loss does not reach: `ae` has no use for a prior of `vamp`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from aegen_builtin.objectives.ae import AE
from safetensors import safe_open
from safetensors.torch import save_file
from test_parallel import Pool, double, pool_of
from torch import Tensor, nn

from aegen import AUTOENCODER, Autoencoder, FeatureNetwork, Outcome, Turn, registry
from aegen.autoencoder import build_model, build_objective
from aegen.checkpoint import Checkpoint
from aegen.combinations import combinations, expand
from aegen.data.source import Data
from aegen.errors import UsageError
from aegen.hooks import Hooks
from aegen.objective_name import ObjectiveName
from aegen.protocols import ImageShape
from aegen.rundir import RunDir
from aegen.settings import RunSpec, TrainSettings
from aegen.spec import Spec
from aegen.training.distributed import World
from aegen.training.gradient_reach import Reach
from aegen.training.loop import Trainer
from aegen.training.optim import undecayed

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
    name = str(expand(ObjectiveName.parse(objective)))
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


# ---------------------------------------------------------------------------------------------------- what is not reached

IDLE = {f"model.bottleneck.{name}" for name in ("logits", "means", "logvars")}


def without(path: Path, *tensors: str, said: bool) -> Path:
    """A checkpoint without these tensors, and as an earlier version wrote it if nothing is to be said of what is not moved."""
    with safe_open(path, "pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys() if key not in tensors}  # noqa: SIM118
        about = json.loads(file.metadata()["aegen"])
    if not said:
        del about["unmoved"]
    save_file(kept, path, {"aegen": json.dumps(about)})
    return path


def test_what_the_loss_does_not_reach_is_found_and_nothing_moves() -> None:
    made = trainer(*parts("aae", "mixture-prior"))
    before = copied(made)
    noise = torch.get_rng_state()
    reach = Reach(made.model, made.objective)
    assert reach.unreached("autoencoder") == reach.unreached("fool") == IDLE
    assert reach.unreached("judge") == frozenset()
    assert torch.equal(noise, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in made.state().items())
    charged = trainer(*parts("vae", "mixture-prior"))
    assert Reach(charged.model, charged.objective).unreached("autoencoder") == frozenset()
    first = trainer(*parts("vae", "vq"))  # k-means is still to come
    Reach(first.model, first.objective).unreached("autoencoder")
    assert not first.model.bottleneck.book.initialised and not first.model.bottleneck.book._started  # type: ignore[union-attr]


def test_a_checkpoint_says_what_has_no_moments_and_earlier_ones_are_resumed_too(tmp_path: Path) -> None:
    first = walk(trainer(*parts("wae-mmd", "mixture-prior")), SAVED)
    path = saved(first, tmp_path)
    assert set(Checkpoint(path).header["unmoved"]["autoencoder"]) == IDLE
    straight = copied(walk(first, STEPS))
    without(path, said=False)
    second = trainer(*parts("wae-mmd", "mixture-prior"))
    second.restore(Checkpoint(path))
    resumed = copied(walk(second, STEPS))
    assert resumed.keys() == straight.keys() and all(torch.equal(v, resumed[k]) for k, v in straight.items())


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("neck", ["mixture-prior", "gaussian"])
def test_a_checkpoint_that_lost_moments_is_refused(neck: str, said: bool, tmp_path: Path) -> None:
    key = "optim/autoencoder/model.decoder.1.weight/"
    path = saved(walk(trainer(*parts("ae", neck)), SAVED), tmp_path)
    without(path, *(key + slot for slot in ("step", "exp_avg", "exp_avg_sq")), said=said)
    with pytest.raises(UsageError, match=r"model\.decoder\.1\.weight/.* is missing"):
        trainer(*parts("ae", neck)).restore(Checkpoint(path))
    charged = saved(walk(trainer(*parts("vae", "mixture-prior")), SAVED), tmp_path / "charged")
    lost = "optim/autoencoder/model.bottleneck.means/"
    without(charged, *(lost + slot for slot in ("step", "exp_avg", "exp_avg_sq")), said=said)
    with pytest.raises(UsageError, match=r"bottleneck\.means/.* is missing"):
        trainer(*parts("vae", "mixture-prior")).restore(Checkpoint(charged))


class Branches(AE):
    """A loss that has use for its own weight in every second step only, and says so if asked.

    Options:
        says: whether it is declared.
        first: whether the first step has.
    """

    def __init__(self, *, says: bool = True, first: bool = False) -> None:
        super().__init__()
        self.own = nn.Linear(1, 1)
        nn.init.constant_(self.own.weight, 0.5)
        nn.init.constant_(self.own.bias, 0.25)
        self.says = says
        self.calls = int(first)

    def both(self, model: Autoencoder, x: Tensor) -> Outcome:
        self.calls += 1
        outcome = self.loss(model, x)
        return outcome if self.calls % 2 else outcome.plus({"own": self.own(x.new_ones(len(x), 1)).squeeze(1).square()})

    def turns(self) -> list[Turn]:
        return [Turn("autoencoder", self.both, (*AUTOENCODER, self), varies=self.says)]


def branching(world: World, says: bool, first: bool = False) -> dict[str, Tensor]:
    registry.trust(f"{__file__}:Branches")
    with double():
        options = {"says": says, "first": first}
        made = trainer(Spec(f"{__file__}:Branches", options), Spec("deterministic"), world, steps=4)
        return copied(walk(made, 4))


def test_a_loss_that_takes_other_ways_from_step_to_step_says_so(two: Pool, tmp_path: Path) -> None:
    """Its weights are stepped whenever they have a gradient, whatever was found when the run was built."""
    for first in (True, False):
        one = branching(HERE, True, first)
        several = two(branching, says=True, first=first)
        assert "optim/autoencoder/objective.own.weight/step" in one and one.keys() == several.keys()
        for key, value in one.items():
            torch.testing.assert_close(several[key], value, rtol=1e-9, atol=1e-12, msg=key)
    with pytest.raises(AssertionError, match=r"turn 'autoencoder' reaches other parameters from one step to the next"):
        two(branching, says=False, first=True)
    made = trainer(Spec(f"{__file__}:Branches", {}), Spec("deterministic"))
    path = saved(walk(made, 1), tmp_path)  # one step, in which it was not reached
    again = trainer(Spec(f"{__file__}:Branches", {}), Spec("deterministic"))
    again.restore(Checkpoint(path))
    assert again.players[0].unmoved() == ["objective.own.weight", "objective.own.bias"]


# ---------------------------------------------------------------------------------------------------- weight decay


@pytest.mark.parametrize(
    ("neck", "options", "left"),
    [
        ("vamp", {"components": 5}, {"raw"}),
        ("mixture-prior", {"components": 5}, {"logits", "means", "logvars"}),
        ("conditional", {}, {"shift", "stretch"}),
        ("vq", {"update": "gradient", "codes": 12}, {"book.vectors"}),
        ("residual-vq", {"update": "gradient", "codes": 12, "levels": 2}, {"books.0.vectors", "books.1.vectors"}),
        ("vq-2", {"update": "gradient", "codes": 12}, {"top.vectors", "bottom.vectors", "down.bias", "merge.bias"}),
    ],
)
def test_weight_decay_is_for_the_weights_of_layers(neck: str, options: dict[str, Any], left: set[str]) -> None:
    torch.manual_seed(0)
    part, objective = Spec(neck, options), Spec("ae" if neck.endswith(("vq", "vq-2")) else "vae")
    net = build_model(nets("ae"), part, Spec("gaussian"), IMAGE, classes=CLASSES)
    settings = TrainSettings(batch_size=BATCH, weight_decay=0.1)
    spec = RunSpec(arch=nets("ae"), objective=objective, bottleneck=part, likelihood=Spec("gaussian"), train=settings)
    made = Trainer(spec, net, build_objective(objective, net), images(), HERE, run=None, header={}, hooks=Hooks())
    player = made.players[0]
    assert player.stepper is not None
    rates = {
        player.names[p]: group["weight_decay"]
        for group in player.stepper.optimizer.param_groups
        for p in group["params"]
    }
    assert {n for n, p in net.bottleneck.named_parameters() if not rates[f"model.bottleneck.{n}"]} == left
    for name, parameter in [*net.encoder.named_parameters(), *net.decoder.named_parameters()]:
        which = next(full for full, rate in rates.items() if full.endswith(name))
        assert (rates[which] > 0) == (parameter.ndim > 1), which


def test_embeddings_and_what_any_module_declares_are_not_decayed() -> None:
    class Net(nn.Module):
        undecayed = frozenset({"token", "not_there"})

        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 3))
            self.classes = nn.Embedding(4, 3)
            self.layer = nn.Linear(3, 3)

    net = nn.Sequential(Net())
    assert undecayed(net) == {net[0].token, net[0].classes.weight}
