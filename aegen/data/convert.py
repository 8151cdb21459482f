"""What Pillow decoded → upright, 8 bits a channel, in the mode and size that are wanted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from aegen.data import png
from aegen.data.jpeg import ORIENTATION, Target
from aegen.data.values import Note, eight_bit, white_of
from aegen.pictures import MODES, flat

_BAND = 2**20  # pixels that are converted at a time


def converted(image: Image.Image, content: bytes, target: Target) -> tuple[Image.Image, Note]:
    """Upright, 8 bits a channel, in the mode for the target's channels; what an image holds beside its first frame is noted."""
    note, clear = Note.NOTHING, None
    image.load()
    with suppress(Exception):  # a damaged second frame is none
        note = Note.FRAMES if image.format != "MPO" and getattr(image, "is_animated", False) else note
    if image.format == "PNG":
        bits, colours = png.kind(content)
        clear = png.clear_colour(image, content)
        if bits == 16:
            image, said = _sixteen(image, content, clear, target.white)
            return in_mode(image, target.channels), note | said
        if colours == png.GREY_ALPHA and image.mode == "RGBA":
            image = _in_bands(image, lambda part: part.convert("LA"))
        if isinstance(clear, int):
            image.info["transparency"] = clear * (255 // (2**bits - 1))
        elif clear is not None:
            image.info["transparency"] = clear
    ImageOps.exif_transpose(image, in_place=True)
    return in_mode(image, target.channels), note


def _sixteen(
    image: Image.Image, content: bytes, clear: int | tuple[int, ...] | None, white: float | None
) -> tuple[Image.Image, Note]:
    """A PNG of 16 bits."""
    turn = image.getexif().get(ORIENTATION, 1)
    values = png.deep(image, content)
    colours = values if values.ndim == 2 or values.shape[2] == 3 else values[..., :-1]  # without alpha
    shown, note = eight_bit(colours, white or white_of("u", 16))
    opaque = None
    if clear is not None:
        same = values == np.asarray(clear, np.uint16)
        opaque = np.where(same if values.ndim == 2 else same.all(-1), 0, 255).astype(np.uint8)
    elif colours is not values:
        opaque, _ = eight_bit(values[..., -1], white_of("u", 16))
    if opaque is not None:
        shown = np.dstack([shown, opaque])
    return turned(Image.fromarray(shown[..., 0] if shown.ndim == 3 and shown.shape[2] == 1 else shown), turn), note


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Upright, as EXIF's numbers say it."""
    if orientation == 1:
        return image
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.info["exif"] = exif.tobytes()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _in_bands(image: Image.Image, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`change(image)`, a pixel's colour from its colour alone, without holding what is between for all pixels at once."""
    rows = max(1, _BAND // image.width)
    if rows >= image.height:
        return change(image)
    whole = None
    for top in range(0, image.height, rows):
        part = change(image.crop((0, top, image.width, min(image.height, top + rows))))
        whole = whole or Image.new(part.mode, image.size)
        whole.paste(part, (0, top))
    assert whole is not None
    return whole


def in_mode(image: Image.Image, channels: int | None) -> Image.Image:
    """In the mode for that many channels, of an upright image of 8 bits a channel."""
    if image.mode == MODES.get(channels or own_channels(image)) and "transparency" not in image.info:
        return image
    return _in_bands(image, lambda part: _pixelwise(part, channels))


def _pixelwise(image: Image.Image, channels: int | None) -> Image.Image:
    clear = "transparency" in image.info
    if image.mode in ("1", "L") and clear:
        image = _clear_grey(image)
    elif image.mode == "P" or (image.mode == "RGB" and clear):
        image = image.convert("RGBA" if clear else "RGB")
    elif image.mode in ("PA", "RGBa"):
        image = image.convert("RGBA")
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in MODES.values():
        image = image.convert("RGB")  # CMYK, YCbCr, LAB, HSV
    channels = channels or own_channels(image)
    if channels in (1, 3):
        image = flat(image)
    if image.mode != MODES[channels]:
        image = image.convert(MODES[channels])
    return image


def _clear_grey(image: Image.Image) -> Image.Image:
    """L or 1, of which one grey is transparent → LA."""
    clear = image.info["transparency"]
    grey = image.convert("L")
    grey.info.pop("transparency", None)
    return Image.merge("LA", (grey, grey.point([0 if n == clear else 255 for n in range(256)])))


def own_channels(image: Image.Image) -> int:
    """1 for a grey image, 3 for one with colour; transparency is laid on white unless asked for."""
    return 1 if image.mode in ("L", "LA", "La", "1", "I", "F") or image.mode.startswith("I;16") else 3


def fitted(image: Image.Image, target: Target) -> Image.Image:
    if target.size is None or (image.height, image.width) == target.size:
        return image
    height, width = target.size
    if target.fit == "resize":
        return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3)
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL image → uint8 (C, H, W). Colours under full transparency, which nobody sees, are made white."""
    array = np.array(image)
    if array.ndim == 2:
        array = array[:, :, None]
    elif image.mode in ("LA", "RGBA"):
        array[array[:, :, -1] == 0, :-1] = 255
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
