"""A codebook, and how gradients pass through the choice of a code.

van den Oord et al., Neural Discrete Representation Learning, 2017, eq. 1 to 3 and appendix A.1. The averages of A.1 begin at zero and
their quotient is taken only for codes that were just used, so they need neither a correction of the start nor smoothing.
k-means and restarts: Łańcucki et al., Robust Training of Vector Quantized Bottleneck Models, 2020; Dhariwal et al., Jukebox, 2020, whose
code sets what it restarts beside a feature and not on it: of equal codes only one is ever chosen, and which one rounding decides. Unit
length: Yu et al., Vector-quantized Image Modeling with Improved VQGAN, 2022. Rotation: Fifty et al., Restructuring Vector Quantization
with the Rotation Trick, 2024, section 4.

Of several processes, each holds the same codebook: uses and sums are added up over them, random picks are from the rows of all. Of several
micro-batches too; codes move with the last of them, restarts are beside its features, and the first one is k-means'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from aegen import (
    Statistic,
    StepMean,
    common_generator,
    gather_rows,
    mean_over_ranks,
    micro_batches,
    sum_over_ranks,
    take_rows,
    uniform_like,
)

Update = Literal["ema", "gradient"]
_SHORTEST = 1e-6
_TINY = 1e-6  # the spread of features that are all 0


class Quantised(NamedTuple):
    """What was asked for and what was found: x and e (B, dim, …), codes int64 (B, …)."""

    x: Tensor
    e: Tensor
    codes: Tensor


class Codebook(nn.Module):
    """`codes` vectors of `dim` dimensions, of which the nearest one is chosen.

    `restart` is in batches, or in as many as bring one vector for each code, where a batch brings fewer.
    """

    undecayed = frozenset({"vectors"})
    vectors: Tensor
    initialised: Tensor
    sums: Tensor
    counts: Tensor
    idle: Tensor

    def __init__(
        self,
        dim: int,
        codes: int,
        *,
        update: Update = "ema",
        decay: float = 0.99,
        restart: int = 50,
        kmeans_iterations: int = 10,
        l2_normalised: bool = False,
    ) -> None:
        super().__init__()
        self.learned = update == "gradient"
        self.decay, self.restart, self.kmeans_iterations = decay, restart, kmeans_iterations
        self.l2_normalised = l2_normalised
        vectors = torch.randn(codes, dim)
        if self.learned:
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)
            self.register_buffer("sums", torch.zeros(codes, dim))
        self.register_buffer("counts", torch.zeros(codes))  # decayed uses
        self.register_buffer("idle", torch.zeros(codes))  # since the last use
        self.register_buffer("initialised", torch.tensor(kmeans_iterations == 0))
        self.hits_of_step = StepMean(codes)
        if not self.learned:
            self.sums_of_step = StepMean(codes, dim)
        self._started = False

    def forward(self, x: Tensor) -> Quantised:
        """(B, dim, …) → the nearest codes. State moves in training with gradients only."""
        x = self._scaled(x.movedim(1, -1))
        rows = x.detach().reshape(-1, x.shape[-1])
        moves = self.training and torch.is_grad_enabled()
        if moves:
            self._start(rows)
        codes = nearest(rows, self._scaled(self.vectors.detach()))
        found = codes.view(x.shape[:-1])
        e = self.lookup(found)
        if moves:
            self._learn(rows, codes)
        return Quantised(x.movedim(-1, 1), e, found)

    def nearest(self, x: Tensor) -> Tensor:
        """(B, dim, …) → the vectors of the nearest codes, of the same shape. No state moves.

        By differences, where `forward` multiplies: slower, but a code is its own nearest however close another one lies.
        """
        x = self._scaled(x.movedim(1, -1))
        rows, book = x.reshape(-1, x.shape[-1]), self._scaled(self.vectors)
        codes = torch.cdist(rows, book, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        return self.lookup(codes.view(x.shape[:-1]))

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, …) → vectors (B, dim, …)."""
        vectors: Tensor = embedding(codes, self.vectors)
        return self._scaled(vectors).movedim(-1, 1)

    def charge(self, found: Quantised, beta: float) -> Tensor:
        """Summed over dimensions and positions, (B,): beta · |x - sg e|², and |sg x - e|² if gradients train the codes."""
        charge: Tensor = beta * (found.x - found.e.detach()).square()
        if self.learned:
            charge = charge + (found.x.detach() - found.e).square()
        return charge.flatten(1).sum(1)

    def usage(self) -> Tensor:
        """Share of the codes in use, (): their decayed count exceeds that of one use 1 / (1 - decay) training batches ago."""
        once: float = (1 - self.decay) * self.decay ** (1 / (1 - self.decay))
        return (self.counts > once).to(self.counts.dtype).mean()

    def _scaled(self, vectors: Tensor) -> Tensor:
        scaled: Tensor = normalize(vectors, dim=-1) if self.l2_normalised else vectors
        return scaled

    @torch.no_grad()
    def _start(self, rows: Tensor) -> None:
        """k-means on the first batch."""
        if self._started:
            return
        # One look at the device, at the first step after building or loading. Without it every step would run k-means, or a
        # resumed run could not know that it must not.
        if not bool(self.initialised):
            self.vectors.copy_(k_means(rows, len(self.vectors), self.kmeans_iterations, self._scaled))
            self.initialised.fill_(True)
        self._started = True

    @torch.no_grad()
    def _learn(self, rows: Tensor, codes: Tensor) -> None:
        """Averages, then restarts."""
        own, own_sums = tally(rows, codes, len(self.vectors))
        hits = self.hits_of_step(own)
        sums = hits if self.learned else self.sums_of_step(own_sums)
        if hits is None:  # the step goes on
            return
        hits = sum_over_ranks(hits * micro_batches())
        self.counts.lerp_(hits, 1 - self.decay)
        if not self.learned:
            self.sums.lerp_(sum_over_ranks(sums * micro_batches()), 1 - self.decay)
            means = self.sums / self.counts.clamp(min=torch.finfo(hits.dtype).tiny).unsqueeze(1)
            self.vectors.copy_(torch.where((hits > 0).unsqueeze(1), means, self.vectors))
        if not self.restart:
            return
        # A use is the more to be expected the more vectors a batch has, until there is one for each code.
        self.idle.add_((hits.sum() / len(hits)).clamp(max=1)).mul_(hits == 0)
        alive = self.idle < self.restart
        beside = some(rows, len(hits))
        beside = beside + jitter(rows, beside)
        self.vectors.copy_(torch.where(alive.unsqueeze(1), self.vectors, beside))
        self.idle.mul_(alive)
        self.counts.mul_(alive)  # the next vectors that choose it are its mean
        if not self.learned:
            self.sums.mul_(alive.unsqueeze(1))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._started = False


# ---------------------------------------------------------------------------------------------------- arithmetic


def nearest(rows: Tensor, book: Tensor) -> Tensor:
    """The nearest of `book` (K, D) to each of `rows` (N, D), int64 (N,)."""
    return torch.addmm(book.square().sum(1), rows, book.T, alpha=-2).argmin(1)


def tally(rows: Tensor, codes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """How many rows chose each code, (K,), and their sum, (K, D); by a product, which adds in the same order each time."""
    chosen = (codes.unsqueeze(1) == torch.arange(count, device=codes.device)).to(rows.dtype)
    return chosen.sum(0), chosen.T @ rows


def some(rows: Tensor, count: int) -> Tensor:
    """`count` random rows; none twice before each was taken once."""
    order = gather_rows(uniform_like(rows[:, 0])).argsort()
    return take_rows(rows, order[torch.arange(count, device=rows.device) % len(order)])


def repeats(book: Tensor) -> Tensor:
    """Which rows of (K, D) stand in it before, (K,)."""
    _, group = torch.unique(book, dim=0, return_inverse=True)
    place = torch.arange(len(book), device=book.device)
    first = torch.full_like(place, len(book)).scatter_reduce(0, group, place, "amin")
    return place != first[group]


def jitter(rows: Tensor, like: Tensor) -> Tensor:
    """Noise of a hundredth of the spread of the rows (N, D) of all processes, the same in each of them, of the shape of `like` (K, D).

    Rows that are all alike are taken to be spread by a tenth of their size, so that what is set beside them differs.
    """
    centre = mean_over_ranks(rows.mean(0))
    spread = mean_over_ranks((rows - centre).square().mean(0)).sqrt()
    size = mean_over_ranks(rows.square().mean()).sqrt()
    noise = torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=common_generator(like.device))
    return 0.01 * spread.clamp(min=0.1 * size + _TINY) * noise


def k_means(rows: Tensor, count: int, iterations: int, scaled: Callable[[Tensor], Tensor]) -> Tensor:
    """Lloyd's algorithm from random rows of all processes, (count, D); a mean that no row chooses stays where it is.

    Where there are fewer different rows than means, those beyond stand beside a row.
    """
    book = some(rows, count)
    book = scaled(book + repeats(book).unsqueeze(1) * jitter(rows, book))
    for _ in range(iterations):
        hits, sums = tally(rows, nearest(rows, book), count)
        hits, sums = sum_over_ranks(hits).unsqueeze(1), sum_over_ranks(sums)
        book = scaled(torch.where(hits > 0, sums / hits.clamp(min=1), book))
    return book


# ---------------------------------------------------------------------------------------------------- gradients


def straight_through(x: Tensor, e: Tensor) -> Tensor:
    """e, to the bit, with the gradients of x."""
    return e.detach() + (x - x.detach())


def rotated(x: Tensor, e: Tensor) -> Tensor:
    """e, to the bit, with the gradients of the rotation and scaling that takes x to e, both (B, dim, …)."""
    with torch.no_grad():
        length = x.norm(dim=1, keepdim=True).clamp(min=_SHORTEST)
        start, end = x / length, normalize(e, dim=1)
        middle = normalize(start + end, dim=1)
        scale = e.norm(dim=1, keepdim=True) / length
    across = 2 * (middle * x).sum(1, keepdim=True) * middle
    along = 2 * (start * x).sum(1, keepdim=True) * end
    return straight_through(scale * (x - across + along), e)


# ---------------------------------------------------------------------------------------------------- watching


def company(codes: Tensor) -> Tensor:
    """How many of all codes (…) are the same as each, itself included, (N,); no table of all codes that could be."""
    ordered = codes.flatten().sort().values
    return torch.searchsorted(ordered, ordered, right=True) - torch.searchsorted(ordered, ordered)


def perplexity(codes: Tensor) -> Tensor:
    """exp of the entropy of the codes used in a batch, (), between 1 and their number."""
    counts = company(codes)
    return (counts / counts.numel()).log().mean().neg().exp()


def batch_usage(codes: Tensor, count: int) -> Tensor:
    """How many different codes a batch uses, as a share of `count` or of the most it could use, (), between 0 and 1."""
    counts = company(codes)
    used = counts.reciprocal().sum()
    return torch.maximum(used / count, used / counts.numel())


def watched(books: Sequence[Codebook], codes: Sequence[Tensor]) -> dict[str, Any]:
    """What a bottleneck says of its codebooks and of the codes (B, …) that a batch chose in each, as arguments of `Latent`.

    In training: perplexity of the batch of all processes and usage of late, (), averaged over codebooks. In evaluation: both of all
    images.
    """
    if not books[0].training:
        return {"statistics": of_all_images(codes, [len(book.vectors) for book in books])}
    watch = {
        "perplexity": torch.stack([perplexity(gather_rows(c)) for c in codes]).mean(),
        "usage": torch.stack([book.usage() for book in books]).mean(),
    }
    return {"watch": watch}


def chosen(codes: Tensor, count: int, training: bool) -> dict[str, Any]:
    """As `watched`, for a bottleneck whose `count` codes are no vectors that could be counted: (B, …)."""
    if not training:
        return {"statistics": of_all_images([codes], [count])}
    every = gather_rows(codes)
    return {"watch": {"perplexity": perplexity(every), "usage": batch_usage(every, count)}}


class _Chosen(Statistic):
    """How often each code was chosen, for each codebook; only of codes that were, since books may have 2^62 of them.

    Args:
        codes: those of a batch in each codebook, (B, …).
        sizes: how many codes each has.
    """

    def __init__(self, codes: Sequence[Tensor], sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)
        self.codes = [chosen.detach().flatten() for chosen in codes]  # any may stand more than once
        self.counts = [torch.ones_like(chosen) for chosen in self.codes]

    def merge(self, other: Self) -> None:
        """Take in other images."""
        self.codes = [torch.cat(pair) for pair in zip(self.codes, other.codes, strict=True)]
        self.counts = [torch.cat(pair) for pair in zip(self.counts, other.counts, strict=True)]
        self._counted()

    def _counted(self) -> list[Tensor]:
        """Uses of each code that was chosen, in each codebook; from now on every code stands once."""
        for i, (codes, counts) in enumerate(zip(self.codes, self.counts, strict=True)):
            self.codes[i], where = codes.unique(return_inverse=True)
            self.counts[i] = torch.zeros_like(self.codes[i]).index_add_(0, where, counts)
        return self.counts


class Perplexity(_Chosen):
    """exp of the entropy of the codes, averaged over codebooks."""

    def value(self) -> float:
        """Between 1 and the number of codes."""
        shares = [counts.double() / counts.sum() for counts in self._counted()]
        return float(torch.stack([(p * p.log()).sum().neg().exp() for p in shares]).mean())


class Usage(_Chosen):
    """Share of the codes that are used, or of the most that so many vectors could use, averaged over codebooks."""

    def value(self) -> float:
        """Above 0, up to 1."""
        pairs = zip(self._counted(), self.sizes, strict=True)
        return sum(len(counts) / min(size, int(counts.sum())) for counts, size in pairs) / len(self.sizes)


def of_all_images(codes: Sequence[Tensor], sizes: Sequence[int]) -> dict[str, Statistic]:
    """Perplexity and usage of the codes (B, …) of each codebook, to be merged with those of other images."""
    return {"perplexity": Perplexity(codes, sizes), "usage": Usage(codes, sizes)}
