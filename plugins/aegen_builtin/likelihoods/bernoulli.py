"""Each pixel a coin: p(x|z) with logits from the decoder, the image in [0, 1] as its probability.

Exact for binary images; for grey ones it is the usual cross-entropy, a bound without its normaliser (Loaiza-Ganem &
Cunningham, The continuous Bernoulli, 2019). Kingma & Welling, 2014, appendix C.1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from aegen import ImageShape, Likelihood, Pixels

_HALF = torch.tensor(0.5)


class Coins(Pixels):
    """Independent Bernoulli pixels with logits (B, C, H, W)."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """(B, C, H, W) in [-1, 1]. 2·sigmoid(l) - 1 is tanh(l / 2)."""
        return torch.tanh(self.logits / 2)

    def nll(self, x: Tensor) -> Tensor:
        """Cross-entropy in nats, (B,)."""
        target = torch.add(_HALF.to(x.dtype), x, alpha=0.5)  # (x + 1) / 2 in one pass
        return binary_cross_entropy_with_logits(self.logits, target, reduction="none").flatten(1).sum(1)

    def sample(self) -> Tensor:
        """Black and white, (B, C, H, W)."""
        return torch.bernoulli(self.logits.sigmoid()) * 2 - 1


class Bernoulli(Likelihood):
    """Bernoulli pixels: for images that are black and white, or nearly."""

    measure = "binary"

    def __init__(self, image: ImageShape) -> None:
        super().__init__()
        self.fan_out = image.channels

    def forward(self, parameters: Tensor) -> Pixels:
        """Logits (B, C, H, W)."""
        return Coins(parameters)
