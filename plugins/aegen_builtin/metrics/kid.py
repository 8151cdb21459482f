"""Kernel distance of two sets of images: the squared maximum mean discrepancy of their features, without bias.

Bińkowski et al., Demystifying MMD GANs, 2018: kernel (x·y / width + 1)³, U-statistic, so that the expectation does not depend on
how many images there are, and may be a little below 0 for equal distributions. The paper averages over subsets that are drawn with
overlap; here every image is in one subset, so that subsets are independent and their spread gives an honest standard error, at a
tenth of the cost. There are at least ten subsets, of at most 1000 images. An image is never compared with its own reconstruction.
It is called KID by custom, though the network is that of the protocol.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from aegen import Metric, Range, Seen
from aegen_builtin.metrics.means import of_parts
from aegen_builtin.metrics.sets import parted, reconstructions, samples

_SUBSETS = 10


class KID(Metric):
    """Kernel distance of generated images to the reference, in the features of the protocol.

    Options:
        size: most images in a subset.
    """

    number: ClassVar[str] = "kid"
    paired: ClassVar[bool] = False
    needs = frozenset({"sampler", "features"})
    better: ClassVar[Mapping[str, str]] = {"kid": "lower"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"kid": (0.0, math.inf)}
    resamples = 0

    def __init__(self, *, size: Annotated[int, Range(2)] = 1000) -> None:
        self.size = size

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Features, (B, width)."""
        return samples(seen)

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """The distance and its standard error."""
        real, made = parted(rows, least=2 * _SUBSETS)
        count = max(_SUBSETS, math.ceil(max(len(real), len(made)) / self.size))
        count = min(count, len(real) // 2, len(made) // 2)
        # Files of a class often lie together.
        generator = torch.Generator().manual_seed(0)
        first = torch.randperm(len(real), generator=generator)
        second = first if self.paired else torch.randperm(len(made), generator=generator)
        found = torch.tensor(
            [
                mmd(real[i].double(), made[j].double(), paired=self.paired)
                for i, j in zip(first.tensor_split(count), second.tensor_split(count), strict=True)
            ]
        )
        return {self.number: of_parts(found)}


class RKID(KID):
    """Kernel distance of reconstructions to held-out images, in the features of the protocol.

    Options:
        size: most images in a subset.
    """

    number = "rkid"
    paired = True
    needs = frozenset({"encoder", "features"})
    better: ClassVar[Mapping[str, str]] = {"rkid": "lower"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"rkid": (0.0, math.inf)}

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Features, (B, width)."""
        return reconstructions(seen)


def mmd(x: Tensor, y: Tensor, *, paired: bool = False) -> float:
    """Unbiased squared discrepancy of features (N, d) and (M, d); `paired` ones are not compared one to one."""

    def mean(a: Tensor, b: Tensor, others: bool) -> Tensor:
        kernel = (a @ b.T / a.shape[1] + 1) ** 3
        if not others:
            return kernel.mean()
        return (kernel.sum() - kernel.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, paired))
