"""A Gaussian beside the image's class.

Kingma et al., Semi-Supervised Learning with Deep Generative Models, 2014 (M2); Sohn et al., Learning Structured
Output Representation using Deep Conditional Generative Models, 2015. The decoder is told the class, so that the
Gaussian part carries what is left, the style. The KL is that of the bound on log p(x|y); M2's bound on log p(x, y) is
log(classes) lower, the same for all images. The class logits come from the image alone and are taught by
cross-entropy, M2's alpha. In q(z|x, y) the class moves and stretches the mean that the encoder finds, dimension by
dimension: the encoder's nets need not know of labels, and yet the style need not repeat the class.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, hardtanh

from aegen import Bottleneck, Latent, Posterior, Range, UsageError
from aegen.nn.densities import DiagonalGaussian
from aegen_builtin.latents.gaussian import active_units

_LOWEST, _HIGHEST = -30.0, 20.0  # of the log-variance: beyond, its exponential leaves float32


class Marked(Posterior):
    """q(z|x, y): a Gaussian, and a mark (B, classes, …) of the class, which is not random."""

    def __init__(self, style: DiagonalGaussian, mark: Tensor) -> None:
        self.style, self.mark = style, mark
        self.mean = torch.cat([style.mean, mark], 1)

    def sample(self) -> Tensor:
        """(B, dim + classes, …)."""
        return torch.cat([self.style.sample(), self.mark], 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q of the Gaussian part in nats, (B,)."""
        return self.style.log_prob(z[:, : self.style.mean.shape[1]])


class Conditional(Bottleneck):
    """For class-conditional autoencoders: charges the Gaussian's KL and, where the label is known, a cross-entropy.

    The class of the latent is the label, or, where there is none, the one the encoder takes the image for.

    Options:
        dim: Gaussian dimensions, or channels of a spatial latent.
        label_weight: weight of the cross-entropy of the class logits, in the penalty.
    """

    offers = frozenset({"prior", "penalty", "labels"})
    undecayed = frozenset({"shift", "stretch"})

    def __init__(
        self,
        classes: int,
        *,
        dim: Annotated[int, Range(1, 65_536)] = 16,
        label_weight: Annotated[float, Range(0)] = 1.0,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise UsageError(
                "bottleneck 'conditional' is told the class of every image, but the data has no labels",
                hint="take data with labels (a folder a class, in --data folder), or --bottleneck gaussian",
            )
        self.classes, self.dim, self.label_weight = classes, dim, label_weight
        self.fan_in = 2 * dim + classes
        self.shift = nn.Parameter(
            torch.zeros(classes, dim)
        )  # of a class's means, so that none of them is told by its place
        self.stretch = nn.Parameter(torch.zeros(classes, dim))  # and by how widely they lie, as a logarithm

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Latent:
        """(B, 2·dim + classes, …), mean, log-variance, logits, and int64 (B,) → a draw z (B, dim + classes, …)."""
        mean, logvar, logits = features.split([self.dim, self.dim, self.classes], 1)
        logits = logits.flatten(2).mean(2) if logits.ndim > 2 else logits  # one class an image
        guess = logits.argmax(1)
        known = guess if labels is None else labels
        mean = mean * self._by_class(self.stretch, known, mean).exp() + self._by_class(self.shift, known, mean)
        style = DiagonalGaussian(mean, hardtanh(logvar, _LOWEST, _HIGHEST))
        penalty = style.kl().flatten(1).sum(1)
        watch = {}
        if labels is not None:
            penalty = penalty + self.label_weight * cross_entropy(logits, labels, reduction="none")
            watch = {} if self.training else {"label_accuracy": (guess == labels).to(penalty.dtype)}
        posterior = Marked(style, self._mark(known, mean))
        active = active_units(mean, training=self.training)
        return Latent(posterior.sample(), penalty, posterior, watch=watch, statistics=active)

    def prior(
        self,
        n: int,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """N(0, 1) beside the class of `labels` (n,), or one drawn uniformly, (n, *shape)."""
        style = torch.randn(n, self.dim, *shape[1:], generator=generator)
        chosen = torch.randint(self.classes, (n,), generator=generator) if labels is None else labels
        return torch.cat([style, self._mark(chosen, style)], 1)

    def nearest(self, z: Tensor) -> Tensor:
        """The same style with one whole class, that whose mark is strongest."""
        return self.relabel(z, self.labels_of(z))

    def labels_of(self, z: Tensor) -> Tensor:
        """The class whose mark is strongest, over all positions, int64 (B,)."""
        return z[:, self.dim :].flatten(2).sum(2).argmax(1) if z.ndim > 2 else z[:, self.dim :].argmax(1)

    def relabel(self, z: Tensor, labels: Tensor) -> Tensor:
        """Latents (B, *z) with their style and the class of `labels` (B,)."""
        style = z[:, : self.dim]
        return torch.cat([style, self._mark(labels, style)], 1)

    def _mark(self, labels: Tensor, style: Tensor) -> Tensor:
        """One-hot (B, classes), repeated over the positions of the style."""
        mark = (labels.unsqueeze(1) == torch.arange(self.classes, device=labels.device)).to(style.dtype)
        return mark.view(*mark.shape, *[1] * (style.ndim - 2)).expand(-1, -1, *style.shape[2:])

    def _by_class(self, table: Tensor, labels: Tensor, style: Tensor) -> Tensor:
        """Rows (B, dim) of a table (classes, dim), alike at all positions of the style."""
        return embedding(labels, table).view(-1, self.dim, *[1] * (style.ndim - 2))
