"""Images → latents → images by a trained model: what the handle does all else with, and what it refuses."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor

import aegen.inference.sizes as sizes
from aegen.errors import UsageError
from aegen.inference.arguments import SEEDS, dense, described, integers, whole
from aegen.inference.concatenation import joined
from aegen.inference.loading import Loaded
from aegen.noise import seeded
from aegen.protocols import ImageShape, Latent

_FULL = 1.001  # beyond what rounding makes of [-1, 1]
_CLASSES = "`model.classes` has their names, in this order"
_ALONE = threading.RLock()
"""Held by who seeds torch's generator, which all threads share."""


class _Near(Latent):
    """One whose mean lies beside its draws, wherever its posterior stays."""

    @property
    def mean(self) -> Tensor:
        return super().mean.to(self.z.device)


class Coder(Loaded):
    """A trained model that encodes and decodes tensors, in batches of its own."""

    @property
    def image(self) -> ImageShape:
        """Channels, height and width of its images."""
        return self.model.image

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one latent: `(D,)` or `(D, h, w)`."""
        return tuple(self.model.latent_shape)

    @property
    def any_size(self) -> bool:
        """Whether it takes images of other sizes than its own, and gives them: a net of convolutions whose latent is a map."""
        return self.model.any_size

    @property
    def factor(self) -> int:
        """How many times smaller the sides of a latent map are than those of its image, where it takes any size; else 1."""
        return self.model.factor if self.any_size else 1

    @property
    def classes(self) -> list[str]:
        """Names of the classes of the data that it was trained on, by label; empty where there are none."""
        return list(self.about.classes)

    @torch.no_grad()
    def encode(self, x: Tensor, *, labels: Tensor | Sequence[int] | None = None, seed: int = 0) -> Latent:
        """Images → Latent: `.mean` is the posterior mean, `.z` a draw from the posterior, `.codes` integers where it is discrete.

            >>> latent = model.encode(x)
            >>> latent.mean.shape, latent.posterior.std.shape
            (torch.Size([2, 3]), torch.Size([2, 3]))

        Args:
            x: (B, C, H, W) in [-1, 1]; of any size where the model takes any (`any_size`), the last row and column repeated until `factor`
                divides the sides.
            labels: class of each image (B,), for a model that was told classes; without it finds them itself.
            seed: of the draw.

        Raises:
            UsageError: the images are of another shape or range, or the run trained no encoder.
        """
        self.require_encoder("this")
        self._check_images(x)
        seed = whole(seed, "seed", *SEEDS)
        parts = []
        size = self._batch_of(x)
        told = None if labels is None else self._labels(labels, len(x)).split(size)
        with self._seeded(seed):
            for i, part in enumerate(x.split(size)):
                wide = sizes.padded(part.to(self.device, torch.float32), self.factor)
                parts.append(self.model.encode(wide, None if told is None else told[i]))
            latent = joined(parts)
        return _Near(
            latent.z.to(x.device),
            latent.penalty.to(x.device),
            latent.posterior,
            None if latent.codes is None else latent.codes.to(x.device),
            None if latent.charges is None else latent.charges.to(x.device),
            latent.watch,
            latent.statistics,
        )

    @torch.no_grad()
    def encode_batches(self, batches: Iterable[Tensor], *, seed: int = 0) -> Iterator[Latent]:
        """Batches of images (B, C, H, W) → their Latents, each with noise of its own.

            >>> means = [latent.mean for latent in model.encode_batches(model.read_batches("photos/"))]

        Raises:
            UsageError: as `encode`.
        """
        start, seed = 0, whole(seed, "seed", *SEEDS)
        for x in batches:
            yield self.encode(x, seed=(seed * 1_000_003 + start) % 2**63)
            start += len(x)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, *latent_shape) → images (B, C, H, W) in [-1, 1].

            >>> mean = model.encode(x).mean.mean(0, keepdim=True)
            >>> model.decode(mean).shape
            torch.Size([1, 1, 8, 8])

        Raises:
            UsageError: the latents are of another shape.
            RunError: a pixel is not finite.
        """
        self._check_latents(z)
        return torch.cat(list(self.decode_batches(z))).to(z.device)

    @torch.no_grad()
    def lookup(self, codes: Tensor) -> Tensor:
        """Codes, integers (B, …) as `encode(x).codes` has them → their latents (B, *latent_shape).

            >>> tokens = aegen.load("runs/codes")
            >>> latent = tokens.encode(tokens.read("a.png"))
            >>> bool((tokens.lookup(latent.codes) == latent.mean).all())
            True

        Raises:
            UsageError: the model has no codes, or there are none of these numbers.
        """
        neck = self.model.bottleneck
        if "codes" not in neck.offers:
            raise UsageError(
                f"the latents of {self.path} are no codes, but those of a {self.about.bottleneck.name} bottleneck",
                hint="train with --objective vq-vae, or decode latents instead",
            )
        shape, books = self._codes_shape, list(neck.codebooks)
        fits = dense(codes) and not codes.is_floating_point() and not codes.is_complex()
        fixed = len(shape) - 2 if self.any_size else len(shape)  # of images of other sizes there are other maps
        fits = fits and codes.ndim == 1 + len(shape) and tuple(codes.shape[1 : 1 + fixed]) == shape[:fixed]
        if not fits or (self.any_size and not codes.numel()):
            raise UsageError(f"codes are {described(codes)}, but the model's are integers (B, {_text(shape)})")
        sizes = torch.tensor(books).view(1, -1, *[1] * (len(shape) - 1)) if len(books) > 1 else torch.tensor(books[0])
        given = codes.cpu().long()
        if bool(((given < 0) | (given >= sizes)).any()):
            raise UsageError(f"codes must lie in 0…{max(books) - 1}, but are {int(given.min())}…{int(given.max())}")
        return neck.lookup(codes.to(self.device).long()).to(codes.device)

    # ------------------------------------------------------------------------------------------------ inside

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """Noise of its own, that changes no other; a thread at a time, since torch's generator is for all."""
        with _ALONE, seeded(seed, self.device):
            yield

    def _labels(self, labels: Tensor | Sequence[int], count: int) -> Tensor:
        """Classes as they were given → int64 (count,), where the model computes.

        Raises:
            UsageError: the model reads none, or they are no classes of its data.
        """
        told = integers(labels)
        if not self.model.labelled:
            raise UsageError(
                f"labels were given, but {self.path} has a {self.about.bottleneck.name} bottleneck, which reads none"
            )
        most = len(self.classes) - 1
        if told.shape != (count,):
            raise UsageError(
                f"labels are {tuple(told.shape)}, but must be ({count},), of 0…{most}", hint="one an image"
            )
        if count and not bool(((told >= 0) & (told <= most)).all()):
            raise UsageError(
                f"labels lie in {int(told.min())}…{int(told.max())}, but must lie in 0…{most}", hint=_CLASSES
            )
        return told.to(self.device)

    @cached_property
    def _codes_shape(self) -> tuple[int, ...]:
        """Of the codes of one image."""
        with self._seeded(0):
            codes = self.model.encode(torch.zeros(1, *self.image, device=self.device)).codes
        assert codes is not None, "a bottleneck that offers codes gives some"
        return tuple(codes.shape[1:])

    def _batch_of(self, x: Tensor) -> int:
        """How many of these images are encoded at a time: fewer of larger ones."""
        return max(1, min(self.batch, self.batch * math.prod(self.image) // max(1, x[0].numel())))

    def _check_images(self, x: Tensor) -> None:
        wanted = f"(B, {_text(self.image)}) in [-1, 1]"
        if not dense(x):
            raise UsageError(
                f"images are {described(x)}, but must be a tensor {wanted}", hint="model.read(paths) gives one"
            )
        if (
            x.ndim == 4
            and x.shape[1] == self.image[0]
            and tuple(x.shape[2:]) != self.image[1:]
            and min(x.shape[2:]) > 0
        ):
            sizes.require_any_size(self.model, self.path)
        elif tuple(x.shape[1:]) != tuple(self.image):
            hint = (
                "a single image is x[None]"
                if tuple(x.shape) == tuple(self.image)
                else "model.read(paths) brings files to that shape"
            )
            raise UsageError(f"images are {tuple(x.shape)}, but must be {wanted}", hint=hint)
        if not x.is_floating_point():
            raise UsageError(
                f"images are {x.dtype}, but must be floating point {wanted}", hint="bytes become x / 127.5 - 1"
            )
        if not len(x):
            raise UsageError(f"images are {tuple(x.shape)}, but must be at least one")
        low, high = (float(end) for end in x.float().aminmax())
        if not (low >= -_FULL and high <= _FULL):  # so written that NaN is refused too
            hint = "of 0…255 make x / 127.5 - 1" if high > 2 else ""
            raise UsageError(f"images reach from {low:.4g} to {high:.4g}, but must lie in [-1, 1]", hint=hint)

    def _check_latents(self, z: Tensor) -> None:
        shape = tuple(self.latent_shape)
        fits = dense(z) and (tuple(z.shape[1:]) == shape or (self.any_size and z.ndim == 4 and z.shape[1] == shape[0]))
        if not fits or not z.is_floating_point() or not z.numel():
            raise UsageError(
                f"latents are {described(z)}, but must be floating point (B, {_text(shape)})",
                hint="model.lookup(codes) makes latents of codes" if "codes" in self.model.bottleneck.offers else "",
            )


def _text(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
