"""The denoising autoencoder: the image is reconstructed from a corrupted copy of it.

Vincent et al., Extracting and Composing Robust Features with Denoising Autoencoders, 2008; the three corruptions:
Vincent et al., Stacked Denoising Autoencoders, 2010, section 3.3. Their images lie in [0, 1], so what is masked becomes black,
-1 here, and not the grey of 0. Validation corrupts as training does: that is the criterion.
"""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor

from aegen import Autoencoder, Objective, Outcome, Range, normal_like, uniform_like


class DAE(Objective):
    """Negative log-likelihood of the clean image, given the code of a corrupted one, in nats per image.

    Options:
        noise: added to every value (gaussian), or values set to black (masking), or to black or white by a coin
            (salt-and-pepper).
        level: standard deviation of the gaussian noise in [-1, 1], or the probability that a value is replaced.
    """

    bottleneck, likelihood = "deterministic", "gaussian"

    def __init__(
        self,
        *,
        noise: Literal["gaussian", "masking", "salt-and-pepper"] = "gaussian",
        level: Annotated[float, Range(0, 1)] = 0.25,
    ) -> None:
        super().__init__()
        self.noise, self.level = noise, level

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the term `error` (B,), and the `penalty` of a codebook where there is one."""
        latent = model.encode(self.corrupt(x))
        pixels = model.decode(latent.mean)
        terms = {"error": pixels.nll(x)}
        if latent.codes is not None:  # without its commitment a codebook drifts away from the encoder
            terms["penalty"] = latent.penalty
        return Outcome(terms, pixels, latent)

    def corrupt(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] → the same with noise drawn for each value; gaussian noise may leave [-1, 1]."""
        if self.noise == "gaussian":
            return x + self.level * normal_like(x)
        hit, white = uniform_like(x) < self.level, uniform_like(x) < 0.5
        return x.masked_fill(hit, -1).masked_fill(hit & white & (self.noise == "salt-and-pepper"), 1)
