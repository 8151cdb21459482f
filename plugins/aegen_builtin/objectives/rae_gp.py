"""The regularised autoencoder, its decoder held by the size of its derivative.

Ghosh et al., From Variational to Deterministic Autoencoders, 2020, L_GP of section 3.1: the squared norm of the
derivative of the decoded image by the latent. It is the Frobenius norm of the whole Jacobian and not the gradient of the sum
over pixels, which is one direction of it. Estimated by Hutchinson's method from random weights of ±1 on the pixels, or exact, a pair
of passes for each latent dimension.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from aegen import Autoencoder, Outcome, Range, normal_like
from aegen_builtin.objectives.ae import AE


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
        probes: Annotated[int, Range(0, 1_024)] = 1,
    ) -> None:
        super().__init__()
        self.beta, self.weight, self.probes = beta, weight, probes
        self.loss = torch.compiler.disable(self.loss)  # type: ignore[method-assign]  # it knows no second derivatives

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms of `ae`, `norm` (B,) and `slope` (B,)."""
        outcome = super().loss(model, x)
        assert outcome.latent is not None and outcome.recon is not None
        z, image, trained = outcome.latent.mean, outcome.recon, torch.is_grad_enabled()
        norm = 0.5 * z.square().flatten(1).sum(1)
        with torch.enable_grad():
            if not trained:  # validation wants the derivative too
                z = z.detach().requires_grad_()
                image = model.decode(z).mean
            slope = self.slope(image, z, keep=trained)
        return outcome.plus({"norm": self.beta * norm, "slope": self.weight * slope})

    def slope(self, image: Tensor, z: Tensor, *, keep: bool) -> Tensor:
        """Squared Frobenius norm of the derivative of images (B, C, H, W) by their latents (B, *z), (B,).

        Args:
            keep: whether the norm itself will be differentiated.
        """
        if self.probes:
            directions = [normal_like(image).sign() for _ in range(self.probes)]
            found = [_pull(image, direction, z, keep) for direction in directions]
        else:  # what is pulled back is linear in its weights, so that the derivative by them is a column of the Jacobian
            weights = torch.zeros_like(image, requires_grad=True)
            pulled = _pull(image, weights, z, True).flatten(1)
            found = [_pull(one, torch.ones_like(one), weights, keep) for one in pulled.unbind(1)]
        return torch.stack([one.square().flatten(1).sum(1) for one in found]).sum(0) / max(self.probes, 1)


def _pull(y: Tensor, weights: Tensor, x: Tensor, keep: bool) -> Tensor:
    """The derivative by x of y's weighted sum; `keep` if it will be differentiated."""
    return torch.autograd.grad(y, x, weights, create_graph=keep, retain_graph=True)[0]
