"""Use a trained model: load, sample, reconstruct, interpolate, export."""

from __future__ import annotations

import glob
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aegen import checkpoint, pictures, registry
from aegen.checkpoint import Checkpoint
from aegen.data import decode
from aegen.data.batches import normalize
from aegen.data.source import load_data
from aegen.engine.parallel import choose_device
from aegen.errors import RunError, UsageError
from aegen.factory import create
from aegen.factory import load as load_class
from aegen.model import Autoencoder, build_model, build_sampler
from aegen.protocols import Exporter, ImageShape, Sampler
from aegen.rundir import find_checkpoint, free_name
from aegen.spec import RunSpec, Spec

Say = Callable[[str], None]
_BATCH = 64
_PLACES = "give images (PNG, JPEG, WebP, BMP, GIF, TIFF), folders or globs"


def _silent(text: str) -> None:
    """Talk that nobody listens to."""


@dataclass
class Loaded:
    """A model ready for use: averaged weights if the run kept them, evaluation mode, no gradients."""

    path: Path
    file: Checkpoint
    spec: RunSpec
    model: Autoencoder
    device: torch.device


def load(place: Path | str | None = None, *, device: str = "auto") -> Loaded:
    """Read a model from a run folder, a checkpoint file, or the latest run under ./runs.

    Only the tensors of the model are read from the file.

    Raises:
        UsageError: there is no such checkpoint, or it is damaged.
        PluginError: it needs a plugin that is not installed.
    """
    path = find_checkpoint(Path(place) if place is not None else None)
    file = Checkpoint(path)
    file.require_plugins(("architecture", "bottleneck", "likelihood"))
    spec, where = file.spec, choose_device(device)
    model = build_model(spec.arch, spec.bottleneck, spec.likelihood, ImageShape(*file.header["image"]))
    file.restore(model, "ema." if file.has("ema.") else "model.")
    return Loaded(path, file, spec, model.to(where).eval().requires_grad_(False), where)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A failed write as advice.

    Raises:
        UsageError: what is written inside cannot be.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot write {path} ({reason})", hint="give another place with -o") from error


def folder_for_each(out: Path | None, name: str) -> Path:
    """The folder for one file an image.

    Raises:
        UsageError: `out` is a file.
    """
    folder = out or free_name(Path(name))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder} is a file, but --each writes into a folder", hint="give a folder with -o")
    return folder


# ---------------------------------------------------------------------------------------------------- sample


EX_POST = "mixture"
_MOST_EX_POST = 256  # latent dimensions: a density of more is not fitted in passing


def ex_post(model: Autoencoder) -> str | None:
    """The sampler to fit when training ends, if one should be.

    Always where there is no prior. Where there is one too, because training brings the latents only near it: a density fitted
    afterwards draws much better images, above all from small data (Ghosh et al., From Variational to Deterministic
    Autoencoders, 2020; figures in CONTRIBUTING.md).
    """
    small = math.prod(model.latent_shape) <= _MOST_EX_POST
    return EX_POST if small or "prior" not in model.bottleneck.offers else None


def default_sampler(loaded: Loaded) -> str:
    """The one fitted when training ended; before that, the prior; without a prior, one fitted now."""
    if EX_POST in loaded.file.header["samplers"] or "prior" not in loaded.model.bottleneck.offers:
        return EX_POST
    return "prior"


def sample(
    place: Path | str | None = None,
    *,
    count: int = 64,
    sampler: str | None = None,
    options: Mapping[str, Any] | None = None,
    each: bool = False,
    out: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    say: Say = _silent,
) -> list[Path]:
    """Draw images and write a grid, or with `each` one file an image into the folder `out`; the files written.

    A sampler that must be fitted and is not yet in the checkpoint is fitted on the run's training images, then kept there.

    Raises:
        UsageError: the sampler does not fit the model, or the data of the run is gone.
    """
    target = folder_for_each(out, "samples") if each else out or free_name(Path("samples.png"))
    loaded = load(place, device=device)
    images = draw(loaded, count, sampler=sampler, options=options, seed=seed, say=say)
    if not each:
        with writing(target):
            pictures.save(pictures.grid(images), target)
        return [target]
    digits = max(4, len(str(count - 1)))
    files = [target / f"{i:0{digits}d}.png" for i in range(count)]
    _save_each(images, files)
    return files


def _save_each(images: Tensor, files: Sequence[Path]) -> None:
    for image, file in zip(images, files, strict=True):
        with writing(file):
            pictures.save(pictures.to_pil(image), file)


@torch.no_grad()
def draw(
    loaded: Loaded,
    count: int,
    *,
    sampler: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    say: Say = _silent,
) -> Tensor:
    """`count` images (N, C, H, W) in [-1, 1] on the CPU."""
    name = sampler or default_sampler(loaded)
    drawer = prepare_sampler(loaded, name, dict(options or {}), seed, say)
    say(f"sampler {name}, model {loaded.path}")
    # Drawn on the CPU, so that a seed means the same images on every device.
    z = drawer.sample(count, torch.Generator().manual_seed(seed))
    return torch.cat([loaded.model.decode(part.to(loaded.device)).mean.cpu() for part in z.split(_BATCH)])


def prepare_sampler(loaded: Loaded, name: str, options: dict[str, Any], seed: int, say: Say) -> Sampler:
    """The sampler from the checkpoint, or one fitted now and kept in it."""
    kept = loaded.file.header["samplers"].get(name)
    if kept is not None and (not options or kept | options == kept):
        sampler = build_sampler(Spec(name, kept), loaded.model)
        loaded.file.restore(sampler, f"sampler.{name}.")
        return sampler
    sampler = build_sampler(Spec(name, options), loaded.model)
    if sampler.fitted:
        settings = loaded.spec.data
        say(f"fitting sampler {name} on the training images of {settings.name}")
        data = load_data(settings, loaded.spec.data_options)
        if data.fingerprint() != loaded.file.header["data"]["fingerprint"]:
            say(f"{settings.name} holds other images than when the model was trained; the sampler is fitted on those")
        fit_sampler(sampler, loaded.model, data.train, seed)
        try:
            save_sampler(loaded.path, Spec(name, options), sampler)
        except OSError as error:  # the pictures do not depend on it
            say(f"the fitted sampler could not be kept in {loaded.path} ({error.strerror or error})")
    return sampler


@torch.no_grad()
def fit_sampler(sampler: Sampler, model: Autoencoder, train: Tensor, seed: int) -> None:
    """Fit on the posterior means of the training images (uint8)."""
    device = next(model.parameters()).device
    latents = [model.encode(normalize(part.to(device))).mean.cpu() for part in train.split(_BATCH * 4)]
    sampler.fit(torch.cat(latents), seed)


def save_sampler(path: Path, spec: Spec, sampler: Sampler) -> None:
    """Keep a fitted sampler in a checkpoint; every other tensor stays as it is."""
    file = Checkpoint(path)
    prefix = f"sampler.{spec.name}."
    tensors = {k: v for k, v in file.tensors("").items() if not k.startswith(prefix)}
    tensors |= {prefix + k: v for k, v in sampler.state_dict().items()}
    samplers = file.header["samplers"] | {spec.name: spec.options}
    plugins = file.header["plugins"] | checkpoint.origins([("sampler", spec.name)])
    checkpoint.save(path, tensors, {**file.header, "samplers": samplers, "plugins": plugins})


# ---------------------------------------------------------------------------------------------------- reconstruct


@dataclass
class Source:
    """A picture that the user named.

    Attributes:
        name: where `--each` puts its reconstruction, relative to the folder of outputs.
        named: whether the user named this very file, rather than a folder that holds it.
    """

    path: Path
    name: Path
    named: bool


def find_images(places: Sequence[str]) -> list[Source]:
    """Files, folders (searched through and through) and globs → pictures, in order.

    Raises:
        UsageError: a place does not exist or holds no picture.
    """
    found: list[Source] = []
    for text in places:
        if not text.strip():
            raise UsageError(f"{text!r} names no image", hint=_PLACES)
        path = Path(text).expanduser()
        try:
            is_dir, exists = path.is_dir(), path.exists()
        except OSError as error:
            raise UsageError(f"{text} cannot be read ({error.strerror})") from error
        if is_dir:
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in decode.SUFFIXES and p.is_file())
            found += [Source(p, p.relative_to(path), False) for p in files]
        elif exists:
            files = [path]
            found.append(Source(path, Path(path.name), True))
        else:
            files = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()]
            found += [Source(p, Path(p.name), False) for p in files]
        if not files:
            wild = any(c in text for c in "*?[")
            what = "matches no file" if wild else "holds no image" if is_dir else "does not exist"
            raise UsageError(f"{text} {what}", hint=_PLACES)
    return found


def read_images(sources: Sequence[Source], loaded: Loaded, say: Say) -> tuple[list[Source], Tensor]:
    """Decode to the model's shape: the readable sources and their pixels, uint8 (N, C, H, W).

    What is converted or skipped is said.

    Raises:
        UsageError: a file that the user named, or every file, cannot be read.
    """
    image = loaded.model.image
    target = decode.Target((image.height, image.width), image.channels, loaded.spec.data.fit)
    for source in sources:
        shape = decode.probe(source.path)
        if shape is not None and (shape[0] != target.size or (shape[1] == 1) != (image.channels <= 2)):
            theirs = ImageShape(shape[1], *shape[0])
            say(f"{source.path} is {theirs}, converted to the model's {image}")
    tensors, bad = decode.read_many([s.path for s in sources], target)
    named = {s.path for s in sources if s.named}
    for path, reason in bad:
        if path in named or len(bad) == len(sources):
            raise UsageError(f"{path} cannot be read ({reason})", hint="give another image")
    if bad:
        say(f"skipped {len(bad)} of {len(sources)}: " + ", ".join(f"{p.name} ({r})" for p, r in bad[:5]))
    good = [(s, t) for s, t in zip(sources, tensors, strict=True) if t is not None]
    return [s for s, _ in good], torch.stack([t for _, t in good])


@torch.no_grad()
def reconstruct(
    places: Sequence[str],
    place: Path | str | None = None,
    *,
    each: bool = False,
    stochastic: bool = False,
    out: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    say: Say = _silent,
) -> list[Path]:
    """Write originals above reconstructions, or with `each` one file an image under its own name into `out`.

    Raises:
        UsageError: an image cannot be read, or an output would fall on an input.
    """
    loaded = load(place, device=device)
    sources, pixels = read_images(find_images(places), loaded, say)
    torch.manual_seed(seed)
    parts = [
        loaded.model.reconstruct(normalize(p.to(loaded.device)), stochastic=stochastic) for p in pixels.split(_BATCH)
    ]
    again = torch.cat(parts).cpu()
    if not each:
        out = out or free_name(Path("reconstructions.png"))
        _spare([out], sources)
        with writing(out):
            pictures.save(pictures.pairs(pixels, pictures.to_uint8(again)), out)
        return [out]
    files = _own_names(sources, folder_for_each(out, "reconstructions"))
    _spare(files, sources)
    _save_each(again, files)
    return files


def _own_names(sources: Sequence[Source], folder: Path) -> list[Path]:
    """One output a source, under its own name; GIF becomes PNG, and of two equal names the second is numbered."""
    files: list[Path] = []
    for source in sources:
        name = source.name if source.name.suffix.lower() in pictures.STILLS else source.name.with_suffix(".png")
        file, number = folder / name, 2
        while file in files:
            file = folder / name.with_name(f"{name.stem}-{number}{name.suffix}")
            number += 1
        files.append(file)
    return files


def _spare(files: Sequence[Path], sources: Sequence[Source]) -> None:
    """Refuse to write over what was read.

    Raises:
        UsageError: an output is also an input.
    """
    inputs = {s.path.resolve() for s in sources}
    for file in files:
        if file.resolve() in inputs:
            raise UsageError(f"{file} is also an input and would be overwritten", hint="give another place with -o")


# ---------------------------------------------------------------------------------------------------- interpolate


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Straight from `a` to `b` (*z), at each of `t` (T,): (T, *z)."""
    t = t.view(-1, *[1] * a.ndim)
    return (1 - t) * a + t * b


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the great circle, which keeps the norm typical of a Gaussian (Shoemake, 1985; White, 2016)."""
    cosine = (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12)
    angle = torch.acos(cosine.clamp(-1, 1))
    if angle.sin() < 1e-4:  # parallel or opposite: the circle is not defined
        return lerp(a, b, t)
    t = t.view(-1, *[1] * a.ndim)
    return (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()


METHODS = {"lerp": lerp, "slerp": slerp}


@torch.no_grad()
def interpolate(
    places: Sequence[str],
    place: Path | str | None = None,
    *,
    steps: int = 12,
    method: str = "lerp",
    out: Path | None = None,
    device: str = "auto",
    say: Say = _silent,
) -> list[Path]:
    """Write the way between the posterior means of two or more images: a strip, or a GIF or WebP by the ending of `out`.

    Raises:
        UsageError: fewer than two images, an unknown method, or an image that cannot be read.
    """
    if method not in METHODS:
        raise UsageError(f"--method is {method!r}, but takes {'|'.join(METHODS)}")
    if steps < 2:
        raise UsageError(f"--steps is {steps}, but the way from one image to another takes at least 2")
    if out is not None and out.suffix.lower() not in (*pictures.STILLS, *pictures.MOVING):
        raise UsageError(f"cannot write {out.name}", hint="end it in .png for a strip, .gif or .webp for a film")
    loaded = load(place, device=device)
    sources, pixels = read_images(find_images(places), loaded, say)
    if len(sources) < 2:
        raise UsageError(f"{len(sources)} image was given, but interpolation takes two or more")
    out = out or free_name(Path("interpolation.png"))
    _spare([out], sources)
    z = loaded.model.encode(normalize(pixels.to(loaded.device))).mean
    t = torch.linspace(0, 1, steps, device=loaded.device)
    ways = [METHODS[method](a, b, t) for a, b in itertools.pairwise(z)]
    frames = torch.cat([loaded.model.decode(way).mean.cpu() for way in ways])
    with writing(out):
        if out.suffix.lower() in pictures.MOVING:
            pictures.animate([pictures.enlarge(pictures.to_pil(f)) for f in frames], out)
        else:
            pictures.save(pictures.grid(frames, columns=steps), out)
    return [out]


# ---------------------------------------------------------------------------------------------------- export


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from the model: the largest absolute difference by output."""

    files: list[Path]
    parity: dict[str, float]


def export(
    place: Path | str | None = None,
    *,
    format: str = "safetensors",
    options: Mapping[str, Any] | None = None,
    out: Path | None = None,
    tolerance: float = 1e-4,
    seed: int = 0,
    say: Say = _silent,
) -> Exported:
    """Write a model for others, read it back, and compare.

    Raises:
        UsageError: an unknown format, or an output that exists.
        EnvironmentFault: the format needs packages that are not installed; the extra is named.
        RunError: what was written differs from the model by more than `tolerance`.
    """
    spec = Spec(format, dict(options or {}))
    exporter = create(load_class("exporter", format, Exporter), "exporter", spec, "export.", {})
    loaded = load(place, device="cpu")  # parity is judged where arithmetic is exact
    parent = loaded.path.parent
    stem = (parent.parent if parent.name == "checkpoints" else loaded.path).stem
    out = out or free_name(Path(f"{stem}-{format}{exporter.suffix}" if exporter.suffix else f"{stem}-{format}"))
    if out.exists():
        raise UsageError(f"{out} exists already", hint="give another place with -o")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        files = exporter.export(loaded.model, out, loaded.file.header)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, *loaded.model.image, generator=generator) * 2 - 1
    parity = exporter.parity(loaded.model, out, x)
    for name, difference in parity.items():
        say(f"{name}: largest difference {difference:.2g} (tolerance {tolerance:g})")
        if not difference <= tolerance:
            raise RunError(
                f"the {format} {name} differs from the model by {difference:.3g}, more than {tolerance:g}; it is at {out}",
                hint="do not ship it; --tolerance accepts more",
            )
    return Exported(files, parity)


def trust_components(names: Sequence[str]) -> None:
    """Allow file components (`./mine.py:Mine`) that a checkpoint names, because the user named them too."""
    for name in names:
        if not registry.is_file(name):
            raise UsageError(f"--component {name!r} is no file component", hint="write ./mine.py:ClassName")
        registry.trust(name)
