"""A critic on latents: a small net that tells draws of one distribution from draws of another.

As in Makhzani et al., Adversarial Autoencoders, 2016, and Kim & Mnih, Disentangling by Factorising, 2018, appendix A, without
normalisation, so that the verdict on one latent does not depend on the others of its batch.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from aegen import Autoencoder
from aegen.nn.precision import at_least_float32


class LatentCritic(nn.Module):
    """Latents (B, *latent), feature maps flattened → one log-odds each, (B, 1)."""

    def __init__(self, latent: tuple[int, ...], width: int, depth: int) -> None:
        super().__init__()
        widths = [math.prod(latent), *[width] * depth]
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, z: Tensor) -> Tensor:
        """Log-odds in float32 at least, whatever the precision of the layers."""
        return at_least_float32(self.net(z))


@torch.no_grad()
def draw_prior(model: Autoencoder, like: Tensor) -> Tensor:
    """As many latents from the prior as `like` has rows, on its device and of its dtype, (B, *z), without gradients."""
    return model.prior(len(like), device=like.device).to(like.dtype)
