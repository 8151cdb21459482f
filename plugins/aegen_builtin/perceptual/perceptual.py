"""Distance in the maps of a network that was trained to recognise things: LPIPS, or without its learned weights.

Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018; beside an autoencoder's other terms:
Esser et al., Taming Transformers, 2021. The distance: see `lpips`. Its network is none of the objective's modules, so no checkpoint
holds it and nothing trains it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated

from torch import Tensor

from aegen import Autoencoder, File, ImageShape, Objective, Outcome, Range, Turn, UsageError, Wrapper, build_features
from aegen_builtin.perceptual.lpips import FeatureDistance, read_heads
from aegen_builtin.perceptual.refusal import given, require_encoder

_OPTION = "--objective.perceptual."


class Perceptual(Wrapper):
    """What it wraps, plus the distance of image and reconstruction in a network's features.

    Options:
        weight: of the distance, in nats per pixel value.
        features: the network; those of torchvision need `weights`, efficientnet-lite0 the extra `features`.
        weights: safetensors file with the network's state dictionary, where it has none of its own.
        heads: safetensors file with LPIPS's weights of the channels (lin0.model.1.weight …); equal ones without.
    """

    def __init__(
        self,
        inner: Objective,
        image: ImageShape,
        *,
        weight: Annotated[float, Range(0)] = 0.1,
        features: str = "efficientnet-lite0",
        weights: Annotated[str, File()] = "",
        heads: Annotated[str, File()] = "",
    ) -> None:
        super().__init__(inner)
        require_encoder(inner, "perceptual", "judges reconstructions")
        if image.channels not in (1, 3):
            raise UsageError(
                f"objective 'perceptual' takes grey or RGB images, not {image.channels} channels",
                hint="give --channels 3",
            )
        self.weight, self.pixels = weight, image.channels * image.height * image.width
        net = build_features(features, weights, option=f"{_OPTION}features", weights_option=f"{_OPTION}weights")
        learned = read_heads(features, heads, net.channels, f"{_OPTION}heads") if heads else []
        # Inside a tuple it is no submodule: not saved, not counted, never in training mode.
        self._distance = (FeatureDistance(net, learned),)

    def turns(self) -> list[Turn]:
        """The inner turns, the first with the term `perceptual`."""
        first, *others = self.inner.turns()
        return [replace(first, loss=partial(self.compare, first.loss)), *others]

    def compare(self, inner: Callable[[Autoencoder, Tensor], Outcome], model: Autoencoder, x: Tensor) -> Outcome:
        """The inner terms and `perceptual`, (B,); gradients pass through the network to the reconstruction."""
        outcome = inner(model, x)
        recon = given(outcome.recon, "perceptual", "reconstruction")
        (distance,) = self._distance
        return outcome.plus({"perceptual": self.weight * self.pixels * distance(x, recon)})
