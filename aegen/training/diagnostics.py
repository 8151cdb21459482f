"""What a run says by itself when its latents carry too little for long, in one plain sentence each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

Low = dict[str, tuple[int, int, bool]]
"""By kind of collapse: the step at which it was first seen, validations since, and whether it was told."""

_POSTERIOR, _CODES = "posterior collapse", "codebook collapse"
_LITTLE = 0.01  # nats
_SHARE = 0.1  # of the latent dimensions, or of the codes, below which one speaks of collapse
# A young net uses few of its latents too. What lasts for so many validations, and steps or part of a run, is no longer its youth.
_VALIDATIONS, _STEPS, _PART = 3, 1000, 0.2


def lasting(metrics: Mapping[str, float], latent: tuple[int, ...], *, step: int, total: int, low: Low) -> Iterator[str]:
    """What is to be told after a validation: a collapse that has lasted, once, and its end.

    Args:
        latent: shape of one latent.
        step, total: steps taken, and of the whole run.
        low: what is known of earlier validations; brought up to date.
    """
    now = dict(text.split(": ", 1) for text in collapse(metrics, latent))
    for kind, text in now.items():
        since, validations, told = low.get(kind, (step, 0, False))
        lasts = validations + 1 >= _VALIDATIONS and step - since >= min(_STEPS, _PART * total)
        if lasts and not told:
            yield f"{kind} since step {since:,}: {text}"
        low[kind] = since, validations + 1, told or lasts
    for kind in [kind for kind in low if kind not in now]:
        since, _, told = low.pop(kind)
        if told:
            yield f"{kind} since step {since:,} is over: {_carried(metrics, latent, kind)}"


def _carried(metrics: Mapping[str, float], latent: tuple[int, ...], kind: str) -> str:
    if kind == _CODES:
        return f"{metrics.get('usage', math.nan):.1%} of the codes are used"
    if "active_units" in metrics:
        return f"{metrics['active_units']:.3g} of {math.prod(latent)} latent dimensions vary with the image"
    return f"the latents carry {metrics.get('kl', metrics.get('charge', math.nan)):.3g} nats of the image"


def collapse(metrics: Mapping[str, float], latent: tuple[int, ...]) -> Iterator[str]:
    """Sentences about validation `metrics`: `kl` (nats), `active_units` (Burda et al., Importance Weighted Autoencoders, 2016, section
    5.1: dimensions whose posterior mean varies over the images) and `usage` (the share of the codes that are used).

    Args:
        latent: shape of one latent.
    """
    units, size = metrics.get("active_units"), math.prod(latent)
    usage, kl = metrics.get("usage"), metrics.get("kl", metrics.get("charge", math.inf))  # of categories it is a charge
    helps = (
        'a smaller weight of the penalty helps, or one that rises (--objective.beta "linear(0,1,2000)"), or free bits'
    )
    if units is not None and units < max(1.0, _SHARE * size):
        yield f"{_POSTERIOR}: {units:.3g} of {size} latent dimensions carry anything of the image; {helps}"
    elif units is None and usage is None and kl < _LITTLE:
        yield f"{_POSTERIOR}: the latents carry {kl:.3f} nats of the image; {helps}"
    if usage is not None and usage < _SHARE:
        yield (
            f"{_CODES}: {usage:.1%} of the codes are used; dead codes of vq come back to life with --bottleneck.restart, "
            "and a feature map (--arch.spatial) needs more of them than a vector"
        )
