"""Names that people type for a combination: an objective with another default, or a stack of objectives; no code of its own.

VQ-VAE: van den Oord et al., Neural Discrete Representation Learning, 2017. VQ-VAE-2: Razavi et al., 2019. FSQ: Mentzer et al.,
Finite Scalar Quantization, 2023. SVAE: Davidson et al., Hyperspherical Variational Auto-Encoders, 2018. VAMP: Tomczak &
Welling, VAE with a VampPrior, 2018. Categorical: Jang et al., 2017. VQGAN: Esser et al., Taming Transformers, 2021. KL-GAN:
Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022, appendix G.
"""

from __future__ import annotations

from aegen import Objective
from aegen_objectives.ae import AE
from aegen_objectives.vae import VAE


class VQVAE(AE):
    """`ae` with a codebook: the error, and the codebook's commitment."""

    bottleneck = "vq"


class VQVAE2(AE):
    """`ae` with two levels of codes."""

    bottleneck = "vq-2"


class FSQVAE(AE):
    """`ae` with finite scalar quantisation, which charges nothing."""

    bottleneck = "fsq"


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
    """`vae+perceptual+adversarial`: the autoencoder of latent diffusion; give it a feature map with --arch.spatial."""

    stands_for = "vae+perceptual+adversarial"
