"""The contractive autoencoder: the code should hardly move when the image does.

Rifai et al., Contractive Auto-Encoders: Explicit Invariance During Feature Extraction, 2011, eq. 4 and 5: the squared Frobenius
norm of the encoder's Jacobian. Exact, it costs one backward pass for each latent dimension; by Hutchinson's estimator (A
Stochastic Estimator of the Trace, 1990) one for each probe, without bias. Images must not see each other in the encoder.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from aegen import Autoencoder, Outcome, Range
from aegen_objectives.ae import AE


class ContractiveAE(AE):
    """Negative log-likelihood plus `weight` times the squared norm of the encoder's derivative, in nats per image.

    Options:
        weight: of the squared norm.
        probes: random directions of the latent that estimate the norm, 0 for its exact value.
    """

    def __init__(self, *, weight: Annotated[float, Range(0)] = 0.1, probes: Annotated[int, Range(0)] = 1) -> None:
        super().__init__()
        self.weight, self.probes = weight, probes

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms of `ae` and `contraction`, (B,)."""
        trained = torch.is_grad_enabled()
        with torch.enable_grad():  # validation wants the derivative too
            x = x.detach().requires_grad_()
            outcome = super().loss(model, x)
            assert outcome.latent is not None
            norm = jacobian_norm(outcome.latent.mean, x, self.probes, keep=trained)
        return outcome.plus({"contraction": self.weight * norm})


def jacobian_norm(z: Tensor, x: Tensor, probes: int, *, keep: bool) -> Tensor:
    """Squared Frobenius norm of dz/dx for each image, (B,).

    Args:
        z: (B, *z), computed from x, each row from its own.
        x: (B, C, H, W), a tensor that requires gradients.
        probes: random directions, 0 for every dimension of z in turn.
        keep: whether the norm itself will be differentiated.
    """
    flat = z.flatten(1)
    norm = x.new_zeros(len(x))
    for i in range(probes or flat.shape[1]):
        along = flat[:, i] if probes == 0 else (flat * torch.randn_like(flat).sign()).sum(1)
        (slope,) = torch.autograd.grad(along.sum(), x, create_graph=keep, retain_graph=True)
        norm = norm + slope.square().flatten(1).sum(1)
    return norm / max(probes, 1)
