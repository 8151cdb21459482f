"""The class-conditional VAE: the evidence lower bound of an image whose class is known.

Kingma et al., Semi-Supervised Learning with Deep Generative Models, 2014, eq. 6 and 9; Sohn et al., Learning
Structured Output Representation using Deep Conditional Generative Models, 2015. The class stands in the latent: all
of it is the bottleneck's.
"""

from __future__ import annotations

from aegen_builtin.objectives.vae import VAE


class ConditionalVAE(VAE):
    """`vae` with the image's class in the latent: `aegen sample --label` draws of one class. For data with labels.

    The `penalty` is the KL and the cross-entropy of the class logits; `--bottleneck.label_weight 0` leaves the KL.
    """

    bottleneck = "conditional"
