"""The way between the latents of images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

import aegen.inference.sizes as sizes
from aegen import pictures
from aegen.data.batches import normalize
from aegen.errors import UsageError, counted
from aegen.inference.latents import METHODS, path
from aegen.inference.loading import Output, Say, silent
from aegen.inference.model import load
from aegen.inference.reading import find_images, read_images
from aegen.inference.reconstruction import spare
from aegen.inference.sizes import Size


@torch.no_grad()
def interpolate(
    places: Sequence[str],
    place: Path | str | None = None,
    *,
    steps: int = 12,
    method: str = "lerp",
    stochastic: bool = False,
    size: Size | None = None,
    out: Path | None = None,
    force: bool = False,
    seed: int = 0,
    device: str = "auto",
    say: Say = silent,
) -> list[Path]:
    """Write the way between two or more images: a strip, or a GIF or WebP by the ending of `out`.

    It goes from posterior mean to posterior mean, or, `stochastic`, from draw to draw.

    Args:
        size: another than the model's, where it takes any: pixels a side, (height, width), or `own`, of images that are all of one.
        force: replace what stands at `out`, if it is no input.

    Raises:
        UsageError: fewer than two images, an unknown method, an image that cannot be read, or something that stands at `out`.
    """
    if method not in METHODS:
        raise UsageError(f"--method is {method!r}, but takes {'|'.join(METHODS)}")
    if steps < 2:
        raise UsageError(f"--steps is {steps}, but the way from one image to another takes at least 2")
    if out is not None and out.suffix.lower() not in (*pictures.STILLS, *pictures.MOVING):
        raise UsageError(f"cannot write {out.name}", hint="end it in .png for a strip, .gif or .webp for a film")
    model = load(place, device=device)
    wanted = sizes.require(model.model, model.path, size)
    given = find_images(places, say)
    spare([out] if out is not None else [], given)
    target = Output(out, "interpolation.png", force)
    sources, pixels = read_images(given, model, say, size=wanted)
    if len(sources) < 2:
        raise UsageError(f"{counted(len(sources), 'image')} was given, but interpolation takes two or more")
    height, width = pixels.shape[2:]
    pictures.check_room(steps * (len(sources) - 1), (height, width), "use fewer --steps")
    if wanted is not None:
        sizes.require_room(model.model, (height, width))
    latent = model.encode(normalize(pixels), seed=seed)
    z, nearest = latent.z if stochastic else latent.mean, model.model.bottleneck.nearest
    ways = [path(a, b, steps, method, nearest) for a, b in itertools.pairwise(z.to(model.device))]
    films = [model.decode(way).cpu()[:, :, :height, :width] for way in ways]
    if target.path.suffix.lower() in pictures.MOVING:
        film = [pictures.enlarge(pictures.to_pil(frame)) for frame in torch.cat(films)]
        return [target.write(lambda path, replaces: pictures.animate(film, path, replaces=replaces))]
    sheet = pictures.strip(films)
    return [target.write(lambda path, replaces: pictures.save(sheet, path, replaces=replaces))]
