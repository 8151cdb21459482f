"""A generator and an autoencoder whose errors are held in balance by a controller.

Berthelot, Schumm & Metz, BEGAN: Boundary Equilibrium Generative Adversarial Networks, 2017, eq. 5 (section 3.4) and its
measure of convergence (section 3.4.1). The error is absolute, summed over pixel values; the controller goes by its mean over
them, as in the paper, so that one `lambda_k` serves images of every size.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.distributed as dist
from torch import Tensor

from aegen import Autoencoder, ImageShape, Outcome, Range
from aegen_adversarial.energy import EnergyGame


class BEGAN(EnergyGame):
    """The decoder as generator against an autoencoder's absolute error; there is no encoder.

    Options:
        gamma: energy of generated images over that of real ones, at the balance; low is sharp, high is diverse.
        lambda_k: step of the controller, for errors per pixel value.
        width: channels of the critic's first layer.
        depth: number of the critic's strided layers.
        code: dimensions of the critic's code.
    """

    power = 1
    k: Tensor

    def __init__(
        self,
        image: ImageShape,
        *,
        gamma: Annotated[float, Range(0, 1)] = 0.5,
        lambda_k: Annotated[float, Range(0)] = 0.001,
        width: Annotated[int, Range(1)] = 16,
        depth: Annotated[int, Range(1, 6)] = 2,
        code: Annotated[int, Range(1)] = 32,
    ) -> None:
        super().__init__(image, width, depth, code)
        self.gamma, self.lambda_k = gamma, lambda_k
        self.register_buffer("k", torch.zeros(()))

    def generate(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The term `generated_energy`, (B,)."""
        return Outcome({"generated_energy": self.energy(self.generated(model, x))[0]})

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
        if dist.is_available() and dist.is_initialized():  # one k for all processes
            dist.all_reduce(excess)
            excess = excess / dist.get_world_size()
        self.k.add_(self.lambda_k * excess).clamp_(0, 1)
