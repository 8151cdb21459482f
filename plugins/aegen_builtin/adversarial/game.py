"""What every game with a critic shares: the critic's turn and what keeps the critic in bounds, each an option.

Spectral norm: Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018. R1: Mescheder et al., Which
Training Methods for GANs do actually Converge?, 2018, eq. 9; seldom but as much stronger: Karras et al., StyleGAN2, 2020.
Gradient penalty: Gulrajani et al., Improved Training of Wasserstein GANs, 2017, eq. 3. LeCam: Tseng et al., Regularizing
Generative Adversarial Networks under Limited Data, 2021, eq. 4; as in its authors' code, a verdict is squared only beyond the other side's
usual one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from aegen import Autoencoder, Objective, Outcome, Range, StepMean, Turn, mean_over_ranks, uniform_like
from aegen.nn.spectral import spectrally_normed
from aegen_builtin.adversarial.gan_losses import AnyForm, critic_loss

Weight = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
Slope = Callable[..., Tensor]
_DECAY = 0.999  # of the usual verdicts


def mean_verdict(verdicts: Tensor) -> Tensor:
    """Verdicts (B, …) → one an image, (B,)."""
    return verdicts.flatten(1).mean(1)


def slope(critic: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The verdict on each image, (B,), and its gradient by the pixels, (B, C·H·W), which can itself be derived.

    In full precision, and also where gradients are off; then the result carries none.
    """
    wanted = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        x = x.detach().requires_grad_()
        verdict = mean_verdict(critic(x))
        (gradient,) = torch.autograd.grad(verdict.sum(), x, create_graph=wanted)
    return verdict, gradient.flatten(1)


def squared_slope(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """R1 without its weight: ‖∇D(x)‖² / 2, (B,)."""
    verdict, gradient = slope(critic, x)
    # A bias moves no slope; counted as nothing, it has a gradient (0) as all that a turn trains must.
    return 0.5 * gradient.square().sum(1) + 0 * verdict


def unit_slope(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """Gradient penalty without its weight: (‖∇D‖ - 1)², (B,), somewhere on the line between each image and a fake."""
    where = uniform_like(real.new_empty(len(real), 1, 1, 1))
    _, gradient = slope(critic, torch.lerp(fake.to(real.dtype), real, where))
    penalty: Tensor = (torch.linalg.vector_norm(gradient, dim=1) - 1).square()
    return penalty


class Game(Objective):
    """An objective with a critic: a subclass says what the `fakes` are, calls `seat` and adds `critic_turns` to its own.

    Options:
        form: of the game.
        width: channels of the critic's first layer.
        critic_every: the critic moves at every so-many-th step only.
        spectral_norm: divide the critic's weights by their largest singular value.
        r1: weight of the critic's squared slope at images.
        r1_every: steps between two turns of R1, which then weighs as much more; 1 adds it to each step of the critic.
        gradient_penalty: weight of the critic's slope's distance from 1, between images and fakes.
        lecam: weight of the squared distance of each verdict from the usual one on the other side.
    """

    critic: nn.Module
    usual: Tensor  # mean verdicts on images and on fakes, (2,)

    def seat(
        self,
        critic: nn.Module,
        form: AnyForm,
        *,
        after: int = 0,
        critic_every: int = 1,
        spectral_norm: bool = False,
        r1: float = 0.0,
        r1_every: int = 1,
        gradient_penalty: float = 0.0,
        lecam: float = 0.0,
    ) -> None:
        """Give the critic its place and its rules; called once by a subclass's constructor."""
        self.critic, self.form = critic, form
        self.after, self.critic_every, self.r1_every = after, critic_every, r1_every
        self.r1, self.gradient_penalty, self.lecam = r1, gradient_penalty, lecam
        # The weights themselves may become schedules, on the device.
        self._rules = {name for name in ("r1", "gradient_penalty", "lecam") if getattr(self, name)}
        if "lecam" in self._rules:
            self.register_buffer("usual", torch.zeros(2))
            self.verdicts_of_step = StepMean(2)
        # torch.compile cannot derive a derivative; what needs that stays as it is written.
        self._squared_slope: Slope = torch.compiler.disable(squared_slope)
        self._unit_slope: Slope = torch.compiler.disable(unit_slope)
        if spectral_norm:
            spectrally_normed(critic)

    def fakes(self, model: Autoencoder, x: Tensor) -> Tensor:
        """What the critic is to tell from images `x`, of the same shape."""
        raise TypeError(f"{type(self).__name__} does not define fakes()")

    def verdicts(self, x: Tensor) -> Tensor:
        """The critic's verdicts on images (B, C, H, W): (B, …), higher is more like an image."""
        verdicts: Tensor = self.critic(x)
        return verdicts

    def critic_turns(self, name: str = "judge") -> list[Turn]:
        """The critic's turn, and with `r1_every` above 1 one for R1."""
        turns = [Turn(name, self.judge, (self.critic,), self.critic_every, self.after)]
        if "r1" in self._rules and self.r1_every > 1:
            turns.append(Turn(f"{name}-r1", self.flatten_slope, (self.critic,), self.r1_every, self.after))
        return turns

    def judge(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The term `critic`, (B,), and those of the rules; the model only supplies fakes."""
        with torch.no_grad():
            fake = self.fakes(model, x)
        on_real, on_fake = self.verdicts(x), self.verdicts(fake)
        terms = {"critic": critic_loss(self.form, on_real, on_fake)}
        if "r1" in self._rules and self.r1_every == 1:
            terms["r1"] = self.r1 * self._squared_slope(self.verdicts, x)
        if "gradient_penalty" in self._rules:
            terms["gradient_penalty"] = self.gradient_penalty * self._unit_slope(self.verdicts, x, fake)
        if "lecam" in self._rules:
            terms["lecam"] = self.lecam * self.unusual(on_real, on_fake)
        return Outcome(terms, watch={"real": mean_verdict(on_real), "fake": mean_verdict(on_fake)})

    def flatten_slope(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The term `r1`, (B,), for all the steps since the last one."""
        return Outcome({"r1": self.r1_every * self.r1 * self._squared_slope(self.verdicts, x)})

    def unusual(self, real: Tensor, fake: Tensor) -> Tensor:
        """LeCam without its weight, (), of verdicts on images and on fakes, both (B, …); their means then become a little more usual."""
        loss = relu(real - self.usual[1]).square().mean() + relu(self.usual[0] - fake).square().mean()
        if self.training and torch.is_grad_enabled():
            means = self.verdicts_of_step(mean_over_ranks(torch.stack([real.mean(), fake.mean()]).detach()))
            if means is not None:
                self.usual.lerp_(means.to(self.usual), 1 - _DECAY)
        return loss
