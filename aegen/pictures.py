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
from aegen.errors import UsageError, counted

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
STILLS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MOVING = (".gif", ".webp")
_PAPER = 255  # below what is transparent
_GREY = 128  # between images: seen beside dark ones and light ones, and on a page of either kind
_GAP = 2
_SCREEN = 2048  # pixels a side
_PALETTE = 2**20  # pixels of a film that the colours of a GIF are chosen by
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
    columns = _columns(count, height, width)
    whole = max(columns * width, math.ceil(count / columns) * height)
    scale, most = _scale(height, width, whole), Image.MAX_IMAGE_PIXELS or 2**26
    cell = (height * scale + _GAP) * (width * scale + _GAP)
    if count * cell > most:
        given = f"{counted(count, 'image')} of {height}×{width} (height×width) in one picture"
        raise UsageError(f"{given} were asked for, but at most {most // cell:,} fit", hint=advice)


def _columns(count: int, height: int, width: int) -> int:
    """How many beside each other make a picture about as wide as high."""
    return max(1, min(count, math.ceil(math.sqrt(count * height / width))))


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Images (N, C, H, W), in [-1, 1] or uint8, in rows with grey between them; small ones are enlarged without blur."""
    count, channels, height, width = images.shape
    columns = columns or _columns(count, height, width)
    rows = math.ceil(count / columns)
    scale = _scale(height, width, max(rows * height, columns * width))
    cell_w, cell_h = width * scale + _GAP, height * scale + _GAP
    colours = 3 if channels >= 3 else 1
    sheet = torch.full((rows * cell_h + _GAP, columns * cell_w + _GAP, colours), _GREY, dtype=torch.uint8)
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


def pairs(originals: Tensor, again: Tensor, columns: int | None = None) -> Image.Image:
    """Rows of originals (uint8, (N, C, H, W)), each above the row of their reconstructions."""
    height, width = originals.shape[2:]
    if columns is None:  # twelve, of images that are not much wider or higher than that
        columns = 12 if max(height, width) <= 2 * min(height, width) else _columns(2 * len(originals), height, width)
    columns = min(columns, len(originals))
    short = -len(originals) % columns
    if short:
        blank = torch.full((short, *originals.shape[1:]), _GREY, dtype=torch.uint8)
        if not blank.shape[1] % 2:
            blank[:, -1] = 255  # opaque
        originals, again = torch.cat([originals, blank]), torch.cat([again, blank])
    rows = [torch.cat(pair) for pair in zip(originals.split(columns), again.split(columns), strict=True)]
    return grid(torch.cat(rows), columns)


def framed(images: Sequence[Tensor]) -> Tensor:
    """uint8 (C, H, W) of several sizes → (N, C, H, W), each in the middle of grey where others are larger, and as large as it is."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    sheet = torch.full((len(images), images[0].shape[0], height, width), _GREY, dtype=torch.uint8)
    if not sheet.shape[1] % 2:
        sheet[:, -1] = 255  # opaque
    for place, image in zip(sheet, images, strict=True):
        top, left = (height - image.shape[1]) // 2, (width - image.shape[2]) // 2
        place[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return sheet


def strip(ways: Sequence[Tensor]) -> Image.Image:
    """Ways of frames, each (T, C, H, W), in a row each; of frames that are much wider than high in a column each."""
    frames = torch.cat(list(ways))
    height, width = frames.shape[2:]
    if width <= 2 * height:
        return grid(frames, columns=len(ways[0]))
    return grid(torch.stack(list(ways), 1).flatten(0, 1), columns=len(ways))


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


def check_ending(path: Path) -> None:
    """Refuse, before the work, a name that says no format.

    Raises:
        UsageError: its ending is none of a still picture's.
    """
    if path.suffix.lower() not in STILLS:
        raise UsageError(f"cannot write a picture as {path.name}", hint=f"end its name in {', '.join(STILLS)}")


def save(image: Image.Image, path: Path, *, replaces: bool = True) -> None:
    """Write a picture in the format of its ending, atomically.

    Raises:
        UsageError: the ending is none of a still picture's.
        OSError: it cannot be written, or something stands there that it must not replace.
    """
    check_ending(path)
    if path.suffix.lower() in (".jpg", ".jpeg", ".bmp"):  # these have no alpha
        image = flat(image)
    _write(path, [image], replaces, quality=95, **_PNG)


def animate(frames: Sequence[Image.Image], path: Path, *, milliseconds: int = 60, replaces: bool = True) -> None:
    """Write frames as a looping GIF or WebP, there and back again.

    Raises:
        OSError: it cannot be written, or something stands there that it must not replace.
    """
    film = [flat(frame) for frame in frames]
    if path.suffix.lower() == ".gif":
        film = _one_palette(film)
    _write(path, [*film, *film[-2:0:-1]], replaces, duration=milliseconds, loop=0, lossless=True)


def _one_palette(frames: list[Image.Image]) -> list[Image.Image]:
    """Frames in the same 256 colours, each pixel in the nearest: what stands still in the film stands still in the file.

    Grey is kept to the bit. Palettes of their own and dithering would have every frame flicker.
    """
    if all(frame.mode == "L" for frame in frames):
        return frames
    rgb = [np.asarray(frame.convert("RGB")) for frame in frames]
    packed = [pixels.astype(np.uint32) @ np.array([2**16, 2**8, 1], np.uint32) for pixels in rgb]
    colours = np.unique(np.concatenate([np.unique(pixels) for pixels in packed]))
    if len(colours) <= 256:
        table = np.stack([colours >> 16, colours >> 8, colours], 1).astype(np.uint8)
        film = [Image.fromarray(np.searchsorted(colours, pixels).astype(np.uint8), "P") for pixels in packed]
        for frame in film:
            frame.putpalette(table.tobytes())
        return film
    some = np.concatenate([pixels.reshape(-1, 3) for pixels in rgb])
    some = some[:: math.ceil(len(some) / _PALETTE)]
    palette = Image.fromarray(some[None]).quantize(256, Image.Quantize.MEDIANCUT)
    return [frame.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def _write(path: Path, frames: list[Image.Image], replaces: bool, **options: int) -> None:
    kind = Image.registered_extensions()[path.suffix.lower()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted(path, durable=False, replaces=replaces) as temporary:
        if len(frames) > 1:
            frames[0].save(temporary, kind, save_all=True, append_images=frames[1:], **options)
        else:
            frames[0].save(temporary, kind, **options)
