"""A sampler that learns is trained by the loop that trains models: its loss, around a frozen model, on latents as rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aegen import pictures
from aegen.autoencoder import Autoencoder
from aegen.contract import outputs
from aegen.data.augment import Augment
from aegen.data.batches import Batches, normalize
from aegen.errors import RunError
from aegen.noise import normal_like
from aegen.protocols import Latent, Objective, Outcome, Sampler, Turn
from aegen.training.loop import Trainer
from aegen.training.metrics import NotFinite

_SEED = 0  # of the noise in pictures: the same in every epoch
_TOGETHER = 64  # images that are decoded at a time
_FEW = 2


def rows_of(model: Autoencoder, latent: Latent) -> Tensor:
    """What is kept of encoded images: codes, int64 (B, …), or the mean, float32 (B, 1, *z), or mean and deviation, (B, 2, *z)."""
    if latent.codes is not None and "codes" in model.bottleneck.offers:
        return latent.codes
    if "diagonal" in model.bottleneck.offers:
        posterior: Any = latent.posterior
        return torch.stack([posterior.mean, posterior.std], 1).float()
    return latent.mean[:, None].float()


@torch.no_grad()
def means_of(model: Autoencoder, rows: Tensor) -> Tensor:
    """Rows (B, …) → posterior means (B, *z), float32."""
    return rows[:, 0] if rows.is_floating_point() else model.bottleneck.lookup(rows).float()


@torch.no_grad()
def draws_of(model: Autoencoder, rows: Tensor) -> Tensor:
    """Rows (B, …) → latents (B, *z), float32: a draw from each posterior, where its spread is known."""
    if not rows.is_floating_point() or rows.shape[1] == 1:
        return means_of(model, rows)
    mean, std = rows.unbind(1)
    return mean + std * normal_like(mean)


class SamplerObjective(Objective):
    """The loss of a sampler, as an objective of the frozen model whose latents it draws."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.sampler = sampler
        self._unseen = True

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """That of rows `x` (B, …), with a fresh draw of each."""
        latent = draws_of(model, x)
        found = self.sampler.loss(latent, model.labels)
        if self._unseen and not torch.compiler.is_compiling():
            self._unseen = False
            outputs.checked(self.sampler, outputs.outcome, found, latent)
        return found

    def turns(self) -> list[Turn]:
        """One, on the sampler's own parameters."""
        return [Turn("sampler", self.loss, trains=[self.sampler])]


def _as_it_is(rows: Tensor) -> Tensor:
    return rows


class SamplerTrainer(Trainer):
    """One training of a sampler in one process: `data` has latents as rows, and the model is left as it is."""

    objective: SamplerObjective

    def example(self, model: Autoencoder, where: Tensor) -> Tensor:
        """A few rows, for what looks which parameters the loss reaches."""
        return self.data.train[:_FEW].to(where.device)

    def averaged_module(self) -> nn.Module:
        """The sampler, inside its objective."""
        return self.objective

    def saved_modules(self) -> dict[str, nn.Module]:
        """The sampler alone: the model has a file of its own."""
        return {"objective": self.objective}

    def wants_labels(self) -> bool:
        """Wherever the data has classes."""
        return self.data.train_labels is not None

    def make_batches(
        self, *, augment: Augment | None = None, prepare: Callable[[Tensor], Tensor] = normalize
    ) -> Batches:
        """Rows as they are: flipped images were encoded too, and moved ones have other latents."""
        return super().make_batches(augment=Augment(False, 0, self.spec.train.seed), prepare=_as_it_is)

    def validate(self) -> dict[str, float]:
        """The sampler's loss, its terms and what it watches, of the latents of all validation images."""
        return self._measured(_as_it_is, ())

    def picture_jobs(self) -> list[tuple[str, Callable[[Path | None], None]]]:
        """Images drawn by the sampler as it is."""
        return [("samples", self._draw)]

    def recover(self, bad: NotFinite) -> None:
        """As of a model, with advice that holds for a sampler."""
        try:
            super().recover(bad)
        except RunError as error:
            error.hint = "try --force with a lower --lr, --set train.clip=1 or --precision fp32"
            raise

    @torch.no_grad()
    def _draw(self, path: Path | None) -> None:
        sampler, count = self.objective.sampler, self.spec.log.images
        z = sampler.sample(count, torch.Generator().manual_seed(_SEED))
        outputs.checked(sampler, outputs.draws, z, count, self.model.latent_shape)
        images = decoded(self.model, z)
        if path is not None:
            pictures.save(pictures.grid(torch.cat(images)), path)


def decoded(model: Autoencoder, z: Tensor) -> list[Tensor]:
    """Latents (N, *z) → the images (B, C, H, W) of those that the bottleneck can give, a batch at a time."""
    device = next(model.parameters()).device
    return [model.decode(model.bottleneck.nearest(part.to(device))).mean for part in z.split(_TOGETHER)]
