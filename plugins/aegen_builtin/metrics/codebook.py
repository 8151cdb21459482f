"""How many codes are used, and how evenly, over all held-out images together.

Perplexity is exp of the codes' entropy, van den Oord et al., Neural Discrete Representation Learning, 2017. Several
codebooks (levels, groups, variables) are counted each by itself and averaged. Usage is the share of all codes that
there are; a small set of images cannot use many, which is noted. The error of the perplexity is of the first order,
from the images' own mean log frequencies; that of few images is too low, by how much half of them tell, and the interval
holds that, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from aegen import Metric, Seen, UsageError
from aegen_builtin.metrics.means import around

_SIZES = "codes.sizes"
_CODES = "codes"


class Codebook(Metric):
    """Perplexity of the codes of held-out images, how many are used, and what share of all that is."""

    needs = frozenset({"encoder", "codes"})
    better: ClassVar[Mapping[str, str]] = {"usage": "higher", "perplexity": "higher", "codes_used": "higher"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"perplexity": (1.0, math.inf), "usage": (0.0, 1.0)}
    resamples = 0

    def within(self, rows: Mapping[str, Tensor]) -> Mapping[str, tuple[float, float]]:
        """A book is no more even than all of its codes used alike."""
        most = float(rows[_SIZES][0].double().mean()) if _SIZES in rows else math.inf
        return {**self.ranges, "perplexity": (1.0, most)}

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Codes (B, books, positions), and how many codes each book has, if the bottleneck says so, (B, books)."""
        codes, z = seen.latent.codes, seen.latent.z
        if not seen.held_out or codes is None:
            return {}
        codes = codes if codes.ndim == z.ndim else codes.unsqueeze(1)
        rows = {_CODES: codes.reshape(*codes.shape[:2], -1)}
        sizes = getattr(seen.model.bottleneck, "codebooks", ())
        if sizes:
            rows[_SIZES] = torch.tensor(sizes).expand(len(codes), -1)
        return rows

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, float]]:
        """Averages over the codebooks."""
        codes = rows[_CODES]
        books = codes.shape[1]
        perplexity, pull = evenness(codes)
        used = [len(book.unique()) for book in codes.unbind(1)]
        numbers = {
            "perplexity": around(perplexity, pull, lambda some: evenness(codes[some])[0]),
            "codes_used": sum(used) / books,
        }
        if _SIZES in rows:
            sizes = rows[_SIZES][0].tolist()
            if len(sizes) != books:
                raise UsageError(f"the bottleneck names {len(sizes)} codebooks, but gives codes of {books}")
            numbers["usage"] = sum(n / size for n, size in zip(used, sizes, strict=True)) / books
        return numbers

    def notes(self, rows: Mapping[str, Tensor]) -> list[str]:
        """Whether the images are too few to use all codes."""
        vectors = rows[_CODES][:, 0].numel()
        most = int(rows[_SIZES].max()) if _SIZES in rows else 0
        if vectors >= 10 * most:
            return []
        return [f"there are {vectors} vectors for {most} codes, so usage and perplexity are those of few images"]


def evenness(codes: Tensor) -> tuple[float, Tensor]:
    """Perplexity of codes (N, books, positions), averaged over the books, and how each image pulls at it, (N,)."""
    books = codes.shape[1]
    perplexity, pull = 0.0, torch.zeros(len(codes), dtype=torch.float64)
    for book in codes.unbind(1):
        _, where, counts = book.unique(return_inverse=True, return_counts=True)
        surprise = -(counts / counts.sum()).double().log()[where].mean(1)  # of each image
        own = float(surprise.mean().exp())
        perplexity += own / books
        pull += own * surprise / books
    return perplexity, pull
