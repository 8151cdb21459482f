"""A posterior that a normalizing flow bends, and a standard normal prior.

Rezende & Mohamed, Variational Inference with Normalizing Flows, 2015, eq. 7: log q(z|x) = log N(z0; mean, std) - Σ log |det|. The
parameters of planar and radial steps are emitted by the encoder for each image, as there. Kingma et al., Improved Variational Inference
with Inverse Autoregressive Flow, 2016: the nets of `iaf` are learned for all images, and each image gives them a context of `dim` numbers.
A feature map is bent at each of its positions, over the channels. The KL has no closed form and is charged by the posterior's own draw.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from aegen import Bottleneck, Latent, Posterior, Range
from aegen.nn.densities import DiagonalGaussian, bounded, log_standard
from aegen_builtin.latents.flows import IAF, Flow, Planar, Radial
from aegen_builtin.latents.gaussian import active_units

_FLOWS: dict[str, type[Planar | Radial | IAF]] = {"planar": Planar, "radial": Radial, "iaf": IAF}


class Bent(Posterior):
    """q(z|x): the base, a diagonal Gaussian (B, D, …), carried through a flow with this image's parameters (B, fan_in, …)."""

    def __init__(self, base: DiagonalGaussian, flow: Flow, parameters: Tensor) -> None:
        self.base, self.flow, self.parameters = base, flow, parameters.movedim(1, -1)

    @cached_property
    def mean(self) -> Tensor:  # type: ignore[override]
        """Where the flow takes the mean of the base, (B, D, …); the mean of what it makes is not known in closed form."""
        return self._carried(self.base.mean)[0]

    def sample(self) -> Tensor:
        """(B, D, …); gradients pass to the base and to the flow."""
        return self.draw()[0]

    def draw(self) -> tuple[Tensor, Tensor]:
        """A draw (B, D, …) and its log-density in nats, (B,), along its own way through the flow."""
        start, log_q = self.base.draw()
        z, logdet = self._carried(start)
        return z, log_q - logdet

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) in nats, (B,), of any z: the flow is inverted, planar by bisection, iaf one dimension after another."""
        with _full_precision(z):
            start = self.flow.inverse(z.movedim(1, -1), self.parameters).movedim(-1, 1)
        return self.base.log_prob(start) - self._carried(start)[1]

    def _carried(self, start: Tensor) -> tuple[Tensor, Tensor]:
        with _full_precision(start):
            z, logdet = self.flow(start.movedim(1, -1), self.parameters)
        return z.movedim(-1, 1), logdet.unsqueeze(1).flatten(1).sum(1)


class FlowPosterior(Bottleneck):
    """Charges KL(q(z|x) ‖ N(0, 1)) of a posterior that need not be Gaussian.

    Options:
        dim: latent dimensions, or channels of a spatial latent.
        flow: kind of its steps: planar (along one direction), radial (around one point), iaf (inverse autoregressive, which
            bends every dimension at once and is the most able).
        depth: steps.
        hidden: units of each net of iaf.
    """

    offers = frozenset({"prior", "density", "penalty"})

    def __init__(
        self,
        *,
        dim: Annotated[int, Range(1, 65_536)] = 16,
        flow: Literal["planar", "radial", "iaf"] = "iaf",
        depth: Annotated[int, Range(1, 256)] = 4,
        hidden: Annotated[int, Range(1, 65_536)] = 64,
    ) -> None:
        super().__init__()
        self.flow = _FLOWS[flow](dim, depth, hidden)
        self.dim = dim
        self.fan_in = 2 * dim + self.flow.fan_in

    def forward(self, features: Tensor) -> Latent:
        """(B, fan_in, …), mean, log-variance and the flow's parameters → a draw z (B, dim, …)."""
        mean, logvar, parameters = features.tensor_split([self.dim, 2 * self.dim], 1)
        posterior = Bent(DiagonalGaussian(mean, bounded(logvar)), self.flow, parameters)
        z, log_q = posterior.draw()
        active = (
            {} if self.training else active_units(posterior.mean, training=False)
        )  # a mean costs a pass of the flow
        return Latent(z, log_q - self.log_prior(z), posterior, statistics=active)

    def prior(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """N(0, 1), (n, *shape)."""
        return torch.randn(n, *shape, generator=generator)

    def log_prior(self, z: Tensor) -> Tensor:
        """log N(z; 0, 1) in nats, (B,)."""
        return log_standard(z)


def _full_precision(x: Tensor) -> Any:
    """Log-determinants are not for bf16, and a loss may draw again outside the bottleneck."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if kind != "meta" and torch.is_autocast_enabled(kind) else nullcontext()
