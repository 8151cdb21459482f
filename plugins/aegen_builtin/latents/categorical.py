"""Categorical latents, drawn by the Gumbel-softmax.

Jang et al., Categorical Reparameterization with Gumbel-Softmax, 2017; Maddison et al., The Concrete Distribution,
2017. The charge is the KL between the categories themselves, on the logits (Jang et al.'s), not between the relaxed
densities. What reconstructs is the likeliest category of each variable, one-hot, which is what `codes` say; gradients
pass through it as if it were the probabilities.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from aegen import Bottleneck, Latent, Posterior, Range, exponential_like


def one_hot(index: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Integers (B, V, …) → (B, V, count, …), in one pass and without a look at their values."""
    categories = torch.arange(count, device=index.device).view(-1, *[1] * (index.ndim - 2))
    return (index.unsqueeze(2) == categories).to(dtype)


class Choices(Posterior):
    """q(z|x): at each of (B, V, …) one of K categories, with logits (B, V, K, …); z is (B, V · K, …)."""

    def __init__(self, logits: Tensor, temperature: float, hard: bool) -> None:
        self.log_probs = logits.log_softmax(2)
        self.temperature, self.hard = temperature, hard
        probs = self.log_probs.exp()
        self.codes = logits.argmax(2)
        likeliest = one_hot(self.codes, logits.shape[2], logits.dtype)
        self.mean = (likeliest + probs - probs.detach()).flatten(1, 2)
        self._probs = probs

    def sample(self) -> Tensor:
        """Relaxed draws, or one-hot ones if they are hard, (B, V · K, …); gradients pass to the logits."""
        gumbel = -exponential_like(self.log_probs.contiguous()).log()
        soft = ((self.log_probs + gumbel) / self.temperature).softmax(2)
        if self.hard:
            soft = one_hot(soft.argmax(2), soft.shape[2], soft.dtype) - soft.detach() + soft
        return soft.flatten(1, 2)

    def log_prob(self, z: Tensor) -> Tensor:
        """log of the mass of one-hot z in nats, (B,)."""
        return (z * self.log_probs.flatten(1, 2)).flatten(1).sum(1)

    def kl(self) -> Tensor:
        """KL to the uniform distribution by variable, (B, V, …) nats."""
        return (self._probs * self.log_probs).sum(2) + math.log(self._probs.shape[2])


class Categorical(Bottleneck):
    """Variables of a few categories each; charges the KL of their probabilities to the uniform distribution.

    Options:
        variables: number of variables, at each position of a feature map.
        categories: values that each variable takes.
        temperature: of the relaxation; draws are nearer to one-hot the lower it is, and gradients noisier.
        hard: draw one-hot latents, with the gradients of the relaxed ones (straight-through).
    """

    offers = frozenset({"prior", "codes", "penalty"})

    def __init__(
        self,
        *,
        variables: Annotated[int, Range(1, 65_536)] = 16,
        categories: Annotated[int, Range(2, 65_536)] = 10,
        temperature: Annotated[float, Range(above=0)] = 0.67,
        hard: bool = False,
    ) -> None:
        super().__init__()
        self.variables, self.categories = variables, categories
        self.temperature, self.hard = temperature, hard
        self.fan_in = variables * categories
        self.codebooks = (categories,) * variables

    def posterior(self, features: Tensor) -> Choices:
        """Logits (B, variables · categories, …) → q(z|x)."""
        return Choices(features.unflatten(1, (self.variables, self.categories)), self.temperature, self.hard)

    def forward(self, features: Tensor) -> Latent:
        """Logits (B, variables · categories, …) → a draw z of the same shape, and codes (B, variables, …)."""
        posterior = self.posterior(features)
        return Latent(posterior.sample(), posterior.kl().flatten(1).sum(1), posterior, posterior.codes)

    def nearest(self, z: Tensor) -> Tensor:
        """The strongest category of each variable, one-hot: so is the mean, which is what reconstructs."""
        strongest = z.unflatten(1, (self.variables, self.categories)).argmax(2)
        return one_hot(strongest, self.categories, z.dtype).flatten(1, 2)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, variables, …) → one-hot z (B, variables · categories, …)."""
        return one_hot(codes, self.categories, torch.get_default_dtype()).flatten(1, 2)

    def prior(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """One-hot, all categories alike, (n, *shape)."""
        index = torch.randint(self.categories, (n, self.variables, *shape[1:]), generator=generator)
        return one_hot(index, self.categories, torch.get_default_dtype()).flatten(1, 2)
