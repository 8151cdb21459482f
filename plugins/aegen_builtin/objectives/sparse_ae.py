"""The sparse autoencoder: few latent dimensions are active for an image, or each one for few images.

Ng, Sparse Autoencoder (CS294A lecture notes), 2011, section 3: the KL divergence from a target to the mean activation of each
unit. The mean is over the batch, so this form alone depends on which images share one. Units are sigmoids of the latent's
values, every place of a feature map its own. l1: the magnitude of the code itself, the negative log of a Laplace prior without its
constant (Olshausen & Field, Emergence of Simple-Cell Receptive Field Properties, 1996).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from aegen import Autoencoder, Outcome, Range, gather_rows
from aegen_builtin.objectives.ae import AE


class SparseAE(AE):
    """Negative log-likelihood plus `weight` times the code's density, in nats per image.

    Options:
        form: l1, the sum of magnitudes, or kl, the divergence of mean activations from the target.
        weight: of the density.
        target: mean activation that each latent dimension should have, for kl.
    """

    def __init__(
        self,
        *,
        form: Literal["l1", "kl"] = "l1",
        weight: Annotated[float, Range(0)] = 1.0,
        target: Annotated[float, Range(0, 1)] = 0.05,
    ) -> None:
        super().__init__()
        self.form, self.weight, self.target = form, weight, target

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms of `ae` and `density`, (B,) for l1, () for kl."""
        outcome = super().loss(model, x)
        assert outcome.latent is not None
        z = outcome.latent.mean
        density = z.abs().flatten(1).sum(1) if self.form == "l1" else self.divergence(z)
        return outcome.plus({"density": self.weight * density})

    def divergence(self, z: Tensor) -> Tensor:
        """Latents (B, *z) → KL(target ‖ mean over the batch of sigmoid(z)), summed over latent dimensions, () nats."""
        z = gather_rows(z)
        # In logs, because a mean activation of exactly 0 or 1 would be infinitely far away.
        on = logsigmoid(z).logsumexp(0) - math.log(len(z))
        off = logsigmoid(-z).logsumexp(0) - math.log(len(z))
        p = torch.as_tensor(self.target)
        entropy = -torch.xlogy(p, p) - torch.xlogy(1 - p, 1 - p)
        return -(entropy + p * on + (1 - p) * off).sum()
