"""How far a reconstruction is from its image for a network that was trained to recognise things.

The distance is that of `distance`: LPIPS's form (Zhang et al., 2018) without its learned weights, in the network of the protocol.
It is no LPIPS, and must not be compared with one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from aegen import Metric, Seen
from aegen_builtin.metrics.distance import maps_distance


class Perceptual(Metric):
    """Distance of reconstructions to their images in the maps of the feature network, which is no LPIPS."""

    needs = frozenset({"encoder", "features"})
    better = {"perceptual": "lower"}  # noqa: RUF012
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"perceptual": (0.0, math.inf)}

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Of each held-out image, (B,)."""
        if not seen.held_out:
            return {}
        return {"perceptual": maps_distance(seen.maps, seen.recon_maps)}
