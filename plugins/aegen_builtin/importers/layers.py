"""Layers as a `state_dict` tells of them: their tensors by name, their widths by the shapes of those, and how sides shrink and grow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from aegen import UsageError

_WEIGHTS = ("weight", "bias", "running_mean", "running_var")
_WRAPPERS = re.compile(r"^(module|model|vae|ae|autoencoder|net|_orig_mod)$")


@dataclass
class Layer:
    """A layer by its tensors: `weight`, `bias`, `running_mean`, `running_var`.

    Attributes:
        transposed: whether a convolution is one of those that widen.
    """

    name: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    transposed: bool = False

    @property
    def weight(self) -> Tensor:
        """Of a linear layer (out, in), of a convolution (out, in, h, w), transposed (in, out, h, w), of a norm (channels,)."""
        return self.tensors["weight"]

    @property
    def norm(self) -> bool:
        """Whether it has one weight a channel."""
        return self.weight.ndim == 1

    @property
    def conv(self) -> bool:
        """Whether it is a convolution."""
        return self.weight.ndim == 4

    @property
    def fan_in(self) -> int:
        """Features or channels that it takes."""
        return int(self.weight.shape[0 if self.transposed or self.norm else 1])

    @property
    def out(self) -> int:
        """Features or channels that it gives."""
        return int(self.weight.shape[1 if self.transposed else 0])

    def takes(self, channels: int) -> set[bool]:
        """Of a convolution: whether it can be a transposed one, or a plain one, for so many channels."""
        first, second = self.weight.shape[:2]
        bias = len(self.tensors["bias"]) if "bias" in self.tensors else None
        plain = second == channels and bias in (None, first)
        widening = first == channels and bias in (None, second)
        return {kind for kind, can in ((True, widening), (False, plain)) if can}


def said(tensors: Mapping[str, Tensor]) -> dict[str, Layer]:
    """The layers of a state_dict by name; counters of batches, which only training needs, are left out.

    Raises:
        UsageError: a tensor is of no layer that is known here.
    """
    layers: dict[str, Layer] = {}
    names = {key: key.rpartition(".")[::2] for key in tensors if not key.endswith("num_batches_tracked")}
    while (heads := {path.partition(".")[0] for path, _ in names.values()}) and len(heads) == 1:
        if not _WRAPPERS.match(next(iter(heads))) or any("." not in path for path, _ in names.values()):
            break
        names = {key: (path.partition(".")[2], last) for key, (path, last) in names.items()}
    for key, (path, last) in names.items():
        tensor = tensors[key]
        if last not in _WEIGHTS:
            raise UsageError(
                f"tensor {key[:80]!r} is of no linear layer, convolution or batch norm",
                hint="an importer for such nets is a plugin; this one takes layers in a row",
            )
        if not tensor.is_floating_point() or not tensor.numel() or not bool(tensor.float().isfinite().all()):
            kind = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
            raise UsageError(
                f"tensor {key[:80]!r}, {kind}, is empty, of whole numbers, or holds what is not finite",
                hint="weights are finite floating point numbers; save those of a model that was trained to its end",
            )
        layers.setdefault(path, Layer(path)).tensors[last] = tensor.float()
    for layer in layers.values():
        shapes = {last: tuple(tensor.shape) for last, tensor in layer.tensors.items()}
        widths = {shapes.get("bias"), shapes.get("running_mean"), shapes.get("running_var")} - {None}
        if "weight" not in shapes or len(shapes["weight"]) not in (1, 2, 4) or any(len(w or ()) != 1 for w in widths):
            raise UsageError(f"layer {layer.name[:80]!r} has tensors of {shapes}, as no layer that is known here"[:400])
        if layer.norm and set(shapes) != set(_WEIGHTS):
            raise UsageError(
                f"layer {layer.name[:80]!r} may be a group norm, a layer norm or a PReLU: its shapes do not tell",
                hint="say all layers outright: --importer.encoder and --importer.decoder, as print(module) shows them",
            )
        wanted = {(width,) for width in shapes["weight"][: 1 if layer.weight.ndim == 2 else 2]}
        if not widths <= wanted:
            raise UsageError(f"layer {layer.name[:80]!r} has tensors of {shapes}, which do not fit each other"[:400])
    return layers


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that has `encoder.10` after `encoder.9`."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d{1,9}|\D+", name)]


def in_order(names: Iterable[str]) -> list[str]:
    """Sorted so that numbers count."""
    return sorted(names, key=natural)


@dataclass
class Geometry:
    """Strides and padding of convolutions, by their place in each half.

    Attributes:
        forth, back: strides; beyond their end, 2 of the encoder's and of transposed ones, 1 of others.
        padding: of all; where it is -1, half the kernel, so that a stride of 2 halves an even side.
    """

    forth: list[int]
    back: list[int]
    padding: int

    def stride(self, place: int, layer: Layer, *, back: bool) -> int:
        """Of the convolution that is the `place`-th of its half."""
        given = self.back if back else self.forth
        usual = 1 if back and not layer.transposed else 2
        return given[place] if place < len(given) else usual

    def pad(self, kernel: int, stride: int) -> int:
        """The padding for a kernel."""
        return self.padding if self.padding >= 0 else max(0, (kernel - stride + 1) // 2)

    def ladder(self, side: int, axis: int, convs: list[Layer]) -> list[int]:
        """The length of a side before and after each of the encoder's convolutions."""
        sides = [side]
        for place, layer in enumerate(convs):
            kernel, stride = int(layer.weight.shape[2 + axis]), self.stride(place, layer, back=False)
            sides.append((sides[-1] + 2 * self.pad(kernel, stride) - kernel) // stride + 1)
        return sides

    def square(self, convs: list[Layer], last: int) -> int | None:
        """The side of square images of which the convolutions leave `last`: one that the strides divide, if there is one."""
        whole = math.prod(self.stride(place, layer, back=False) for place, layer in enumerate(convs))
        fits = [side for side in range(1, 1025) if self.ladder(side, 0, convs)[-1] == last]
        return next((side for side in fits if side % whole == 0), fits[-1] if fits else None)
