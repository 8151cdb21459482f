"""Layers one after another, as `print(module)` shows them: for nets that somebody made elsewhere, and for trying out.

    --arch sequential --arch.encoder '["Flatten()", "Linear(784, 400)", "ReLU()", "Linear(400, 32)"]'

A layer is text, read by a grammar of names and numbers against a table of torch's own layers; nothing in it is run.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aegen import Architecture, ImageShape, UsageError


class Affine(nn.Module):
    """scale · x + shift, by number or by channel: between the range of pixels that a net was trained with and [-1, 1]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: float | Sequence[float], shift: float | Sequence[float] = 0.0) -> None:
        super().__init__()
        for name, value in (("scale", scale), ("shift", shift)):
            values = torch.tensor(value if isinstance(value, tuple) else [value], dtype=torch.float32)
            self.register_buffer(name, values.view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return torch.addcmul(self.shift, x, self.scale)


LAYERS: Mapping[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (
        *(nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d),
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d),
        *(nn.MaxPool2d, nn.AvgPool2d, nn.Upsample, nn.PixelShuffle),
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.SiLU, nn.GELU, nn.Mish, nn.Softplus),
        *(nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Softsign, Affine),
    )
}
"""Name → layer."""

_NUMBER = r"-?\d{1,12}(?:\.\d{0,20})?(?:e[+-]?\d{1,3})?"
_VALUE = rf"(?:{_NUMBER}|True|False|None|'[a-z_]{{1,20}}'|\({_NUMBER}(?:, ?{_NUMBER}){{0,3}},?\))"
_ARGUMENT = re.compile(rf"\s*(?:([a-z_]{{1,30}})=)?({_VALUE})\s*(?:,|$)")
_LAYER = re.compile(r"([A-Za-z0-9]{1,30})(?:\((.{0,400})\))?", re.ASCII)
_MOST = 2**31 - 1
_COUNTED = re.compile("features$|channels$|kernel_size$|stride$|dilation$|groups$|^upscale_factor$")


def _value(text: str) -> Any:
    if text in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[text]
    if text.startswith("'"):
        return text[1:-1]
    if text.startswith("("):
        return tuple(_value(part.strip()) for part in text[1:-1].split(",") if part.strip())
    number = float(text)
    if abs(number) > _MOST:
        raise ValueError(text)
    return int(text) if re.fullmatch(r"-?\d+", text) else number


def layer(text: str) -> nn.Module:
    """`"Conv2d(3, 16, kernel_size=(4, 4), stride=2)"` → the layer.

    Raises:
        UsageError: it is none, or none of torch's that are known here.
    """
    found = _LAYER.fullmatch(text.strip())
    if found is None or found[1] not in LAYERS:
        hint = f"layers are {', '.join(LAYERS)}, with numbers in brackets"
        raise UsageError(f"{text[:80]!r} is no layer", hint=hint)
    cls, rest = LAYERS[found[1]], (found[2] or "").strip()
    known = [name for name in inspect.signature(cls).parameters if name not in ("device", "dtype", "args", "kwargs")]
    given: dict[str, Any] = {}
    try:
        place = 0
        while rest:
            one = _ARGUMENT.match(rest)
            if one is None:
                raise ValueError("what stands in its brackets is no list of numbers")
            name = one[1] or (known[place] if place < len(known) else "")
            if name not in known or name in given:
                raise ValueError(f"it takes {', '.join(known) or 'nothing'}")
            given[name], place, rest = _value(one[2]), place + 1, rest[one.end() :]
        sizes = [size for name, value in given.items() if _COUNTED.search(name) for size in _pair(value)]
        if any(not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError("its sizes must be at least 1")
        if cls is nn.Unflatten and not isinstance(given.get("unflattened_size"), tuple):
            raise ValueError("its unflattened_size must be (channels, height, width)")
        return cls(**given)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError, AssertionError, OverflowError) as error:
        raise UsageError(f"layer {text[:80]!r} cannot be made ({error})"[:400]) from error


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[-1]) if isinstance(value, tuple) else (value, value)


def _along(size: int, one: Any, axis: int) -> int:
    """The length of a side after a convolution or pooling."""
    kernel, stride = _pair(one.kernel_size)[axis], _pair(one.stride)[axis]
    padding, dilation = _pair(one.padding)[axis], _pair(getattr(one, "dilation", 1))[axis]
    span = dilation * (kernel - 1) + 1
    if stride < 1 or kernel < 1 or dilation < 1 or padding < 0:
        raise ValueError
    if isinstance(one, nn.ConvTranspose2d):
        more = _pair(one.output_padding)[axis]
        if not 0 <= more < max(stride, dilation):
            raise ValueError
        return (size - 1) * stride - 2 * padding + span + more
    ceil = bool(getattr(one, "ceil_mode", False))
    return (size + 2 * padding - span + (stride - 1) * ceil) // stride + 1


def after(one: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one image's features after a layer, found without running it: any arithmetic without values loads a compiler.

    Raises:
        ValueError: the layer does not take this shape.
    """
    takes: int | None = None
    if isinstance(one, nn.Linear):
        takes, shape, given = one.in_features, (*shape[:-1], one.out_features), shape[-1]
    elif isinstance(one, nn.Flatten):
        return (math.prod(shape),)
    elif isinstance(one, nn.Unflatten):
        sizes = tuple(one.unflattened_size)
        if one.dim != 1 or math.prod(sizes) != shape[0] or min(sizes) < 1:
            raise ValueError
        return (*sizes, *shape[1:])
    elif isinstance(one, nn.Conv2d | nn.ConvTranspose2d | nn.MaxPool2d | nn.AvgPool2d):
        channels, height, width = shape
        given = channels
        if isinstance(one, nn.Conv2d | nn.ConvTranspose2d):
            takes, channels = one.in_channels, one.out_channels
            if one.padding_mode != "zeros" or isinstance(one.padding, str):
                raise ValueError
        shape = (channels, _along(height, one, 0), _along(width, one, 1))
    elif isinstance(one, nn.Upsample):
        factor = one.scale_factor
        if not isinstance(factor, int | float) or factor != int(factor) or not 1 <= factor <= 64:
            raise ValueError
        return (
            (shape[0], shape[1] * int(factor), shape[2] * int(factor)) if len(shape) == 3 else after(one, (*shape, 0))
        )
    elif isinstance(one, nn.PixelShuffle):
        factor, (channels, height, width) = one.upscale_factor, shape
        if factor < 1 or channels % factor**2:
            raise ValueError
        return (channels // factor**2, height * factor, width * factor)
    elif isinstance(one, Affine):
        if len(shape) != 3 or any(values.shape[1] not in (1, shape[0]) for values in (one.scale, one.shift)):
            raise ValueError
    else:
        for name in ("num_features", "num_channels"):
            takes, given = getattr(one, name, takes), shape[0]
        if isinstance(one, nn.LayerNorm) and tuple(one.normalized_shape) != shape[-len(one.normalized_shape) :]:
            raise ValueError
        maps = isinstance(one, nn.BatchNorm2d | nn.InstanceNorm2d)
        if maps != (len(shape) == 3) and (maps or isinstance(one, nn.BatchNorm1d)):
            raise ValueError
    if (takes is not None and takes != given) or min(shape) < 1:
        raise ValueError
    return shape


_FIXED = {"Linear", "Flatten", "Unflatten", "LayerNorm"}  # made for one size of images


class Sequential(Architecture):
    """Layers as they are listed; without a list, one linear layer each way, whose optimum is the plane of the principal components.

    Options:
        encoder: layers from an image (C, H, W) to the features, as `print(module)` shows them: ["Flatten()", "Linear(784, 32)"].
        decoder: layers from a latent to the image.
    """

    def __init__(self, image: ImageShape, fan_in: int, *, encoder: list[str] = [], decoder: list[str] = []) -> None:  # noqa: B006
        self.image, self.fan_in = image, fan_in
        self.layers = list(encoder) or ["Flatten()", f"Linear({math.prod(image)}, {fan_in})"]
        self.back = list(decoder)
        shape = _shapes("arch.encoder", self.layers, tuple(image))[-1]
        if shape[0] != fan_in or len(shape) not in (1, 3):
            gives = "×".join(map(str, shape))
            hint = "the bottleneck's dim must fit; a gaussian one takes mean and log-variance, twice as many"
            raise UsageError(f"arch.encoder ends with {gives}, but the bottleneck takes {fan_in} channels", hint=hint)
        self.factor = max(1, image.height // shape[1]) if len(shape) == 3 else 1

    def encoder(self) -> nn.Module:
        """(B, C, H, W) → (B, fan_in) or (B, fan_in, h, w)."""
        return nn.Sequential(*map(layer, self.layers))

    def decoder(self, latent: tuple[int, ...], fan_out: int) -> nn.Module:
        """(B, *latent) → (B, fan_out, H, W)."""
        _, height, width = self.image
        flat = ["Flatten()"] * (len(latent) > 1)
        usual = [
            *flat,
            f"Linear({math.prod(latent)}, {fan_out * height * width})",
            f"Unflatten(1, ({fan_out}, {height}, {width}))",
        ]
        layers, wanted = self.back or usual, (fan_out, height, width)
        shape = _shapes("arch.decoder", layers, tuple(latent))[-1]
        if shape != wanted:
            gives, takes = ("×".join(map(str, size)) for size in (shape, wanted))
            raise UsageError(
                f"arch.decoder ends with {gives}, but the likelihood takes {takes} (channels×height×width)"
            )
        self.any_size = len(latent) == 3 and self._any_size(layers, latent)
        return nn.Sequential(*map(layer, layers))

    def _any_size(self, layers: list[str], latent: tuple[int, ...]) -> bool:
        """Whether larger images, too, become maps that are smaller by `factor`, and these images of their own size."""
        channels, height, width = self.image
        by = self.factor
        if {text.partition("(")[0].strip() for text in self.layers + layers} & _FIXED:
            return False
        if (height, width) != (latent[1] * by, latent[2] * by):
            return False
        for down, right in ((1, 2), (2, 1)):
            try:
                wide = _shapes("arch.encoder", self.layers, (channels, height + down * by, width + right * by))[-1]
                again = _shapes("arch.decoder", layers, (latent[0], *wide[1:]))[-1]
            except UsageError:
                return False
            if wide[1:] != (latent[1] + down, latent[2] + right) or again[1:] != (
                height + down * by,
                width + right * by,
            ):
                return False
        return True


def _shapes(name: str, layers: Sequence[str], shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    found = [shape]
    for place, text in enumerate(layers):
        with torch.device("meta"):  # only its sizes are asked for, and a file may say any
            made = layer(text)
        try:
            gives = after(made, found[-1])
            _tried(made, found[-1], gives)
        except (ValueError, IndexError, TypeError, ZeroDivisionError, RuntimeError):
            given = "×".join(map(str, found[-1]))
            raise UsageError(f"{name}: layer {place}, {text[:80]!r}, does not take features of {given}") from None
        found.append(gives)
    return found


def _tried(one: nn.Module, shape: tuple[int, ...], gives: tuple[int, ...]) -> None:
    """Run a layer without weights on no image: some of their options torch refuses only then.

    Raises:
        ValueError, TypeError, RuntimeError: it does, or it gives something else than `gives`.
    """
    if any(True for _ in one.parameters()) or any(True for _ in one.buffers()):
        return
    made = one.eval()(torch.empty(0, *shape, device="cpu"))
    if not isinstance(made, Tensor) or tuple(made.shape) != (0, *gives):
        raise ValueError
