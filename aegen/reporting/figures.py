"""What a run's model makes of the same held-out images: reconstructions, ways between them, traversals; and samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from aegen.data.batches import normalize
from aegen.data.source import Data, load_data
from aegen.errors import AegenError
from aegen.inference import Model
from aegen.inference import load as load_model
from aegen.inference.latents import path
from aegen.inference.loading import Say
from aegen.inference.samplers import default_sampler, draw_latents
from aegen.reporting.runs import Run

SHOWN, PAIRS, STEPS, SAMPLES, DIMENSIONS, REACH = 10, 3, 10, 64, 10, 3.0
_LOOKED_AT = 1000  # held-out images, for the spread of the latents
_ROOM = 700_000  # pixels of one strip, so that a page of large images can still be sent
_ACTIVE = 0.01  # variance of a posterior mean (Burda et al., Importance Weighted Autoencoders, 2016)
_SEED = 0


@dataclass(frozen=True)
class Journey:
    """One latent dimension moved from -3 to 3 standard deviations.

    Attributes:
        spread: standard deviation of its posterior mean over held-out images.
        frames: (STEPS + 1, C, H, W).
    """

    dimension: int
    spread: float
    frames: Tensor


@dataclass
class Sights:
    """Pictures of one run; `missing` says by section why there are none.

    Attributes:
        data: runs with the same text here show the same images.
        originals, recon: held-out images and what became of them, (N, C, H, W).
        samples: by sampler, the one that was asked for first, or the model's own choice.
        usual: the model's own choice.
        ways: between pairs of the originals, each (STEPS, C, H, W).
        sizes: parameters by part.
        active: of so many latent dimensions, how many move over held-out images; None where they are not a vector.
    """

    data: str = ""
    originals: Tensor | None = None
    recon: Tensor | None = None
    errors: list[float] = field(default_factory=list)
    samples: dict[str, Tensor] = field(default_factory=dict)
    usual: str = ""
    ways: list[Tensor] = field(default_factory=list)
    journeys: list[Journey] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    offers: frozenset[str] = frozenset()
    latent: tuple[int, ...] = ()
    active: tuple[int, int] | None = None
    missing: dict[str, str] = field(default_factory=dict)


@dataclass
class _Album:
    """Data sets that were read, and which of their images are shown."""

    read: dict[str, Data] = field(default_factory=dict)
    chosen: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def data(self, loaded: Model, say: Say) -> Data:
        settings = loaded.images()
        options = loaded.options_of(settings)
        key = json.dumps([vars(settings), options], default=str)
        if key not in self.read:
            self.read[key] = replace(load_data(settings, options, say), name=loaded.spec.data.name)
        return self.read[key]

    def shown(self, data: Data) -> Tensor:
        """Indices of held-out images: the same for every run on this data, at whatever size it reads them."""
        key = data.name, len(data.validation)
        if key not in self.chosen:
            self.chosen[key] = choose(len(data.validation), data.validation_labels)
        height, width = data.image[1:]
        return self.chosen[key][: max(4, min(SHOWN, _ROOM // (height * width)))]


def choose(count: int, labels: Tensor | None, most: int = SHOWN) -> Tensor:
    """Indices of images to show: the first of each class where there are classes, else evenly over the set."""
    even = torch.linspace(0, count - 1, min(count, most)).round().long().tolist()
    if labels is None:
        return torch.tensor(even)
    first = [int((labels == label).nonzero()[0]) for label in labels.unique()[:most]]
    return torch.tensor(list(dict.fromkeys([*first, *even]))[: min(count, most)])


def look(runs: Sequence[Run], *, sampler: str | None = None, device: str, say: Say) -> list[Sights]:
    """The pictures of each run, one model in memory at a time.

    Args:
        sampler: that draws, beside the model's own choice.
    """
    album = _Album()
    found = []
    for run in runs:
        say(f"drawing {run.name}")
        found.append(_look(run, album, sampler, device, say))
    return found


SECTIONS = ("reconstructions", "samples", "interpolations", "traversals")


@torch.no_grad()
def _look(run: Run, album: _Album, sampler: str | None, device: str, say: Say) -> Sights:
    sights = Sights()
    try:
        if run.checkpoint is None:
            raise AegenError(run.trouble)
        loaded = load_model(run.checkpoint, device=device)
    except AegenError as error:
        sights.missing = dict.fromkeys(SECTIONS, run.words(error))
        return sights
    model = loaded.model
    sights.offers, sights.latent = frozenset(model.bottleneck.offers), tuple(model.latent_shape)
    sights.sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}

    def part(section: str, draws: Callable[[], None]) -> None:
        try:
            torch.manual_seed(_SEED)
            draws()
        except AegenError as error:
            sights.missing[section] = run.words(error)

    part("samples", lambda: _sample(loaded, sampler, sights))
    try:
        if not loaded.about.encodes:
            raise AegenError(f"objective {loaded.spec.objective.name} trains no encoder")
        data = album.data(loaded, say)
        if data.fingerprint() != loaded.file.header["data"]["fingerprint"]:  # a page is passed on
            raise AegenError(f"{data.name} holds other images now than when it was trained")
        if data.image != model.image:
            raise AegenError(f"the images of {data.name} are {data.image} now, but the model's are {model.image}")
    except AegenError as error:
        sights.missing |= {section: run.words(error) for section in SECTIONS if section != "samples"}
        return sights
    index = album.shown(data)
    sights.data = f"{data.name}, {data.image}" + f", {data.fingerprint()[:6]}" * _other(data, album)
    sights.originals = normalize(data.validation[index])
    latents = model.encode(sights.originals.to(loaded.device)).mean
    part("reconstructions", lambda: _reconstruct(loaded, latents, sights))
    part("interpolations", lambda: _interpolate(loaded, latents, sights))
    part("traversals", lambda: _travel(loaded, latents[0], data, sights))
    return sights


def _other(data: Data, album: _Album) -> bool:
    """Whether data of the same name and shape holds other images."""
    same = [d for d in album.read.values() if (d.name, d.image) == (data.name, data.image)]
    return len(same) > 1 and len({d.fingerprint() for d in same}) > 1


def _reconstruct(loaded: Model, latents: Tensor, sights: Sights) -> None:
    assert sights.originals is not None
    sights.recon = loaded.decode(latents).cpu()
    sights.errors = ((sights.recon.clamp(-1, 1) - sights.originals) / 2).square().flatten(1).mean(1).tolist()


def _sample(loaded: Model, asked: str | None, sights: Sights) -> None:
    height, width = loaded.model.image[1:]
    count = max(16, min(SAMPLES, _ROOM // (height * width)))
    own = sights.usual = default_sampler(loaded)
    prior = ["prior"] * ("prior" in loaded.model.bottleneck.offers)
    for sampler in dict.fromkeys([asked or own, own, *prior]):
        sights.samples[sampler] = torch.cat(
            list(map(loaded.decode, draw_latents(loaded, count, sampler=sampler, seed=_SEED)))
        ).cpu()


def _interpolate(loaded: Model, latents: Tensor, sights: Sights) -> None:
    if len(latents) < 2:
        raise AegenError("there is only one held-out image")
    nearest = loaded.model.bottleneck.nearest
    for start in range(0, min(2 * PAIRS, len(latents) - 1), 2):
        way = path(latents[start], latents[start + 1], STEPS, nearest=nearest)
        sights.ways.append(loaded.decode(way).cpu())


def _travel(loaded: Model, centre: Tensor, data: Data, sights: Sights) -> None:
    """Move one dimension at a time, the most active first, and keep the others where one image has them."""
    model = loaded.model
    if len(sights.latent) != 1:
        raise AegenError(f"its latents are maps of {'×'.join(map(str, sights.latent))}, not vectors")
    if "codes" in sights.offers:
        raise AegenError(f"its latents are codes ({loaded.about.bottleneck.name}), which have no way between them")
    parts = data.validation[:_LOOKED_AT].split(100)
    seen = [model.encode(normalize(part).to(loaded.device)) for part in parts]
    means, draws = torch.cat([latent.mean for latent in seen]), torch.cat([latent.z for latent in seen])
    if means.norm(dim=1).std() < 1e-4 * means.norm(dim=1).mean():
        raise AegenError("its latents lie on a sphere, which moving a single dimension leaves")
    free = _unmarked(loaded, means)
    activity = means.var(0)
    sights.active = int((activity[free] > _ACTIVE).sum()), len(free)
    order = free[activity[free].argsort(descending=True, stable=True)][:DIMENSIONS]
    reach = torch.linspace(-REACH, REACH, STEPS + 1, device=centre.device)
    for dimension in order.tolist():
        z = centre.expand(STEPS + 1, -1).clone()
        z[:, dimension] = draws[:, dimension].mean() + reach * draws[:, dimension].std()
        frames = loaded.decode(z).cpu()
        sights.journeys.append(Journey(dimension, float(activity[dimension].sqrt()), frames))


def _unmarked(loaded: Model, latents: Tensor) -> Tensor:
    """The dimensions that do not stand for the class."""
    every = torch.arange(latents.shape[1], device=latents.device)
    neck = loaded.model.bottleneck
    if "labels" not in neck.offers:
        return every
    labels = neck.labels_of(latents)
    other = neck.relabel(latents, (labels + 1) % max(2, len(loaded.about.classes)))
    return every[(other == latents).all(0)]
