"""Critics: one judges overlapping parts of an image, one the whole.

Patches: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, 2017, appendix 6.1.2, for
reconstructions, whose composition the other terms see to. The whole: Radford et al., Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks, 2016, for images that nothing else judges: right strokes in wrong places deceive patches, and
the theory of Wasserstein's distance and of R1 speaks of one number an image. Both are without normalisation, so that the
verdict on one image does not depend on the others of its batch.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from aegen import ImageShape
from aegen.nn.precision import at_least_float32

_SMALL = 4


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
        """Verdicts in float32 or more, whatever the precision of the layers."""
        return at_least_float32(self.net(x))


class ImageCritic(nn.Module):
    """(B, C, H, W) in [-1, 1] → one verdict an image, (B, 1).

    Strided layers down to at most 4 × 4, twice as wide each up to 8 times, then one linear layer that sees where things are.
    """

    def __init__(self, image: ImageShape, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, height, across = image
        fan_in, fan_out = channels, width
        while max(height, across) > _SMALL:
            layers += [nn.Conv2d(fan_in, fan_out, 3, 2, 1), nn.LeakyReLU(0.2)]
            fan_in, fan_out = fan_out, min(2 * fan_out, 8 * width)
            height, across = (height + 1) // 2, (across + 1) // 2
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(fan_in * height * across, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Verdicts in float32 or more, whatever the precision of the layers."""
        return at_least_float32(self.net(x))
