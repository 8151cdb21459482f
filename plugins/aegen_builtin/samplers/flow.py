"""A normalizing flow of affine couplings, trained on the latents of the training images by their exact log-density.

Dinh et al., Density Estimation using Real NVP, 2017, eq. 4 to 8: half of the dimensions are scaled and shifted by what a net makes of the other
half, so that the map is inverted and its determinant known in one pass. Two choices: halves are every other dimension and the first against
the last, in turn, and log-scales are held softly within ±2, so that no step is without bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from aegen import Outcome, Range, Sampler, UsageError

_BOUND = 2.0  # of a log-scale
_LOG_2PI = math.log(2 * math.pi)


class Coupling(nn.Module):
    """y = x where `kept`, x · exp(s) + t elsewhere; s and t are a net's of what is kept. At first it is the identity.

    Args:
        kept: bool (D,), some and not all.
    """

    kept: Tensor
    moved: Tensor

    def __init__(self, kept: list[bool], width: int) -> None:
        super().__init__()
        ours, theirs = ([i for i, one in enumerate(kept) if one is which] for which in (True, False))
        self.register_buffer("kept", torch.tensor(ours), persistent=False)
        self.register_buffer("moved", torch.tensor(theirs), persistent=False)
        last = nn.Linear(width, 2 * len(theirs))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(len(ours), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D) → y (B, D), and log |det| of the map there, (B,)."""
        s, t = self._steps(x)
        return x.index_copy(1, self.moved, x[:, self.moved] * s.exp() + t), s.sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """The x whose image is y, (B, D)."""
        s, t = self._steps(y)
        return y.index_copy(1, self.moved, (y[:, self.moved] - t) * (-s).exp())

    def _steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.net(x[:, self.kept]).to(x.dtype).chunk(2, 1)  # in half precision only the net is
        return _BOUND * torch.tanh(s / _BOUND), t


class Flow(Sampler):
    """A normalizing flow of affine couplings (Real NVP), trained on the latents of the training images.

    Options:
        depth: number of couplings.
        width: of the hidden layers of their nets.
    """

    learns = True
    suggests: ClassVar[Mapping[str, Any]] = {"epochs": 200, "batch_size": 128, "schedule": "cosine", "ema": 0.99}

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        latent: tuple[int, ...],
        *,
        depth: Annotated[int, Range(1, 256)] = 8,
        width: Annotated[int, Range(1, 65_536)] = 128,
    ) -> None:
        super().__init__()
        self.latent, dim = latent, math.prod(latent)
        if dim < 2:
            raise UsageError(
                "sampler flow needs latents of at least 2 dimensions", hint="use --sampler gaussian or mixture"
            )
        masks = [[i % 2 == 0 for i in range(dim)], [i < dim // 2 for i in range(dim)]]
        masks = [mask if one else [not kept for kept in mask] for mask in masks for one in (True, False)]
        self.couplings = nn.ModuleList(Coupling(masks[i % len(masks)], width) for i in range(depth))
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def fit(self, latents: Tensor, seed: int = 0) -> None:
        """Where the latents (N, *z) lie and how far they spread: what the couplings see has mean 0 and deviation 1."""
        flat = latents.flatten(1).double()
        self.shift.copy_(flat.mean(0))
        spread = flat.std(0, correction=0)
        self.scale.copy_(spread.clamp_min(1e-3 * float(spread.max().clamp_min(1e-6))))

    def loss(self, latent: Tensor, labels: Tensor | None = None) -> Outcome:
        """-log p(z) of latents (B, *z), nats, (B,)."""
        return Outcome({"nll": -self.log_prob(latent)})

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) of latents (B, *z) in nats, (B,)."""
        u, logdet = self.noise_of(z)
        return logdet - 0.5 * (u.square() + _LOG_2PI).sum(1)

    def noise_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, *z) → the standard normal noise that gives them, (B, D), and log |det| of that map there, (B,)."""
        u = (z.flatten(1) - self.shift) / self.scale
        logdet = (-self.scale.log().sum()).expand(len(u))
        for coupling in self.couplings:
            u, more = coupling(u)
            logdet = logdet + more
        return u, logdet

    def latent_of(self, u: Tensor) -> Tensor:
        """Noise (B, D) → latents (B, *z)."""
        for coupling in reversed(self.couplings):
            assert isinstance(coupling, Coupling)
            u = coupling.inverse(u)
        return (u * self.scale + self.shift).view(len(u), *self.latent)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, *z)."""
        return self.latent_of(torch.randn(n, len(self.shift), generator=generator).to(self.shift)).cpu()
