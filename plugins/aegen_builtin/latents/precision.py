"""For the few numbers of a latent whose formulas lose too many digits in float32."""

from __future__ import annotations

from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """The same in float64, or as it is where the device has none."""
    return x if x.device.type == "mps" else x.double()
