"""A generator and an autoencoder that gives images a low energy and what is generated a high one, up to a margin.

Zhao, Mathieu & LeCun, Energy-based Generative Adversarial Network, 2017, eq. 1 and 2; the pulling-away term: eq. 4. Energies
are summed over pixel values, and so are the margin and the weight of that term. The margin must lie above the energy of
images: a critic that cannot reach it for those has nothing to say against generated ones.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

from aegen import Autoencoder, ImageShape, Outcome, Range, gather_rows
from aegen_builtin.adversarial.energy import EnergyGame


def pulling_away(codes: Tensor) -> Tensor:
    """Mean squared cosine of the codes (B, D) of two different images, () in [0, 1]; 0 for one image."""
    codes = gather_rows(codes)
    count = len(codes)
    directions = normalize(codes, dim=1)
    cosines = (directions @ directions.T).square()
    return (cosines.sum() - cosines.diagonal().sum()) / max(count * (count - 1), 1)


class EBGAN(EnergyGame):
    """The decoder as generator against an autoencoder's squared error; there is no encoder.

    Options:
        margin: energy up to which the critic pushes generated images, in squared error per pixel value.
        pull_away: weight of the pulling-away term, per pixel value; 0 leaves it out.
        width: channels of the critic's first layer.
        depth: number of the critic's strided layers.
        code: dimensions of the critic's code.
    """

    power = 2

    def __init__(
        self,
        image: ImageShape,
        *,
        margin: Annotated[float, Range(0)] = 0.1,
        pull_away: Annotated[float, Range(0)] = 0.1,
        width: Annotated[int, Range(1, 16_384)] = 8,
        depth: Annotated[int, Range(1, 6)] = 2,
        code: Annotated[int, Range(1, 65_536)] = 32,
    ) -> None:
        super().__init__(image, width, depth, code)
        self.margin, self.pull_away = margin, pull_away

    def generate(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms `generated_energy` (B,) and `pull` ()."""
        energy, codes = self.energy(self.generated(model, x))
        return Outcome({"generated_energy": energy, "pull": self.pull_away * self.pixels * pulling_away(codes)})

    def judge(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms `energy` and `shortfall`, (B,)."""
        with torch.no_grad():
            fake = self.generated(model, x)
        return Outcome(
            {"energy": self.energy(x)[0], "shortfall": relu(self.margin * self.pixels - self.energy(fake)[0])}
        )
