"""The set of checkpoints that `tests/test_written_checkpoints.py` loads: runs of a few steps, written by a version of aegen and never again.

    python tests/checkpoints/write.py            # adds what is not there yet; a file that is there is not written anew
    python tests/checkpoints/write.py --expect FOLDER    # before a move: what that version makes of the set, on this machine
    python tests/checkpoints/write.py --exact FOLDER     # after it: computed again on the same machine and compared bit for bit

`NAME.safetensors` and `NAME.toml` are what the run had after STEPS steps; `NAME.expected.safetensors` is what the version that wrote it made
of it: latents, codes, reconstructions and drawn pictures of the model, and the run's weights after as many steps again. `losses.json`
holds the losses of thirty steps of twelve objectives. Another
processor may round differently, so the tests compare within a tolerance; what is to be the same to the bit is computed twice on one machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import aegen

HERE = Path(__file__).parent
STEPS = 3
SMALL: dict[str, Any] = {
    "data.name": "digits",
    "data.size": 8,
    "train.batch_size": 16,
    "train.device": "cpu",
    "log.images_every_epochs": 0,
    "checkpoint.best": False,
}
MLP: dict[str, Any] = {"arch.name": "mlp", "arch.hidden": [8]}
CONV: dict[str, Any] = {"arch.name": "conv", "arch.width": 4, "arch.depth": 1, "arch.spatial": True}
DIM: dict[str, Any] = {"bottleneck.dim": 3}

RUNS: dict[str, dict[str, Any]] = {
    **{
        name: {**MLP, **DIM, "objective.name": "vae", "bottleneck.name": name}
        for name in ("gaussian", "full-gaussian", "joint", "mixture-prior", "poincare", "vamp", "flow-posterior")
    },
    "sphere": {**MLP, **DIM, "objective.name": "svae"},
    "conditional": {**MLP, **DIM, "objective.name": "conditional-vae"},
    "deterministic": {**MLP, **DIM, "objective.name": "ae"},
    "matched-prior": {**MLP, **DIM, "objective.name": "wae-mmd", "bottleneck.name": "matched-prior"},
    "categorical": {**MLP, "objective.name": "categorical-vae", "bottleneck.variables": 4, "bottleneck.categories": 3},
    "lfq": {**MLP, "objective.name": "vq-vae", "bottleneck.name": "lfq"},
    **{
        name: {**MLP, "objective.name": "vq-vae", "bottleneck.name": name, "bottleneck.codes": 16, "bottleneck.dim": 8}
        for name in ("vq", "product-vq", "residual-vq")
    },
    "fsq": {**MLP, "objective.name": "fsq-vae"},
    "vq-2": {**MLP, "objective.name": "vq-vae-2", "bottleneck.codes": 16, "bottleneck.dim": 8},
    "conv-gaussian": {**CONV, "objective.name": "vae", "bottleneck.dim": 2},
    "conv-vq": {**CONV, "objective.name": "vq-vae", "bottleneck.codes": 8},
    "conv-fsq": {**CONV, "objective.name": "fsq-vae"},
    "adversarial": {
        **MLP,
        **DIM,
        "objective.name": "vae+adversarial",
        "objective.adversarial.width": 2,
        "train.ema": 0.9,
    },
    "bernoulli-adamw": {
        **MLP,
        **DIM,
        "objective.name": "beta-vae",
        "likelihood.name": "bernoulli",
        "train.optimizer": "adamw",
    },
}
"""Every bottleneck, and a few runs whose files hold more: maps, a critic, averaged weights, another optimiser."""

OBJECTIVES = (
    *(
        "ae",
        "vae",
        "beta-tc-vae",
        "dip-vae",
        "iwae",
        "wae-mmd",
        "aae",
        "factor-vae",
        "vq-vae",
        "fsq-vae",
        "vae+adversarial",
    ),
    "soft-intro-vae",
)
"""Losses, batch statistics, several turns, codes: whose first thirty steps are written down in losses.json."""


def images() -> Tensor:
    """Four pictures of no dataset, (4, 1, 8, 8) in [-1, 1]."""
    at = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    return torch.cat([torch.sin(6 * (k + 1) * at + k) for k in range(4)])


def results(place: Path) -> dict[str, Tensor]:
    """What a model makes of the pictures and of the seed 1."""
    model, x = aegen.load(place, device="cpu"), images()
    labels = torch.tensor([1, 2, 3, 4]) if "labels" in model.model.bottleneck.offers else None
    latent = model.encode(x, labels=labels)
    label = 3 if labels is not None else None
    found = {"mean": latent.mean, "decoded": model.decode(latent.mean), "penalty": latent.penalty}
    if latent.codes is not None:
        found |= {"codes": latent.codes, "looked_up": model.lookup(latent.codes)}
    for name in model.samplers:
        found[f"sample.{name}"] = model.sample(4, name, label=label, seed=1)
    return {key: value.detach().contiguous() for key, value in found.items()}


def resumed(file: Path, folder: Path) -> dict[str, Tensor]:
    """The weights of the run whose last checkpoint `file` is, after as many steps again."""
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(file, folder / "checkpoints" / "last.safetensors")
    shutil.copy(file.with_suffix(".toml"), folder / "config.toml")
    aegen.train(resume=folder, **{"train.steps": 2 * STEPS})
    saved = load_file(folder / "checkpoints" / "last.safetensors")
    return {f"resumed.{key}": value for key, value in saved.items() if key.startswith(("model.", "ema."))}


def losses(name: str, run: Path) -> list[float]:
    """The training loss of each of thirty steps."""
    options = {**SMALL, **MLP, "objective.name": name, "train.steps": 30, "log.every_steps": 1}
    aegen.train(**options, run_dir=run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["split"] == "train"]


def write(name: str, work: Path) -> None:
    """One run, its file and what is made of it."""
    run = aegen.train(**{**SMALL, **RUNS[name], "train.steps": STEPS}, run_dir=work / name).run
    file = run / "checkpoints" / "last.safetensors"
    words = ["sample", "-c", str(run), "--sampler", "gaussian", "-n", "1", "-o", str(work / f"{name}.png")]
    subprocess.run([sys.executable, "-m", "aegen", *words], check=True)  # the command keeps what it fitted in the file
    shutil.copy(file, HERE / f"{name}.safetensors")
    shutil.copy(run / "config.toml", HERE / f"{name}.toml")
    save_file(computed(name, work / "resumed"), HERE / f"{name}.expected.safetensors")


def computed(name: str, work: Path) -> dict[str, Tensor]:
    """What this version makes of a file of the set."""
    return results(HERE / f"{name}.safetensors") | resumed(HERE / f"{name}.safetensors", work / name)


def differences(expected: Path, work: Path, lost: dict[str, list[float]]) -> list[str]:
    """What is not, to the bit, as a folder of expected values says."""
    wrong = []
    for name in RUNS:
        before, now = load_file(expected / f"{name}.expected.safetensors"), computed(name, work)
        wrong += [f"{name}: {key}" for key in before if key not in now or not torch.equal(before[key], now[key])]
    before = json.loads((expected / "losses.json").read_text())
    return wrong + [f"losses of {name}" for name in OBJECTIVES if lost[name] != before[name]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--exact", metavar="FOLDER", type=Path, help="compare with what is written there, bit for bit")
    choice.add_argument("--expect", metavar="FOLDER", type=Path, help="write there what this version makes of the set")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        work = Path(folder)
        lost = {name: losses(name, work / f"losses-{name}") for name in OBJECTIVES}
        if chosen.exact:
            wrong = differences(chosen.exact, work, lost)
            same = (
                f"{len(RUNS)} checkpoints and the losses of {len(OBJECTIVES)} objectives are as they were, to the bit"
            )
            print("\n".join(wrong) or same, file=sys.stderr)
            sys.exit(bool(wrong))
        if chosen.expect:
            chosen.expect.mkdir(parents=True, exist_ok=True)
            for name in RUNS:
                save_file(computed(name, work), chosen.expect / f"{name}.expected.safetensors")
        for name in RUNS:
            if not chosen.expect and not (HERE / f"{name}.safetensors").exists():
                write(name, work)
        where = (chosen.expect or HERE) / "losses.json"
        if not where.exists():
            where.write_text(json.dumps(lost, indent=0) + "\n")


if __name__ == "__main__":
    main()
