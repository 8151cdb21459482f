"""A generator that an autoencoder steers: both are the one decoder, so it may leave out nothing that it must reconstruct.

Che et al., Mode Regularized Generative Adversarial Networks, 2017, section 3.1: the generator's loss on prior draws plus the
reconstruction error of decoder after encoder. There the encoder's latents are free; here the bottleneck's penalty brings them
to the prior, so that what is drawn is what was reconstructed. For the paper's verdict on reconstructions: ae-gan+adversarial.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from torch import Tensor

from aegen import Autoencoder, ImageShape, Outcome, Range, Schedule, Turn
from aegen_builtin.adversarial.critic import ImageCritic
from aegen_builtin.adversarial.game import Count, Game, Weight, mean_verdict
from aegen_builtin.adversarial.gan_losses import Form, fooling_loss


class AEGAN(Game):
    """Negative log-likelihood, `beta` times what the bottleneck charges, and a critic's verdict on decoded prior draws.

    Options:
        weight: of the verdict, in nats per pixel value.
        beta: weight of the bottleneck's penalty.
        after: steps before the critic begins to learn and to be heard.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"prior"})
    suggests: ClassVar[Mapping[str, Any]] = {"betas": [0.5, 0.99], "ema": 0.99}

    def __init__(
        self,
        image: ImageShape,
        *,
        weight: Weight = 0.1,
        beta: Weight = 1.0,
        form: Form = "non-saturating",
        after: Annotated[int, Range(0)] = 0,
        width: Count = 16,
        critic_every: Count = 1,
        spectral_norm: bool = False,
        r1: Weight = 1.0,
        r1_every: Count = 1,
        gradient_penalty: Weight = 0.0,
        lecam: Weight = 0.0,
    ) -> None:
        super().__init__()
        self.weight, self.beta = weight, beta
        self.pixels = image.channels * image.height * image.width
        self.seat(
            ImageCritic(image, width),
            form,
            after=after,
            critic_every=critic_every,
            spectral_norm=spectral_norm,
            r1=r1,
            r1_every=r1_every,
            gradient_penalty=gradient_penalty,
            lecam=lecam,
        )
        if after:
            self.schedule("weight", Schedule("step", 0.0, weight, after))

    def turns(self) -> list[Turn]:
        """`autoencoder`, which is also the generator, then `judge-samples`, the critic's."""
        return [Turn("autoencoder", self.fool), *self.critic_turns("judge-samples")]

    def fakes(self, model: Autoencoder, x: Tensor) -> Tensor:
        """As many images as `x`, decoded from the prior."""
        return model.decode(model.prior(len(x), device=x.device)).mean

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the terms `error` and `penalty`, (B,); the critic, which changes, has no say."""
        latent = model.encode(x)
        pixels = model.decode(latent.z)
        outcome = Outcome({"error": pixels.nll(x), "penalty": self.beta * latent.penalty}, pixels, latent)
        if self.training:
            return outcome
        on_real, on_fake = self.verdicts(x), self.verdicts(self.fakes(model, x))
        return outcome.plus({}, {"real": mean_verdict(on_real), "fake": mean_verdict(on_fake)})

    def fool(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms of `loss` and `verdict`, (B,); the critic is not trained, gradients only pass through it."""
        verdict = fooling_loss(self.form, self.verdicts(self.fakes(model, x)))
        return self.loss(model, x).plus({"verdict": self.weight * self.pixels * verdict})
