"""LPIPS, the distance of two images in the features of a network that was trained to recognise things.

Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018, eq. 1. Weights are read from
safetensors files; nothing is downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import interpolate

from aegen import UsageError

# By network: the layers that are compared, their channels, and the smallest image that reaches the last of them.
_NETS = {
    "vgg16": ((3, 8, 15, 22, 29), (64, 128, 256, 512, 512), 16),
    "alexnet": ((1, 4, 7, 9, 11), (64, 192, 384, 256, 256), 31),
    "squeezenet1_1": ((1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512), 17),
}
_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet's colours in [-1, 1]
_TINY = 1e-10


class FeatureDistance(nn.Module):
    """Pairs of images → their distance, by a frozen network.

    Args:
        name: of a network of torchvision's.
        weights: safetensors file with its state dictionary.
        heads: safetensors file with LPIPS's weights of the channels; without one each is 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: str, heads: str) -> None:
        super().__init__()
        from torchvision.models import get_model

        self.taps, channels, self.least = _NETS[name]
        with torch.device("meta"):  # neither time nor random numbers for what the file replaces
            self.net: nn.Sequential = get_model(name, weights=None).features
        shapes = {f"features.{key}": tuple(value.shape) for key, value in self.net.state_dict().items()}
        hint = (
            'where torchvision may download, this writes it: python -c "import torchvision.models as m, safetensors.torch as s; '
            f"s.save_file(m.{name}(weights='DEFAULT').state_dict(), '{name}.safetensors')\""
        )
        state = _read(f"the weights of {name}", "weights", weights, shapes, hint)
        self.net.load_state_dict({key.removeprefix("features."): value for key, value in state.items()}, assign=True)
        self.heads = nn.ParameterList()
        if heads:
            shapes = {f"lin{level}.model.1.weight": (1, count, 1, 1) for level, count in enumerate(channels)}
            hint = f"save the state dictionary that LPIPS has for {name} as safetensors"
            self.heads.extend(_read(f"LPIPS's weights for {name}", "heads", heads, shapes, hint).values())
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))
        self.eval().requires_grad_(False).float().to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1], grey or RGB → distances (B,); gradients pass to y alone."""
        if self.mean.device != x.device or self.mean.dtype != x.dtype:
            self.to(x)  # it is no part of the model, so nobody else moves it
        with torch.no_grad():
            wanted = self.features(x)
        distance = x.new_zeros(len(x))
        for level, (a, b) in enumerate(zip(wanted, self.features(y), strict=True)):
            square = (a - b).square()
            by_place = (square * self.heads[level] if self.heads else square).sum(1)
            distance = distance + by_place.flatten(1).mean(1)
        return distance

    def features(self, x: Tensor) -> list[Tensor]:
        """Images → the features of each compared layer, (B, c, h, w), of unit length at every place."""
        scale = self.least / min(x.shape[2:])
        if scale > 1:
            x = interpolate(x, [math.ceil(side * scale) for side in x.shape[2:]], mode="bilinear")
        x = (x.expand(-1, 3, -1, -1) - self.mean) / self.std
        found = []
        for index, layer in enumerate(self.net[: self.taps[-1] + 1]):
            x = layer(x)
            if index in self.taps:
                found.append(_unit(x))
        return found


def _unit(f: Tensor) -> Tensor:
    """Features (B, c, h, w) of unit length; where all are 0 they stay so, and their gradient is finite."""
    f = f.float() if f.dtype.itemsize < 4 else f  # what keeps the root from 0 is 0 in half precision
    return f * (f.square().sum(1, keepdim=True) + _TINY).rsqrt()


def _read(what: str, option: str, path: str, shapes: Mapping[str, tuple[int, ...]], hint: str) -> dict[str, Tensor]:
    """The tensors of those shapes, by name, from a safetensors file.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    name = f"--objective.perceptual.{option}"
    if not Path(path).is_file():
        given = f"{name} is {path!r}, which is no file" if path else f"objective 'perceptual' needs {name}"
        raise UsageError(f"{given}; it takes a safetensors file with {what}", hint=hint)
    try:
        with safe_open(path, framework="pt") as file:
            held = set(file.keys())
            found = {key: file.get_tensor(key) for key in shapes if key in held}
    except SafetensorError as error:
        raise UsageError(f"{name}: {path} is no safetensors file ({error})", hint=hint) from error
    wrong = [key for key, shape in shapes.items() if key not in found or tuple(found[key].shape) != shape]
    if wrong:
        raise UsageError(f"{name}: {path} does not hold {what}: {wrong[0]} is missing or of another shape", hint=hint)
    return found
