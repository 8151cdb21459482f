"""The way between the latents of images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from aegen import pictures
from aegen.errors import UsageError
from aegen.protocols import Bottleneck
from aegen.rundir import free_name
from aegen.use.loading import Say, load, silent, writing
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
    seed: int = 0,
    device: str = "auto",
    say: Say = silent,
) -> list[Path]:
    """Write the way between two or more images: a strip, or a GIF or WebP by the ending of `out`.

    It goes from posterior mean to posterior mean, or, `stochastic`, from draw to draw.

    Raises:
        UsageError: fewer than two images, an unknown method, or an image that cannot be read.
    """
    if method not in METHODS:
        raise UsageError(f"--method is {method!r}, but takes {'|'.join(METHODS)}")
    if steps < 2:
        raise UsageError(f"--steps is {steps}, but the way from one image to another takes at least 2")
    if out is not None and out.suffix.lower() not in (*pictures.STILLS, *pictures.MOVING):
        raise UsageError(f"cannot write {out.name}", hint="end it in .png for a strip, .gif or .webp for a film")
    loaded = load(place, device=device)
    sources, pixels = read_images(find_images(places, say), loaded, say)
    if len(sources) < 2:
        raise UsageError(f"{len(sources)} image was given, but interpolation takes two or more")
    out = out or free_name(Path("interpolation.png"))
    spare([out], sources)
    pictures.check_room(steps * (len(sources) - 1), pixels.shape[2:], "use fewer --steps")
    z = encode(loaded, pixels, stochastic=stochastic, seed=seed)
    t = torch.linspace(0, 1, steps, device=loaded.device)
    ways = [passable(loaded.model.bottleneck, METHODS[method](a, b, t)) for a, b in itertools.pairwise(z)]
    frames = torch.cat([images for way in ways for images in loaded.decode(way)])
    with writing(out):
        if out.suffix.lower() in pictures.MOVING:
            pictures.animate([pictures.enlarge(pictures.to_pil(f)) for f in frames], out)
        else:
            pictures.save(pictures.grid(frames, columns=steps), out)
    return [out]
