"""The maximum mean discrepancy of two clouds of latents.

Gretton et al., A Kernel Two-Sample Test, 2012, eq. 3: the unbiased U-statistic, which may be below 0. Kernels and scales:
Tolstikhin et al., Wasserstein Auto-Encoders, 2018, section 4 and its code; here the mean over the scales, so that a kernel is 1
at distance 0 and a weight does not depend on how many there are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from aegen.autoencoder import Autoencoder
from aegen.collectives import gather_rows

Kernel = Literal["rbf", "imq"]
# Of 2·D, the expected squared distance of two draws from the standard normal in D dimensions.
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def similarity(kernel: Kernel, a: Tensor, b: Tensor) -> Tensor:
    """Of each pair of a (N, D) and b (M, D), (N, M) in [0, 1]: exp(-d²/c) or c/(c + d²), mean over the scales c.

    >>> similarity("imq", torch.zeros(2, 3), torch.zeros(4, 3)).shape
    torch.Size([2, 4])
    """
    # Without the usual product of matrices, which loses small distances.
    square = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    total = torch.zeros_like(square)
    for scale in SCALES:
        c = scale * 2 * a.shape[1]
        total = total + (torch.exp(-square / c) if kernel == "rbf" else c / (c + square))
    return total / len(SCALES)


def discrepancy(kernel: Kernel, a: Tensor, b: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of a and b, (N, D) each; its expectation does not depend on N. () in [-2, 2].

    >>> near, far = torch.linspace(0, 1, 8).view(4, 2), torch.linspace(9, 10, 8).view(4, 2)
    >>> bool(discrepancy("rbf", near, far) > discrepancy("rbf", near, near + 0.1))
    True
    """
    count = len(a)
    if count < 2:
        return a.new_zeros(())  # one image has no pair
    within = similarity(kernel, a, a).sum() + similarity(kernel, b, b).sum() - 2 * count  # without the diagonals
    return within / (count * (count - 1)) - 2 * similarity(kernel, a, b).mean()


def distance_to_prior(kernel: Kernel, model: Autoencoder, z: Tensor) -> Tensor:
    """Discrepancy of the batch's latents (B, *z) and as many draws from the prior, ().

    >>> distance_to_prior("imq", net, net.encode(x).z).shape
    torch.Size([])
    """
    with torch.no_grad():
        prior = model.prior(len(z), device=z.device).to(z.dtype)
    return discrepancy(kernel, gather_rows(z.flatten(1)), gather_rows(prior.flatten(1)))
