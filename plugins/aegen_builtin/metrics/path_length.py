"""How evenly images change along a way through the latent space.

Karras et al., A Style-Based Generator Architecture for Generative Adversarial Networks, 2019, section 4.1: the distance of the images
at t and t + ε on the way between two drawn latents, over ε², t being uniform. There the ways of Gaussian latents are great circles (slerp)
and others straight; here they are straight unless told otherwise, since most latents of autoencoders lie on no sphere; on one, the
bottleneck brings the ways to it. The distance is that of `distance`, not LPIPS. Nothing is rounded, since so small a step would be lost.

Each latent ends two ways, so neighbours are correlated, and the standard error counts that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from aegen import Metric, Range, Seen, UsageError
from aegen_builtin.metrics.distance import maps_distance


class PathLength(Metric):
    """Perceptual path length in latent space, between latents of the sampler, in the maps of the feature network.

    Options:
        paths: how many ways, at most one for each generated image.
        way: straight, or along the great circle, for latents that are normal.
        epsilon: the step.
    """

    needs = frozenset({"sampler", "features"})
    better: ClassVar[Mapping[str, str]] = {"path-length": "lower"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"path-length": (0.0, math.inf)}
    resamples = 0

    def __init__(
        self,
        *,
        paths: Annotated[int, Range(2)] = 1000,
        way: Literal["lerp", "slerp"] = "lerp",
        epsilon: Annotated[float, Range(1e-5, 1e-1)] = 1e-4,
    ) -> None:
        self.paths, self.way, self.epsilon = paths, {"lerp": lerp, "slerp": slerp}[way], epsilon

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Of each drawn latent, the way to the next in its batch, (B,)."""
        if not seen.generated or seen.start >= self.paths:
            return {}
        neck = seen.model.bottleneck
        if "codes" in neck.offers:
            raise UsageError("between codes there is no way")
        z = seen.z
        assert z is not None
        if len(z) < 3:
            return {}  # a way there and back is none of its own
        t = torch.rand(len(z), *[1] * (z.ndim - 1), dtype=z.dtype, device=z.device)
        maps = []
        for place in (t, t + self.epsilon):
            images = seen.model.decode(neck.nearest(self.way(z, z.roll(-1, 0), place))).mean.clamp(-1, 1)
            maps.append(seen.space.maps(images))
        return {"path_length": maps_distance(*maps) / self.epsilon**2}

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """The mean and its standard error."""
        if "path_length" not in rows:
            raise UsageError("there are fewer than 3 samples")
        found = rows["path_length"].double()
        apart = found - found.mean()
        variance = apart.square().mean() + 2 * (apart[1:] * apart[:-1]).mean().clamp(min=0)
        return {"path-length": (float(found.mean()), float((variance / len(found)).sqrt()))}


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Latents (B, *z) at `t` (B, 1, …) of the straight ways."""
    return a + t * (b - a)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """At `t` of the great circles (Shoemake, 1985)."""
    dims = tuple(range(1, a.ndim))
    norms = a.square().sum(dims, keepdim=True).sqrt() * b.square().sum(dims, keepdim=True).sqrt()
    angle = torch.acos(((a * b).sum(dims, keepdim=True) / norms.clamp(min=1e-12)).clamp(-1, 1))
    circle = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin().clamp(min=1e-12)
    return torch.where(angle.sin() < 1e-4, lerp(a, b, t), circle)  # parallel or opposite: no circle is defined
