"""A patch critic: convolutions that judge overlapping parts of an image.

Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, 2017, appendix 6.1.2; without normalisation,
so that the verdict on one image does not depend on the others of its batch.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from aegen import ImageShape


class PatchCritic(nn.Module):
    """(B, C, H, W) in [-1, 1] → one verdict a patch, (B, 1, h, w); higher is more like an image."""

    def __init__(self, image: ImageShape, width: int, depth: int) -> None:
        super().__init__()
        widths = [image.channels, *(width * 2**level for level in range(depth))]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Conv2d(fan_in, fan_out, 3, 2, 1), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Verdicts in float32, whatever the precision of the layers."""
        verdicts: Tensor = self.net(x)
        return verdicts.float()
