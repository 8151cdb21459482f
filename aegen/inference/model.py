"""The handle on a trained model: tensors in, tensors out, batches and devices inside, and no file written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
from aegen.errors import UsageError, listing
from aegen.inference.arguments import SEEDS, dense, in_python, paths_of, whole
from aegen.inference.coding import Coder
from aegen.inference.loading import open_checkpoint
from aegen.inference.reading import find_images, read_in_batches, stacked
from aegen.messages import silent
from aegen.model_spec import LatentStatistics
from aegen.protocols import Sampler
from aegen.training.distributed import World
from aegen.untrusted import quoted

Score = Literal["pixel", "nll"]


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

    Of a model with a codebook, `model.lookup(latent.codes)` gives the latents of codes, (B, *latent_shape).

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
class Model(Coder):
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

    def read(self, paths: str | Path | Iterable[str | Path], size: sizes.Size | None = None) -> Tensor:
        """Image files, folders and globs → (N, C, H, W) in [-1, 1], brought to the model's shape as by every command, in order.

        What is left out or cannot be read in a folder is said in a warning of the log "aegen".

            >>> model.read("photos/").shape
            torch.Size([12, 1, 8, 8])

        Args:
            size: another than the model's, where it takes any (`any_size`): pixels a side, (height, width), or `own`, that of the files, which
                must then be of one.

        Raises:
            UsageError: a file that was named cannot be read, or there is none; it takes no such size.
        """
        parts = list(self.read_batches(paths, size=size))
        with in_python():
            return stacked([image for part in parts for image in part]) if size == sizes.OWN else torch.cat(parts)

    def read_batches(
        self, paths: str | Path | Iterable[str | Path], batch: int | None = None, size: sizes.Size | None = None
    ) -> Iterator[Tensor]:
        """The images of `read` in batches (B, C, H, W), for more than fit into memory.

            >>> [len(batch) for batch in model.read_batches("photos/", 5)]
            [5, 5, 2]

        Args:
            batch: images in each but the last; fewer where their sizes change, if they are read in their `own`.
            size: as `read`.

        Raises:
            UsageError: as `read`.
        """
        batch = None if batch is None else whole(batch, "batch", 1)
        with in_python():
            wanted = sizes.require(self.model, self.path, size)
        places = paths_of(paths)
        if not places:
            raise UsageError("no image was named", hint="give files, folders or globs")
        sources = find_images([str(place) for place in places])
        yield from (x for _, x in read_in_batches(sources, self, silent, batch or self.batch, wanted))

    # ------------------------------------------------------------------------------------------------ uses

    @torch.no_grad()
    def reconstruct(
        self, x: Tensor, *, stochastic: bool = False, seed: int = 0, tile: int | None = None, overlap: int | None = None
    ) -> Tensor:
        """Images (B, C, H, W) → what the model makes of them, by the posterior mean, or `stochastic` by a draw; of the same size.

            >>> error = ((model.reconstruct(x) - x) / 2).square().mean()  # pixels in [0, 1]

        Args:
            tile: side of the tiles, in pixels, in which images are taken that do not fit into the memory at once; a multiple of `factor`.
            overlap: of neighbouring tiles, which are blended there; by default a quarter of `tile`, or eight positions of the latent if
                those are more, but no more than half of it. What lies further from a seam than
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
        shared = whole(
            min(tile // 2, max(tile // 4, 8 * self.factor)) if overlap is None else overlap, "overlap", 1, tile // 2
        )
        shared += -shared % self.factor  # tiles then begin where the nets' own grid has a point
        shared = min(shared, tile // 2 // self.factor * self.factor)
        return sizes.tiled(sizes.padded(x.float(), self.factor), again, tile, shared)[:, :, : x.shape[2], : x.shape[3]]

    @torch.no_grad()
    def sample(
        self,
        n: int,
        sampler: str | None = None,
        label: str | int | None = None,
        seed: int = 0,
        size: sizes.Size | None = None,
        **options: Any,
    ) -> Tensor:
        """`n` new images (n, C, H, W) in [-1, 1]; the same seed gives the same images.

            >>> model.sample(4, sampler="prior", seed=7).shape
            torch.Size([4, 1, 8, 8])

        Args:
            sampler: its name; by default the one that was fitted when training ended, else the prior. One that is not fitted yet is fitted
                on the run's training images, for this handle alone; one that is trained must have been, by `aegen fit-sampler`.
            label: class that they are to be of, by name or number, for a model that was told classes.
            size: of the images, another than the model's where it takes any and the sampler is fitted to no size, as the prior is.
            options: of the sampler.

        Raises:
            UsageError: the sampler does not fit the model, or the model knows no such class; `n` is less than 1.
        """
        return torch.cat(list(self.sample_batches(n, sampler, label, seed, size, **options)))

    @torch.no_grad()
    def sample_batches(
        self,
        n: int,
        sampler: str | None = None,
        label: str | int | None = None,
        seed: int = 0,
        size: sizes.Size | None = None,
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
            wanted = samplers.size_to_draw(self, size)
            for z in samplers.draw_latents(
                self, n, sampler=sampler, options=options, label=told, seed=seed, prepare=self._prepare, size=wanted
            ):
                for images in self.decode_batches(z):
                    yield images if wanted is None else images[:, :, : wanted[0], : wanted[1]]

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
                -log p(x|z) at the posterior mean and what the bottleneck charges, in nats an image, of all pixels that the nets are given:
                where `factor` does not divide a side, its last ones are repeated, and count.

        Raises:
            UsageError: as `encode`; an unknown kind.
        """
        if kind not in ("pixel", "nll"):
            raise UsageError(f"kind is {quoted(kind)}, but takes pixel or nll")
        self._check_images(x)
        found = []
        for part in x.float().split(self._batch_of(x)):
            latent = self.encode(part)
            if kind == "pixel":
                made = self.decode(latent.mean)[:, :, : part.shape[2], : part.shape[3]]
                error = ((made - part) / 2).square().flatten(1).mean(1)
            else:
                pixels = self.model.decode(latent.mean.to(self.device))
                wide = sizes.padded(part.to(self.device), self.factor)
                error = (pixels.nll(wide) + latent.penalty.to(self.device)).to(part.device)
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
