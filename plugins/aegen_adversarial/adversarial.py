"""A critic that tells images from reconstructions, and an autoencoder that is trained to deceive it.

Larsen et al., Autoencoding beyond pixels, 2016; Esser et al., Taming Transformers, 2021, section 3.1. The critic is the patch
critic of Isola et al., Image-to-Image Translation, 2017. Losses: see `forms`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from aegen import Autoencoder, ImageShape, Objective, Outcome, Range, Schedule, Turn, Wrapper
from aegen_adversarial.critic import PatchCritic
from aegen_adversarial.forms import Form, critic_loss, fooling_loss


class Adversarial(Wrapper):
    """What it wraps, plus a critic's verdict on the reconstruction.

    The verdict is a mean over patches and would be lost beside nats summed over pixels; `weight` counts it per pixel value,
    so that one number serves images of every size.

    Options:
        weight: of the verdict, in nats per pixel value.
        form: of the game.
        after: steps before the critic begins to learn and to be heard.
        width: channels of the critic's first layer.
        depth: number of the critic's strided layers.
    """

    def __init__(
        self,
        inner: Objective,
        image: ImageShape,
        *,
        weight: Annotated[float, Range(0)] = 0.1,
        form: Form = "hinge",
        after: Annotated[int, Range(0)] = 0,
        width: Annotated[int, Range(1)] = 32,
        depth: Annotated[int, Range(1, 6)] = 2,
    ) -> None:
        super().__init__(inner)
        self.weight, self.form, self.after = weight, form, after
        self.pixels = image.channels * image.height * image.width
        self.critic = PatchCritic(image, width, depth)
        if after:
            self.schedule("weight", Schedule("step", 0.0, weight, after))

    def turns(self) -> list[Turn]:
        """The inner turns, of which the autoencoder's becomes `fool`, then `judge`, the critic's."""
        first, *others = self.inner.turns()
        judge = Turn("judge", self.judge, trains=(self.critic,), after=self.after)
        return [replace(first, loss=self.fool), *others, judge]

    def fool(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The inner terms and `verdict`, (B,); the critic is not trained, gradients only pass through it."""
        outcome = self.inner.loss(model, x)
        assert outcome.recon is not None, "the inner objective gives no reconstruction"
        verdict = self.weight * self.pixels * fooling_loss(self.form, self.critic(outcome.recon))
        return outcome.plus({"verdict": verdict})

    def judge(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The term `critic`, (B,); the autoencoder only supplies reconstructions."""
        with torch.no_grad():
            fake = self.inner.loss(model, x).recon
        assert fake is not None, "the inner objective gives no reconstruction"
        on_real, on_fake = self.critic(x), self.critic(fake)
        watch = {"real": on_real.flatten(1).mean(1), "fake": on_fake.flatten(1).mean(1)}
        return Outcome({"critic": critic_loss(self.form, on_real, on_fake)}, watch=watch)
