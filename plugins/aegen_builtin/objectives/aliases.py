"""Names that people type for a combination: an objective with another default, or a stack of objectives; no code of its own.

VQ-VAE: van den Oord et al., Neural Discrete Representation Learning, 2017. VQ-VAE-2: Razavi et al., 2019. FSQ: Mentzer et al.,
Finite Scalar Quantization, 2023. SVAE: Davidson et al., Hyperspherical Variational Auto-Encoders, 2018. VAMP: Tomczak &
Welling, VAE with a VampPrior, 2018. Categorical: Jang et al., 2017. VQGAN: Esser et al., Taming Transformers, 2021. KL-GAN:
Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022, appendix G.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from aegen import Objective
from aegen_builtin.objectives.ae import AE
from aegen_builtin.objectives.vae import VAE


class VQVAE(AE):
    """`ae` with a codebook: the error, and the codebook's commitment. A map of codes where the architecture keeps one."""

    bottleneck = "vq"
    map_options: ClassVar[Mapping[str, Any] | None] = {"dim": 4, "codes": 512}  # CONTRIBUTING.md, "Maps"


class VQVAE2(AE):
    """`ae` with two levels of codes, maps where the architecture keeps them."""

    bottleneck = "vq-2"
    map_options: ClassVar[Mapping[str, Any] | None] = {"dim": 4, "codes": 512}


class FSQVAE(AE):
    """`ae` with finite scalar quantisation, which charges nothing. A map of codes where the architecture keeps one."""

    bottleneck = "fsq"
    map_options: ClassVar[Mapping[str, Any] | None] = {}


class SVAE(VAE):
    """`vae` on the unit sphere."""

    bottleneck = "sphere"


class VampVAE(VAE):
    """`vae` with a prior of learned pseudo-inputs."""

    bottleneck = "vamp"


class CategoricalVAE(VAE):
    """`vae` with categorical latents."""

    bottleneck = "categorical"


class VQGAN(Objective):
    """`vq-vae+perceptual+adversarial`: codes, a distance in a network's features, and a critic of patches."""

    stands_for = "vq-vae+perceptual+adversarial"


class KLGAN(Objective):
    """`vae+perceptual+adversarial`: the autoencoder of latent diffusion, a map of few channels where the architecture keeps one."""

    stands_for = "vae+perceptual+adversarial"
    map_options: ClassVar[Mapping[str, Any] | None] = {"dim": 4}  # its f = 4 to 8 have 3 or 4
