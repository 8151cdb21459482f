"""The way between the latents of images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from aegen import pictures
from aegen.errors import UsageError, counted
from aegen.protocols import Bottleneck
from aegen.use.loading import Output, Say, load, silent
from aegen.use.reconstruction import encode, find_images, read_images, spare


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Straight from `a` to `b` (*z), at each of `t` (T,): (T, *z)."""
    t = t.view(-1, *[1] * a.ndim)
    return (1 - t) * a + t * b


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the great circle, which keeps the norm typical of a Gaussian (Shoemake, 1985; White, 2016)."""
    cosine = (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12)
    angle = torch.acos(cosine.clamp(-1, 1))
    if angle.sin() < 1e-4:  # parallel or opposite: the circle is not defined
        return lerp(a, b, t)
    t = t.view(-1, *[1] * a.ndim)
    return (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()


def passable(neck: Bottleneck, way: Tensor) -> Tensor:
    """The way (T, *z), with what lies between its ends brought to the nearest latents that the bottleneck can give."""
    return torch.cat([way[:1], neck.nearest(way[1:-1]), way[-1:]])


METHODS = {"lerp": lerp, "slerp": slerp}


@torch.no_grad()
def interpolate(
    places: Sequence[str],
    place: Path | str | None = None,
    *,
    steps: int = 12,
    method: str = "lerp",
    stochastic: bool = False,
    out: Path | None = None,
    force: bool = False,
    seed: int = 0,
    device: str = "auto",
    say: Say = silent,
) -> list[Path]:
    """Write the way between two or more images: a strip, or a GIF or WebP by the ending of `out`.

    It goes from posterior mean to posterior mean, or, `stochastic`, from draw to draw.

    Args:
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
    loaded = load(place, device=device)
    given = find_images(places, say)
    spare([out] if out is not None else [], given)
    target = Output(out, "interpolation.png", force)
    sources, pixels = read_images(given, loaded, say)
    if len(sources) < 2:
        raise UsageError(f"{counted(len(sources), 'image')} was given, but interpolation takes two or more")
    pictures.check_room(steps * (len(sources) - 1), pixels.shape[2:], "use fewer --steps")
    z = encode(loaded, pixels, stochastic=stochastic, seed=seed)
    t = torch.linspace(0, 1, steps, device=loaded.device)
    ways = [passable(loaded.model.bottleneck, METHODS[method](a, b, t)) for a, b in itertools.pairwise(z)]
    films = [torch.cat(list(loaded.decode(way))) for way in ways]
    if target.path.suffix.lower() in pictures.MOVING:
        film = [pictures.enlarge(pictures.to_pil(frame)) for frame in torch.cat(films)]
        return [target.write(lambda path, replaces: pictures.animate(film, path, replaces=replaces))]
    sheet = pictures.strip(films)
    return [target.write(lambda path, replaces: pictures.save(sheet, path, replaces=replaces))]
