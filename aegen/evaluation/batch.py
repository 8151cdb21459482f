"""What a metric sees: a batch of images and what the model makes of them, each part computed when it is first asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor

from aegen.autoencoder import Autoencoder
from aegen.evaluation.feature_cache import Kept
from aegen.evaluation.features import FeatureSpace
from aegen.evaluation.protocol import Protocol
from aegen.protocols import Latent, Objective, Outcome, Pixels

_LEVELS = 127.5  # grey levels in a unit of [-1, 1]


class Seen:
    """A batch of an evaluation.

    Attributes:
        source: `held-out`, `reference` (training images, where the protocol compares with those) or `samples`.
        model, objective: in evaluation mode; gradients are off.
        x: the images, (B, C, H, W) in [-1, 1].
        labels: their classes, int64 (B,), where the data has them.
        factors: what the images were made from, int64 (B, F), where that is known.
        factor_names: of its columns.
        protocol: what is held fixed.
        start: how many images of the source came before these.
        total: how many the source has.
        z: the latents that generated images were decoded from, (B, *z).
    """

    def __init__(
        self,
        source: str,
        model: Autoencoder,
        objective: Objective,
        x: Tensor,
        labels: Tensor | None,
        protocol: Protocol,
        space: FeatureSpace | None,
        start: int = 0,
        z: Tensor | None = None,
        kept: Kept | None = None,
        total: int = 0,
        factors: Tensor | None = None,
        factor_names: Sequence[str] = (),
    ) -> None:
        self.source, self.model, self.objective = source, model, objective
        self.x, self.labels, self.protocol = x, labels, protocol
        self.start, self.z, self.total = start, z, total
        self.factors, self.factor_names = factors, list(factor_names)
        self._space, self._kept = space, kept

    @property
    def held_out(self) -> bool:
        """Whether these are the images that the model is judged by."""
        return self.source == "held-out"

    @property
    def reference(self) -> bool:
        """Whether generated images are compared with these."""
        return self.source == ("reference" if self.protocol.reference == "train" else "held-out")

    @property
    def generated(self) -> bool:
        """Whether the model drew these."""
        return self.source == "samples"

    @property
    def seed(self) -> int:
        """Of what is drawn for this batch."""
        return (self.protocol.seed * 1_000_003 + self.start) % 2**63

    def among(self, count: int) -> bool:
        """Whether this batch is one of those, spread evenly over the source, that have about `count` images together."""
        batches, stop = math.ceil(count / len(self.x)), self.start + len(self.x)
        return self.total <= count or stop * batches // self.total > self.start * batches // self.total

    @contextmanager
    def _noise(self) -> Iterator[None]:
        """The same noise whoever asks first, and another than that of the metric that asks."""
        devices = [self.x.device] if self.x.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.seed ^ 0x5EED0000)
            yield

    @cached_property
    def latent(self) -> Latent:
        """Of the images; their classes are told."""
        with self._noise():
            return self.model.given(self.labels).encode(self.x)

    @cached_property
    def pixels(self) -> Pixels:
        """p(x|z), z being what the protocol takes for the latent."""
        return self.model.decode(self.latent.mean if self.protocol.latent == "mean" else self.latent.z)

    @cached_property
    def recon(self) -> Tensor:
        """The reconstructions, (B, C, H, W) in [-1, 1], rounded to 8 bits if the protocol says so."""
        return self.rounded(self.pixels.mean)

    @cached_property
    def outcome(self) -> Outcome:
        """What the objective says of the images, as in validation."""
        with self._noise():
            return self.objective.loss(self.model.given(self.labels), self.x)

    @cached_property
    def features(self) -> Tensor:
        """Of the images, (B, width)."""
        return self.space(self.x) if self._kept is None else self._kept.features(self.start, self.x)

    @cached_property
    def recon_features(self) -> Tensor:
        """Of the reconstructions, (B, width)."""
        return self.space(self.recon)

    @cached_property
    def maps(self) -> list[Tensor]:
        """Of the images, by level of the network, each (B, c, h, w)."""
        return self.space.maps(self.x)

    @cached_property
    def recon_maps(self) -> list[Tensor]:
        """Of the reconstructions, by level."""
        return self.space.maps(self.recon)

    @property
    def space(self) -> FeatureSpace:
        """The features of the protocol; a metric that uses them needs `features`."""
        assert self._space is not None, "a metric that uses features must say so in its needs"
        return self._space

    def rounded(self, images: Tensor) -> Tensor:
        """As they would be in a file of 8 bits, if the protocol says so."""
        images = images.clamp(-1, 1)
        return ((images + 1) * _LEVELS).round() / _LEVELS - 1 if self.protocol.rounding else images
