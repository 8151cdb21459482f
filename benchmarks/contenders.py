"""The same VAE trained by aegen, by a loop written for it alone, by pythae, and by the loop that people write.

Nets: those of `nets.py`, with a Gaussian bottleneck. aegen and the loop by hand train aegen's own modules,
fed images in [-1, 1]; pythae has the same layers written down plainly, fed images in [0, 1] as it wants them. Loss: Bernoulli
cross-entropy plus KL, in nats per image. Adam, lr 1e-3, batch 128, fp32. `aegen, compiled` and `by hand, compiled` add torch.compile.

A contender is trained until its watch says that the time is over, and goes on from there when it is trained again.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from nets import LATENT, PUBLISHED
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from aegen import registry
from aegen.autoencoder import Autoencoder, build_model, build_objective
from aegen.cli.progress import Display
from aegen.config import resolve
from aegen.data.source import Data, load_data
from aegen.errors import Interrupted
from aegen.hooks import Hooks
from aegen.rundir import RunDir
from aegen.settings import RunSpec
from aegen.training import cpu
from aegen.training.distributed import world
from aegen.training.loop import Trainer

BATCH, LR = 128, 1e-3
NETS = {
    "mlp": {"arch.name": "mlp", "arch.hidden": [400]},
    "conv": {"arch.name": "conv", "arch.width": 32, "arch.depth": 2, "arch.hidden": 256},
    "resnet": {"arch.name": f"{Path(__file__).with_name('nets.py')}:ResNet"},
    "wide": {"arch.name": f"{Path(__file__).with_name('nets.py')}:Wide"},
}


class Watch:
    """Asked after each step, so that it counts them; says when `seconds` are over."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps = seconds, 0
        self.begin = self.end = time.perf_counter()

    def __call__(self) -> bool:
        self.steps += 1
        self.end = time.perf_counter()
        return self.end - self.begin >= self.seconds

    @property
    def images_per_second(self) -> float:
        """Up to the last step asked about: what a loop does on its way out is not counted."""
        return self.steps * BATCH / (self.end - self.begin)


class Contender(ABC):
    """One way to train."""

    name: str

    @abstractmethod
    def train(self, watch: Watch) -> None:
        """Take steps until `watch()`."""


def run_spec(net: str, data_root: Path, *, compiled: bool = False) -> RunSpec:
    """What `aegen train --data mnist --arch NET …` would run, without pictures and checkpoints between epochs."""
    registry.trust(NETS[net]["arch.name"])
    options = {
        **NETS[net],
        "bottleneck.dim": LATENT[net],
        "likelihood.name": "bernoulli",
        "data.name": "mnist",
        "data.root": str(data_root),
        "train.batch_size": BATCH,
        "train.lr": LR,
        "train.device": "cpu",
        "train.compile": compiled,
        "train.epochs": 100_000,
        "checkpoint.every_epochs": 0,
        "checkpoint.best": False,
        "log.images_every_epochs": 0,
    }
    return resolve([("benchmark", options)]).spec


def model_of(spec: RunSpec, data: Data) -> Autoencoder:
    """A fresh model, every time with the same weights."""
    torch.manual_seed(0)
    return build_model(spec.arch, spec.bottleneck, spec.likelihood, data.image)


class Aegen(Contender):
    """The engine as `aegen train` drives it: recorder, metrics.jsonl and display at log points, hooks, `stop`."""

    name = "aegen"

    def __init__(self, spec: RunSpec, data: Data, folder: Path) -> None:
        model = model_of(spec, data)
        self.hooks = Hooks()
        self.hooks.add(Display(), "display")
        # The others do not validate; one batch keeps the end of an epoch in the loop without its cost.
        data = Data(data.train, data.validation[:BATCH], name=data.name)
        self.watch = Watch(0)
        with world(spec.train.device) as here:
            self.trainer = Trainer(
                spec,
                model,
                build_objective(spec.objective, model, size=len(data.train)),
                data,
                here,
                run=RunDir.create(folder / "run", "run"),
                header={},
                hooks=self.hooks,
                stop=lambda: self.watch(),
            )
        start = {"run": folder, "config": spec.to_dict(), "total_steps": self.trainer.total, "step": 0}
        self.hooks.call("aegen_run_start", **start)

    def train(self, watch: Watch) -> None:
        """Run, and be stopped as by Ctrl-C."""
        self.watch = watch
        try:
            self.trainer.run()
        except Interrupted:
            return


class ByHand(Contender):
    """What an expert writes for this net, this loss and this machine, and nothing else.

    Images stay uint8 in memory, a batch is one gather, channels come last, Adam is fused, and the loss is read every 50
    steps.
    """

    name = "by hand"

    def __init__(self, spec: RunSpec, data: Data, *, compiled: bool) -> None:
        model = model_of(spec, data).to(memory_format=torch.channels_last)
        self.pixels = data.train
        self.encoder, self.decoder = model.encoder, model.decoder
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.Adam(parameters, LR, fused=True)
        if compiled:
            self.loss = torch.compile(self.loss)  # type: ignore[method-assign]

    def train(self, watch: Watch) -> None:
        """Epoch after epoch."""
        while True:
            for index in torch.randperm(len(self.pixels)).split(BATCH):
                loss = self.step(self.pixels.index_select(0, index).float().div_(255))
                if watch.steps % 50 == 0:
                    loss.item()
                if watch():
                    return

    def step(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → the loss, ()."""
        loss = self.loss(x)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def loss(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → the loss, ()."""
        mean, logvar = self.encoder(2 * x - 1).chunk(2, 1)
        logits = self.decoder(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean))
        error = binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum()
        return (error + kl) / len(x)


class Loader(ByHand):
    """What people write: torchvision's MNIST and ToTensor, a DataLoader, the layers from the table, and a plain loop."""

    name = "DataLoader"

    def __init__(self, net: str, data_root: Path) -> None:
        from torchvision.datasets import MNIST
        from torchvision.transforms import ToTensor

        images = MNIST(str(data_root), train=True, transform=ToTensor())
        self.batches = DataLoader(images, BATCH, shuffle=True)
        self.encoder, self.decoder = PUBLISHED[net](LATENT[net], 2 * LATENT[net])
        self.optimizer = torch.optim.Adam([*self.encoder.parameters(), *self.decoder.parameters()], LR)

    def train(self, watch: Watch) -> None:
        """Epoch after epoch, the loss read at each step, as people do."""
        while True:
            for x, _ in self.batches:
                self.step(x).item()
                if watch():
                    return


class Pythae(Contender):
    """pythae's VAE around the published nets, in its own trainer with its own data loader and progress bar.

    Raises:
        ImportError: it is not installed.
    """

    name = "pythae"

    def __init__(self, net: str, data: Data, folder: Path) -> None:
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
        from pythae.trainers.training_callbacks import TrainingCallback

        logging.disable(logging.INFO)
        encoder, decoder = PUBLISHED[net](LATENT[net], 2 * LATENT[net])

        class Encoder(BaseEncoder):
            def __init__(self) -> None:
                super().__init__()
                self.net = encoder

            def forward(self, x: Tensor) -> ModelOutput:
                mean, logvar = self.net(x).chunk(2, 1)
                return ModelOutput(embedding=mean, log_covariance=logvar)

        class Decoder(BaseDecoder):
            def __init__(self) -> None:
                super().__init__()
                self.net = decoder

            def forward(self, z: Tensor) -> ModelOutput:
                return ModelOutput(reconstruction=self.net(z).sigmoid())

        contender = self
        self.watch = Watch(0)

        class Stop(TrainingCallback):
            def on_train_step_end(self, training_config: BaseTrainerConfig, **kwargs: object) -> None:
                if contender.watch():
                    raise _Over

        config = VAEConfig(input_dim=tuple(data.image), latent_dim=LATENT[net], reconstruction_loss="bce")
        settings = BaseTrainerConfig(
            output_dir=str(folder / "pythae"),
            num_epochs=1,
            learning_rate=LR,
            per_device_train_batch_size=BATCH,
            train_dataloader_num_workers=0,
        )
        self.trainer = BaseTrainer(
            VAE(config, Encoder(), Decoder()),
            BaseDataset(data.train.float() / 255, torch.zeros(len(data.train))),
            training_config=settings,
            callbacks=[Stop()],
        )
        self.trainer.prepare_training()

    def train(self, watch: Watch) -> None:
        """The epochs of its `train()`, without the copy and the saving of the best model after each."""
        self.watch = watch
        try:
            while True:
                self.trainer.train_step(1)
        except _Over:
            return


class _Over(Exception):
    """The only way out of pythae's epoch."""


def contender(name: str, net: str, data_root: Path, folder: Path) -> Contender:
    """By name. The loop by hand gets the settings of the process that `aegen train` makes; the others do without, as they do."""
    name, _, compiled = name.partition(", ")
    if name in ("aegen", "by hand"):
        cpu.prepare()
    if name == "DataLoader":
        return Loader(net, data_root)
    spec = run_spec(net, data_root, compiled=bool(compiled))
    data = load_data(spec.data, spec.data_options)
    if name == "aegen":
        return Aegen(spec, data, folder)
    return ByHand(spec, data, compiled=bool(compiled)) if name == "by hand" else Pythae(net, data, folder)
