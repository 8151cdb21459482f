"""The `state_dict` of somebody's own autoencoder: linear and convolutional layers in a row, with or without heads for mean and log-variance.

Names and shapes say which layers there are and in what order; what they do not say (activations, strides, ranges) is an option with the value that
most tutorials have. Where a net is another one, its layers can be said outright, as `print(module)` shows them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from torch import Tensor, cat, tensor

from aegen import ImageShape, Imported, Importer, ModelSpec, Range, Spec, UsageError, read_tensors
from aegen_builtin.importers.layers import Geometry, Layer, in_order, said

_ACTIVATIONS = {
    "relu": "ReLU()",
    "tanh": "Tanh()",
    "sigmoid": "Sigmoid()",
    "silu": "SiLU()",
    "gelu": "GELU()",
    "elu": "ELU()",
    "none": "",
}
_HEAD = r"(^|[._])(fc|linear|lin|to|z|layer|conv)?_?({})(_?layer|_?head|_?linear)?$|(^|\.)fc2{}$"
_MEAN = re.compile(_HEAD.format("mu|mean|loc", 1), re.IGNORECASE)
_SPREAD = re.compile(_HEAD.format("log_?var(iance)?|var|log_?sigma2?|log_?std", 2), re.IGNORECASE)
_STD = re.compile(r"log_?(sigma|std)(?!2)", re.IGNORECASE)
# Where a layer stands, by how its name begins: on the way there, the first ones back, on the way back, at its end.
_RANKS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^enc",
        r"^(dec\w*_?(in|input|fc)\b|from_?latent|latent_?to)",
        r"^(dec|gen)",
        r"^(final|out|to_?image|recon)",
    )
]
_MIDDLE = 0.5  # any other name, of which shapes must tell
_OUTRIGHT = "say all layers outright: --importer.encoder and --importer.decoder, as print(module) shows them"
_GUESSED = "where activations stand is guessed: hold these layers against your forward(), and say others by --importer.encoder, --importer.decoder"
_PLACE = "name all layers in order, heads left out: --importer.order"


class StateDict(Importer):
    """A safetensors `state_dict` of an MLP or convolutional autoencoder.

    Options:
        activation: between the layers; none after the last of the decoder, and of an encoder without heads.
        slope: of leaky-relu.
        output: what the decoder ends with: a sigmoid (pixels in [0, 1]), a tanh ([-1, 1]), or nothing.
        pixels: the range of the images that it was trained on: unit is [0, 1], symmetric [-1, 1].
        mean: of each channel, where images were normalised, (x - mean) / std, in the range of pixels.
        std: of each channel, likewise.
        size: [height, width] of the images; by default a square, from the shapes of the layers.
        strides: of the encoder's convolutions; 2 by default.
        back_strides: of the decoder's convolutions; by default 2 of transposed ones and 1 of others.
        padding: of convolutions; -1 is half the kernel, so that a stride of 2 halves the sides.
        heads: mean and logvar, or mean and log-std, of layers called so; auto goes by their names.
        order: names of the layers from the image to the latent and back, heads left out, where theirs do not tell.
        encoder: its layers as print(module) shows them, heads left out, in place of what is guessed.
        decoder: its layers, likewise.
        likelihood: p(x|z): bernoulli after a sigmoid, else gaussian.
        scale: standard deviation of a gaussian pixel.
    """

    def __init__(
        self,
        *,
        activation: Literal["relu", "leaky-relu", "tanh", "sigmoid", "silu", "gelu", "elu", "none"] = "relu",
        slope: Annotated[float, Range(0, 1)] = 0.01,
        output: Literal["sigmoid", "tanh", "none"] = "sigmoid",
        pixels: Literal["unit", "symmetric"] = "unit",
        mean: list[float] = [],  # noqa: B006
        std: Annotated[list[float], Range(above=0)] = [],  # noqa: B006
        size: Annotated[list[int], Range(1, 8192)] = [],  # noqa: B006
        strides: Annotated[list[int], Range(1, 16)] = [],  # noqa: B006
        back_strides: Annotated[list[int], Range(1, 16)] = [],  # noqa: B006
        padding: Annotated[int, Range(-1, 64)] = -1,
        heads: Literal["auto", "logvar", "log-std"] = "auto",
        order: list[str] = [],  # noqa: B006
        encoder: list[str] = [],  # noqa: B006
        decoder: list[str] = [],  # noqa: B006
        likelihood: Literal["auto", "bernoulli", "gaussian"] = "auto",
        scale: Annotated[float, Range(above=0)] = 1.0,
    ) -> None:
        if len(mean) != len(std):
            raise UsageError(
                f"importer.mean has {len(mean)} numbers and importer.std {len(std)}, but both take one a channel"
            )
        if size and len(size) != 2:
            raise UsageError(f"importer.size is {size}, but takes [height, width]")
        self.likelihood = likelihood if likelihood != "auto" else "bernoulli" if output == "sigmoid" else "gaussian"
        if self.likelihood == "bernoulli" and output != "sigmoid":
            raise UsageError(f"importer.likelihood bernoulli goes with importer.output sigmoid, not {output}")
        self.activation = f"LeakyReLU({slope})" if activation == "leaky-relu" else _ACTIVATIONS[activation]
        self.output, self.pixels, self.mean, self.std = output, pixels, mean, std
        self.size, self.heads, self.order, self.scale = size, heads, order, scale
        self.geometry = Geometry(strides, back_strides, padding)
        self.outright = encoder, decoder

    def read(self, place: Path) -> Imported:
        """The model of a safetensors file.

        Raises:
            UsageError: its layers are none that can be put in a row.
        """
        layers = said(read_tensors(place))
        means = [name for name in layers if _MEAN.search(name)]
        spreads = [name for name in layers if _SPREAD.search(name)]
        if len(means) > 1 or len(spreads) != len(means):
            found = ", ".join(in_order(means + spreads))
            raise UsageError(
                f"{place} has the heads {found}"[:300], hint="it takes one for the mean and one for the log-variance"
            )
        head = self._head(layers.pop(means[0]), layers.pop(spreads[0])) if means else None
        forth, back = self._halves(place, layers, head)
        image = self._image(forth, back)
        encoder, shape = self._encoder(forth, head, image)
        if head is None and len(shape) == 3 and not back[0].conv:
            encoder, shape = [*encoder, *["Flatten()"] * (not self.outright[0])], (math.prod(shape),)
        gaussian = head is not None or _twice(shape[0], back[0])
        dim = shape[0] // 2 if gaussian else shape[0]
        decoder = self._decoder(forth, back, (dim, *shape[1:]), image)
        state = _numbered("encoder", encoder, [*forth, *([head] if head else [])])
        state |= _numbered("decoder", decoder, back)
        spec = ModelSpec(
            arch=Spec("sequential", {"encoder": encoder, "decoder": decoder}),
            bottleneck=Spec("gaussian" if gaussian else "deterministic", {"dim": dim}),
            likelihood=Spec(self.likelihood, {"scale": self.scale} if self.likelihood == "gaussian" else {}),
            image=image,
        )
        notes = [f"encoder: {', '.join(encoder)}", f"decoder: {', '.join(decoder)}"]
        if not all(self.outright):
            notes.append(_GUESSED)
        return Imported(spec, state, notes)

    # ------------------------------------------------------------------------------------------------ which layers

    def _head(self, mean: Layer, spread: Layer) -> Layer:
        """Both heads as one layer, whose second half of channels is the log-variance."""
        if mean.weight.shape != spread.weight.shape or mean.norm or set(mean.tensors) != set(spread.tensors):
            raise UsageError(f"the heads {mean.name} and {spread.name} are not alike"[:300], hint=_OUTRIGHT)
        doubled = self.heads == "log-std" or (self.heads == "auto" and _STD.search(spread.name))
        factor = 2.0 if doubled else 1.0  # log σ² = 2 log σ
        return Layer(mean.name, {k: cat([mean.tensors[k], factor * v]) for k, v in spread.tensors.items()})

    def _halves(self, place: Path, layers: dict[str, Layer], head: Layer | None) -> tuple[list[Layer], list[Layer]]:
        """The layers from the image to the latent (without heads), and back."""
        names = self.order or sorted(in_order(layers), key=_rank)
        if sorted(names) != sorted(layers):
            raise UsageError(
                f"importer.order names {len(names)} layers, but they are {', '.join(in_order(layers))}"[:400]
            )
        row = [layers[name] for name in names]
        ranks = [] if self.order else [_rank(name) for name in names]
        if ranks and _MIDDLE not in ranks and 0 in ranks and ranks[-1] > 0:
            cut = next(i for i, rank in enumerate(ranks) if rank > 0)
        else:
            cut = _narrowest(row, head)
        if not 0 < cut < len(row) or row[0].norm or row[cut].norm:
            raise UsageError(
                f"where the latent of {place} lies, its layers do not tell: {', '.join(names)}"[:400], hint=_PLACE
            )
        return row[:cut], row[cut:]

    def _image(self, forth: list[Layer], back: list[Layer]) -> ImageShape:
        """The shape of its images."""
        first, last = forth[0], [one for one in back if not one.norm][-1]
        if not first.conv:
            if self.size:
                channels, rest = divmod(first.fan_in, math.prod(self.size))
                if rest or not 1 <= channels <= 4:
                    raise UsageError(f"importer.size is {self.size}, but its first layer takes {first.fan_in} numbers")
                return ImageShape(channels, *self.size)
            for channels in (1, 3):
                side = math.isqrt(first.fan_in // channels)
                if channels * side**2 == first.fan_in and (last.conv or last.out == first.fan_in):
                    return ImageShape(channels, side, side)
            _ask_size(f"its first layer takes {first.fan_in} numbers")
        if not 1 <= first.fan_in <= 4:
            raise UsageError(f"layer {first.name} takes {first.fan_in} channels, and images have 1 to 4"[:300])
        if self.size:
            return ImageShape(first.fan_in, *self.size)
        convs = [one for one in forth if one.conv]
        flat = [one.fan_in for one in forth if one.weight.ndim == 2] or [one.out for one in back[:1] if not one.conv]
        positions = flat[0] // convs[-1].out if flat else 0
        least = math.isqrt(positions)
        found = self.geometry.square(convs, least) if least and least**2 * convs[-1].out == flat[0] else None
        if found is None:
            _ask_size("its convolutions take any")
        return ImageShape(first.fan_in, found, found)

    # ------------------------------------------------------------------------------------------------ as text

    def _encoder(self, forth: list[Layer], head: Layer | None, image: ImageShape) -> tuple[list[str], tuple[int, ...]]:
        """The encoder's layers, and the shape that they end with."""
        ends = self.activation if head else ""
        texts, shape = self._row(forth, tuple(image), ends, [], back=False)
        if self.outright[0]:
            texts = list(self.outright[0])
        if head is not None:
            texts += ["Flatten()"] * (not head.conv and len(shape) == 3 and not self.outright[0]) + [_text(head, 1, 0)]
            shape = (head.out, *shape[1:]) if head.conv else (head.out,)
        return [*self._from_pixels(image), *texts], shape

    def _from_pixels(self, image: ImageShape) -> list[str]:
        """From [-1, 1] to the range that the encoder knows."""
        if self.mean and len(self.mean) not in (1, image.channels):
            raise UsageError(
                f"importer.mean has {len(self.mean)} numbers, but the images have {image.channels} channels"
            )
        half = 0.5 if self.pixels == "unit" else 0.0
        means, stds = self.mean or [0.0], self.std or [1.0]
        scale, shift = [(1 - half) / s for s in stds], [(half - m) / s for m, s in zip(means, stds, strict=True)]
        if scale == [1.0] and shift == [0.0]:
            return []
        return [f"Affine({_numbers(scale)}, {_numbers(shift)})"]

    def _decoder(self, forth: list[Layer], back: list[Layer], latent: tuple[int, ...], image: ImageShape) -> list[str]:
        """The decoder's layers, down to what the likelihood takes."""
        convs = [one for one in forth if one.conv]
        ladders = [self.geometry.ladder(image[1 + axis], axis, convs) for axis in (0, 1)]
        ends = {"sigmoid": "" if self.likelihood == "bernoulli" else "Sigmoid()", "tanh": "Tanh()", "none": ""}[
            self.output
        ]
        texts, shape = self._row(back, latent, ends, ladders, back=True)
        if self.outright[1]:
            texts = list(self.outright[1])
            while self.likelihood == "bernoulli" and texts and texts[-1].startswith("Sigmoid"):
                texts.pop()  # the likelihood has it
        elif len(shape) == 1:
            texts.append(f"Unflatten(1, ({image.channels}, {image.height}, {image.width}))")
        unit = self.output == "sigmoid" or (self.output == "none" and self.pixels == "unit")
        if unit and self.likelihood == "gaussian":
            texts.append("Affine(2.0, -1.0)")
        return texts

    def _row(
        self, layers: list[Layer], shape: tuple[int, ...], ends: str, ladders: Sequence[list[int]], *, back: bool
    ) -> tuple[list[str], tuple[int, ...]]:
        """Layers with what stands between them, and the shape of one image's features after them.

        Args:
            ends: the activation after the last.
            ladders: heights and widths on the way there, which transposed convolutions walk back.
        """
        texts: list[str] = []
        convs = 0
        for place, one in enumerate(layers):
            after = layers[place + 1] if place + 1 < len(layers) else None
            if one.norm:
                texts.append(f"BatchNorm{2 if len(shape) == 3 else 1}d({one.out})")
            elif one.conv:
                if len(shape) == 1:
                    shape = self._unflattened(one, shape[0], ladders)
                    texts.append(f"Unflatten(1, ({shape[0]}, {shape[1]}, {shape[2]}))")
                kinds = one.takes(shape[0])
                rising = bool(ladders) and shape[1] < ladders[0][0]
                one.transposed = back and True in kinds and (False not in kinds or rising)
                stride = self.geometry.stride(convs, one, back=back)
                text, sides = self._conv(one, stride, shape[1:], ladders)
                texts.append(text)
                shape, convs = (one.out, *sides), convs + 1
            else:
                if len(shape) == 3:
                    texts.append("Flatten()")
                texts.append(_text(one, 1, 0))
                shape = (one.out,)
            if after is None or not after.norm:
                texts += [text for text in [self.activation if after else ends] if text]
        return texts, shape

    def _unflattened(self, one: Layer, numbers: int, ladders: Sequence[list[int]]) -> tuple[int, ...]:
        """The map that a convolution of the decoder takes, of so many numbers: the encoder's last, or a square."""
        last = [ladder[-1] for ladder in ladders]
        for channels in dict.fromkeys([int(one.weight.shape[0]), int(one.weight.shape[1])]):
            if last and channels * math.prod(last) == numbers:
                return (channels, *last)
        channels = int(one.weight.shape[0])
        side = math.isqrt(numbers // channels)
        if channels * side**2 != numbers:
            raise UsageError(
                f"layer {one.name} takes {channels} channels, but is given {numbers} numbers"[:300], hint=_OUTRIGHT
            )
        return channels, side, side

    def _conv(
        self, one: Layer, stride: int, sides: tuple[int, ...], ladders: Sequence[list[int]]
    ) -> tuple[str, tuple[int, ...]]:
        """A convolution as text, and the sides that it leaves."""
        kernels = tuple(int(k) for k in one.weight.shape[2:])
        pads = tuple(self.geometry.pad(kernel, stride) for kernel in kernels)
        plain = tuple((s + 2 * p - k) // stride + 1 for s, k, p in zip(sides, kernels, pads, strict=True))
        if not one.transposed:
            return _text(one, stride, pads), plain
        base = [(s - 1) * stride - 2 * p + k for s, k, p in zip(sides, kernels, pads, strict=True)]
        more = []
        for axis, side in enumerate(base):
            above = min((s for s in ladders[axis] if s > sides[axis]), default=side)
            more.append(above - side if 0 <= above - side < stride else 0)
        return _text(one, stride, pads, tuple(more)), tuple(b + m for b, m in zip(base, more, strict=True))


def _twice(features: int, first: Layer) -> bool:
    """Whether the encoder gives mean and log-variance together: twice what the decoder's first layer takes."""
    takes = {int(size) for size in first.weight.shape[:2]} if first.conv else {first.fan_in}
    return features not in takes and features / 2 in takes


def _rank(name: str) -> float:
    return next((float(rank) for rank, pattern in enumerate(_RANKS) if pattern.search(name)), _MIDDLE)


def _narrowest(row: list[Layer], head: Layer | None) -> int:
    """Where the way back begins: what takes a latent of the heads' size, or the layer that takes the fewest numbers."""
    if head is not None:
        fits = [i for i, one in enumerate(row) if i and not one.norm and head.out // 2 in one.weight.shape[:2]]
        return fits[0] if fits else 0
    widths = {i: one.fan_in for i, one in enumerate(row) if i and one.weight.ndim == 2}
    return min(widths, key=lambda i: widths[i]) if widths else 0


def _ask_size(why: str) -> NoReturn:
    raise UsageError(f"the size of its images is not known: {why}", hint="say it: --importer.size '[height, width]'")


def _numbers(values: list[float]) -> str:
    texts = [f"{value:.12g}" for value in values]
    return texts[0] if len(texts) == 1 else f"({', '.join(texts)})"


def _text(one: Layer, stride: int, pads: tuple[int, ...] | int, more: tuple[int, ...] = ()) -> str:
    """A layer with weights, as `print(module)` shows it."""
    bias = "" if "bias" in one.tensors else ", bias=False"
    if not one.conv:
        return f"Linear({one.fan_in}, {one.out}{bias})"
    kernel = tuple(int(k) for k in one.weight.shape[2:])
    pads = pads if isinstance(pads, tuple) else tuple((k - 1) // 2 for k in kernel)
    name = "ConvTranspose2d" if one.transposed else "Conv2d"
    sizes = f"kernel_size={kernel}, stride={stride}, padding={pads}" + f", output_padding={more}" * any(more)
    return f"{name}({one.fan_in}, {one.out}, {sizes}{bias})"


def _numbered(half: str, texts: list[str], layers: Sequence[Layer]) -> dict[str, Tensor]:
    """The tensors of layers under the names that they have in a row of `texts`, of which those with weights are taken in turn."""
    weighted = [i for i, text in enumerate(texts) if text.startswith(("Linear", "Conv", "BatchNorm"))]
    if len(weighted) != len(layers):
        raise UsageError(f"the {half} has {len(weighted)} layers with weights, but the file {len(layers)}", hint=_PLACE)
    found = {f"{half}.{i}.{k}": v for i, one in zip(weighted, layers, strict=True) for k, v in one.tensors.items()}
    counters = {f"{half}.{i}.num_batches_tracked" for i in weighted if texts[i].startswith("BatchNorm")}
    return found | {name: tensor(0) for name in counters}
