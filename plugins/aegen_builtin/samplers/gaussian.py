"""One Gaussian with full covariance, fitted on the latents of the training images.

Ghosh et al., From Variational to Deterministic Autoencoders, 2020, section 4: ex-post density estimation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aegen import Sampler

_RIDGE = 1e-6  # of the largest variance: keeps the factorisation possible when latents lie in a plane


class Gaussian(Sampler):
    """One Gaussian with full covariance, fitted on the latents of the training images."""

    mean: Tensor
    factor: Tensor

    def __init__(self, latent: tuple[int, ...]) -> None:
        super().__init__()
        self.latent, self._fallback = latent, ""
        dim = math.prod(latent)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("factor", torch.eye(dim))  # lower triangular, factor · factorᵀ is the covariance

    def fit(self, latents: Tensor, seed: int = 0) -> None:
        """From (N, *z)."""
        flat = latents.flatten(1).double()
        mean = flat.mean(0)
        centred = flat - mean
        reached = len(flat) - 1
        self._fallback = (
            f"it varies in {reached} of {len(mean)} dimensions, as {len(flat)} latents do"
            if reached < len(mean)
            else ""
        )
        covariance = centred.T @ centred / max(1, len(flat) - 1)
        ridge = _RIDGE * covariance.diagonal().max().clamp_min(1e-12)
        self.mean.copy_(mean)
        self.factor.copy_(torch.linalg.cholesky(covariance + ridge * torch.eye(len(mean), dtype=torch.float64)))

    def fallback(self) -> str:
        """In how many dimensions the latents that it was fitted on can vary, if not in all."""
        return self._fallback

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, *z)."""
        noise = torch.randn(n, len(self.mean), generator=generator)
        return (self.mean + noise @ self.factor.T).view(n, *self.latent)
