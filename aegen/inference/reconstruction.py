"""Write the reconstructions of pictures that the user names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from aegen import pictures
from aegen.data.batches import normalize
from aegen.errors import UsageError
from aegen.inference.loading import Output, Say, folder_for_each, refuse_present, save_each, silent
from aegen.inference.model import Model, load
from aegen.inference.reading import Source, find_images, read_images
from aegen.training.distributed import World, world


@torch.no_grad()
def reconstruct(
    places: Sequence[str],
    place: Path | str | None = None,
    *,
    each: bool = False,
    stochastic: bool = False,
    out: Path | None = None,
    force: bool = False,
    seed: int = 0,
    device: str = "auto",
    say: Say = silent,
) -> list[Path]:
    """Write originals above reconstructions, or with `each` one file an image under its own name into `out`.

    Under `torchrun` each process decodes a part of the images; the first one writes, and it alone returns files.

    Args:
        force: replace what stands where is to be written, if it is no input.

    Raises:
        UsageError: an image cannot be read, or an output would fall on an input, or on another file.
    """
    with world(device) as here:
        model, talk = load(place, device=str(here.device)), say if here.first else silent
        return _reconstruct(model, here, places, each, stochastic, out, seed, talk, force)


@torch.no_grad()
def _reconstruct(
    model: Model,
    here: World,
    places: Sequence[str],
    each: bool,
    stochastic: bool,
    out: Path | None,
    seed: int,
    say: Say,
    force: bool = False,
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
    sources, pixels = read_images(given, model, say)
    if not each:
        pictures.check_room(2 * len(pixels), pixels.shape[2:], "add --each for one file an image")
    elif out is not None and here.first and len(sources) < len(given):  # others have other numbers now
        files = _own_names(sources, folder_for_each(out, ""))
        spare(files, sources)
        refuse_present(files, force)
    parts = (normalize(part) for part in pixels.split(model.batch))
    latents = (latent.z if stochastic else latent.mean for latent in model.encode_batches(parts, seed=seed))
    images = list(model.decode_shared(latents, here))
    if not here.first:
        return []
    again = torch.cat(images)
    if target is not None:
        sheet = pictures.pairs(pixels, pictures.to_uint8(again))
        return [target.write(lambda path, replaces: pictures.save(sheet, path, replaces=replaces))]
    files = _own_names(sources, folder_for_each(out, "reconstructions"))
    save_each(again, files, force)
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
