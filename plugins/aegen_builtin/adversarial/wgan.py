"""The Wasserstein GAN: a critic whose weights stay in a box estimates the earth mover's distance.

Arjovsky et al., Wasserstein GAN, 2017, algorithm 1, with its RMSprop. The paper has a rate of 5e-5, a box of 0.01 and five
steps of the critic for one of the generator; the numbers here draw digits within far fewer steps.

The critic is always called with its weights clipped, so that generator and validation too see it inside the box; before each
of its own steps the weights themselves are clipped, and their gradient is that of the clipped ones. A clamp alone would not
do: its derivative is 0 outside and, in some versions of torch, at the edge, where most weights of this critic are; they would
never come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call

from aegen import Autoencoder, ImageShape, Outcome, Range
from aegen_builtin.adversarial.game import Count
from aegen_builtin.adversarial.gan import GAN


class WGAN(GAN):
    """The critic's mean verdict on images less that on decoded prior draws, its weights clipped; no encoder is trained.

    Options:
        clip: largest absolute value of a weight of the critic.
    """

    suggests: ClassVar[Mapping[str, Any]] = {"optimizer": "rmsprop", "momentum": 0.0, "lr": 5e-4, "ema": 0.99}

    def __init__(
        self,
        image: ImageShape,
        *,
        clip: Annotated[float, Range(above=0)] = 0.02,
        critic_steps: Count = 2,
        width: Count = 16,
    ) -> None:
        super().__init__(image, form="wasserstein", critic_steps=critic_steps, width=width, r1=0.0)
        self.clip = clip

    def verdicts(self, x: Tensor) -> Tensor:
        """The verdicts of the critic inside its box, (B, 1)."""
        clipped = {
            name: weight + (weight.clamp(-self.clip, self.clip) - weight).detach()
            for name, weight in self.critic.named_parameters()
        }
        verdicts: Tensor = functional_call(self.critic, clipped, (x,))
        return verdicts

    def judge(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The term `critic`, (B,), after what the last step moved out of the box is brought back."""
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                for weight in self.critic.parameters():
                    weight.clamp_(-self.clip, self.clip)
        return super().judge(model, x)
