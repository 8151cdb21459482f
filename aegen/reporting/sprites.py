"""Several images as one small PNG inside the page: real pixels, enlarged by the reader's browser."""

from __future__ import annotations

import base64
import io
import math
from html import escape

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from aegen import pictures
from aegen.untrusted import shown

_LARGEST = 256  # pixels a side in a page; larger images are made smaller
_TILE = 84  # what a side should at least measure on the screen


def sprite(images: Tensor, alt: str, *, columns: int | None = None, scale: int | None = None) -> str:
    """An `img` of images (N, C, H, W), in [-1, 1], in one row or in rows of `columns`, transparent between them."""
    images = _fitting(images)
    count, channels, height, width = images.shape
    columns = columns or count
    gap = max(1, round(max(height, width) / 16))
    mode = "RGBA" if channels >= 3 else "LA"
    size = (columns * (width + gap) - gap, math.ceil(count / columns) * (height + gap) - gap)
    sheet = Image.new(mode, size)
    for i, image in enumerate(images):
        tile = pictures.flat(pictures.to_pil(image)).convert(mode)
        sheet.paste(tile, ((i % columns) * (width + gap), (i // columns) * (height + gap)))
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    larger = size[0] * (scale or max(1, round(_TILE / max(height, width))))
    return (
        f'<img class="px" width="{size[0]}" height="{size[1]}" data-wide="{larger}" alt="{escape(shown(alt))}" '
        f'src="data:image/png;base64,{data}">'
    )


def _fitting(images: Tensor) -> Tensor:
    """Not larger than a page needs."""
    longest = max(images.shape[2:])
    if longest <= _LARGEST:
        return images
    share = _LARGEST / longest
    size = [max(1, round(side * share)) for side in images.shape[2:]]
    small: Tensor = interpolate(images.float(), size, mode="bilinear", antialias=True)
    return torch.clamp(small, -1, 1)
