"""Importance weights: several draws from one encoding, decoded at once, and what bounds of log p(x) make of them.

Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, 2016, eq. 8: log p(x) >= E log 1/K Σ w, with
w = p(x|z) p(z) / q(z|x) and z drawn from q(z|x).

With `apart=True` the decoder sees copies of the draws, so that encoder and decoder may be given different gradients at the
price of a second pass backward through the decoder. What belongs to the prior counts as decoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from aegen.autoencoder import Autoencoder
from aegen.autoencoder import bound as plain_bound
from aegen.protocols import Latent, Objective, Outcome, Pixels


class Draws:
    """S draws for each of B images.

    Attributes:
        z: the draws, (S, B, *z), with gradients to the encoder.
        seen: the same as the decoder sees them; where they are kept apart, a leaf of its own.
        log_q: log q(z|x) in nats, (S, B).
        log_prior: log p(z) in nats, (S, B).
        nll: -log p(x|z) in nats, (S, B).

    >>> Draws(net, net.encode(x), x, 10).log_w.shape
    torch.Size([10, 2])
    """

    def __init__(self, model: Autoencoder, latent: Latent, x: Tensor, samples: int, *, apart: bool = False) -> None:
        z, log_q = zip(*(model.draw(latent) for _ in range(samples)), strict=True)
        self.z, self.log_q = torch.stack(z), torch.stack(log_q)
        self.seen = self.z.detach().requires_grad_() if apart else self.z
        every = self.seen.flatten(0, 1)
        self.log_prior: Tensor = model.log_prior(every).unflatten(0, (samples, -1))
        images = x.expand(samples, *x.shape).flatten(0, 1)
        self.nll: Tensor = model.decode(every).nll(images).unflatten(0, (samples, -1))

    @property
    def log_p(self) -> Tensor:
        """log p(x, z) in nats, (S, B)."""
        return self.log_prior - self.nll

    @property
    def log_w(self) -> Tensor:
        """The logarithm of the importance weights, (S, B)."""
        return self.log_p - self.log_q

    def along(self, value: Tensor) -> Tensor:
        """What has the gradient of `value` (S, B), a function of `seen`, by way of the draws only; its number means nothing."""
        (slope,) = torch.autograd.grad(value.sum(), self.seen, retain_graph=True)
        return (slope * self.z).flatten(2).sum(2)


def log_mean_exp(log_w: Tensor) -> Tensor:
    """log of the mean of the exponentials over the first dimension, (K, …) → (…).

    >>> log_mean_exp(torch.tensor([1000.0, 1000.0]))
    tensor(1000.)
    """
    return log_w.logsumexp(0) - math.log(len(log_w))


def steered(value: Tensor, gradient: Tensor) -> Tensor:
    """The number of `value`, with the gradient of `gradient`.

    >>> w = torch.tensor(3.0, requires_grad=True)
    >>> steered(w**2, 2 * w).backward()
    >>> w.grad
    tensor(2.)
    """
    return value.detach() + (gradient - gradient.detach())


class Reconstruction(Pixels):
    """Of a latent's own draw, decoded when a wrapper asks for it: no bound reaches it, nor it a bound."""

    def __init__(self, model: Autoencoder, latent: Latent) -> None:
        self.model, self.latent = model, latent

    @cached_property
    def _pixels(self) -> Pixels:
        return self.model.decode(self.latent.z)

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """(B, C, H, W) in [-1, 1]."""
        return self._pixels.mean

    def nll(self, x: Tensor) -> Tensor:
        """(B,) nats."""
        return self._pixels.nll(x)

    def sample(self) -> Tensor:
        """(B, C, H, W) in [-1, 1]."""
        return self._pixels.sample()


def outcome(bound: Tensor, model: Autoencoder, objective: Objective, latent: Latent, draws: Draws) -> Outcome:
    """The term `bound`, -`bound` (B,); in evaluation also the plain VAE's numbers, averaged over the draws."""
    watch = {}
    if not objective.training:
        watch = plain_bound(model, objective, draws.nll.mean(0), (draws.log_q - draws.log_prior).mean(0))
    return Outcome({"bound": -bound}, Reconstruction(model, latent), latent, watch)


@torch.no_grad()
def importance_nll(model: Autoencoder, x: Tensor, samples: int = 5000, chunk: int = 50) -> Tensor:
    """-log p(x) in nats, (B,), by importance sampling: in expectation above it, and nearer with more `samples`.

    Burda et al., 2016, section 5.1, with 5000. The mode of the model is left as it is.

    Args:
        chunk: draws for each image that are decoded at once.

    >>> importance_nll(net, x, samples=20, chunk=10).shape
    torch.Size([2])
    """
    latent = model.encode(x)
    total = torch.full((len(x),), -math.inf, device=x.device)
    for log_w in weights_in_chunks(model, latent, x, samples, chunk):
        total = torch.logaddexp(total, log_w.logsumexp(0))
    return math.log(samples) - total


def weights_in_chunks(model: Autoencoder, latent: Latent, x: Tensor, samples: int, chunk: int) -> Iterator[Tensor]:
    """log p(x|z) p(z) / q(z|x) in nats of `samples` draws for each of B images, (at most `chunk`, B) at a time.

    >>> [len(log_w) for log_w in weights_in_chunks(net, net.encode(x), x, samples=25, chunk=10)]
    [10, 10, 5]
    """
    for start in range(0, samples, chunk):
        yield Draws(model, latent, x, min(chunk, samples - start)).log_w
