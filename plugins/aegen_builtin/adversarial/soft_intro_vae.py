"""A variational autoencoder that is its own critic: the encoder lowers the bound of generated images, the decoder raises it.

Daniel & Tamar, Soft-IntroVAE: Analyzing and Improving the Introspective Variational Autoencoder, 2021, eq. 5 and algorithm 1,
with draws from the prior as the generated images. The paper multiplies all losses by s = 1 / pixel values, so that
exp(-alpha · s · …) does not vanish; here s stands in the exponent alone and the whole is divided by it, which leaves nats per
image and the same gradients but for a common factor. The error is the paper's squared one, in nats of a unit normal, the same
for real and generated images: with a learned scale the exponential would grow without a bound as the images get better.

The paper weighs the penalty of generated images, in the decoder's turn, like that of images in the encoder's. To an encoder
without batch norm grey noise soon has the lowest penalty of all, and with that weight it is what is drawn: hence `beta_gen`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from aegen import Autoencoder, ImageShape, Latent, Objective, Outcome, Range, Turn
from aegen_builtin.adversarial.bound import bound, decode_apart
from aegen_builtin.adversarial.latent_critic import draw_prior


def pixel_error(x: Tensor, mean: Tensor) -> Tensor:
    """Half the squared error summed over the image, (B,) nats."""
    return 0.5 * (x - mean).square().flatten(1).sum(1)


def encode_generated(model: Autoencoder, images: Tensor, z: Tensor) -> Latent:
    """Encode images that were decoded from `z`; a bottleneck that reads labels is told those of `z`."""
    known = "labels" in model.bottleneck.offers and model.labels is not None
    return model.encode(images, model.bottleneck.labels_of(z) if known else None)


class SoftIntroVAE(Objective):
    """Encoder: bound of images up, exponential of the bound of generated ones down. Decoder: both up. Validation: the bound.

    No turn minimises the likelihood's own error, but a learned scale follows it.

    Options:
        beta_rec: weight of the error.
        beta_kl: weight of the penalty of images in the encoder's turn.
        beta_gen: weight of the penalty of generated images in the decoder's turn; the paper's is beta_kl.
        beta_neg: weight of the penalty of generated images in the encoder's exponential.
        alpha: sharpness of that exponential; the higher, the sooner an image that is known as generated counts no more.
        gamma: weight, beside beta_rec, of the error of generated images in the decoder's turn.
    """

    bottleneck, likelihood = "gaussian", "gaussian"
    needs = frozenset({"prior", "penalty"})
    suggests: ClassVar[Mapping[str, Any]] = {"ema": 0.99}

    def __init__(
        self,
        image: ImageShape,
        *,
        beta_rec: Annotated[float, Range(0)] = 1.0,
        beta_kl: Annotated[float, Range(0)] = 1.0,
        beta_gen: Annotated[float, Range(0)] = 0.1,
        beta_neg: Annotated[float, Range(0)] = 256.0,
        alpha: Annotated[float, Range(above=0)] = 2.0,
        gamma: Annotated[float, Range(0)] = 1e-8,
    ) -> None:
        super().__init__()
        self.beta_rec, self.beta_kl, self.beta_gen, self.beta_neg = beta_rec, beta_kl, beta_gen, beta_neg
        self.alpha, self.gamma = alpha, gamma
        self.pixels = math.prod(image)

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """Images (B, C, H, W) in [-1, 1] → the terms `error` and `penalty`, (B,): the bound, comparable with a vae's."""
        return bound(model, self, x)

    def turns(self) -> list[Turn]:
        """`encoder`, then `decoder`."""
        return [
            Turn("encoder", self.tell, trains=("encoder", "bottleneck")),
            Turn("decoder", self.deceive, trains=("decoder", "likelihood")),
        ]

    def tell(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms `error`, `penalty` and `generated`, (B,); the last lies in [0, pixel values / alpha]."""
        latent = model.encode(x)
        pixels = model.decode(latent.z)
        drawn = draw_prior(model, latent.z)
        with torch.no_grad():
            image = model.decode(drawn).mean
        again = encode_generated(model, image, drawn)
        known = self.beta_rec * pixel_error(image, model.decode(again.z).mean) + self.beta_neg * again.penalty
        terms = {
            "error": self.beta_rec * pixel_error(x, pixels.mean),
            "penalty": self.beta_kl * latent.penalty,
            "generated": self.pixels / self.alpha * torch.exp(-self.alpha / self.pixels * known),
        }
        return Outcome(terms, pixels, latent, {"generated_kl": again.penalty})

    def deceive(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The terms `squares`, `generated_penalty`, `generated_error` and `error`, (B,); gradients only pass the encoder.

        `error` has gradients to the likelihood's parameters alone.
        """
        with torch.no_grad():
            z = model.encode(x).z
        pixels, apart = decode_apart(model, z)
        drawn = draw_prior(model, z)
        image = model.decode(drawn).mean
        again = encode_generated(model, image, drawn)
        repeated = pixel_error(image.detach(), model.decode(again.z.detach()).mean)
        terms = {
            "squares": self.beta_rec * pixel_error(x, pixels.mean),
            "generated_penalty": self.beta_gen * again.penalty,
            "generated_error": self.gamma * self.beta_rec * repeated,
            "error": apart.nll(x),
        }
        return Outcome(terms, pixels)
