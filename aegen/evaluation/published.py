"""Numbers that papers print, and the rules under which they stand: why one's own is another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """One printed number.

    Attributes:
        number: the name under which `aegen evaluate` gives such a number.
        rules: what is known of how it was measured, by the names of a protocol's knobs, with `data` beside them; what a paper
            does not say stands as `not said`.
    """

    system: str
    number: str
    value: float
    rules: Mapping[str, str]


_TTUR = {"features": "inception of 2015, TensorFlow", "side": "299", "reference": "not said", "samples": "10000"}
_TOKENIZER = {
    "data": "ImageNet validation, 256×256",
    "features": "inception of 2015, which port is seldom said",
    "side": "299",
    "latent": "not said",
    "rounding": "not said",
    "reference": "held-out",
}
_PIXELS = {key: _TOKENIZER[key] for key in ("data", "latent", "rounding")}
_MNIST = {"data": "MNIST"}
_BINARISED = {"data": "MNIST, statically binarised"}
_DYNAMIC = {"data": "MNIST, binarised anew each epoch"}
_CELEBA = {"data": "CelebA, 64×64"}

PUBLISHED = [
    Published("vae, 40 latents, 500 epochs", "nll", 89.9, {**_BINARISED, "draws": "200"}),
    Published("vamp-vae, 500 pseudo-inputs, 2000 epochs", "nll", 85.57, {**_BINARISED, "draws": "5000"}),
    Published("iwae, 50 draws, 50 latents", "nll", 87.1, {**_BINARISED, "draws": "5000"}),
    Published("miwae 8×8, 50 latents", "nll", 84.97, {**_DYNAMIC, "draws": "5000"}),
    Published("svae, 11 latents, 500 epochs", "nll", 93.16, {**_DYNAMIC, "draws": "500"}),
    Published("rae-l2, 16 latents, 100 epochs", "fid", 9.9, {**_MNIST, **_TTUR}),
    Published("rae-gp, 16 latents, 100 epochs", "fid", 9.4, {**_MNIST, **_TTUR}),
    Published("wae-mmd, 64 latents, 100 epochs", "fid", 55.0, {**_CELEBA, **_TTUR}),
    Published("aae, 64 latents, 100 epochs", "fid", 42.0, {**_CELEBA, **_TTUR}),
    Published("latent diffusion's KL-f8", "rfid", 0.90, _TOKENIZER),
    Published("sd-vae-ft-mse", "rfid", 0.69, _TOKENIZER),
    Published("FLUX.1's autoencoder", "rfid", 0.165, _TOKENIZER),
    Published("VA-VAE f16d32", "rfid", 0.28, _TOKENIZER),
    Published("LlamaGen VQ-16", "rfid", 2.19, _TOKENIZER),
    Published("Open-MAGVIT2, 262,144 codes", "rfid", 1.17, _TOKENIZER),
    Published("sd-vae-ft-mse", "psnr", 26.91, _PIXELS),
    Published("FLUX.1's autoencoder", "psnr", 32.87, _PIXELS),
]


def differences(number: str, here: Mapping[str, Any]) -> list[tuple[Published, list[str]]]:
    """The printed numbers of that name, and for each what was otherwise there: `features inception … (here …)`.

    Args:
        here: the rules of an evaluation, with `data` beside them.
    """
    found = []
    for one in PUBLISHED:
        if one.number == number:
            other = [f"{k} {v} (here {here[k]})" for k, v in one.rules.items() if k in here and str(here[k]) != v]
            found.append((one, other))
    return found
