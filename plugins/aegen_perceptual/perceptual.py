"""Distance in the features of a network that was trained to recognise things: LPIPS, or without its learned weights.

Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018; beside an autoencoder's other terms:
Esser et al., Taming Transformers, 2021. The distance: see `features`. Its network is none of the objective's modules, so no
checkpoint holds it and nothing trains it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from torch import Tensor

from aegen import Autoencoder, ImageShape, Objective, Outcome, Range, Turn, UsageError, Wrapper
from aegen_perceptual.features import FeatureDistance


class Perceptual(Wrapper):
    """What it wraps, plus the distance of image and reconstruction in a network's features.

    Options:
        weight: of the distance, in nats per pixel value.
        features: the network, one of torchvision's.
        weights: safetensors file with the network's state dictionary.
        heads: safetensors file with LPIPS's weights of the channels (lin0.model.1.weight …), all 1 without.
    """

    def __init__(
        self,
        inner: Objective,
        image: ImageShape,
        *,
        weight: Annotated[float, Range(0)] = 0.1,
        features: Literal["vgg16", "alexnet", "squeezenet1_1"] = "vgg16",
        weights: str = "",
        heads: str = "",
    ) -> None:
        super().__init__(inner)
        if image.channels not in (1, 3):
            raise UsageError(
                f"objective 'perceptual' takes grey or RGB images, not {image.channels} channels",
                hint="give --channels 3",
            )
        self.weight, self.pixels = weight, image.channels * image.height * image.width
        # Inside a tuple it is no submodule: not saved, not counted, never in training mode.
        self._distance = (FeatureDistance(features, weights, heads),)

    def turns(self) -> list[Turn]:
        """The inner turns, the first with the term `perceptual`."""
        first, *others = self.inner.turns()
        return [replace(first, loss=partial(self.compare, first.loss)), *others]

    def compare(self, inner: Callable[[Autoencoder, Tensor], Outcome], model: Autoencoder, x: Tensor) -> Outcome:
        """The inner terms and `perceptual`, (B,); gradients pass through the network to the reconstruction."""
        outcome = inner(model, x)
        assert outcome.recon is not None, "the inner objective gives no reconstruction"
        (distance,) = self._distance
        return outcome.plus({"perceptual": self.weight * self.pixels * distance(x, outcome.recon)})
