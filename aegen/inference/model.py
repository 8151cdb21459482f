"""The handle on a trained model: tensors in, tensors out, batches and devices inside, and no file written."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import aegen.inference.latents as latents
import aegen.inference.samplers as samplers
import aegen.inference.sizes as sizes
import aegen.inference.statistics as statistics
from aegen.data.batches import normalize
from aegen.errors import UsageError, listing
from aegen.inference.arguments import SEEDS, dense, described, in_python, integers, paths_of, whole
from aegen.inference.concatenation import joined
from aegen.inference.loading import Loaded, open_checkpoint
from aegen.inference.reading import find_images, read_images
from aegen.messages import silent
from aegen.model_spec import LatentStatistics
from aegen.noise import seeded
from aegen.protocols import ImageShape, Latent, Sampler
from aegen.training.distributed import World
from aegen.untrusted import quoted

Score = Literal["pixel", "nll"]
_FULL = 1.001  # beyond what rounding makes of [-1, 1]
_ALONE = threading.RLock()
"""Held by who seeds torch's generator, which all threads share."""


class _Near(Latent):
    """One whose mean lies beside its draws, wherever its posterior stays."""

    @property
    def mean(self) -> Tensor:
        return super().mean.to(self.z.device)


def load(place: Path | str | None = None, *, device: str = "auto") -> Model:
    """The trained model of a run folder, a checkpoint file, or the latest run under ./runs.

        >>> import aegen
        >>> model = aegen.load("runs/digits")
        >>> x = model.read(["a.png", "b.png"])  # (2, C, H, W) in [-1, 1]
        >>> latent = model.encode(x)  # .mean, .z, .posterior, .codes
        >>> images = model.decode(latent.mean)  # (2, C, H, W)
        >>> again = model.reconstruct(x)  # the same
        >>> new = model.sample(16, seed=1)  # (16, C, H, W)
        >>> way = model.interpolate(x[0], x[1], steps=9)  # (9, C, H, W)
        >>> strange = model.score(x)  # (2,), mean squared error with pixels in [0, 1]; kind="nll": nats an image

    Averaged weights if the run kept them. Of the file only the tensors of the model are read.

    Args:
        device: where it computes: `auto`, `cpu`, `cuda`, `mps`.

    Raises:
        UsageError: there is no such checkpoint, or it is damaged.
        PluginError: it needs a plugin that is not installed.
    """
    found = open_checkpoint(place, device=device)
    return Model(found.path, found.file, found.about, found.model, found.device)


@dataclass(repr=False)
class Model(Loaded):
    """A trained autoencoder: tensors in, tensors out. It needs no gradients, writes no file, and never changes.

    Images are floating point (B, C, H, W) in [-1, 1], of the model's `image` shape, and what is given back is float32; latents are (B, *latent_shape). What is computed from
    a tensor lies on the device of that tensor, what comes from none (`read`, `sample`) on the CPU. Batches are made inside, so that
    any number of images may be given at once; what does not fit into memory goes batch by batch, through `read_batches`,
    `encode_batches`, `decode_batches` and `sample_batches`. (A latent's `posterior`
    and `watch` stay where the model computes.)

        >>> model = aegen.load("runs/digits")  # the examples of its methods go on from here
        >>> model
        <Model runs/digits/checkpoints/best.safetensors: mlp, gaussian, trained as vae; images 8×8×1, latents 3, on cpu>
        >>> model.latent_shape, model.samplers
        ((3,), ['mixture', 'prior'])
        >>> x = model.read(["a.png", "b.png"])

    The autoencoder itself, a `torch.nn.Module` with the parts `encoder`, `bottleneck`, `decoder` and `likelihood`, is `model`.
    """

    _prepared: dict[str, Sampler] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------------ what it is

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

    @property
    def samplers(self) -> list[str]:
        """Samplers that can draw at once; the first is the one that `sample` takes."""
        fitted = list(samplers.fitted(self))
        prior = ["prior"] * ("prior" in self.model.bottleneck.offers)
        usual = samplers.default_sampler(self)
        return sorted(dict.fromkeys([*fitted, *self._fitted_here(), *prior]), key=lambda name: (name != usual, name))

    def _fitted_here(self) -> list[str]:
        return [key.partition(" ")[0] for key in self._prepared]

    def __repr__(self) -> str:
        size = "×".join(map(str, self.latent_shape))
        trained = f"trained as {self.trained_as}" if self.file.has_run else "imported"
        parts = f"{self.about.arch.name}, {self.about.bottleneck.name}, {trained}"
        return f"<Model {self.path}: {parts}; images {self.image}, latents {size}, on {self.device}>"

    @cached_property
    def latent_statistics(self) -> LatentStatistics:
        """How the posterior means of its training images are spread: `mean` and `std` of each channel, `shift` and `scaling` of all.

        From the file, or, where that is of before they were kept there, measured now on the run's training images.

        Raises:
            UsageError: they are not known, and the model was imported or its images are gone.
        """
        if self.about.statistics is not None:
            return self.about.statistics
        self.require_encoder("measuring latents")
        self.require_run("measuring latents")
        train, seed = statistics.training_images(self), self.spec.train.seed
        with self._seeded(seed):
            return statistics.measure(self.model, train, seed)

    # ------------------------------------------------------------------------------------------------ images

    def read(self, paths: str | Path | Iterable[str | Path]) -> Tensor:
        """Image files, folders and globs → (N, C, H, W) in [-1, 1], brought to the model's shape as by every command, in order.

        What is left out or cannot be read in a folder is said in a warning of the log "aegen".

            >>> model.read("photos/").shape
            torch.Size([12, 1, 8, 8])

        Raises:
            UsageError: a file that was named cannot be read, or there is none.
        """
        return torch.cat(list(self.read_batches(paths)))

    def read_batches(self, paths: str | Path | Iterable[str | Path], batch: int | None = None) -> Iterator[Tensor]:
        """The images of `read` in batches (B, C, H, W), for more than fit into memory.

            >>> [len(batch) for batch in model.read_batches("photos/", 5)]
            [5, 5, 2]

        Args:
            batch: images in each but the last.

        Raises:
            UsageError: as `read`.
        """
        batch = None if batch is None else whole(batch, "batch", 1)
        places = paths_of(paths)
        if not places:
            raise UsageError("no image was named", hint="give files, folders or globs")
        sources, size, any_read = find_images([str(place) for place in places]), batch or self.batch, False
        for start in range(0, len(sources), size):
            part = sources[start : start + size]
            last = start + size >= len(sources)
            good, pixels = read_images(part, self, silent, any_will_do=any_read or not last)
            if good:
                any_read = True
                yield normalize(pixels)

    # ------------------------------------------------------------------------------------------------ latents

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
        if not fits or codes.ndim != 1 + len(shape) or tuple(codes.shape[1:]) != shape:
            raise UsageError(f"codes are {described(codes)}, but the model's are integers (B, {_text(shape)})")
        sizes = torch.tensor(books).view(1, -1, *[1] * (len(shape) - 1)) if len(books) > 1 else torch.tensor(books[0])
        given = codes.cpu().long()
        if bool(((given < 0) | (given >= sizes)).any()):
            raise UsageError(f"codes must lie in 0…{max(books) - 1}, but are {int(given.min())}…{int(given.max())}")
        return neck.lookup(codes.to(self.device).long()).to(codes.device)

    # ------------------------------------------------------------------------------------------------ uses

    @torch.no_grad()
    def reconstruct(
        self, x: Tensor, *, stochastic: bool = False, seed: int = 0, tile: int | None = None, overlap: int | None = None
    ) -> Tensor:
        """Images (B, C, H, W) → what the model makes of them, by the posterior mean, or `stochastic` by a draw; of the same size.

            >>> error = ((model.reconstruct(x) - x) / 2).square().mean()  # pixels in [0, 1]

        Args:
            tile: side of the tiles, in pixels, in which images are taken that do not fit into the memory at once; a multiple of `factor`.
            overlap: of neighbouring tiles, which are blended there; a quarter of `tile` by default. What lies further from a seam than
                the nets see is as without tiles.

        Raises:
            UsageError: as `encode`.
        """

        def again(part: Tensor) -> Tensor:
            latent = self.encode(part, seed=seed)
            made = self.decode(latent.z if stochastic else latent.mean)
            return made[:, :, : part.shape[2], : part.shape[3]]

        if tile is None:
            return again(x)
        self._check_images(x)
        sizes.require_any_size(self.model, self.path)
        tile = whole(tile, "tile", 2 * self.factor)
        tile -= tile % self.factor
        shared = whole(tile // 4 if overlap is None else overlap, "overlap", 1, tile // 2)
        shared += -shared % self.factor  # tiles then begin where the nets' own grid has a point
        return sizes.tiled(sizes.padded(x.float(), self.factor), again, tile, min(shared, tile // 2))[
            :, :, : x.shape[2], : x.shape[3]
        ]

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: str | None = None,
        label: str | int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Tensor:
        """`n` new images (n, C, H, W) in [-1, 1]; the same seed gives the same images.

            >>> model.sample(4, sampler="prior", seed=7).shape
            torch.Size([4, 1, 8, 8])

        Args:
            sampler: its name; by default the one that was fitted when training ended, else the prior. One that is not fitted yet is fitted
                on the run's training images, for this handle alone; one that is trained must have been, by `aegen fit-sampler`.
            label: class that they are to be of, by name or number, for a model that was told classes.
            options: of the sampler.

        Raises:
            UsageError: the sampler does not fit the model, or the model knows no such class; `n` is less than 1.
        """
        return torch.cat(list(self.sample_batches(n, sampler, label, seed, **options)))

    @torch.no_grad()
    def sample_batches(
        self,
        n: int,
        sampler: str | None = None,
        label: str | int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Iterator[Tensor]:
        """The images of `sample`, in batches (B, C, H, W).

        >>> count = sum(len(batch) for batch in model.sample_batches(1000))
        """
        n, seed = whole(n, "n", 1), whole(seed, "seed", *SEEDS)
        if not isinstance(sampler, str | None):
            raise UsageError(f"sampler is {quoted(sampler)}, but must be a name")
        told = None if label is None else str(label)
        with in_python():
            for z in samplers.draw_latents(
                self, n, sampler=sampler, options=options, label=told, seed=seed, prepare=self._prepare
            ):
                yield from self.decode_batches(z)

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, *, steps: int = 12, method: str = "lerp") -> Tensor:
        """The way from one image to another, ends included: images (C, H, W) → (steps, C, H, W); batches (B, C, H, W) → (B, steps, …).

            >>> model.interpolate(x[0], x[1], steps=5, method="slerp").shape
            torch.Size([5, 1, 8, 8])

        Args:
            method: `lerp`, straight, or `slerp`, along the great circle.

        Raises:
            UsageError: as `encode`; an unknown method; fewer than two steps.
        """
        if not isinstance(method, str) or method not in latents.METHODS:
            raise UsageError(f"method is {quoted(method)}, but takes {listing(latents.METHODS)}")
        steps = whole(steps, "steps", 2)
        for end in (a, b):
            self._check_images(end[None] if dense(end) and end.ndim == 3 else end)
        if a.shape != b.shape:
            raise UsageError(f"images are {tuple(a.shape)} and {tuple(b.shape)}, but take the same shape")
        both = [end.to(a.device, torch.float32) for end in (a, b)]
        pairs = torch.stack(both) if a.ndim == 3 else torch.cat(both)
        ends = self.encode(pairs).mean
        nearest = self.model.bottleneck.nearest
        ways = [
            latents.path(start.to(self.device), end.to(self.device), steps, method, nearest)
            for start, end in zip(*ends.chunk(2), strict=True)
        ]
        frames = torch.cat(list(self.decode_batches(torch.cat(ways)))).to(a.device)
        frames = frames[:, :, : a.shape[-2], : a.shape[-1]]
        return frames if a.ndim == 3 else frames.unflatten(0, (len(a), steps))

    @torch.no_grad()
    def score(self, x: Tensor, kind: Score = "pixel") -> Tensor:
        """How badly the model knows each image, (B,) float32: the higher, the stranger.

            >>> strangest = x[model.score(x).argmax()]

        Args:
            kind: `pixel`, the mean squared error of the reconstruction by the posterior mean, with pixels in [0, 1]; `nll`,
                -log p(x|z) at the posterior mean and what the bottleneck charges, in nats an image.

        Raises:
            UsageError: as `encode`; an unknown kind.
        """
        if kind not in ("pixel", "nll"):
            raise UsageError(f"kind is {quoted(kind)}, but takes pixel or nll")
        self._check_images(x)
        found = []
        for part in sizes.padded(x.float(), self.factor).split(self._batch_of(x)):
            latent = self.encode(part)
            if kind == "pixel":
                error = ((self.decode(latent.mean) - part) / 2).square().flatten(1).mean(1)
            else:
                pixels = self.model.decode(latent.mean.to(self.device))
                error = (pixels.nll(part.to(self.device)) + latent.penalty.to(self.device)).to(part.device)
            found.append(error)
        return torch.cat(found)

    # ------------------------------------------------------------------------------------------------ inside

    def _prepare(self, name: str, options: Mapping[str, Any]) -> Sampler:
        """A sampler that is fitted at most once, for this handle alone."""
        key = f"{name} {sorted(options.items())}"
        with self._seeded(self.spec.train.seed if self.file.has_run else 0):  # fitting encodes, and so draws
            if key not in self._prepared:
                self._prepared[key] = samplers.prepare_sampler(
                    self, name, dict(options), silent, World(self.device), keep=False
                )
        return self._prepared[key]

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
        if told.shape != (count,) or not bool(((told >= 0) & (told < len(self.classes))).all()):
            raise UsageError(f"labels are {tuple(told.shape)}, but must be ({count},), of 0…{len(self.classes) - 1}")
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
