"""Gaussian densities in nats: the diagonal posterior, mixtures, the standard normal.

Kingma & Welling, Auto-Encoding Variational Bayes, 2014, section 3 and appendix B.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import hardtanh

from aegen.noise import normal_like
from aegen.protocols import Posterior

_LOWEST, _HIGHEST = -30.0, 20.0  # of the log-variance: beyond, its exponential leaves float32


class DiagonalGaussian(Posterior):
    """q(z|x) = N(mean, exp(logvar)), independent in every dimension; both (B, *z).

    >>> posterior = DiagonalGaussian(torch.ones(2, 3), torch.zeros(2, 3))
    >>> posterior.kl()[0]
    tensor([0.5000, 0.5000, 0.5000])
    """

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        self.mean = mean
        self.logvar = logvar
        self.std = torch.exp(0.5 * logvar)

    def sample(self) -> Tensor:
        """mean + std · noise, (B, *z); gradients pass to both."""
        return torch.addcmul(self.mean, self.std, normal_like(self.mean))

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) in nats, (B,)."""
        square = (z - self.mean) ** 2 * torch.exp(-self.logvar)
        return -0.5 * (square + self.logvar + math.log(2 * math.pi)).flatten(1).sum(1)

    def kl(self) -> Tensor:
        """KL to the standard normal by dimension, (B, *z) nats: appendix B."""
        # ½ (mean² + var - logvar - 1), in few operations: what is small is what a small net's step spends its time on.
        squares = torch.addcmul(torch.rsub(self.logvar, -1), self.mean, self.mean)
        return 0.5 * torch.addcmul(squares, self.std, self.std)


def bounded(logvar: Tensor) -> Tensor:
    """A log-variance whose exponential stays in float32.

    >>> bounded(torch.tensor([-1000.0, 0.0, 1000.0]))
    tensor([-30.,   0.,  20.])
    """
    return hardtanh(logvar, _LOWEST, _HIGHEST)


def diagonal(features: Tensor) -> DiagonalGaussian:
    """Features (B, 2·D, …), mean and log-variance → the posterior.

    >>> diagonal(torch.zeros(2, 6)).mean.shape
    torch.Size([2, 3])
    """
    mean, logvar = features.chunk(2, 1)
    return DiagonalGaussian(mean, bounded(logvar))


def log_normals(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; each component) in nats: z (…, D), mean and log-variance (K, D) → (…, K).

    Differences are taken before they are squared: the cheaper products of matrices lose all digits where a variance is small.

    >>> log_normals(torch.zeros(5, 2), torch.zeros(4, 2), torch.zeros(4, 2)).shape
    torch.Size([5, 4])
    """
    squares = ((z.unsqueeze(-2) - mean) * torch.exp(-0.5 * logvar)).square().sum(-1)
    return -0.5 * (squares + (logvar + math.log(2 * math.pi)).sum(-1))


def log_standard(z: Tensor) -> Tensor:
    """log N(z; 0, 1) of latents (B, *z) in nats, (B,).

    >>> log_standard(torch.zeros(1, 2))  # -log 2π
    tensor([-1.8379])
    """
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)
