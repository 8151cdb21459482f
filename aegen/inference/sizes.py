"""Images of other sizes than the one that a model was trained at: padded to what its nets take, cropped again, in tiles where they are large.

Only nets of convolutions with a map as latent do that (`Architecture.any_size`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from aegen.autoencoder import Autoencoder
from aegen.errors import UsageError


def require_any_size(model: Autoencoder, who: object) -> None:
    """Refuse another size where the nets were made for one.

    Raises:
        UsageError: they were.
    """
    if not model.any_size:
        vector = "its latent is a vector" if len(model.latent_shape) == 1 else "its nets were made for that size"
        raise UsageError(
            f"{who} takes images of {model.image} alone, since {vector}",
            hint="a conv net with arch.spatial, trained at a size that 2^depth divides, takes any",
        )


def padded(x: Tensor, factor: int) -> Tensor:
    """Images (B, C, H, W) with their last row and column repeated until `factor` divides both sides."""
    height, width = x.shape[2:]
    down, right = -height % factor, -width % factor
    return pad(x, (0, right, 0, down), mode="replicate") if down or right else x


def starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin that cover a side, neighbours sharing at least `overlap`; the last ends at its end."""
    if side <= tile:
        return [0]
    found = list(range(0, side - tile, tile - overlap))
    return [*found, side - tile]


def tiled(x: Tensor, run: Callable[[Tensor], Tensor], tile: int, overlap: int) -> Tensor:
    """`run`, images (B, C, h, w) → the same shape, over tiles of (B, C, H, W), blended where they overlap.

    Weights fall linearly to the edge of a tile inside the image, so that no seam is left; where tiles agree they change nothing.
    """
    height, width = x.shape[2:]
    total, weights = torch.zeros_like(x), torch.zeros(1, 1, height, width, dtype=x.dtype, device=x.device)
    rows, columns = (starts(side, tile, overlap) for side in (height, width))
    for top, left in ((top, left) for top in rows for left in columns):
        part = x[:, :, top : top + tile, left : left + tile]
        ramps = [
            _ramp(begin, min(tile, side - begin), side, overlap).to(x) for begin, side in ((top, height), (left, width))
        ]
        weight = ramps[0][:, None] * ramps[1]
        total[:, :, top : top + tile, left : left + tile] += run(part) * weight
        weights[:, :, top : top + tile, left : left + tile] += weight
    return total / weights


def _ramp(begin: int, length: int, side: int, overlap: int) -> Tensor:
    """Weights along a side of a tile: 1, but rising from its beginning and falling to its end where it has neighbours."""
    place = torch.arange(length) + 0.5
    ramp = torch.ones(length)
    if begin > 0:
        ramp = torch.minimum(ramp, place / overlap)
    if begin + length < side:
        ramp = torch.minimum(ramp, (length - place) / overlap)
    return ramp.clamp_max(1)
