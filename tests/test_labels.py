"""Classes of images are an argument: they reach encoders and bottlenecks that read them, and nothing is set on a model meanwhile."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aegen_builtin.latents.conditional import Conditional
from conftest import Aegen
from torch import Tensor, nn

import aegen as api
from aegen import registry
from aegen.autoencoder import Autoencoder, build_model, build_objective
from aegen.data.source import Data
from aegen.evaluation.batch import Seen
from aegen.evaluation.protocol import Protocol
from aegen.hooks import Hooks
from aegen.protocols import ImageShape, Latent, Outcome
from aegen.settings import RunSpec, TrainSettings
from aegen.spec import Spec
from aegen.training.distributed import World
from aegen.training.gradient_reach import Reach
from aegen.training.loop import Trainer
from aegen.training.turns import Stage
from aegen.training.validation import measure

IMAGE, CLASSES = ImageShape(1, 8, 8), 3
ARCH = Spec("mlp", {"hidden": [8]})

PLUGIN = '''
import torch
from torch import nn
from aegen import Architecture, ImageShape

class Encoder(nn.Module):
    """A net that reads the class of an image beside it."""

    def __init__(self, image, fan_in, classes):
        super().__init__()
        self.net = nn.Linear(image.channels * image.height * image.width, fan_in)
        self.table = nn.Embedding(classes + 1, fan_in)
        nn.init.zeros_(self.table.weight)

    def forward(self, x, labels=None):
        if labels is None:
            labels = torch.full((len(x),), self.table.num_embeddings - 1, device=x.device)
        return self.net(x.flatten(1)) + self.table(labels)

class Told(Architecture):
    """Its encoder reads classes."""

    def __init__(self, image: ImageShape, fan_in: int, classes: int) -> None:
        self.image, self.fan_in, self.classes = image, fan_in, classes

    def encoder(self):
        return Encoder(self.image, self.fan_in, self.classes)

    def decoder(self, latent, fan_out):
        size = self.image.height * self.image.width
        return nn.Sequential(nn.Linear(latent[0], fan_out * size), nn.Unflatten(1, (fan_out, *self.image[1:])))
'''


class Reader(nn.Module):
    """An encoder that holds an image's brightness against its class, and remembers that they go together."""

    def __init__(self, fan_in: int) -> None:
        super().__init__()
        self.net = nn.Linear(IMAGE.height * IMAGE.width, fan_in)
        self.told: list[Tensor | None] = []
        self.right: list[bool] = []

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Features; images of class c have the grey level 10 · c in their first pixel."""
        self.told.append(labels)
        if labels is not None:
            self.right.append(torch.equal((x[:, 0, 0, 0] + 1).mul(127.5).round().long(), 10 * labels))
        features: Tensor = self.net(x.flatten(1))
        return features


def model(bottleneck: str = "conditional") -> Autoencoder:
    torch.manual_seed(0)
    return build_model(ARCH, Spec(bottleneck), Spec("gaussian"), IMAGE, classes=CLASSES)


def reading() -> Autoencoder:
    """A model whose encoder reads classes, and whose bottleneck does not."""
    made = model("gaussian")
    return Autoencoder(
        IMAGE, Reader(made.bottleneck.fan_in), made.bottleneck, made.decoder, made.likelihood, made.latent_shape
    )


def images(count: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(0, 256, (count, *IMAGE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pixels[:, 0, 0, 0] = 10 * labels
    return pixels, labels


def floats(count: int) -> tuple[Tensor, Tensor]:
    pixels, labels = images(count)
    return pixels / 127.5 - 1, labels


def test_a_model_is_given_classes_for_a_call_and_keeps_none() -> None:
    net, (x, labels) = model(), floats(6)
    told = net.given(labels)
    assert net.labelled and net.given(None) is net and net.labels is None and told.labels is labels
    assert torch.equal(net.bottleneck.labels_of(told.encode(x).z), labels)
    other = (labels + 1) % CLASSES
    for found in (told.encode(x, other), told.given(other).encode(x), told.latent(told.features(x), other)):
        assert torch.equal(net.bottleneck.labels_of(found.z), other)
    assert torch.equal(told.reconstruct(x, other), net.decode(net.encode(x, other).mean).mean)
    assert told.bottleneck is net.bottleneck and list(told.parameters()) == list(net.parameters())
    assert torch.equal(copy.deepcopy(told).labels, labels)
    for one in (net, told):
        with pytest.raises(AttributeError):
            one.labels = labels  # type: ignore[misc]
    plain = model("gaussian")
    assert not plain.labelled and torch.equal(plain.given(labels).encode(x).mean, plain.encode(x).mean)


def test_an_encoder_reads_the_classes_of_its_own_images_in_training_validation_and_evaluation() -> None:
    net = reading()
    assert net.labelled and isinstance(net.encoder, Reader)
    objective = build_objective(Spec("vae"), net)
    assert not Reach(net, objective).unreached("autoencoder")
    pixels, labels = images(50)
    data = Data(pixels, pixels[:20], train_labels=labels, validation_labels=labels[:20])
    spec = RunSpec(
        arch=ARCH,
        objective=Spec("vae"),
        bottleneck=Spec("gaussian"),
        likelihood=Spec("gaussian"),
        train=TrainSettings(batch_size=5, accumulate=2, steps=3),
    )
    trainer = Trainer(spec, net, objective, data, World(torch.device("cpu")), run=None, header={}, hooks=Hooks())
    for step in range(3):
        trainer.take_step(step)
    told = net.encoder
    assert len(told.right) == 6 and all(told.right) and None not in told.told
    net.eval()
    measure(net, objective.eval(), data, trainer.world, labelled=True, together=3, mode="fp32")
    seen = Seen("held-out", net, objective, pixels[:7] / 127.5 - 1, labels[:7], Protocol(), None)
    assert seen.latent.z.shape == (7, *net.latent_shape) and "error" in seen.outcome.terms
    assert [len(part) for part in told.told[6:] if part is not None] == [3, 3, 3, 3, 3, 3, 2, 7, 7]
    assert all(told.right)
    net.encode(pixels[:2] / 127.5 - 1)
    assert told.told[-1] is None


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of the compiler itself
@pytest.mark.parametrize("name", ["conditional-vae", "soft-intro-vae", "conditional-vae+adversarial"])
def test_a_loss_that_is_told_classes_is_compiled_once(name: str) -> None:
    """And gives the numbers that it gives without the compiler, whatever the classes."""
    torch.compiler.reset()
    net, graphs = model(), []
    objective = build_objective(Spec(name), net)

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for turn in objective.turns():
        stage = Stage(net, objective, turn)
        whole = name != "soft-intro-vae"  # whose draw from the prior no compiler looks into
        compiled = torch.compile(stage, backend=backend, fullgraph=whole)
        first = 0
        for step in range(4):
            x, labels = torch.rand(4, *IMAGE) * 2 - 1, torch.randint(CLASSES, (4,))
            torch.manual_seed(step)
            eager, _ = stage(x, labels)
            torch.manual_seed(step)
            assert torch.equal(compiled(x, labels)[0], eager)
            first = first or len(graphs)
        assert len(graphs) == first and (first == 1 or not whole)
        graphs.clear()


def test_a_loss_of_two_arguments_is_told_nothing_and_reads_everything() -> None:
    """What third parties wrote before labels were an argument."""

    class Mine(api.Objective):
        def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
            latent = model.encode(x)
            assert isinstance(latent, Latent) and isinstance(model.bottleneck, Conditional)
            assert model.labels is not None
            assert torch.equal(model.bottleneck.labels_of(latent.z), model.labels)
            return Outcome({"error": model.decode(latent.z).nll(x)}, latent=latent)

    net, (x, labels) = model(), floats(6)
    objective = Mine()
    loss, _ = Stage(net, objective, objective.turns()[0])(x, labels)
    loss.backward()
    assert net.labels is None and all(p.grad is not None for p in net.encoder.parameters())


@pytest.mark.parametrize("compiled", ["off", "on"])
def test_a_third_partys_encoder_is_told_the_classes(
    aegen: Aegen, monkeypatch: pytest.MonkeyPatch, compiled: str
) -> None:
    """From training to the handle: what it knows of each class it has learned, and evaluation sees images with theirs."""
    Path("told.py").write_text(PLUGIN)
    pixels, labels = images(60)
    held = {"validation_images": pixels[:9, 0].numpy(), "validation_labels": labels[:9].numpy()}
    np.savez("greys.npz", images=pixels[:, 0].numpy(), labels=labels.numpy(), **held)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    words = ("--arch", "./told.py:Told", "--data", "greys.npz", "--objective", "ae", "--steps", "6", "--lr", "0.1")
    quiet = ("--compile", compiled, "--set", "log.images_every_epochs=0")
    aegen("train", *words, *quiet, "--run-dir", "run").worked()
    asked = ("evaluate", "-c", "run", "--metric", "reconstruction", "--component", "./told.py:Told", "--json")
    numbers = {one["name"]: one["value"] for one in json.loads(aegen(*asked).worked().out)["numbers"]}
    registry.trust("./told.py:Told")
    loaded = api.load("run")
    table = loaded.model.encoder.get_parameter("table.weight")
    assert table[:CLASSES].abs().amin(1).min() > 0 and not table[CLASSES].any()  # the last stands for no class
    x = pixels[:9] / 127.5 - 1
    told, untold = loaded.encode(x, labels=labels[:9]).mean, loaded.encode(x).mean
    torch.testing.assert_close(told - untold, table[labels[:9]])
    again = ((loaded.decode(z).clamp(-1, 1) + 1).mul(127.5).round() / 127.5 - 1 for z in (told, untold))
    mine, other = (float(((found - x) / 2).square().mean()) for found in again)
    assert abs(mine - numbers["mse"]) < 0.01 * abs(mine - other)
