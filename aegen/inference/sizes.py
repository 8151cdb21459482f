"""Images of other sizes than the one that a model was trained at: padded to what its nets take, cropped again, in tiles where they are large.

Only nets of convolutions with a map as latent do that (`Architecture.any_size`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from aegen import memory
from aegen.autoencoder import Autoencoder
from aegen.errors import UsageError
from aegen.untrusted import quoted

Own = Literal["own"]
OWN: Own = "own"
Size = int | str | Sequence[int]
"""As a caller says it: pixels a side, [height, width], or a text: `48`, `48x80`, `[48, 80]`, `own`."""
_SIDES = re.compile(r"\s*(\d{1,5})\s*(?:[x×]\s*(\d{1,5})\s*)?|\s*\[\s*(\d{1,5})\s*,\s*(\d{1,5})\s*\]\s*")
_LARGEST = 8192  # pixels a side, as of images that are trained on
_SHARE = 4  # of the memory, the part that one layer of one image may take


def sides(size: Size | None) -> tuple[int, int] | Own | None:
    """(height, width), `own`, or None where no size is said.

    Raises:
        UsageError: it is no size.
    """
    if size is None or size == OWN:
        return size if size is None else OWN
    found: Any = size
    if isinstance(size, str):
        told = _SIDES.fullmatch(size)
        found = [int(part) for part in told.groups() if part] if told else []
    elif type(size) is int:
        found = [size]
    fits = isinstance(found, Sequence) and len(found) in (1, 2) and all(type(side) is int for side in found)
    if not fits or not all(1 <= side <= _LARGEST for side in found):
        raise UsageError(
            f"--size is {quoted(size)}, but takes pixels a side (64), height x width (48x80) or own, and sides of 1 to {_LARGEST}"
        )
    return found[0], found[-1]


def require_any_size(model: Autoencoder, who: object) -> None:
    """Refuse another size where the nets or the bottleneck were made for one.

    Raises:
        UsageError: they were.
    """
    if not model.any_size:
        why = "its nets were made for that size"
        if len(model.latent_shape) == 1:
            why = "its latent is a vector"
        elif not model.bottleneck.any_size:
            why = f"the prior of its bottleneck, {type(model.bottleneck).__name__}, is made of maps of that size"
        raise UsageError(
            f"{who} takes images of {model.image} alone, since {why}",
            hint="a conv net with arch.spatial, trained at a size that 2^depth divides, takes any",
        )


def require(model: Autoencoder, who: object, size: Size | None) -> tuple[int, int] | Own | None:
    """`size` as `sides` has it, if the model takes it.

    Raises:
        UsageError: it is no size, or none of this model.
    """
    wanted = sides(size)
    if wanted is not None and wanted != tuple(model.image[1:]):
        require_any_size(model, who)
    return wanted


def latent_shape(model: Autoencoder, size: tuple[int, int]) -> tuple[int, ...]:
    """Of the latent of an image of that size, (D, h, w)."""
    return (model.latent_shape[0], *(-(-side // model.factor) for side in size))


@torch.no_grad()
def bytes_a_pixel(model: Autoencoder) -> float:
    """What the layer that takes most holds of an image, before and after it, for each of the image's pixels."""
    most = 0

    def seen(module: nn.Module, given: Any, made: Any) -> None:
        nonlocal most
        held = [one for one in (*given, made) if isinstance(one, Tensor)]
        most = max(most, sum(one.numel() * one.element_size() for one in held))

    inner = [part for part in (*model.encoder.modules(), *model.decoder.modules()) if not list(part.children())]
    hooks = [part.register_forward_hook(seen) for part in inner]
    try:
        with torch.random.fork_rng([]):
            x = torch.zeros(1, *model.image, device=next(model.parameters()).device)
            model.decode(model.encode(x).mean)
    finally:
        for hook in hooks:
            hook.remove()
    return most / math.prod(model.image[1:])


def require_room(model: Autoencoder, size: tuple[int, int]) -> None:
    """Refuse an image that no memory here holds on its way through the nets.

    Raises:
        EnvironmentFault: it is so large.
    """
    what = f"an image of {size[0]}x{size[1]} on its way through the model"
    memory.require(int(bytes_a_pixel(model) * math.prod(size)), what, "use a smaller --size")


def tile_for(model: Autoencoder, size: tuple[int, int]) -> int | None:
    """The side of tiles in which an image of that size is to be taken, a multiple of `factor`; None where it fits into the memory whole."""
    device = next(model.parameters()).device
    have = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory.most()
    if have is None:
        return None
    pixels = have / _SHARE / max(1.0, bytes_a_pixel(model))
    if math.prod(size) <= pixels:
        return None
    side = int(math.sqrt(pixels))
    return max(2 * model.factor, side - side % model.factor)


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
