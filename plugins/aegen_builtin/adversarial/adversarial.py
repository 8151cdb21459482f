"""A critic that tells images from reconstructions, and an autoencoder that is trained to deceive it.

Larsen et al., Autoencoding beyond pixels, 2016; Esser et al., Taming Transformers, 2021, section 3.1, and its adaptive weight,
eq. 7, with gradients taken at what the decoder gives: the reconstruction itself, but for a bend of single values. The critic
is the patch critic of Isola et al., Image-to-Image Translation, 2017. Losses: see `forms`; the critic's rules: see `game`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from aegen import (
    Autoencoder,
    ImageShape,
    Objective,
    Outcome,
    Range,
    Schedule,
    Turn,
    UsageError,
    Wrapper,
    mean_over_ranks,
)
from aegen_builtin.adversarial.critic import PatchCritic
from aegen_builtin.adversarial.game import Count, Game, Weight
from aegen_builtin.adversarial.gan_losses import Form, fooling_loss

_LEAST, _MOST = 1e-4, 1e4  # nats per unit of the decoder's output, and the largest ratio


@contextmanager
def decoder_outputs(model: Autoencoder) -> Iterator[list[Tensor]]:
    """A list of what the likelihood is given inside the context: the common root of error and reconstruction."""
    outputs: list[Tensor] = []
    hook = model.likelihood.register_forward_pre_hook(lambda _, arguments: outputs.append(arguments[0]))
    try:
        yield outputs
    finally:
        hook.remove()


def gradient_ratio(terms: Mapping[str, Tensor], verdict: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """How much longer the terms' gradient at the decoder's outputs is than the verdict's, () from 0 to 10,000.

    Lengths are root mean squares over the images, so that they do not depend on the batch size.
    """
    own = torch.stack([term.mean() for term in terms.values()]).sum()
    lengths = []
    for loss in (own, verdict.mean()):
        found = torch.autograd.grad(loss, list(outputs), retain_graph=True, allow_unused=True)
        square = torch.stack([g.square().sum() for g in found if g is not None]).sum()
        lengths.append(mean_over_ranks(square * len(verdict)).sqrt())
    return (lengths[0] / (lengths[1] + _LEAST)).clamp(0, _MOST)


class Adversarial(Wrapper, Game):
    """What it wraps, plus a critic's verdict on the reconstruction.

    The verdict is a mean over patches and would be lost beside nats summed over pixels; `weight` counts it per pixel value,
    so that one number serves images of every size.

    Options:
        weight: of the verdict, in nats per pixel value.
        form: of the game.
        after: steps before the critic begins to learn and to be heard.
        width: channels of the critic's first layer.
        depth: number of the critic's strided layers.
        adaptive: count `weight` in lengths of the inner terms' gradient at the reconstruction instead.
    """

    def __init__(
        self,
        inner: Objective,
        image: ImageShape,
        *,
        weight: Weight = 0.1,
        form: Form = "hinge",
        after: Annotated[int, Range(0)] = 0,
        width: Count = 32,
        depth: Annotated[int, Range(1, 6)] = 2,
        adaptive: bool = False,
        spectral_norm: bool = False,
        r1: Weight = 0.0,
        r1_every: Count = 1,
        lecam: Weight = 0.0,
    ) -> None:
        super().__init__(inner)
        if not inner.encodes:
            raise UsageError(
                "objective 'adversarial' judges reconstructions, but what it wraps makes none",
                hint="wrap one that trains an encoder: vae+adversarial or ae-gan+adversarial",
            )
        self.weight, self.adaptive = weight, adaptive
        self.pixels = image.channels * image.height * image.width
        self.seat(
            PatchCritic(image, width, depth),
            form,
            after=after,
            spectral_norm=spectral_norm,
            r1=r1,
            r1_every=r1_every,
            lecam=lecam,
        )
        if after:
            self.schedule("weight", Schedule("step", 0.0, weight, after))

    def turns(self) -> list[Turn]:
        """The inner turns, of which the first also fools the critic, then `judge`, the critic's."""
        first, *others = self.inner.turns()
        # torch.compile would hide how the error depends on what the decoder gives.
        fool = torch.compiler.disable(self.fool) if self.adaptive else self.fool
        return [replace(first, loss=partial(fool, first.loss)), *others, *self.critic_turns()]

    def fool(self, inner: Callable[[Autoencoder, Tensor], Outcome], model: Autoencoder, x: Tensor) -> Outcome:
        """The inner terms and `verdict`, (B,); the critic is not trained, gradients only pass through it."""
        listening: AbstractContextManager[list[Tensor]] = decoder_outputs(model) if self.adaptive else nullcontext([])
        with listening as outputs:
            outcome = inner(model, x)
        assert outcome.recon is not None, "the inner objective gives no reconstruction"
        verdict = fooling_loss(self.form, self.verdicts(outcome.recon))
        if not self.adaptive:
            return outcome.plus({"verdict": self.weight * self.pixels * verdict})
        balance = gradient_ratio(outcome.terms, self.pixels * verdict, outputs)
        return outcome.plus({"verdict": self.weight * balance * self.pixels * verdict}, {"balance": balance})

    def fakes(self, model: Autoencoder, x: Tensor) -> Tensor:
        """The reconstructions."""
        fake = self.inner.loss(model, x).recon
        assert fake is not None, "the inner objective gives no reconstruction"
        return fake
