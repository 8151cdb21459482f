"""A generative adversarial network: the decoder draws images from the prior, a critic tells them from the data.

Goodfellow et al., Generative Adversarial Nets, 2014, section 3 with its second, non-saturating loss. The generator is the model's
decoder and its noise the bottleneck's prior, so every architecture and sampler serves; the encoder is not trained, nor is a
learned scale of the pixels, which no verdict reaches. One whole-image critic: see `critic`.

On MNIST the paper's game alone soon draws one or two kinds of digits; with R1 (Mescheder et al., 2018, see `game`) it
draws all of them. So that is the default, with their first decay rate of 0 and, as there, averaged weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from aegen import Autoencoder, ImageShape, Outcome, Turn
from aegen_builtin.adversarial.critic import ImageCritic
from aegen_builtin.adversarial.game import Count, Game, Weight, mean_verdict
from aegen_builtin.adversarial.gan_losses import AnyForm, fooling_loss


class GAN(Game):
    """The critic's verdict on images that are decoded from the prior; no encoder is trained.

    Options:
        critic_steps: steps of the critic for one of the generator; a step of the run is one of the critic's.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    suggests: ClassVar[Mapping[str, Any]] = {"betas": [0.0, 0.99], "ema": 0.99}
    encodes = False
    needs = frozenset({"prior"})

    def __init__(
        self,
        image: ImageShape,
        *,
        form: AnyForm = "non-saturating",
        width: Count = 16,
        critic_steps: Count = 1,
        critic_every: Count = 1,
        spectral_norm: bool = False,
        r1: Weight = 1.0,
        r1_every: Count = 1,
        gradient_penalty: Weight = 0.0,
        lecam: Weight = 0.0,
    ) -> None:
        super().__init__()
        self.critic_steps = critic_steps
        self.seat(
            ImageCritic(image, width),
            form,
            critic_every=critic_every,
            spectral_norm=spectral_norm,
            r1=r1,
            r1_every=r1_every,
            gradient_penalty=gradient_penalty,
            lecam=lecam,
        )

    def turns(self) -> list[Turn]:
        """`generator`, then `judge`, the critic's; at the generator's steps both see the same images."""
        return [Turn("generator", self.loss, ("decoder",), every=self.critic_steps), *self.critic_turns()]

    def fakes(self, model: Autoencoder, x: Tensor) -> Tensor:
        """As many images as `x`, decoded from the prior."""
        return model.decode(model.prior(len(x), device=x.device)).mean

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1], of which only the number counts → the term `verdict`, (B,)."""
        on_fake = self.verdicts(self.fakes(model, x))
        # In training the critic's turn watches both.
        watch = {} if self.training else {"real": mean_verdict(self.verdicts(x)), "fake": mean_verdict(on_fake)}
        return Outcome({"verdict": fooling_loss(self.form, on_fake)}, watch=watch)

    def settled(self, step: int) -> bool:
        """Never: losses of different epochs come from different critics, so none is the best."""
        return False
