"""Two sets of images by their features: generated ones beside real ones, and reconstructions beside their images."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from aegen import Seen, UsageError

SAMPLES, RECONSTRUCTIONS = "features.samples", "features.reconstructions"


def samples(seen: Seen) -> Mapping[str, Tensor]:
    """The features of generated images and of those that they are compared with."""
    return {f"features.{seen.source}": seen.features} if seen.reference or seen.generated else {}


def reconstructions(seen: Seen) -> Mapping[str, Tensor]:
    """The features of held-out images and of their reconstructions."""
    if not seen.held_out:
        return {}
    return {f"features.{seen.source}": seen.features, RECONSTRUCTIONS: seen.recon_features}


def parted(rows: Mapping[str, Tensor], least: int = 2) -> tuple[Tensor, Tensor]:
    """Real and made features, (N, width) and (M, width).

    Raises:
        UsageError: there are fewer than `least` of either, or some are not finite.
    """
    (made,) = (rows[name] for name in rows if name in (SAMPLES, RECONSTRUCTIONS))
    (real,) = (rows[name] for name in rows if name not in (SAMPLES, RECONSTRUCTIONS))
    if min(len(real), len(made)) < least:
        raise UsageError(f"{len(real)} and {len(made)} images are too few; it takes {least} of each")
    if not (real.isfinite().all() and made.isfinite().all()):
        raise UsageError("features are not finite")
    return real, made
