"""The pictures of a run: a fixed batch above its reconstructions, and samples."""

from __future__ import annotations

from pathlib import Path

import torch

from aegen import pictures
from aegen.autoencoder import Autoencoder, build_sampler
from aegen.data.batches import normalize
from aegen.data.image_rows import Pictures
from aegen.spec import Spec

SHOWN = 24
_FITTED, _BATCH = 1024, 128
_SEED = 0  # of the noise in pictures: the same in every epoch, so that only the model changes between them


@torch.no_grad()
def reconstructions(model: Autoencoder, images: Pictures, path: Path | None) -> None:
    """Originals (uint8) above reconstructions; without a path they are only computed."""
    device = next(model.parameters()).device
    # Spread over all of them: a folder's first pictures are often of one kind.
    shown = images[torch.linspace(0, len(images) - 1, min(SHOWN, len(images))).long()]
    again = pictures.to_uint8(model.reconstruct(normalize(shown.to(device))))
    if path is not None:
        pictures.save(pictures.pairs(shown, again), path)


@torch.no_grad()
def samples(model: Autoencoder, train: Pictures, count: int, path: Path | None) -> None:
    """From the prior, or, where there is none, from a Gaussian fitted on the latents of some training images."""
    device = next(model.parameters()).device
    has_prior = "prior" in model.bottleneck.offers
    sampler = build_sampler(Spec("prior" if has_prior else "gaussian"), model)
    if sampler.fitted:
        few = min(_FITTED, len(train))
        parts = (train[start : min(start + _BATCH, few)] for start in range(0, few, _BATCH))
        latents = [model.encode(normalize(part.to(device))).mean.cpu() for part in parts]
        sampler.fit(torch.cat(latents))
    z = sampler.sample(count, torch.Generator().manual_seed(_SEED)).to(device)
    images = [model.decode(model.bottleneck.nearest(part)).mean for part in z.split(64)]
    if path is not None:
        pictures.save(pictures.grid(torch.cat(images)), path)
