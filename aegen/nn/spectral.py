"""Spectral normalisation: every linear map of a net made one that lengthens nothing.

Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018; of a decoder, as a regulariser that leaves no other
hole in the latent space: Ghosh et al., From Variational to Deterministic Autoencoders, 2020 (RAE-SN). The largest singular value
is that of the weight as a matrix, output channels by the rest, found by one power iteration a step; for a convolution it is not
quite that of the map.
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


def spectrally_normed(net: nn.Module) -> nn.Module:
    """The same net, its linear and convolutional weights normed in place.

    >>> layer = spectrally_normed(torch.nn.Linear(4, 4)).eval()
    >>> bool(torch.linalg.matrix_norm(layer.weight, 2) < 2)
    True
    """
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            spectral_norm(layer)
    return net
