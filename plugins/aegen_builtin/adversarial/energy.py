"""An autoencoder as critic: the energy of an image is the error with which it is reconstructed.

Zhao et al., Energy-based Generative Adversarial Network, 2017; nearest-neighbour upsampling and ELU after Berthelot et al.,
BEGAN, 2017, section 3.5. The generator is the model's own decoder, fed with the prior; no encoder is trained. Energies are
summed over pixel values, so that the generator's loss does not shrink as images grow.

The measure of validation is BEGAN's (section 3.4.1), which needs no second model: the energy of images, plus how far that of
generated ones is from where it should be. A critic that reconstructs well, and a generator whose images it reconstructs as
well, have a low one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

from aegen import Autoencoder, ImageShape, Objective, Outcome, Turn, UsageError
from aegen.nn.precision import at_least_float32
from aegen_builtin.adversarial.latent_critic import draw_prior


class EnergyCritic(nn.Module):
    """A convolutional autoencoder for images of any size, (B, C, H, W) → the code (B, `code`) and (B, C, H, W)."""

    def __init__(self, image: ImageShape, width: int, depth: int, code: int) -> None:
        super().__init__()
        sizes = [(image.height, image.width)]
        for _ in range(depth):
            if max(sizes[-1]) == 1:
                raise UsageError(f"objective.depth {depth} is too deep for {image} images", hint="use a lower one")
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        widths = [width * 2**level for level in range(depth)]
        down: list[nn.Module] = []
        for fan_in, fan_out in pairwise([image.channels, *widths]):
            down += [nn.Conv2d(fan_in, fan_out, 3, 2, 1), nn.ELU()]
        small = (widths[-1], *sizes[-1])
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(math.prod(small), code))
        up: list[nn.Module] = [nn.Linear(code, math.prod(small)), nn.Unflatten(1, small)]
        for (fan_in, fan_out), size in zip(pairwise([*reversed(widths), width]), reversed(sizes[:-1]), strict=True):
            up += [nn.Upsample(size), nn.Conv2d(fan_in, fan_out, 3, 1, 1), nn.ELU()]
        self.decoder = nn.Sequential(*up, nn.Conv2d(width, image.channels, 3, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both in float32 at least, whatever the precision of the layers."""
        code = self.encoder(x)
        return at_least_float32(code), at_least_float32(self.decoder(code))


class EnergyGame(Objective, ABC):
    """The two turns of a decoder and an autoencoding critic; a subclass writes `generate` and `judge`.

    Attributes:
        power: of the difference of a pixel value and its reconstruction, 1 or 2.
        gamma: energy of generated images, over that of real ones, at the equilibrium.
    """

    bottleneck, likelihood = "matched-prior", "gaussian"
    suggests: ClassVar[Mapping[str, Any]] = {"betas": [0.5, 0.999], "ema": 0.99}
    encodes = False
    needs = frozenset({"prior"})
    power: int
    gamma: float = 1.0

    def __init__(self, image: ImageShape, width: int, depth: int, code: int) -> None:
        super().__init__()
        self.pixels = math.prod(image)
        self.critic = EnergyCritic(image, width, depth, code)

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the terms `energy` (B,) and `imbalance` (): the measure of convergence."""
        real, fake = self.energy(x)[0], self.energy(self.generated(model, x))[0]
        imbalance = (self.gamma * real.mean() - fake.mean()).abs()
        return Outcome({"energy": real, "imbalance": imbalance}, watch={"generated_energy": fake})

    def turns(self) -> list[Turn]:
        """`generator`, the decoder's, then `judge`, the critic's."""
        return [
            Turn("generator", self.generate, trains=("decoder",)),
            Turn("judge", self.judge, trains=(self.critic,)),
        ]

    @abstractmethod
    def generate(self, model: Autoencoder, x: Tensor) -> Outcome:
        """What the decoder minimises; `x` only says how many images."""

    @abstractmethod
    def judge(self, model: Autoencoder, x: Tensor) -> Outcome:
        """What the critic minimises; the decoder only supplies images."""

    def energy(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of images (B, C, H, W), summed over pixel values, (B,); and their codes (B, `code`)."""
        code, recon = self.critic(x)
        return (x - recon).abs().pow(self.power).flatten(1).sum(1), code

    def generated(self, model: Autoencoder, x: Tensor) -> Tensor:
        """As many images as `x` has, (B, C, H, W) in [-1, 1], decoded from the prior."""
        return model.decode(draw_prior(model, x)).mean
