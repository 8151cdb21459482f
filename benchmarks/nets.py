"""The nets that are raced, as one writes them down from their tables, and as architectures that aegen takes from a file.

`resnet` and `wide` are those that pythae ships for MNIST (its ResNet VAE nets and its convolutional ones), with pythae's layers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from aegen import Architecture, ImageShape

LATENT = {"mlp": 20, "conv": 20, "resnet": 16, "wide": 16}


class Residual(nn.Module):
    """x + [ReLU, C(32, 3), ReLU, C(128, 1)](x)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.ReLU(), nn.Conv2d(128, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 128, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 128, H, W) → the same shape."""
        return x + self.net(x)


def mlp(latent: int, out: int) -> tuple[nn.Module, nn.Module]:
    """784-400-latent, and back to logits."""
    return (
        nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, out)),
        nn.Sequential(nn.Linear(latent, 400), nn.ReLU(), nn.Linear(400, 784), nn.Unflatten(1, (1, 28, 28))),
    )


def conv(latent: int, out: int) -> tuple[nn.Module, nn.Module]:
    """Two strided convolutions and a layer of 256."""
    encoder = nn.Sequential(
        *[nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()],
        *[nn.Flatten(), nn.Linear(64 * 7 * 7, 256), nn.ReLU(), nn.Linear(256, out)],
    )
    decoder = nn.Sequential(
        *[nn.Linear(latent, 64 * 7 * 7), nn.ReLU(), nn.Unflatten(1, (64, 7, 7))],
        *[nn.ConvTranspose2d(64, 64, 3, 2, 1, output_padding=1), nn.ReLU()],
        *[nn.ConvTranspose2d(64, 32, 3, 2, 1, output_padding=1), nn.ReLU(), nn.Conv2d(32, 1, 3, 1, 1)],
    )
    return encoder, decoder


def resnet(latent: int, out: int) -> tuple[nn.Module, nn.Module]:
    """0.77 M parameters, 20.5 million multiplications an image."""
    encoder = nn.Sequential(
        *[nn.Conv2d(1, 64, 4, 2, 1), nn.Conv2d(64, 128, 4, 2, 1), nn.Conv2d(128, 128, 3, 2, 1)],
        *[Residual(), Residual(), nn.Flatten(), nn.Linear(2048, out)],
    )
    decoder = nn.Sequential(
        *[nn.Linear(latent, 2048), nn.Unflatten(1, (128, 4, 4)), nn.ConvTranspose2d(128, 128, 3, 2, 1)],
        *[Residual(), Residual(), nn.ReLU(), nn.ConvTranspose2d(128, 64, 3, 2, 1, output_padding=1), nn.ReLU()],
        nn.ConvTranspose2d(64, 1, 3, 2, 1, output_padding=1),
    )
    return encoder, decoder


def wide(latent: int, out: int) -> tuple[nn.Module, nn.Module]:
    """17.2 M parameters, 187 million multiplications an image."""
    widths = [1, 128, 256, 512, 1024]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Conv2d(fan_in, fan_out, 4, 2, 1), nn.BatchNorm2d(fan_out), nn.ReLU()]
    decoder = nn.Sequential(
        *[nn.Linear(latent, 1024 * 16), nn.Unflatten(1, (1024, 4, 4))],
        *[nn.ConvTranspose2d(1024, 512, 3, 2, 1), nn.BatchNorm2d(512), nn.ReLU()],
        *[nn.ConvTranspose2d(512, 256, 3, 2, 1, output_padding=1), nn.BatchNorm2d(256), nn.ReLU()],
        nn.ConvTranspose2d(256, 1, 3, 2, 1, output_padding=1),
    )
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, out)), decoder


PUBLISHED: dict[str, Callable[[int, int], tuple[nn.Module, nn.Module]]] = {
    "mlp": mlp,
    "conv": conv,
    "resnet": resnet,
    "wide": wide,
}
"""Latent dimensions and the encoder's outputs → encoder and decoder, from and to (B, 1, 28, 28)."""


class ResNet(Architecture):
    """pythae's ResNet nets for MNIST."""

    make = staticmethod(resnet)

    def __init__(self, image: ImageShape, fan_in: int) -> None:
        self.image, self.fan_in = image, fan_in

    def encoder(self) -> nn.Module:
        """(B, 1, 28, 28) → (B, fan_in)."""
        return self.make(1, self.fan_in)[0]

    def decoder(self, latent: tuple[int, ...], fan_out: int) -> nn.Module:
        """(B, latent) → (B, 1, 28, 28)."""
        return self.make(latent[0], 1)[1]


class Wide(ResNet):
    """pythae's convolutional nets for MNIST."""

    make = staticmethod(wide)
