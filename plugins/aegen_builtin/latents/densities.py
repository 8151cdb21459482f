"""What the Gaussian posteriors and the learned priors share."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import hardtanh

from aegen_builtin.latents.gaussian import DiagonalGaussian

_LOWEST, _HIGHEST = -30.0, 20.0  # of the log-variance: beyond, its exponential leaves float32


def bounded(logvar: Tensor) -> Tensor:
    """A log-variance whose exponential stays in float32."""
    return hardtanh(logvar, _LOWEST, _HIGHEST)


def diagonal(features: Tensor) -> DiagonalGaussian:
    """Features (B, 2·D, …), mean and log-variance → the posterior."""
    mean, logvar = features.chunk(2, 1)
    return DiagonalGaussian(mean, bounded(logvar))


def log_normals(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; each component) in nats: z (…, D), mean and log-variance (K, D) → (…, K).

    Differences are taken before they are squared: the cheaper products of matrices lose all digits where a variance is small.
    """
    squares = ((z.unsqueeze(-2) - mean) * torch.exp(-0.5 * logvar)).square().sum(-1)
    return -0.5 * (squares + (logvar + math.log(2 * math.pi)).sum(-1))


def log_standard(z: Tensor) -> Tensor:
    """log N(z; 0, 1) of latents (B, *z) in nats, (B,)."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)
