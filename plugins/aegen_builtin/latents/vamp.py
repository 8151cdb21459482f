"""A prior made of the posteriors of learned images, and a diagonal Gaussian posterior.

Tomczak & Welling, VAE with a VampPrior, 2018, eq. 9: p(z) = 1/K Σ q(z|u_k), where the pseudo-inputs u_k are images that are learned with
everything else and encoded by the model's own encoder. Here they are the tanh of what is learned, which keeps them in [-1, 1] and never
stops their gradient. The KL has no closed form and is charged by the posterior's own draw, log q(z|x) - log p(z). The paper takes 500
pseudo-inputs; each step encodes them beside the batch, so the default is less.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn

from aegen import Bottleneck, ImageShape, Latent, Range
from aegen.nn.densities import DiagonalGaussian, diagonal, log_normals
from aegen_builtin.latents.gaussian import active_units


class Vamp(Bottleneck):
    """Charges the KL to a mixture of the posteriors of learned pseudo-inputs. Time and memory grow with their number.

    Options:
        dim: latent dimensions, or channels of a spatial latent.
        components: pseudo-inputs.
    """

    offers = frozenset({"prior", "density", "diagonal", "penalty"})
    undecayed = frozenset({"raw"})
    any_size = False  # the pseudo-inputs have the size of the images

    def __init__(
        self,
        image: ImageShape,
        *,
        dim: Annotated[int, Range(1, 65_536)] = 16,
        components: Annotated[int, Range(1, 65_536)] = 100,
    ) -> None:
        super().__init__()
        self.fan_in = 2 * dim
        self.raw = nn.Parameter(torch.randn(components, *image))
        self._encoder: tuple[nn.Module, ...] = ()  # a tuple is no submodule: the encoder's weights are not saved twice

    def attach(self, encoder: nn.Module) -> None:
        """The encoder that is to encode the pseudo-inputs."""
        self._encoder = (encoder,)

    @property
    def pseudo_inputs(self) -> Tensor:
        """(K, C, H, W) in [-1, 1]."""
        return self.raw.tanh()

    def components(self) -> DiagonalGaussian:
        """The posteriors of the pseudo-inputs, K of them; what the prior is made of."""
        if not self._encoder:
            raise TypeError("the prior of a Vamp bottleneck needs the model's encoder; call attach(encoder) first")
        return diagonal(self._encoder[0](self.pseudo_inputs).to(self.raw.dtype))  # autocast may have lowered it

    def forward(self, features: Tensor) -> Latent:
        """(B, 2·dim, …), mean and log-variance → a draw z (B, dim, …); nothing is charged while no encoder is attached."""
        posterior = diagonal(features)
        z, log_q = posterior.draw()
        penalty = log_q - self.log_prior(z) if self._encoder else torch.zeros_like(log_q)
        active = active_units(posterior.mean, training=self.training)
        return Latent(z, penalty, posterior, statistics=active)

    @torch.no_grad()
    def prior(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Draws from the posteriors of pseudo-inputs chosen at random, (n, *shape); they carry no gradient."""
        noise = torch.randn(n, *shape, generator=generator)
        chosen = torch.randint(len(self.raw), (n,), generator=generator)
        parts = self.components()
        return parts.mean.to(noise)[chosen] + parts.std.to(noise)[chosen] * noise

    def log_prior(self, z: Tensor) -> Tensor:
        """log p(z) in nats, (B,); gradients pass to the pseudo-inputs and to the encoder."""
        parts = self.components()
        each = log_normals(z.flatten(1), parts.mean.flatten(1), parts.logvar.flatten(1))
        return each.logsumexp(1) - math.log(len(self.raw))
