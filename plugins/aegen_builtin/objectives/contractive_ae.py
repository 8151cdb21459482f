"""The contractive autoencoder: the code should hardly move when the image does.

Rifai et al., Contractive Auto-Encoders: Explicit Invariance During Feature Extraction, 2011: the squared Frobenius
norm of the encoder's Jacobian. Exact, it costs one backward pass for each latent dimension; by Hutchinson's estimator (A
Stochastic Estimator of the Trace, 1990) one for each probe, without bias. The code is what the encoder gives to the bottleneck;
images must not see each other in it.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from aegen import Autoencoder, Outcome, Range, normal_like
from aegen_builtin.objectives.ae import AE


class ContractiveAE(AE):
    """Negative log-likelihood plus `weight` times the squared norm of the encoder's derivative, in nats per image.

    Options:
        weight: of the squared norm.
        probes: random directions of the latent that estimate the norm, 0 for its exact value.
    """

    def __init__(
        self, *, weight: Annotated[float, Range(0)] = 0.1, probes: Annotated[int, Range(0, 1_024)] = 1
    ) -> None:
        super().__init__()
        self.weight, self.probes = weight, probes
        self.norm = torch.compiler.disable(self.norm)  # type: ignore[method-assign]  # it knows no second derivatives

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms of `ae` and `contraction`, (B,)."""
        outcome = super().loss(model, x)
        return outcome.plus({"contraction": self.weight * self.norm(model, x)})

    def norm(self, model: Autoencoder, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → squared Frobenius norm of the derivative of their features by their pixels, (B,)."""
        trained = torch.is_grad_enabled()
        with torch.enable_grad():  # validation wants the derivative too
            x = x.detach().requires_grad_()
            features = model.features(x).flatten(1)
            norm = x.new_zeros(len(x))
            for i in range(self.probes or features.shape[1]):
                along = (features * normal_like(features).sign()).sum(1) if self.probes else features[:, i]
                (slope,) = torch.autograd.grad(along.sum(), x, create_graph=trained, retain_graph=True)
                norm = norm + slope.square().flatten(1).sum(1)
        return norm / max(self.probes, 1)
