"""A mixture of Gaussians, fitted on the latents of the training images by scikit-learn.

Ghosh et al., From Variational to Deterministic Autoencoders, 2020, section 4: ten components made a plain autoencoder's samples
as good as a variational one's.
"""

from __future__ import annotations

import math
import warnings
from typing import Annotated

import torch
from torch import Tensor

from aegen import Range, Sampler

_MOST_FULL = 256  # dimensions: beyond, a full covariance a component is neither fast nor well determined


class Mixture(Sampler):
    """A mixture of Gaussians, fitted on the latents of the training images.

    Options:
        components: number of Gaussians.
        most: latents used for fitting, drawn at random where there are more.
    """

    def __init__(
        self,
        latent: tuple[int, ...],
        *,
        components: Annotated[int, Range(1, 65_536)] = 10,
        most: Annotated[int, Range(1)] = 10_000,
    ) -> None:
        super().__init__()
        self.latent, self.components, self.most = latent, components, most
        dim = math.prod(latent)
        self.full = dim <= _MOST_FULL
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("means", torch.zeros(components, dim))
        # Lower triangular factors of the covariances, or standard deviations.
        factors = torch.eye(dim).repeat(components, 1, 1) if self.full else torch.ones(components, dim)
        self.register_buffer("factors", factors)

    def fit(self, latents: Tensor, seed: int = 0) -> None:
        """By expectation maximisation, from (N, *z); fewer latents than components leave the rest without weight."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        flat = latents.flatten(1).double()
        if len(flat) > self.most:
            order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))
            flat = flat[order[: self.most]]
        count = min(self.components, len(flat))
        ridge = 1e-6 * max(float(flat.var(0, correction=0).max()), 1e-12)
        kind = "full" if self.full else "diag"
        mixture = GaussianMixture(count, covariance_type=kind, reg_covar=ridge, random_state=seed, max_iter=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a mixture short of its optimum still samples
            mixture.fit(flat.numpy())
        covariances = torch.from_numpy(mixture.covariances_)
        self.weights.zero_()[:count].copy_(torch.from_numpy(mixture.weights_))
        self.means[:count].copy_(torch.from_numpy(mixture.means_))
        self.factors[:count].copy_(torch.linalg.cholesky(covariances) if self.full else covariances.sqrt())

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, *z)."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator)
        if self.full:
            spread = torch.einsum("nij,nj->ni", self.factors[which], noise)
        else:
            spread = self.factors[which] * noise
        return (self.means[which] + spread).view(n, *self.latent)
