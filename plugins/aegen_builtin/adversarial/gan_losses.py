"""What the two sides of a game minimise, given the critic's verdicts.

Hinge: Lim & Ye, Geometric GAN, 2017. Non-saturating: Goodfellow et al., Generative Adversarial Nets, 2014. Least squares:
Mao et al., 2017, with labels 0 and 1. Wasserstein: Arjovsky et al., Wasserstein GAN, 2017, eq. 2; its critic must be kept
in bounds.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import relu, softplus

Form = Literal["hinge", "non-saturating", "least-squares"]
AnyForm = Literal["hinge", "non-saturating", "least-squares", "wasserstein"]


def critic_loss(form: AnyForm, real: Tensor, fake: Tensor) -> Tensor:
    """What the critic minimises, (B,), given its verdicts (B, …) on images and on reconstructions."""
    if form == "hinge":
        loss = 0.5 * (relu(1 - real) + relu(1 + fake))
    elif form == "non-saturating":
        loss = softplus(-real) + softplus(fake)
    elif form == "wasserstein":
        loss = fake - real
    else:
        loss = 0.5 * ((real - 1).square() + fake.square())
    return loss.flatten(1).mean(1)


def fooling_loss(form: AnyForm, fake: Tensor) -> Tensor:
    """What the autoencoder minimises, (B,)."""
    if form in ("hinge", "wasserstein"):
        loss = -fake
    elif form == "non-saturating":
        loss = softplus(-fake)
    else:
        loss = 0.5 * (fake - 1).square()
    return loss.flatten(1).mean(1)
