"""Every objective on MNIST with one net (another for feature maps) and one budget: what it reaches, and whether it moves what its paper says it moves.

    python benchmarks/zoo.py --data-root DIR --out zoo/            # all of them; what has a result is not measured again,
                                                                   # what has a run is not trained again
    python benchmarks/zoo.py --data-root DIR --out zoo/ --only vae beta-tc-vae

Each row is one `aegen train` as a user types it, and is then measured on the 10,000 test images: squared error a pixel in [0, 1];
the negative ELBO and the importance-sampled NLL where the bottleneck has a density; total correlation of the latents (that of a
Gaussian with their covariance) and their squared MMD to N(0, 1) (RBF kernels of several scales); codebook usage; KID of
samples from the prior and from a mixture fitted ex post, in the features of a small classifier that this script trains on MNIST
(printed with its accuracy), not in Inception's; the mean squared gradient of the samples relative to that of the test images
(sharpness). Read rows against each other, not against a paper's numbers. It writes a .json and two strips of samples a row, and
zoo.md: the table, and what the papers claim beside what was measured.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from aegen_builtin.latents.fsq import FSQ
from cells import cell
from sklearn.metrics.pairwise import polynomial_kernel
from torch import Tensor, nn

from aegen import Bottleneck, load, pictures
from aegen.autoencoder import build_objective, objective_classes
from aegen.combinations import combinations, expand, meant
from aegen.data.batches import normalize
from aegen.data.source import Data, load_data
from aegen.factory import load as load_class
from aegen.inference.samplers import fitted
from aegen.nn.importance import importance_nll
from aegen.objective_name import ObjectiveName
from aegen.settings import DataSettings
from aegen.spec import options_of

NET = '--arch mlp --arch.hidden "[400]" --batch-size 100'
MAP_NET = "--arch conv --arch.width 16 --batch-size 100"  # of names that mean a feature map, which an mlp has not
COUNT = 2000  # samples for KID
DIM = 10


def rows() -> list[str]:
    """What is registered, and the wrappers that need no feature map around `vae`."""
    names = [row["objective"] for row in combinations() if not row["wraps"]]
    return [*names, "vae+adversarial", "vae+ms-ssim", "vae+consistency", "vae+perceptual"]


def has_map(name: str) -> bool:
    """Whether a name means a feature map as latent."""
    return any(told.map_options is not None for _, told in meant(name))


def options(name: str) -> str:
    """Net and objective of a row, and ten latent dimensions, where a vector's bottleneck counts in dimensions."""
    if has_map(name):
        return f"{MAP_NET} --objective {name}"
    neck = objective_classes(expand(ObjectiveName.parse(name)))[0][1].bottleneck
    dim = f" --latent-dim {DIM}" if "dim" in options_of(load_class("bottleneck", neck, Bottleneck)) else ""
    return f"{NET} --objective {name}{dim}"


def classifier(data: Data, steps: int = 1500) -> tuple[nn.Sequential, float]:
    """A small net that tells digits, and its accuracy on the test images; its last hidden layer is the feature space."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    assert data.train_labels is not None and data.validation_labels is not None
    for step in range(steps):
        index = torch.randint(0, len(data.train), (100,), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(net(normalize(data.train[index])), data.train_labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = net(normalize(data.validation)).argmax(1)
    return net.eval(), float((found == data.validation_labels).float().mean())


@torch.no_grad()
def features(net: nn.Sequential, images: Tensor) -> Tensor:
    """The last hidden layer, (N, 64), of a size near 1."""
    return torch.cat([net[:-1](part) for part in images.split(500)]) / 10


def kid(a: Tensor, b: Tensor) -> float:
    """The unbiased squared MMD with the cubic kernel (Bińkowski et al., Demystifying MMD GANs, 2018)."""
    x, y = a.double().numpy(), b.double().numpy()
    xx, yy, xy = polynomial_kernel(x, x), polynomial_kernel(y, y), polynomial_kernel(x, y)
    n, m = len(x), len(y)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def mmd(z: Tensor) -> float:
    """Squared MMD of latents to N(0, 1), unbiased, RBF kernels of five scales."""
    z = z[:2000].flatten(1).double()
    p = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = torch.cdist(a, b).square() / (2 * z.shape[1])
        return torch.stack([torch.exp(-square / scale) for scale in (0.1, 0.2, 0.5, 1.0, 2.0)]).mean(0)

    n = len(z)
    zz, pp, zp = kernel(z, z), kernel(p, p), kernel(z, p)
    return float((zz.sum() - zz.trace() + pp.sum() - pp.trace()) / (n * (n - 1)) - 2 * zp.mean())


def total_correlation(z: Tensor) -> float:
    """Of a Gaussian with the covariance of the latents: -½ log det of their correlation, nats."""
    correlation = torch.corrcoef(
        z.flatten(1).double().T + 1e-9 * torch.randn(z[0].numel(), len(z), dtype=torch.float64)
    )
    return float(-0.5 * torch.linalg.slogdet(correlation).logabsdet)


def levels_used(neck: FSQ, codes: Tensor) -> float:
    """Share of all levels of all dimensions that the test images use."""
    z = neck.lookup(codes)
    return sum(len(z[:, dim].unique()) for dim in range(z.shape[1])) / int(neck.levels.sum())


def sharpness(images: Tensor) -> float:
    """Mean squared difference of neighbouring pixels."""
    return float(images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean())


@torch.no_grad()
def measure(run: Path, data: Data, net: nn.Sequential, real: Tensor) -> dict[str, Any]:
    """Everything that applies to a run."""
    loaded = load(run, device="cpu")
    model, header = loaded.model, loaded.file.header
    x = normalize(data.validation)
    found: dict[str, Any] = {"validation": header["validation"]}
    if header.get("encodes", True):
        latents = [model.encode(part) for part in x.split(1000)]
        z = torch.cat([latent.z for latent in latents])
        means = torch.cat([latent.mean for latent in latents])
        again = loaded.decode(means)
        found["mse"] = float(((again - x) / 2).square().mean())
        if not {"codes", "labels"} & set(model.bottleneck.offers):
            found |= {"tc": total_correlation(z), "mmd": mmd(z)}
        if isinstance(model.bottleneck, FSQ):
            found["levels"] = levels_used(model.bottleneck, torch.cat([latent.codes for latent in latents]))
        trained = {part for turn in build_objective(loaded.spec.objective, model).turns() for part in turn.trains}
        if "density" in model.bottleneck.offers and "likelihood" in trained:  # sigma-vae's pixels have no scale
            torch.manual_seed(0)
            found["nll"] = float(importance_nll(model, x[:1000], samples=100, chunk=20).mean())
    samplers = ["prior"] if "prior" in model.bottleneck.offers else []
    if header.get("encodes", True) and "mixture" in fitted(loaded):
        samplers.append("mixture")
    for sampler in samplers:
        images = torch.cat(list(loaded.sample_batches(COUNT, sampler=sampler)))
        found[f"kid_{sampler}"] = kid(features(net, images), real)
        found[f"sharp_{sampler}"] = sharpness(images) / sharpness(x)
        pictures.save(pictures.grid(images[:16], columns=16), run.parent / f"{run.name}-{sampler}.png")
    if "labels" in model.bottleneck.offers:
        wanted = torch.arange(10).repeat_interleave(100)
        drawn = torch.cat([torch.cat(list(loaded.sample_batches(100, label=str(k)))) for k in range(10)])
        found["label_accuracy"] = float((net(drawn).argmax(1) == wanted).float().mean())
    return found


def train(name: str, given: argparse.Namespace, run: Path, steps: int) -> float:
    """One `aegen train` as a user types it; images a second, or nothing where it fails."""
    words = f"train {options(name)} --data mnist --data-root {given.data_root} --steps {steps}"
    tail = f" --run-dir {run} --set log.images_every_epochs=0 --json"
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "aegen", *shlex.split(words + tail)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    speed: float = json.loads(done.stdout.splitlines()[-1])["images_per_second"]
    return speed


def main() -> None:
    """Train, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=Path("zoo"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--only", nargs="*", default=rows())
    parser.add_argument("--docs", type=Path, help="folder of zoo.md, to which the table and the strips go")
    parser.add_argument(
        "--speed", action="store_true", help="only take images/s again, of 200 steps, on an idle machine"
    )
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    data = load_data(DataSettings(name="mnist", root=str(given.data_root)))
    net, accuracy = classifier(data)
    print(f"feature space: 64 units of a classifier that is right on {accuracy:.1%} of the test images")
    real = features(net, normalize(data.validation[:COUNT]))
    for name in given.only:
        result = given.out / f"{name}.json"
        run = given.out / name.replace("+", "-")
        if given.speed:
            row = json.loads(result.read_text()) if result.exists() else {}
            row["images_per_second"] = train(name, given, given.out / "speed", 200)
        elif result.exists():
            continue
        else:
            row = {} if run.exists() else {"images_per_second": train(name, given, run, given.steps)}
            row |= measure(run, data, net, real)
        print(name, {k: v for k, v in row.items() if k != "validation"}, flush=True)
        result.write_text(json.dumps(row, indent=1) + "\n")
    found = {path.stem: json.loads(path.read_text()) for path in sorted(given.out.glob("*.json"))}
    (given.out / "zoo.md").write_text(markdown(found))
    if given.docs:
        publish(given.docs, given.out, found, accuracy)


def publish(docs: Path, out: Path, found: dict[str, Any], accuracy: float) -> None:
    """The table between the marks of docs/zoo.md, and the strips beside it."""
    (docs / "zoo").mkdir(exist_ok=True)
    for strip in out.glob("*-*.png"):
        shutil.copy(strip, docs / "zoo" / strip.name)
    page = docs / "zoo.md"
    head, mark, rest = page.read_text().partition("<!-- zoo -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    before = rest.partition(end)[0]
    told = f"The classifier in whose features KID stands is right on {accuracy:.1%} of the test images."
    if set(found) != {
        key(line)[0] for line in before.splitlines() if line.startswith("| ") and len(line.split("|")) > 8
    } - {"objective"}:
        told = f"{before.splitlines()[0].partition(' For ')[0]} For {', '.join(found)} it was trained again and is right on {accuracy:.1%}."
    page.write_text(head + mark + told + "\n\n" + kept(markdown(found), before) + end + tail)


def kept(new: str, old: str) -> str:
    """The tables `new`, with those rows of `old` that were not measured again, in the order of `old`."""
    tables = []
    for block in new.strip().split("\n\n"):
        head, rule, *lines = block.splitlines()
        before = next((b.splitlines()[2:] for b in old.split("\n\n") if b.startswith(head)), [])
        own = {key(line): line for line in lines}
        tables.append([head, rule, *(own.pop(key(line), line) for line in before), *own.values()])
    return "\n\n".join("\n".join(table) for table in tables) + "\n"


def key(line: str) -> tuple[str, ...]:
    """What a row is known by: its objective without the net, and a claim's measure and rival."""
    cells = [cell.strip() for cell in line.strip("| \n").split("|")]
    name = cells[0].removesuffix(" (conv)")
    return (name, cells[1], cells[3].rpartition("(")[2]) if len(cells) == 5 else (name,)


COLUMNS = {
    "mse": ("squared error", ".4f"),
    "negative_elbo": ("negative ELBO", ".1f"),
    "nll": ("NLL, 100 draws", ".1f"),
    "tc": ("TC, nats", ".2f"),
    "mmd": ("MMD² ×1000", ".1f"),
    "usage": ("codes used", ".0%"),
    "kid_prior": ("KID prior ×1000", ".1f"),
    "kid_mixture": ("KID mixture ×1000", ".1f"),
    "sharp_prior": ("sharpness prior", ".2f"),
    "sharp_mixture": ("mixture", ".2f"),
    "images_per_second": ("images/s", ",.0f"),
}
THOUSANDTHS = ("mmd", "kid_prior", "kid_mixture")

# What a paper says that its objective moves: row, measure, below or above, the row (or number) that it is compared with.
CLAIMS: list[tuple[str, str, str, str | float]] = [
    ("beta-tc-vae", "tc", "<", "vae"),
    ("factor-vae", "tc", "<", "vae"),
    ("dip-vae", "tc", "<", "vae"),
    ("info-vae", "mmd", "<", "vae"),
    ("wae-mmd", "mmd", "<", "ae"),
    ("wae-mmd", "mmd", "<", "vae"),
    ("wae-gan", "mmd", "<", "ae"),
    ("wae-gan", "mmd", "<", "vae"),
    ("aae", "mmd", "<", "ae"),
    ("vamp-vae", "kid_prior", "<", "vae"),
    ("iwae", "nll", "<", "vae"),
    ("miwae", "nll", "<", "vae"),
    ("vq-vae", "usage", ">", 0.9),
    ("fsq-vae", "levels", ">", 0.999),
    ("conditional-vae", "label_accuracy", ">", 0.95),
    *(
        (game, "sharp_prior", ">", "vae")
        for game in ("gan", "wgan", "wgan-gp", "ae-gan", "vae-gan", "ebgan", "began", "soft-intro-vae")
    ),
    ("vae+adversarial", "sharp_mixture", ">", "vae"),
    ("vae+perceptual", "sharp_mixture", ">", "vae"),
]


def claims(found: dict[str, Any]) -> str:
    """One row a claim whose rows were measured."""
    values = {name: {**row["validation"], **row} for name, row in found.items()}
    lines = ["| objective | measure | measured | beside | holds |", "|---|---|---:|---|---|"]
    for name, measure_, way, other in CLAIMS:
        here = values.get(name, {}).get(measure_)
        there = values.get(other, {}).get(measure_) if isinstance(other, str) else other
        if here is None or there is None:
            continue
        holds = here < there if way == "<" else here > there
        beside = f"{way} {there:.3g}" + (f" ({cell(other)})" if isinstance(other, str) else "")
        lines.append(f"| {cell(name)} | {cell(measure_)} | {here:.3g} | {beside} | {'yes' if holds else '**no**'} |")
    return "\n".join(lines) + "\n"


def markdown(found: dict[str, Any]) -> str:
    """One row an objective; empty where a measure does not apply; then the claims."""
    lines = [
        "| objective | " + " | ".join(title for title, _ in COLUMNS.values()) + " | prior | mixture |",
        "|---|" + "---:|" * len(COLUMNS) + "---|---|",
    ]
    for name, row in found.items():
        values = {**row["validation"], **row}
        values |= {key: values[key] * 1000 for key in THOUSANDTHS if key in values}
        cells = [format(values[key], form) if values.get(key) is not None else "" for key, (_, form) in COLUMNS.items()]
        place = quote("zoo/" + name.replace("+", "-"))
        strips = [
            f"![{cell(name)}]({place}-{sampler}.png)" if f"kid_{sampler}" in row else ""
            for sampler in ("prior", "mixture")
        ]
        lines.append(f"| {cell(name)}{' (conv)' * has_map(name)} | " + " | ".join([*cells, *strips]) + " |")
    return "\n".join(lines) + "\n\n" + claims(found)


if __name__ == "__main__":
    main()
