"""Draw images from a trained model, and write them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from aegen import pictures
from aegen.inference.loading import Output, Say, folder_for_each, refuse_present, save_each, silent
from aegen.inference.model import Model, load
from aegen.inference.samplers import draw_latents, require_room, size_to_draw
from aegen.inference.sizes import Size
from aegen.training.distributed import World, world

_NAMES = 300  # bytes that the name of a file takes


def sample(
    place: Path | str | None = None,
    *,
    count: int = 64,
    sampler: str | None = None,
    options: Mapping[str, Any] | None = None,
    label: str | None = None,
    size: Size | None = None,
    each: bool = False,
    out: Path | None = None,
    force: bool = False,
    seed: int = 0,
    device: str = "auto",
    say: Say = silent,
) -> list[Path]:
    """Draw images and write a grid, or with `each` one file an image into the folder `out`; the files written.

    A sampler that must be fitted and is not yet in the checkpoint is fitted on the run's training images, then kept there.
    Under `torchrun` each process decodes a part of the images; the first one writes, and it alone returns files.

    Args:
        size: of the images, another than the model's where it takes any, drawn by a sampler that is fitted to none, as the prior.
        force: replace what stands at `out`.

    Raises:
        UsageError: the sampler does not fit the model, the data of the run is gone, or something stands at `out`.
    """
    with world(device) as here:
        talk = say if here.first else silent
        model = load(place, device=str(here.device))
        return _sample(model, here, count, sampler, options, label, each, out, seed, talk, force, size)


def sample_alone(model: Model, count: int, out: Path) -> None:
    """A grid, drawn by this process whatever others do, in place of one that is there."""
    _sample(model, World(model.device), count, None, None, None, False, out, 0, silent, True)


@torch.no_grad()
def _sample(
    model: Model,
    here: World,
    count: int,
    sampler: str | None,
    options: Mapping[str, Any] | None,
    label: str | None,
    each: bool,
    out: Path | None,
    seed: int,
    say: Say,
    force: bool = False,
    size: Size | None = None,
) -> list[Path]:
    wanted = size_to_draw(model, size)
    sides = wanted or tuple(model.model.image[1:])
    if not each:
        if out is not None:
            pictures.check_ending(out)
        pictures.check_room(count, sides, "add --each for one file an image")
    require_room(model, count, _NAMES * count * each)
    digits = max(4, len(str(count - 1)))
    names = [f"{i:0{digits}d}.png" for i in range(count if each else 0)]
    target = None
    if not each:
        target = Output(out, "samples.png", force) if here.first else None
    elif out is not None and here.first:
        refuse_present((folder_for_each(out, "") / name for name in names), force)
    latents = draw_latents(
        model, count, sampler=sampler, options=options, label=label, seed=seed, say=say, here=here, size=wanted
    )
    batches = (images[:, :, : sides[0], : sides[1]] for images in model.decode_shared(latents, here))
    if not here.first:
        for _ in batches:  # only to take part
            pass
        return []
    if target is not None:
        sheet = pictures.grid(torch.cat([pictures.to_uint8(part) for part in batches]))
        return [target.write(lambda path, replaces: pictures.save(sheet, path, replaces=replaces))]
    folder, rest = None, iter(names)
    for images in batches:
        folder = folder or folder_for_each(out, "samples")
        save_each(images, [folder / name for name in itertools.islice(rest, len(images))], force)
    return [folder / name for name in names] if folder is not None else []
