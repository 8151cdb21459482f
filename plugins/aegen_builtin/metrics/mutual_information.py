"""How much the latent tells of the image, and how far all latents together are from the prior.

Hoffman & Johnson, ELBO surgery: yet another way to carve up the variational evidence lower bound, 2016: the mean KL
of the posteriors is I(x; z) + KL(q(z) ‖ p(z)), q(z) being the mixture of all posteriors. Each part by one draw an
image, with all held-out images as the mixture, so the information is at most log N, and below the truth where it
comes near that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from aegen import Metric, Seen
from aegen_builtin.metrics.latents import DRAW, MEAN, flat
from aegen_builtin.metrics.means import around

_BLOCK = 500  # draws whose density under every posterior is held at a time
_STD, _PRIOR = "latent.std", "latent.log_prior"


class MutualInformation(Metric):
    """Mutual information of image and latent, and the KL of the aggregate posterior to the prior, in nats."""

    needs = frozenset({"encoder", "density", "diagonal"})
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"*": (0.0, math.inf)}
    resamples = 0

    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Posteriors and a draw of each, (B, D), and log p(z), (B,)."""
        if not seen.held_out:
            return {}
        latent = seen.latent
        posterior: Any = latent.posterior
        return {
            DRAW: flat(latent.z),
            MEAN: flat(latent.mean),
            _STD: flat(posterior.std),
            _PRIOR: seen.model.log_prior(latent.z),
        }

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, ...]]:
        """Means over the images; the error knows that each image is a draw, and a part of the mixture for all others, and of the bias.

        The information of few images is too low by more than half of them tell, so that its interval held it 0.88 times of 1: it has none.
        """
        own, aggregate = densities(rows[DRAW], rows[MEAN], rows[_STD])
        apart = aggregate - rows[_PRIOR].double()
        part = shares(rows[DRAW], rows[MEAN], rows[_STD], aggregate)

        def lost(some: Tensor) -> float:
            own, aggregate = densities(rows[DRAW][some], rows[MEAN][some], rows[_STD][some])
            return float((own - aggregate).mean())

        information, divergence = float((own - aggregate).mean()), float(apart.mean())
        # What the mixture of some lacks goes from the one to the other; the prior's part is a mean over images.
        return {
            "mutual_information": information,
            "marginal_kl": around(divergence, apart + part, lambda some: divergence + information - lost(some)),
        }

    def notes(self, rows: Mapping[str, Tensor]) -> list[str]:
        """How many images there were."""
        count = len(rows[DRAW])
        return [
            f"of {count} images, mutual_information can be {math.log(count):.2f} nats at most; where it comes near that, "
            "it is too low and marginal_kl as much too high"
        ]


def densities(z: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z|x) under the own posterior and log q(z) under the mixture of all, of (N, D) each, (N,) in float64."""
    own, aggregate = z.new_empty(len(z), dtype=torch.float64), z.new_empty(len(z), dtype=torch.float64)
    for part, log_q in _blocks(z, mean, std):
        own[part] = log_q[torch.arange(len(log_q)), part.start + torch.arange(len(log_q))]
        aggregate[part] = log_q.logsumexp(1) - math.log(len(z))
    return own, aggregate


def shares(z: Tensor, mean: Tensor, std: Tensor, aggregate: Tensor) -> Tensor:
    """How much of the mixture's density each posterior makes up, as a mean over all draws, times N: (N,) around 1."""
    found = torch.zeros_like(aggregate)
    for part, log_q in _blocks(z, mean, std):
        found += (log_q - aggregate[part, None]).exp_().sum(0) / len(z)
    return found


def _blocks(z: Tensor, mean: Tensor, std: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some draws after others, and their log-densities under every posterior, (some, N) in float64."""
    middle = mean.double().mean(0)  # the products below lose least near 0
    z, mean, std = z.double() - middle, mean.double() - middle, std.double()
    precision = std**-2
    constant = (mean.square() * precision + 2 * std.log() + math.log(2 * math.pi)).sum(1)
    own = -0.5 * (((z - mean) / std).square() + 2 * std.log() + math.log(2 * math.pi)).sum(1)
    for start in range(0, len(z), _BLOCK):
        part = slice(start, start + _BLOCK)
        log_q = torch.addmm(constant, z[part].square(), precision.T)
        log_q.addmm_(z[part], (mean * precision).T, alpha=-2).mul_(-0.5)
        every = torch.arange(len(log_q))
        log_q[every, start + every] = own[part]
        yield part, log_q
