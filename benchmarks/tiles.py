"""How far an image that is reconstructed in tiles is from the same image reconstructed whole.

    python benchmarks/tiles.py                       # trains a small model on patches of them first, some minutes
    python benchmarks/tiles.py --checkpoint runs/x   # of any model that takes other sizes

The images are scikit-learn's two photographs, 427×640, in eight bits: differences are of pixels in 0…255, of the reconstruction by the posterior
mean. Which tiles were taken says the row: their side, and how far neighbours overlap.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.datasets import load_sample_images

import aegen


def trained(place: Path) -> aegen.Model:
    """A VAE with a feature map, trained on patches of the photographs, 32×32."""
    from PIL import Image

    (place / "patches").mkdir()
    for number, photo in enumerate(load_sample_images().images):
        for top in range(0, 427 - 32, 16):
            for left in range(0, 640 - 32, 16):
                patch = Image.fromarray(photo[top : top + 32, left : left + 32])
                patch.save(place / "patches" / f"{number}-{top}-{left}.png")
    options = {"arch.name": "conv", "arch.spatial": True, "arch.depth": 3, "bottleneck.dim": 8, "objective.beta": 0.1}
    aegen.train(
        objective="vae", data=str(place / "patches"), size=32, epochs=6, device="cpu", run_dir=place / "run", **options
    )
    return aegen.load(place / "run", device="cpu")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a run or a file, of a model that takes any size")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        model = aegen.load(given.checkpoint, device="cpu") if given.checkpoint else trained(Path(folder))
        photos = np.stack(load_sample_images().images)
        x = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 127.5 - 1
        whole = model.reconstruct(x)
        error = (whole - x).abs().mean() * 127.5
        print(f"{model}\nwhole: {float(error):.2f} from the photographs in the mean\n")
        print("| tile | overlap | mean difference | largest | 99.9 % are below |\n|---|---|---|---|---|")
        for tile, overlap in ((64, 16), (64, 32), (128, 16), (128, 32), (128, 64), (256, 64)):
            apart = (model.reconstruct(x, tile=tile, overlap=overlap) - whole).abs() * 127.5
            high = float(apart.flatten().kthvalue(int(0.999 * apart.numel()))[0])
            print(f"| {tile} | {overlap} | {float(apart.mean()):.4f} | {float(apart.max()):.2f} | {high:.2f} |")


if __name__ == "__main__":
    main()
