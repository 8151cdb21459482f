"""Fully connected nets, the encoder's widths mirrored in the decoder.

With `--arch.hidden "[400]"` and 20 latent dimensions this is the net of Kingma & Welling, Auto-Encoding Variational
Bayes, 2014, with ReLU for tanh.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated

from torch import nn

from aegen import Architecture, ImageShape, Range
from aegen.nn.spectral import spectrally_normed


class MLP(Architecture):
    """Flatten, linear layers with ReLU, and back.

    Options:
        hidden: widths of the encoder's hidden layers, from the image to the latent.
        spectral_norm: divide each weight of the decoder by its largest singular value.
    """

    def __init__(
        self,
        image: ImageShape,
        fan_in: int,
        *,
        hidden: Annotated[list[int], Range(1, 65_536)] = [512, 256],  # noqa: B006
        spectral_norm: bool = False,
    ) -> None:
        self.image = image
        self.fan_in = fan_in
        self.hidden = list(hidden)
        self.spectral_norm = spectral_norm

    def encoder(self) -> nn.Module:
        """(B, C, H, W) → (B, fan_in)."""
        widths = [math.prod(self.image), *self.hidden, self.fan_in]
        return nn.Sequential(nn.Flatten(), *_layers(widths))

    def decoder(self, latent: tuple[int, ...], fan_out: int) -> nn.Module:
        """(B, *latent) → (B, fan_out, H, W)."""
        _, height, width = self.image
        widths = [math.prod(latent), *reversed(self.hidden), fan_out * height * width]
        net = nn.Sequential(nn.Flatten(), *_layers(widths), nn.Unflatten(1, (fan_out, height, width)))
        return spectrally_normed(net) if self.spectral_norm else net


def _layers(widths: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)]
    return layers[:-1]
