"""A generator and an autoencoder whose errors are held in balance by a controller.

Berthelot, Schumm & Metz, BEGAN: Boundary Equilibrium Generative Adversarial Networks, 2017, eq. 5 (section 3.4) and its
measure of convergence (section 3.4.1). Errors are summed over pixel values; the controller goes by their mean over them, as in
the paper, so that one `lambda_k` serves images of every size.

On MNIST the paper's loss alone draws a single digit: "1" is the easiest to reconstruct, so the balance of means is met by
drawing nothing else, and k stays near 0. So here gamma is 1 and not 0.5, the error squared (the paper allows both), the
controller a hundred times as fast, and EBGAN's term keeps the codes of generated images apart.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from aegen import Autoencoder, ImageShape, Outcome, Range, StepMean, mean_over_ranks
from aegen_builtin.adversarial.ebgan import pulling_away
from aegen_builtin.adversarial.energy import EnergyGame


class BEGAN(EnergyGame):
    """The decoder as generator against an autoencoder's error; there is no encoder.

    Options:
        gamma: energy of generated images over that of real ones, at the balance; low is sharp, high is diverse.
        lambda_k: step of the controller, for errors per pixel value.
        norm: power of a pixel value's error, 1 or 2, the paper's eta.
        pull_away: weight of EBGAN's pulling-away term, per pixel value; 0, the paper's, leaves it out.
        width: channels of the critic's first layer.
        depth: number of the critic's strided layers.
        code: dimensions of the critic's code.
    """

    k: Tensor

    def __init__(
        self,
        image: ImageShape,
        *,
        gamma: Annotated[float, Range(0, 1)] = 1.0,
        lambda_k: Annotated[float, Range(0)] = 0.1,
        norm: Annotated[int, Range(1, 2)] = 2,
        pull_away: Annotated[float, Range(0)] = 0.1,
        width: Annotated[int, Range(1, 16_384)] = 8,
        depth: Annotated[int, Range(1, 6)] = 2,
        code: Annotated[int, Range(1, 65_536)] = 32,
    ) -> None:
        super().__init__(image, width, depth, code)
        self.power, self.gamma, self.lambda_k, self.pull_away = norm, gamma, lambda_k, pull_away
        self.register_buffer("k", torch.zeros(()))
        self.excess_of_step = StepMean()

    def generate(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms `generated_energy` (B,) and `pull` ()."""
        energy, codes = self.energy(self.generated(model, x))
        return Outcome({"generated_energy": energy, "pull": self.pull_away * self.pixels * pulling_away(codes)})

    def judge(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The term `critic`, (B,): the energy of images less k times that of generated ones; then k moves."""
        with torch.no_grad():
            fake = self.generated(model, x)
        real, generated = self.energy(x)[0], self.energy(fake)[0]
        k = self.k.clone()  # moved below, while this one waits for the backward pass
        excess = (self.gamma * real - generated).detach().mean()
        if self.training and torch.is_grad_enabled():
            self.balance(excess / self.pixels)
        watch = {"convergence": real.mean() + excess.abs(), "k": k}
        return Outcome({"critic": real - k * generated}, watch=watch)

    @torch.no_grad()
    def balance(self, excess: Tensor) -> None:
        """Move k, in [0, 1], by what the energy of generated images falls short of gamma times that of real ones, ()."""
        mean = self.excess_of_step(mean_over_ranks(excess))
        if mean is not None:
            self.k.add_(self.lambda_k * mean).clamp_(0, 1)
