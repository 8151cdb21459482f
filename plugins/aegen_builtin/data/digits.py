"""The embedded default: 1,797 real handwritten digits, 8×8, that come with scikit-learn.

Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import numpy as np
import torch

from aegen import Dataset, DataSettings, Images, Target, image_side, reshape_images


class Digits(Dataset):
    """Grey digits with labels, enlarged to 32×32 unless another size is asked for."""

    def load(self, settings: DataSettings) -> Images:
        """Pixels 0…16 → 0…255, then enlarged."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        target = Target(image_side(settings.size) or (32, 32), settings.channels or 1, settings.fit)
        images = reshape_images(torch.from_numpy(pixels)[:, None], target)
        return Images(images, torch.from_numpy(bunch.target).long(), [str(n) for n in range(10)])
