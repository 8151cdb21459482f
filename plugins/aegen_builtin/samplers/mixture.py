"""A mixture of Gaussians, fitted on the latents of the training images by scikit-learn.

Ghosh et al., From Variational to Deterministic Autoencoders, 2020, section 4: ten components made a plain autoencoder's samples
as good as a variational one's.
"""

from __future__ import annotations

import math
import warnings
from typing import Annotated, Any

import torch
from torch import Tensor

from aegen import Range, Sampler, UsageError

_ITERATIONS, _TOLD = 200, 20  # of expectation maximisation, and after how many progress is told
_MOST_FULL = 256  # dimensions: beyond, a full covariance a component is neither fast nor well determined


class Mixture(Sampler):
    """A mixture of Gaussians, fitted on the latents of the training images.

    Options:
        components: number of Gaussians.
        most: latents used for fitting, drawn at random where there are more.
    """

    most: int
    weights: Tensor
    means: Tensor
    factors: Tensor

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
        factors = torch.zeros(components, dim, dim) if self.full else torch.ones(components, dim)
        if self.full:
            factors.diagonal(dim1=1, dim2=2).fill_(1)
        self.register_buffer("factors", factors)

    def fit(self, latents: Tensor, seed: int = 0) -> None:
        """By expectation maximisation, from (N, *z); fewer latents than components leave the rest without weight."""
        flat = latents.flatten(1).double()
        if len(flat) > self.most:
            order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))
            flat = flat[order[: self.most]]
        if not flat.isfinite().all():
            raise UsageError("latents are not finite, so no mixture fits them")
        count = min(self.components, len(flat))
        ridge = 1e-6 * max(float(flat.var(0, correction=0).max()), 1e-12)
        kind = "full" if self.full else "diag"
        if len(flat) == 1:  # scikit-learn takes two; of two equal ones it gives a component at that point
            flat = flat.expand(2, -1)
        mixture = self._climb(flat, count, covariance_type=kind, reg_covar=ridge, random_state=seed)
        covariances = torch.from_numpy(mixture.covariances_)
        self.weights.zero_()[:count].copy_(torch.from_numpy(mixture.weights_))
        self.means[:count].copy_(torch.from_numpy(mixture.means_))
        self.factors[:count].copy_(torch.linalg.cholesky(covariances) if self.full else covariances.sqrt())

    def _climb(self, flat: Tensor, count: int, **how: Any) -> Any:
        """scikit-learn's mixture after at most so many iterations, some of them at a time so that they can be told."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        mixture = GaussianMixture(count, max_iter=_TOLD, warm_start=True, **how)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a mixture short of its optimum still samples
            for done in range(_TOLD, _ITERATIONS + 1, _TOLD):
                mixture.fit(flat.numpy())
                self.tell(done, _ITERATIONS)
                if mixture.converged_:
                    break
        return mixture

    def fallback(self) -> str:
        """How many components there are, if fewer than were asked for."""
        count = int((self.weights > 0).sum())
        return (
            ""
            if count == self.components
            else f"{count} component{'s' * (count != 1)} instead of {self.components}, one for each latent"
        )

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, *z)."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator)
        if self.full:
            spread = torch.einsum("nij,nj->ni", self.factors[which], noise)
        else:
            spread = self.factors[which] * noise
        return (self.means[which] + spread).view(n, *self.latent)
