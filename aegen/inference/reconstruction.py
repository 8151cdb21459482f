"""Write the reconstructions of pictures that the user names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

import aegen.inference.sizes as sizes
from aegen import pictures
from aegen.data.batches import normalize
from aegen.errors import UsageError
from aegen.inference.loading import Output, Say, folder_for_each, refuse_present, save_each, silent
from aegen.inference.model import Model, load
from aegen.inference.reading import Source, find_images, read_each
from aegen.inference.sizes import Size
from aegen.training.distributed import World, world


@torch.no_grad()
def reconstruct(
    places: Sequence[str],
    place: Path | str | None = None,
    *,
    each: bool = False,
    stochastic: bool = False,
    size: Size | None = None,
    tile: int | None = None,
    out: Path | None = None,
    force: bool = False,
    seed: int = 0,
    device: str = "auto",
    say: Say = silent,
) -> list[Path]:
    """Write originals above reconstructions, or with `each` one file an image under its own name into `out`.

    Under `torchrun` each process decodes a part of the images; the first one writes, and it alone returns files.

    Args:
        size: of the images, another than the model's where it takes any: pixels a side, (height, width), or `own`, each its own.
        tile: side of the tiles, in pixels, in which images that are larger are taken; by default only those that do not fit into the memory.
        force: replace what stands where is to be written, if it is no input.

    Raises:
        UsageError: an image cannot be read, or an output would fall on an input, or on another file; the model takes no other size.
    """
    with world(device) as here:
        model, talk = load(place, device=str(here.device)), say if here.first else silent
        wanted = sizes.require(model.model, model.path, size)
        if wanted is None and tile is not None:
            wanted = model.image.height, model.image.width
        again = _alike(model, here, stochastic, seed) if wanted is None else None
        if again is None:
            again = _of_any_size(model, here, stochastic, seed, tile, talk)
        return _reconstruct(model, here, places, each, out, talk, force, wanted, again)


Again = Callable[[Sequence[Tensor]], list[Tensor]]
"""Originals, uint8 (C, H, W) → their reconstructions (C, H, W), in [-1, 1] or uint8, in the first of several processes; none in others."""


def _alike(model: Model, here: World, stochastic: bool, seed: int) -> Again:
    """Of images of the model's size."""

    def again(originals: Sequence[Tensor]) -> list[Tensor]:
        parts = (normalize(part) for part in torch.stack(list(originals)).split(model.batch))
        latents = (latent.z if stochastic else latent.mean for latent in model.encode_batches(parts, seed=seed))
        return [image for images in model.decode_shared(latents, here) for image in images]

    return again


def _of_any_size(model: Model, here: World, stochastic: bool, seed: int, tile: int | None, say: Say) -> Again:
    """Of images of several sizes, those in a row that are alike at once, large ones in tiles."""

    def again(originals: Sequence[Tensor]) -> list[Tensor]:
        own: dict[int, Tensor] = {}
        alike = groupby(range(here.rank, len(originals), here.size), key=lambda i: (originals[i].shape, i * stochastic))
        told = False
        for _, group in alike:
            places = list(group)
            x = normalize(torch.stack([originals[i] for i in places]))
            side = tile or sizes.tile_for(model.model, (x.shape[2], x.shape[3]))
            if side and not tile and not told:
                say(
                    f"images of {x.shape[2]}×{x.shape[3]} are taken in tiles of {side} pixels, since they are large for the memory"
                )
                told = True
            drawn = (seed * 1_000_003 + places[0]) % 2**63  # noise of its own for each
            made = model.reconstruct(x, stochastic=stochastic, seed=drawn, tile=side)
            own |= dict(zip(places, pictures.to_uint8(made), strict=True))
        every = {place: image for part in here.collect(own) for place, image in part.items()}
        return [every[place] for place in sorted(every)]

    return again


@torch.no_grad()
def _reconstruct(
    model: Model,
    here: World,
    places: Sequence[str],
    each: bool,
    out: Path | None,
    say: Say,
    force: bool,
    size: tuple[int, int] | sizes.Own | None,
    again: Again,
) -> list[Path]:
    if out is not None and not each:
        pictures.check_ending(out)
    given, target = find_images(places, say), None
    # What cannot be written is refused before thousands of images are decoded.
    if not each:
        if here.first:
            spare([out] if out is not None else [], given)
            target = Output(out, "reconstructions.png", force)
    elif out is not None and here.first:
        files = _own_names(given, folder_for_each(out, ""))
        spare(files, given)
        refuse_present(files, force)
    sources, pixels = read_each(given, model, say, size=size)
    if not each:
        largest = [max(image.shape[axis] for image in pixels) for axis in (1, 2)]
        pictures.check_room(2 * len(pixels), largest, "add --each for one file an image")
    elif out is not None and here.first and len(sources) < len(given):  # others have other numbers now
        files = _own_names(sources, folder_for_each(out, ""))
        spare(files, sources)
        refuse_present(files, force)
    images = again(pixels)
    if not here.first:
        return []
    if target is not None:
        bytes_ = [image if image.dtype == torch.uint8 else pictures.to_uint8(image) for image in images]
        sheet = pictures.pairs(pictures.framed(pixels), pictures.framed(bytes_))
        return [target.write(lambda path, replaces: pictures.save(sheet, path, replaces=replaces))]
    files = _own_names(sources, folder_for_each(out, "reconstructions"))
    save_each(images, files, force)
    return files


def _own_names(sources: Sequence[Source], folder: Path) -> list[Path]:
    """One output a source, under its own name; GIF becomes PNG, and of two equal names the second is numbered."""
    taken: set[Path] = set()
    numbers: dict[Path, int] = {}  # by name, the next one to try
    files: list[Path] = []
    for source in sources:
        name = source.name if source.name.suffix.lower() in pictures.STILLS else source.name.with_suffix(".png")
        file, number = folder / name, numbers.get(name, 2)
        while file in taken:
            file = folder / name.with_name(f"{name.stem}-{number}{name.suffix}")
            number += 1
        numbers[name] = number
        taken.add(file)
        files.append(file)
    return files


def spare(files: Sequence[Path], sources: Sequence[Source]) -> None:
    """Refuse to write over what was read.

    Raises:
        UsageError: an output is also an input.
    """
    inputs = {os.path.realpath(s.path) for s in sources}  # unlike Path.resolve, takes links in a circle
    for file in files:
        if os.path.realpath(file) in inputs:
            raise UsageError(f"{file} is also an input and would be overwritten", hint="give another place with -o")
