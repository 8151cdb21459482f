"""The regularised autoencoder, its decoder held by the size of its derivative.

Ghosh et al., From Variational to Deterministic Autoencoders, 2020, eq. 11 with L_GP of section 3.1: the squared norm of the
derivative of the decoded image by the latent. It is the Frobenius norm of the whole Jacobian and not the gradient of the sum
over pixels, which is one direction of it. Estimated by Hutchinson's method from random weights of ±1 on the pixels, or exact, a pair
of passes for each latent dimension.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from aegen import Autoencoder, Outcome, Range
from aegen_objectives.ae import AE


class RAEGP(AE):
    """Negative log-likelihood plus the latent's norm and the decoder's derivative, in nats per image.

    Options:
        beta: weight of half the latent's squared norm; 1 is a standard normal prior.
        weight: of the squared norm of the derivative of the image by the latent.
        probes: random directions that estimate it, 0 for its exact value.
    """

    def __init__(
        self,
        *,
        beta: Annotated[float, Range(0)] = 0.1,
        weight: Annotated[float, Range(0)] = 0.1,
        probes: Annotated[int, Range(0)] = 1,
    ) -> None:
        super().__init__()
        self.beta, self.weight, self.probes = beta, weight, probes

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms of `ae`, `norm` (B,) and `slope` (B,)."""
        outcome = super().loss(model, x)
        assert outcome.latent is not None
        z = outcome.latent.mean
        norm = 0.5 * z.square().flatten(1).sum(1)
        slope = self.slope(model, z)
        return outcome.plus({"norm": self.beta * norm, "slope": self.weight * slope})

    def slope(self, model: Autoencoder, z: Tensor) -> Tensor:
        """Latents (B, *z) → squared Frobenius norm of the decoded image's derivative, (B,)."""
        trained = torch.is_grad_enabled()
        with torch.enable_grad():  # validation wants the derivative too
            z = z if z.requires_grad else z.detach().requires_grad_()
            image = model.decode(z).mean
            if self.probes:
                pulls = [_pull(image, torch.randn_like(image).sign(), z, trained) for _ in range(self.probes)]
                return sum(pull.square().flatten(1).sum(1) for pull in pulls) / self.probes
            # Jᵀu is linear in u, so its derivative by u is a column of J.
            u = torch.zeros_like(image).requires_grad_()
            pulled = _pull(image, u, z, True).flatten(1)
            columns = [_pull(pulled[:, i], None, u, trained) for i in range(pulled.shape[1])]
            return sum(column.square().flatten(1).sum(1) for column in columns)


def _pull(y: Tensor, weights: Tensor | None, x: Tensor, keep: bool) -> Tensor:
    """The derivative by x of the weighted sum of y; `keep` if it will be differentiated."""
    weights = torch.ones_like(y) if weights is None else weights
    return torch.autograd.grad(y, x, weights, create_graph=keep, retain_graph=True)[0]
