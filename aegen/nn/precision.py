"""Numbers that want more digits than the step they stand in."""

from __future__ import annotations

from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision → float32; what is wider stays as it is.

    >>> at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x.float() if x.dtype.itemsize < 4 else x


def float64_where_possible(x: Tensor) -> Tensor:
    """The same in float64, or as it is where the device has none: for the few formulas that lose too many digits in float32.

    >>> float64_where_possible(torch.zeros(1)).dtype
    torch.float64
    """
    return x if x.device.type == "mps" else x.double()
