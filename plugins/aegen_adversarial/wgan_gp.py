"""The Wasserstein GAN whose critic is kept near slope 1 by a penalty instead of by clipping.

Gulrajani et al., Improved Training of Wasserstein GANs, 2017, algorithm 1: eq. 3 with weight 10, five steps of the critic for
one of the generator; the paper has Adam at a rate of 1e-4 with betas 0 and 0.9. Its critic too is without batch norm.
"""

from __future__ import annotations

from aegen import ImageShape
from aegen_adversarial.game import Count, Weight
from aegen_adversarial.gan import GAN


class WGANGP(GAN):
    """The critic's mean verdict on images less that on decoded prior draws, its slope kept near 1; no encoder is trained."""

    def __init__(
        self,
        image: ImageShape,
        *,
        gradient_penalty: Weight = 10.0,
        critic_steps: Count = 5,
        width: Count = 32,
    ) -> None:
        super().__init__(
            image, form="wasserstein", gradient_penalty=gradient_penalty, critic_steps=critic_steps, width=width
        )
