"""A variational autoencoder whose error is measured in the features of the critic that it is trained to deceive.

Larsen et al., Autoencoding beyond pixels using a learned similarity metric, 2016, eq. 7 to 9 and algorithm 1: images stand
against reconstructions and draws from the prior. The decoder's side of the game is the non-saturating one (Goodfellow et al.,
2014). The critic sees the whole image, for nothing else judges a draw; it is without normalisation, so that its verdict on
one image does not depend on the others. The error is a unit normal's in the features, without its constant.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from aegen import Autoencoder, ImageShape, Objective, Outcome, Range, Turn, UsageError
from aegen.nn.precision import at_least_float32
from aegen_builtin.adversarial.bound import bound, decode_apart
from aegen_builtin.adversarial.gan_losses import critic_loss, fooling_loss
from aegen_builtin.adversarial.latent_critic import draw_prior


class FeatureCritic(nn.Module):
    """Images (B, C, H, W) in [-1, 1] → features of the strided layer `layer`, and one verdict an image, (B, 1)."""

    def __init__(self, image: ImageShape, width: int, depth: int, layer: int) -> None:
        super().__init__()
        widths = [image.channels, *(width * 2**level for level in range(depth))]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Conv2d(fan_in, fan_out, 3, 2, 1), nn.LeakyReLU(0.2)]
        flat = widths[-1] * math.prod(-(-side // 2**depth) for side in image[1:])
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, 1))
        self.split = 2 * layer  # a convolution and its activation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both in float32 at least, whatever the precision of the layers."""
        features = self.net[: self.split](x)
        return at_least_float32(features), at_least_float32(self.net[self.split :](features))


def feature_error(real: Tensor, fake: Tensor) -> Tensor:
    """Half the squared distance of features (B, …), summed over them, (B,) nats."""
    return 0.5 * (real - fake).square().flatten(1).sum(1)


class VAEGAN(Objective):
    """Encoder: penalty and error in features. Decoder: error in features and the critic's verdict. Validation: the bound.

    No turn minimises the error in pixels, but a learned scale of the likelihood follows it.

    Options:
        gamma: weight of the error in features beside the verdict, in the decoder's turn.
        width: channels of the critic's first layer.
        depth: number of the critic's strided layers.
        layer: which of them gives the features, from 1.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"prior", "penalty"})

    def __init__(
        self,
        image: ImageShape,
        *,
        gamma: Annotated[float, Range(0)] = 1.0,
        width: Annotated[int, Range(1, 16_384)] = 32,
        depth: Annotated[int, Range(1, 6)] = 3,
        layer: Annotated[int, Range(1, 6)] = 2,
    ) -> None:
        super().__init__()
        if layer > depth:
            raise UsageError(f"objective.layer is {layer}, but the critic has {depth} strided layers")
        self.gamma = gamma
        self.critic = FeatureCritic(image, width, depth, layer)

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the terms `error` and `penalty`, (B,): the bound, comparable with a vae's."""
        return bound(model, self, x)

    def turns(self) -> list[Turn]:
        """`encoder`, `decoder`, then `judge`, the critic's."""
        return [
            Turn("encoder", self.infer, trains=("encoder", "bottleneck")),
            Turn("decoder", self.draw, trains=("decoder", "likelihood")),
            Turn("judge", self.judge, trains=(self.critic,)),
        ]

    def infer(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms `features` and `penalty`, (B,)."""
        latent = model.encode(x)
        pixels = model.decode(latent.z)
        error = feature_error(self.critic(x)[0], self.critic(pixels.mean)[0])
        return Outcome({"features": error, "penalty": latent.penalty}, pixels, latent)

    def draw(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms `features`, `verdict` and `error`, (B,); the last has gradients to the likelihood's parameters alone."""
        with torch.no_grad():
            z = model.encode(x).z
        pixels, apart = decode_apart(model, z)
        features, on_recon = self.critic(pixels.mean)
        _, on_drawn = self.critic(model.decode(draw_prior(model, z)).mean)
        verdict = fooling_loss("non-saturating", on_recon) + fooling_loss("non-saturating", on_drawn)
        error = feature_error(self.critic(x)[0], features)
        return Outcome({"features": self.gamma * error, "verdict": verdict, "error": apart.nll(x)}, pixels)

    def judge(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The term `critic`, (B,); the autoencoder only supplies reconstructions and draws."""
        with torch.no_grad():
            z = model.encode(x).z
            recon, drawn = model.decode(z).mean, model.decode(draw_prior(model, z)).mean
        (_, on_real), (_, on_recon), (_, on_drawn) = self.critic(x), self.critic(recon), self.critic(drawn)
        critic = critic_loss("non-saturating", on_real, on_recon) + softplus(on_drawn).squeeze(1)
        verdicts = {"real": on_real, "recon": on_recon, "drawn": on_drawn}
        return Outcome({"critic": critic}, watch={name: verdict.squeeze(1) for name, verdict in verdicts.items()})

    def settled(self, step: int) -> bool:
        """Never: it does not minimise the bound of the pixels that validation shows, so the lowest is not the best."""
        return False
