"""The beta-VAE: the evidence lower bound with a heavier charge for information.

Higgins et al., beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework, 2017, eq. 4. Beta stands
beside nats summed over pixels and latent dimensions; it is the paper's beta, not the one normalised by their numbers.
"""

from __future__ import annotations

from typing import Annotated

from aegen import Range
from aegen_builtin.objectives.vae import VAE


class BetaVAE(VAE):
    """Negative log-likelihood plus `beta` times what the bottleneck charges, with beta above 1.

    Options:
        beta: weight of the bottleneck's penalty; the paper's runs on natural factors take 4 and more.
    """

    def __init__(self, *, beta: Annotated[float, Range(0)] = 4.0) -> None:
        super().__init__(beta=beta)
