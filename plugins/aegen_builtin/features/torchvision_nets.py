"""Torchvision's layers with weights from a safetensors file; nothing is downloaded. The maps are those that LPIPS compares.

VGG: Simonyan & Zisserman, Very Deep Convolutional Networks, 2015. AlexNet: Krizhevsky, One Weird Trick, 2014. SqueezeNet:
Iandola et al., SqueezeNet, 2016. Which maps: Zhang et al., The Unreasonable Effectiveness of Deep Features, 2018.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from aegen import FeatureNetwork, UsageError

_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet's colours in [-1, 1]


class _Layers(FeatureNetwork):
    """The convolutional layers of a network of torchvision's; pooled features are the mean over the positions of its last map.

    Options:
        weights: safetensors file with torchvision's state dictionary of it.
    """

    name: ClassVar[str]
    taps: ClassVar[tuple[int, ...]]
    mean: Tensor
    std: Tensor

    def __init__(self, *, weights: str = "") -> None:
        super().__init__()
        from torchvision.models import get_model

        self.width = self.channels[-1]
        with torch.device("meta"):  # neither time nor random numbers for what the file replaces
            layers: nn.Sequential = get_model(self.name, weights=None).features
        self.layers = layers[: self.taps[-1] + 1]
        self.layers.load_state_dict(_read(self.name, weights, self.layers.state_dict()), assign=True)
        self.layers.float().to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))

    def maps(self, x: Tensor) -> list[Tensor]:
        """RGB images (B, 3, H, W) in [-1, 1] → the maps that LPIPS compares, each (B, c, h, w), from 0 up."""
        x = (x - self.mean) / self.std
        found = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.taps:
                found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """RGB images (B, 3, H, W) in [-1, 1] → the mean over positions of the last map, (B, width)."""
        return self.maps(x)[-1].mean((2, 3))


class VGG16(_Layers):
    """VGG16; maps are the last of each resolution, pooled features the mean over positions of the last map."""

    name, taps, least = "vgg16", (3, 8, 15, 22, 29), 16
    channels = (64, 128, 256, 512, 512)


class AlexNet(_Layers):
    """AlexNet; maps are those of its five convolutions, pooled features the mean over positions of the last map."""

    name, taps, least = "alexnet", (1, 4, 7, 9, 11), 31
    channels = (64, 192, 384, 256, 256)


class SqueezeNet(_Layers):
    """SqueezeNet 1.1; maps are the seven that LPIPS compares, pooled features the mean over positions of the last map."""

    name, taps, least = "squeezenet1_1", (1, 4, 7, 9, 10, 11, 12), 17
    channels = (64, 128, 256, 384, 384, 512, 512)


def _read(name: str, path: str, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of those names and shapes from a safetensors file.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    hint = (
        'where torchvision may download, this writes it: python -c "import torchvision.models as m, safetensors.torch as s; '
        f"s.save_file(m.{name}(weights='DEFAULT').state_dict(), '{name}.safetensors')\""
    )
    if not Path(path).is_file():
        given = f"{path!r} is no file" if path else "none is given"
        raise UsageError(
            f"the feature network {name} needs a safetensors file with its weights, and {given}", hint=hint
        )
    try:
        with safe_open(path, framework="pt") as file:
            held = set(file.keys())
            found = {key: file.get_tensor(f"features.{key}") for key in wanted if f"features.{key}" in held}
    except SafetensorError as error:
        raise UsageError(f"{path} is no safetensors file ({error})", hint=hint) from error
    wrong = [key for key, like in wanted.items() if key not in found or found[key].shape != like.shape]
    if wrong:
        what = f"features.{wrong[0]} is missing or of another shape"
        raise UsageError(f"{path} does not hold the weights of {name}: {what}", hint=hint)
    return found
