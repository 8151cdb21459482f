"""What `slurm.sh` and `pods.sh` share: pictures to train on, and how far two runs are apart.

python benchmarks/cluster.py photos FOLDER
python benchmarks/cluster.py apart RUN RUN
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file


def photos(folder: str) -> None:
    """Six hundred pictures of noise, 16×16."""
    Path(folder).mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (600, 16, 16), dtype=np.uint8)):
        Image.fromarray(pixels).save(f"{folder}/{number:03d}.png")


def apart(*runs: str) -> None:
    """The largest difference of a number of their last checkpoints."""
    one, two = (load_file(f"{run}/checkpoints/last.safetensors") for run in runs)
    assert one.keys() == two.keys()
    values = [(one[key].double() - two[key].double()).abs().max().item() for key in one if one[key].is_floating_point()]
    print("apart from a run left alone:", max(values))


if __name__ == "__main__":
    {"photos": photos, "apart": apart}[sys.argv[1]](*sys.argv[2:])
