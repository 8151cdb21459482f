"""What is held fixed while numbers are compared: named, versioned, and written beside every result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from aegen.errors import UsageError, did_you_mean, listing
from aegen.spec import Range, check_options, options_of


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a model is looked at.

    Options:
        name: of the protocol, with its version.
        latent: reconstructions are of the posterior's mean, or of a draw from it.
        rounding: pixels are rounded to 8 bits, as they would be in a file.
        features: the network in whose features sets of images are compared.
        weights: safetensors file for a network that has none of its own.
        side: images are resized to this many pixels a side for the network; 0 gives it them as they are.
        filter: of that resizing; always antialiased, by torch.
        samples: how many images are generated.
        sampler: how their latents are drawn; the model's own choice if empty.
        reference: the images that generated ones are compared with.
        limit: look at so many held-out images, the first ones; at all of them if not given.
        seed: of everything random.
    """

    name: str = "aegen-1"
    latent: Literal["mean", "draw"] = "mean"
    rounding: bool = True
    features: str = "efficientnet-lite0"
    weights: str = ""
    side: Annotated[int, Range(0, 1024)] = 64
    filter: Literal["bicubic", "bilinear"] = "bicubic"
    samples: Annotated[int, Range(2)] = 2000
    sampler: str = ""
    reference: Literal["held-out", "train"] = "held-out"
    limit: Annotated[int, Range(1)] | None = None
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0

    def to_dict(self) -> dict[str, Any]:
        """Every knob by name."""
        return dataclasses.asdict(self)


PROTOCOLS: dict[str, Protocol] = {
    "aegen-1": Protocol(),
    "aegen-10k-1": Protocol(name="aegen-10k-1", samples=10_000),
    "train-10k-1": Protocol(name="train-10k-1", samples=10_000, reference="train"),
}
"""By name. A number under a name stays what it is: another choice is another version."""


def protocol(name: str, changes: dict[str, Any]) -> Protocol:
    """A named protocol, with what the user changes; then its name says that it was changed.

    Raises:
        UsageError: an unknown name or knob, or an unacceptable value.
    """
    if name not in PROTOCOLS:
        hint = did_you_mean(name, PROTOCOLS) or f"protocols are {listing(PROTOCOLS)}"
        raise UsageError(f"unknown protocol {name!r}", hint=hint)
    chosen = PROTOCOLS[name].to_dict()
    typed = {f"protocol.{key}": f"--{key}" for key in chosen}
    given = {key: value for key, value in {**chosen, **changes}.items() if value is not None}
    asked = check_options(options_of(Protocol), given, "protocol.", "a protocol", typed)
    different = ", ".join(f"{key}={asked[key]}" for key in asked if asked[key] != chosen[key])
    return Protocol(**{**asked, "name": f"{name} with {different}" if different else name})
