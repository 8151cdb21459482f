"""Latents of batches as those of all their images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from aegen.protocols import Latent, Posterior


class Joined(Posterior):
    """The posteriors of batches, one after another, with what they hold of each image, such as `std`."""

    def __init__(self, parts: Sequence[Posterior]) -> None:
        self.parts = parts
        self.mean = torch.cat([part.mean for part in parts])
        for name in {*vars(parts[0]), "std"} - {"mean", "parts"}:
            held = [value for part in parts if isinstance(value := getattr(part, name, None), Tensor)]
            if [value.shape[:1] for value in held] == [part.mean.shape[:1] for part in parts]:
                setattr(self, name, torch.cat(held))

    def sample(self) -> Tensor:
        """A draw, (B, *z)."""
        return torch.cat([part.sample() for part in self.parts])

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) in nats, (B,)."""
        given = z.split([len(part.mean) for part in self.parts])
        return torch.cat([part.log_prob(own) for part, own in zip(self.parts, given, strict=True)])

    def draw(self) -> tuple[Tensor, Tensor]:
        """A draw (B, *z) and its log q(z|x) in nats, (B,)."""
        z, log_prob = zip(*(part.draw() for part in self.parts), strict=True)
        return torch.cat(z), torch.cat(log_prob)


def joined(parts: Sequence[Latent]) -> Latent:
    """The latents of batches of images as one, of all images; a single batch's as they are."""
    first = parts[0]
    if len(parts) == 1:
        return first
    sizes = [len(part.z) for part in parts]

    def every(of: Callable[[Latent], Tensor | None]) -> Tensor | None:
        found = [value for value in map(of, parts) if value is not None]
        return torch.cat(found) if len(found) == len(parts) else None

    posteriors = [part.posterior for part in parts if part.posterior is not None]
    for part in parts[1:]:
        for name, statistic in part.statistics.items():
            if name in first.statistics:
                first.statistics[name].merge(statistic)
    return Latent(
        torch.cat([part.z for part in parts]),
        torch.cat([part.penalty for part in parts]),
        Joined(posteriors) if len(posteriors) == len(parts) else None,
        every(lambda part: part.codes),
        every(lambda part: part.charges),
        {name: _watched([part.watch[name] for part in parts], sizes) for name in first.watch},
        first.statistics,
    )


def _watched(values: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """One number of each image, or one of each batch, of which the mean over images is taken."""
    if values[0].ndim:
        return torch.cat(list(values))
    weights = values[0].new_tensor(sizes)
    return (torch.stack(list(values)) * weights).sum() / weights.sum()
