"""Images in [-1, 1] → PNG grids, strips and animations."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aegen.atomic import drafted
from aegen.errors import UsageError

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
STILLS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MOVING = (".gif", ".webp")
_PAPER = 255
_GAP = 2
_SCREEN = 2048  # pixels a side
# Of PNG: after its filters hardly anything but runs is left to find, so this is as small as level 6 in a quarter of its time.
_PNG = {"compress_level": 1, "compress_type": zlib.Z_RLE}


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] → 0…255, rounded and clamped: truncating shifts every value, and wrapping around turns white black."""
    values = images.detach().float().add(1)
    return values.mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).cpu()


def to_pil(image: Tensor) -> Image.Image:
    """One image (C, H, W), uint8 or in [-1, 1]."""
    pixels = image.cpu() if image.dtype == torch.uint8 else to_uint8(image)
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array, MODES[array.shape[2]])


def check_room(count: int, sides: Sequence[int], advice: str) -> None:
    """Refuse, before they are computed, more images than fit a picture that other programs open.

    Raises:
        UsageError: it would have more pixels than Pillow reads without a warning.
    """
    height, width = sides
    whole = math.ceil(math.sqrt(count)) * max(height, width)
    scale, most = _scale(height, width, whole), Image.MAX_IMAGE_PIXELS or 2**26
    cell = (height * scale + _GAP) * (width * scale + _GAP)
    if count * cell > most:
        given = f"{count:,} images of {height}×{width} in one picture"
        raise UsageError(f"{given} were asked for, but at most {most // cell:,} fit", hint=advice)


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Images (N, C, H, W), in [-1, 1] or uint8, in rows on white paper; small ones are enlarged without blur."""
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = _scale(height, width, max(rows * height, columns * width))
    cell_w, cell_h = width * scale + _GAP, height * scale + _GAP
    colours = 3 if channels >= 3 else 1
    sheet = torch.full((rows * cell_h + _GAP, columns * cell_w + _GAP, colours), _PAPER, dtype=torch.uint8)
    # One view in which a tile is an index, so that any number of images is one copy.
    cells = sheet[_GAP:, _GAP:].unflatten(0, (rows, cell_h)).unflatten(2, (columns, cell_w))
    cells = cells[:, : height * scale, :, : width * scale].unflatten(1, (height, scale)).unflatten(4, (width, scale))
    tiles = _opaque(images if images.dtype == torch.uint8 else to_uint8(images)).movedim(1, -1)
    for row in range(rows):
        own = tiles[row * columns : (row + 1) * columns]  # (n, H, W, C)
        cells[row, :, :, : len(own)] = own.permute(1, 0, 2, 3)[:, None, :, :, None]
    return Image.fromarray((sheet if colours == 3 else sheet[:, :, 0]).numpy(), "RGB" if colours == 3 else "L")


def _opaque(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) → 1 or 3 channels on the CPU: alpha is laid on white paper."""
    images = images.cpu()
    if images.shape[1] % 2:
        return images
    return (
        torch.stack([torch.from_numpy(np.array(flat(to_pil(image)))) for image in images])
        .reshape(len(images), *images.shape[2:], -1)
        .movedim(-1, 1)
    )


def pairs(originals: Tensor, again: Tensor, columns: int = 12) -> Image.Image:
    """Rows of originals (uint8, (N, C, H, W)), each above the row of their reconstructions."""
    columns = min(columns, len(originals))
    short = -len(originals) % columns
    if short:
        blank = torch.full((short, *originals.shape[1:]), _PAPER, dtype=torch.uint8)
        originals, again = torch.cat([originals, blank]), torch.cat([again, blank])
    rows = [torch.cat(pair) for pair in zip(originals.split(columns), again.split(columns), strict=True)]
    return grid(torch.cat(rows), columns)


def _scale(height: int, width: int, whole: int = 0) -> int:
    """How much to enlarge: a 28-pixel digit is a speck on today's screens; but not a picture of `whole` pixels beyond them."""
    return max(1, min(round(64 / max(height, width)), 4, _SCREEN // max(whole, 1)))


def enlarge(image: Image.Image) -> Image.Image:
    """A small image at the size that it has in a grid."""
    scale = _scale(image.height, image.width)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def flat(image: Image.Image) -> Image.Image:
    """Without alpha: laid on white paper."""
    if image.mode not in ("LA", "RGBA"):
        return image
    rgba = image.convert("RGBA")
    paper = Image.new("RGBA", rgba.size, (_PAPER,) * 3 + (255,))
    return Image.alpha_composite(paper, rgba).convert("L" if image.mode == "LA" else "RGB")


def save(image: Image.Image, path: Path) -> None:
    """Write a picture in the format of its ending, atomically.

    Raises:
        UsageError: the ending is none of a still picture's.
        OSError: it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in STILLS:
        raise UsageError(f"cannot write a picture as {path.name}", hint=f"end its name in {', '.join(STILLS)}")
    if suffix in (".jpg", ".jpeg", ".bmp"):  # these have no alpha
        image = flat(image)
    _write(path, [image], quality=95, **_PNG)


def animate(frames: Sequence[Image.Image], path: Path, *, milliseconds: int = 60) -> None:
    """Write frames as a looping GIF or WebP, there and back again.

    Raises:
        OSError: it cannot be written.
    """
    there_and_back = [*frames, *frames[-2:0:-1]]
    _write(path, [flat(f) for f in there_and_back], duration=milliseconds, loop=0, lossless=True)


def _write(path: Path, frames: list[Image.Image], **options: int) -> None:
    kind = Image.registered_extensions()[path.suffix.lower()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted(path, durable=False) as temporary:
        if len(frames) > 1:
            frames[0].save(temporary, kind, save_all=True, append_images=frames[1:], **options)
        else:
            frames[0].save(temporary, kind, **options)
