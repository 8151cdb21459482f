"""Latents from the model's own prior."""

from __future__ import annotations

import torch
from torch import Tensor

from aegen import Autoencoder, Sampler


class Prior(Sampler):
    """Draw from p(z), the prior that the bottleneck was trained towards."""

    needs = frozenset({"prior"})
    fitted = False

    def __init__(self, model: Autoencoder, latent: tuple[int, ...]) -> None:
        super().__init__()
        self.latent = latent
        self._draw = model.prior  # a bound method is no submodule: the model's weights are not saved twice

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, *z)."""
        return self._draw(n, generator, shape=self.latent).cpu()
