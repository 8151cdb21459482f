"""A diagonal Gaussian posterior and a learned mixture of Gaussians as its prior.

The "MoG" prior that Tomczak & Welling, VAE with a VampPrior, 2018, section 3, compare with theirs; weights are learned too. The KL has no
closed form and is charged by the posterior's own draw, log q(z|x) - log p(z). The positions of a feature map share the mixture and are
independent. At first the components, of variance ½, are spread with variance ½, so that the prior starts near a standard normal.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn

from aegen import Bottleneck, Latent, Range
from aegen.nn.densities import diagonal, log_normals
from aegen_builtin.latents.gaussian import active_units


class MixturePrior(Bottleneck):
    """Charges the KL to a prior of several Gaussians, which learn where the posteriors lie.

    Options:
        dim: latent dimensions, or channels of a spatial latent.
        components: Gaussians in the prior.
    """

    offers = frozenset({"prior", "density", "diagonal", "penalty"})
    undecayed = frozenset({"logits", "means", "logvars"})

    def __init__(
        self, *, dim: Annotated[int, Range(1, 65_536)] = 16, components: Annotated[int, Range(1, 65_536)] = 50
    ) -> None:
        super().__init__()
        self.fan_in = 2 * dim
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, dim) * math.sqrt(0.5))
        self.logvars = nn.Parameter(torch.full((components, dim), math.log(0.5)))

    def forward(self, features: Tensor) -> Latent:
        """(B, 2·dim, …), mean and log-variance → a draw z (B, dim, …)."""
        posterior = diagonal(features)
        z, log_q = posterior.draw()
        active = active_units(posterior.mean, training=self.training)
        return Latent(z, log_q - self.log_prior(z), posterior, statistics=active)

    @torch.no_grad()
    def prior(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Draws, (n, *shape), a component for each position; they carry no gradient."""
        noise = torch.randn(n, *shape, generator=generator).movedim(1, -1)
        weights, means, stds = (p.to(noise) for p in (self.logits.softmax(0), self.means, (0.5 * self.logvars).exp()))
        chosen = torch.multinomial(weights, noise[..., 0].numel(), replacement=True, generator=generator)
        chosen = chosen.view(noise.shape[:-1])
        return (means[chosen] + stds[chosen] * noise).movedim(-1, 1)

    def log_prior(self, z: Tensor) -> Tensor:
        """log p(z) in nats, (B,), summed over positions."""
        each = log_normals(z.movedim(1, -1), self.means, self.logvars) + self.logits.log_softmax(0)
        return each.logsumexp(-1).unsqueeze(1).flatten(1).sum(1)
