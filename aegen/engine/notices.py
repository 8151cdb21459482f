"""What a run says by itself when its latents carry too little, in one plain sentence each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

_LITTLE = 0.01  # nats
_SHARE = 0.1  # of the latent dimensions, or of the codes, below which one speaks of collapse


def collapse(metrics: Mapping[str, float], latent: tuple[int, ...]) -> Iterator[str]:
    """Sentences about validation `metrics`: `kl` (nats), `active_units` (Burda et al., Importance Weighted Autoencoders, 2016, section
    5.1: dimensions whose posterior mean varies over the images) and `usage` (the share of the codes that are used).

    Args:
        latent: shape of one latent.
    """
    units, size = metrics.get("active_units"), math.prod(latent)
    usage, kl = metrics.get("usage"), metrics.get("kl", math.inf)
    helps = (
        'a smaller weight of the penalty helps, or one that rises (--objective.beta "linear(0,1,2000)"), or free bits'
    )
    if units is not None and units < max(1.0, _SHARE * size):
        yield f"posterior collapse: {units:.3g} of {size} latent dimensions carry anything of the image; {helps}"
    elif units is None and usage is None and kl < _LITTLE:
        yield f"posterior collapse: the latents carry {kl:.3f} nats of the image; {helps}"
    if usage is not None and usage < _SHARE:
        yield (
            f"codebook collapse: {usage:.1%} of the codes are used; dead codes of vq come back to life with --bottleneck.restart, "
            "and a feature map (--arch.spatial) needs more of them than a vector"
        )
