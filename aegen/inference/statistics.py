"""How the latents of a trained model are spread: found once, kept in the header of its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from aegen import checkpoint
from aegen.autoencoder import Autoencoder
from aegen.checkpoint import Checkpoint
from aegen.data.batches import normalize
from aegen.data.image_rows import Pictures
from aegen.data.source import load_data
from aegen.errors import UsageError
from aegen.header import note_of
from aegen.inference.loading import Loaded
from aegen.messages import silent
from aegen.model_spec import LatentStatistics

MOST = 2048
"""Images that are encoded for it: the mean of a channel is then known to 2 % of its standard deviation."""
_AT_ONCE = 256


def _untold(done: int, total: int) -> None:
    """Progress that nobody looks at."""


@torch.no_grad()
def measure(
    model: Autoencoder, train: Pictures, seed: int = 0, tell: Callable[[int, int], None] = _untold
) -> LatentStatistics:
    """Of the posterior means of training images (uint8), at most MOST of them, chosen by `seed`."""
    device = next(model.parameters()).device
    chosen = torch.arange(len(train))
    if len(train) > MOST:
        chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:MOST].sort().values
    channels = model.latent_shape[0]
    total, squares = torch.zeros(2, channels, dtype=torch.float64)
    count = done = 0
    for part in chosen.split(_AT_ONCE):
        mean = model.encode(normalize(train[part].to(device))).mean.double().cpu()
        numbers = mean.transpose(0, 1).flatten(1)  # (D, B · positions)
        total, squares, count = total + numbers.sum(1), squares + numbers.square().sum(1), count + numbers.shape[1]
        done += len(part)
        tell(done, len(chosen))
    return LatentStatistics.of(count, total, squares, len(chosen))


def training_images(loaded: Loaded) -> Pictures:
    """The training images of a run, uint8 (N, C, H, W).

    Raises:
        UsageError: they are gone, or others by now.
    """
    settings = loaded.images()
    data = load_data(settings, loaded.options_of(settings), silent)
    if data.fingerprint() != loaded.file.header["data"]["fingerprint"]:
        raise UsageError(
            f"{settings.name} holds other images than when the model was trained, and its latents are measured on those",
            hint="put those images back",
        )
    return data.train


def keep(path: Path, statistics: LatentStatistics, may: Callable[[], None] | None = None) -> None:
    """Write them into the header of a checkpoint, whose tensors stay as they are.

    Args:
        may: as `atomic.drafted` has it.
    """
    file = Checkpoint(path)
    checkpoint.save(path, file.tensors(""), {**file.header, "latents": note_of(statistics)}, may)
