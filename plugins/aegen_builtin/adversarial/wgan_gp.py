"""The Wasserstein GAN whose critic is kept near slope 1 by a penalty instead of by clipping.

Gulrajani et al., Improved Training of Wasserstein GANs, 2017, algorithm 1: eq. 3 with weight 10, five steps of the critic for
one of the generator; Adam with the paper's betas, 0 and 0.9, but the usual rate, ten times the paper's. Its critic too is
without batch norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from aegen import ImageShape
from aegen_builtin.adversarial.game import Count, Weight
from aegen_builtin.adversarial.gan import GAN


class WGANGP(GAN):
    """The critic's mean verdict on images less that on decoded prior draws, its slope kept near 1; no encoder is trained."""

    suggests: ClassVar[Mapping[str, Any]] = {"betas": [0.0, 0.9], "ema": 0.99}

    def __init__(
        self,
        image: ImageShape,
        *,
        gradient_penalty: Weight = 10.0,
        critic_steps: Count = 5,
        width: Count = 16,
    ) -> None:
        super().__init__(
            image,
            form="wasserstein",
            width=width,
            critic_steps=critic_steps,
            r1=0.0,
            gradient_penalty=gradient_penalty,
        )
