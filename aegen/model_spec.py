"""What a model is, apart from how it was trained: its parts by name, the shapes of its images and latents, and how its latents are spread.

A run has one (the header of its checkpoints), and so has a model that was trained elsewhere and imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from aegen.errors import UsageError, listing
from aegen.settings import PARTS, ModelParts
from aegen.spec import Range, Spec
from aegen.untrusted import quoted

_WHITE = Range(above=0, max=1e300)


class ImageShape(NamedTuple):
    """Channels, height and width of every image that a model sees."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        order = "" if self.height == self.width else " (height×width×channels)"
        return f"{self.height}×{self.width}×{self.channels}{order}"


@dataclass(frozen=True)
class LatentStatistics:
    """How the posterior means of a model's training images are spread.

    `(z - shift) * scaling` has mean 0 and variance 1 over everything, as the latents that diffusion models are trained on (Rombach et al.,
    High-Resolution Image Synthesis with Latent Diffusion Models, 2022, appendix G); `standardized` makes that of each channel.

    Attributes:
        scaling: one over the standard deviation of all numbers of all latents.
        shift: their mean.
        mean, std: of each dimension of a vector, of each channel of a map or of tokens; empty where only the two numbers above are known.
        images: of how many; 0 where somebody else measured.
    """

    scaling: float
    shift: float = 0.0
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    images: int = 0

    @classmethod
    def of(cls, count: int, total: Tensor, squares: Tensor, images: int) -> LatentStatistics:
        """From sums over `count` numbers of each channel, `total` and `squares` (D,), float64."""
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        shift = mean.mean()
        # The variance of everything is what varies within the channels, and what their means differ by.
        spread = float((variance + (mean - shift).square()).mean().sqrt())
        scaling = 1 / spread if spread > 1e-12 else 1.0
        return cls(scaling, float(shift), mean.tolist(), variance.sqrt().tolist(), images)

    def standardized(self, z: Tensor) -> Tensor:
        """Latents (B, D, …) with mean 0 and standard deviation 1 in each channel, as far as they are known; `restored` is the way back."""
        shift, scale = self._of_channels(z)
        return (z - shift) / scale

    def restored(self, z: Tensor) -> Tensor:
        """What `standardized` was given, (B, D, …)."""
        shift, scale = self._of_channels(z)
        return z * scale + shift

    def _of_channels(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if not self.mean:
            return z.new_tensor(self.shift), z.new_tensor(1 / self.scaling)
        shape = (1, -1, *[1] * (z.ndim - 2))
        # A channel that never moves is left where it is.
        scale = torch.tensor([std if std > 1e-6 else 1.0 for std in self.std], dtype=z.dtype, device=z.device)
        return torch.tensor(self.mean, dtype=z.dtype, device=z.device).view(shape), scale.view(shape)


@dataclass(frozen=True, kw_only=True)
class ModelSpec(ModelParts):
    """Everything that determines a model but its weights.

    Attributes:
        image: the shape of its images.
        latent: of one latent: `(D,)`, `(D, n)` of tokens in a row, `(D, h, w)`; None where it is to be found by running the encoder.
        classes: names of the classes that it was told, by label.
        statistics: of its latents, where they are known.
        fit, white: how images of another shape, and of more than 8 bits, are brought to its own: see `DataSettings`.
        encodes: whether its encoder was trained; without one there is nothing to reconstruct.
    """

    image: ImageShape
    latent: tuple[int, ...] | None = None
    classes: list[str] = field(default_factory=list)
    statistics: LatentStatistics | None = None
    fit: Literal["crop", "resize"] = "crop"
    white: float | None = None
    encodes: bool = True

    def to_dict(self) -> dict[str, Any]:
        """What the header of a model without a run says of its parts; its image, latent and statistics stand beside that."""
        parts = {key: getattr(self, key).to_dict() for key in PARTS}
        told = {"classes": list(self.classes), "fit": self.fit}
        return parts | told | ({} if self.white is None else {"white": self.white})

    @classmethod
    def from_dict(
        cls,
        tables: Mapping[str, Any],
        image: Sequence[int],
        latent: Sequence[int] | None,
        statistics: LatentStatistics | None = None,
        *,
        encodes: bool = True,
    ) -> ModelSpec:
        """The inverse of `to_dict`; values are checked, since they come from a file.

        Raises:
            UsageError: a part is missing, or a value is none that it may be.
        """
        tabled = {key: value for key, value in tables.items() if isinstance(value, Mapping)}
        missing = [key for key in PARTS if not isinstance(tabled.get(key, {}).get("name"), str)]
        if missing:
            raise UsageError(f"a model needs a name for {listing(missing)}")
        classes, fit, white = tables.get("classes", []), tables.get("fit", "crop"), tables.get("white")
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise UsageError(f"classes are {quoted(classes)}, but must be texts")
        if fit not in ("crop", "resize"):
            raise UsageError(f"fit is {quoted(fit)}, but takes crop|resize")
        if white is not None and (not isinstance(white, int | float) or isinstance(white, bool) or white not in _WHITE):
            raise UsageError(f"white is {quoted(white)}, but must be a number above 0")
        return cls(
            **{key: Spec.from_dict(tabled[key]) for key in PARTS},
            image=ImageShape(*image),
            latent=None if latent is None else tuple(latent),
            classes=classes,
            statistics=statistics,
            fit=fit,
            white=white,
            encodes=encodes,
        )


def sound(statistics: LatentStatistics, channels: int) -> str:
    """What is wrong with statistics that a file or a plugin gave, for latents of so many channels; nothing where they are sound."""
    numbers = [statistics.scaling, statistics.shift, *statistics.mean, *statistics.std]
    if not all(math.isfinite(number) for number in numbers):
        return "a number is not finite"
    if not statistics.scaling > 0 or any(std < 0 for std in statistics.std):
        return "a spread is not above 0"
    if len(statistics.mean) != len(statistics.std) or len(statistics.mean) not in (0, channels):
        return f"there are {len(statistics.mean)} means and {len(statistics.std)} spreads of {channels} channels"
    return ""
