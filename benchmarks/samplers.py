"""How far what each sampler draws lies from held-out latents: the energy distance, 0 on average where both are of one distribution.

    python benchmarks/samplers.py --objective vae --epochs 30 --flow-epochs 100

A model is trained on the digits; every sampler is fitted to its training latents and judged on held-out ones it has never seen.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import aegen
from aegen.data.source import load_data
from aegen.energy_distance import energy_distance
from aegen.inference.latent_rows import latent_rows
from aegen.inference.samplers import prepare_sampler
from aegen.training.distributed import World
from aegen.training.sampler_trainer import draws_of, means_of


def main() -> None:
    """Train, fit, and print a line a sampler."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--objective", default="vae")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--flow-epochs", type=int, default=100)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        aegen.train(arch="mlp", objective=given.objective, latent_dim=8, epochs=given.epochs, run_dir=run, device="cpu")
        aegen.fit_sampler(run, "flow", epochs=given.flow_epochs, device="cpu")
        model = aegen.load(run, device="cpu")
        settings, here = model.images(), World(model.device)
        rows = latent_rows(model, load_data(settings), settings, here, lambda *_: None).validation
        torch.manual_seed(0)
        kinds = {"means": means_of(model.model, rows[:]), "draws": draws_of(model.model, rows[:])}
        for name in ("prior", "gaussian", "mixture", "flow"):
            if name == "prior" and "prior" not in model.model.bottleneck.offers:
                continue
            sampler = prepare_sampler(model, name, {}, lambda text: None, here)
            drawn = [sampler.sample(2000, torch.Generator().manual_seed(seed)) for seed in range(5)]
            told = {kind: sum(energy_distance(z, d) for d in drawn) / len(drawn) for kind, z in kinds.items()}
            print(json.dumps({"sampler": name, **{k: round(v, 4) for k, v in told.items()}}), flush=True)


if __name__ == "__main__":
    main()
