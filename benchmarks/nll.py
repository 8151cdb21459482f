"""-log p(x) of statically binarised MNIST: the published set-up (one hidden layer of 400, 40 latent dimensions, batch 100).

    python benchmarks/nll.py --data-root DIR --out nll/ --epochs 200
    python benchmarks/nll.py --data-root DIR --out nll/ --objective iwae --epochs 20

Published, 500 epochs: `vae` 89.9 nats, by 200 importance samples; pythae's own run 89.78. Two things differ here. The binarisation is
one Bernoulli draw of this script's (seed 0), since the usual one is not to be had from a package registry; and the learning rate
falls by a cosine from 1e-3, which needs fewer epochs than 1e-4 by steps. Prints the negative ELBO of the 10,000 test images by epoch,
then the importance-sampled NLL with its standard error.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from aegen import load
from aegen.data.batches import normalize
from aegen.data.source import load_data
from aegen.nn.importance import importance_nll
from aegen.settings import DataSettings

SET_UP = '--arch mlp --arch.hidden "[400]" --latent-dim 40 --likelihood bernoulli --batch-size 100 --lr 1e-3'


def binarised(data_root: Path, path: Path) -> None:
    """Every grey value a coin thrown once: 0 or 255, the same split as MNIST's."""
    data = load_data(DataSettings(name="mnist", root=str(data_root)))
    generator = torch.Generator().manual_seed(0)
    parts = [torch.bernoulli(part[:, 0] / 255, generator=generator) for part in (data.train, data.validation)]
    train, test = ((part * 255).to(torch.uint8).numpy() for part in parts)
    np.savez_compressed(path, images=train, validation_images=test)


def main() -> None:
    """Train, print the curve, estimate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=Path("nll"))
    parser.add_argument("--objective", default="vae")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--images", type=int, default=10_000, help="test images of the estimate")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    images, run = given.out / "binarised.npz", given.out / f"{given.objective}-{given.epochs}"
    if not images.exists():
        binarised(given.data_root, images)
    line = f"train {SET_UP} --objective {given.objective} --data {images} --epochs {given.epochs} --run-dir {run} "
    line += "--set train.schedule=cosine --set log.images_every_epochs=0 --set checkpoint.every_epochs=10"
    print(f"aegen {line}", flush=True)
    subprocess.run([sys.executable, "-m", "aegen", *shlex.split(line)], check=True, stderr=subprocess.DEVNULL)
    rows = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    curve = {row["epoch"]: row["negative_elbo"] for row in rows if row["split"] == "validation"}
    shown = sorted({1, 2, 5, *range(10, given.epochs, max(10, given.epochs // 10)), given.epochs} & curve.keys())
    print("negative ELBO by epoch: " + ", ".join(f"{epoch}: {curve[epoch]:.2f}" for epoch in shown))
    loaded = load(run / "checkpoints" / "best.safetensors")
    data = load_data(DataSettings(name=str(images)))
    torch.manual_seed(0)
    x = normalize(data.validation[: given.images]).to(loaded.device)
    nll = torch.cat([importance_nll(loaded.model, part, samples=given.samples, chunk=50) for part in x.split(200)])
    error = nll.std() / len(nll) ** 0.5
    print(f"NLL, {given.samples} importance samples, {len(nll):,} test images: {nll.mean():.2f} ± {error:.2f} nats")


if __name__ == "__main__":
    main()
