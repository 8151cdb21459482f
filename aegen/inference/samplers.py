"""The samplers of a model: which one is meant, fitted, kept, and drawn from."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

import aegen.inference.sizes as sizes
from aegen import memory, sampler_file, threads
from aegen.autoencoder import Autoencoder, build_sampler
from aegen.checkpoint import Checkpoint
from aegen.contract import outputs
from aegen.data.batches import normalize
from aegen.data.image_rows import Pictures
from aegen.data.source import load_data
from aegen.errors import UsageError, counted, did_you_mean, listing
from aegen.factory import load as load_class
from aegen.inference.loading import Loaded, Say, silent
from aegen.protocols import Bottleneck, Sampler
from aegen.rundir import owner
from aegen.spec import Spec, check_options, options_of
from aegen.training.distributed import World

EX_POST = "mixture"
_TRIES = 100
_QUIET_SECONDS = 10
_FITTED = 256  # images that are encoded at a time
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
    if EX_POST in fitted(loaded) or "prior" not in loaded.model.bottleneck.offers:
        return EX_POST
    return "prior"


def fitted(loaded: Loaded) -> dict[str, dict[str, Any]]:
    """The options of each sampler that can draw at once: those beside the checkpoint, and those that an old one holds inside."""
    beside = {name: file.header["options"] for name, file in sampler_file.kept(loaded.file).items()}
    return {**loaded.file.header["samplers"], **beside}


def states(loaded: Loaded) -> dict[str, dict[str, Tensor]]:
    """The tensors of each of those, by name."""
    inside = {name: loaded.file.tensors(f"sampler.{name}.") for name in loaded.file.header["samplers"]}
    return inside | {name: file.tensors(sampler_file.PREFIX) for name, file in sampler_file.kept(loaded.file).items()}


@torch.no_grad()
def draw_latents(
    loaded: Loaded,
    count: int,
    *,
    sampler: str | None = None,
    options: Mapping[str, Any] | None = None,
    label: str | None = None,
    seed: int = 0,
    say: Say = silent,
    here: World | None = None,
    prepare: Callable[[str, Mapping[str, Any]], Sampler] | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[Tensor]:
    """`count` latents in batches (B, *z) on the model's device; all of them in each process of `here`.

    Args:
        prepare: gives the sampler of a name and options, in place of `prepare_sampler`.
        size: of the images that they are to become, if not the model's.

    Raises:
        UsageError: the model knows no classes, or none of that name; the sampler is fitted to the model's size, and another is wanted.
        EnvironmentFault: they are more than the memory holds.
    """
    name = sampler or (default_sampler(loaded) if size is None else "prior")
    # Before minutes of fitting.
    wanted = None if label is None else _class_index(loaded, label)
    shape = loaded.model.latent_shape if size is None else sizes.latent_shape(loaded.model, size)
    require_room(loaded, count, shape=shape)
    if size is not None:
        drawer = _of_any_size(loaded, name, dict(options or {}), shape)
    elif prepare is not None:
        drawer = prepare(name, options or {})
    else:
        drawer = prepare_sampler(loaded, name, dict(options or {}), say, here or World(loaded.device))
    say(f"sampler {name}, seed {seed} (--seed N draws others), model {loaded.path}")
    yield from draw_from(loaded, drawer, count, wanted=wanted, seed=seed, shape=shape)


def size_to_draw(loaded: Loaded, size: sizes.Size | None) -> tuple[int, int] | None:
    """The size of images that are to be drawn, if it is not the model's.

    Raises:
        UsageError: it is no size, or none that the model gives.
    """
    wanted = sizes.require(loaded.model, loaded.path, size)
    if wanted == sizes.OWN:
        raise UsageError("--size own is of images that are read, and these are drawn", hint="give --size HEIGHTxWIDTH")
    return None if wanted is None or wanted == tuple(loaded.model.image[1:]) else wanted


def _of_any_size(loaded: Loaded, name: str, options: dict[str, Any], shape: tuple[int, ...]) -> Sampler:
    """A sampler that needs no fitting, for latents of another shape than the model's.

    Raises:
        UsageError: it is fitted.
    """
    if load_class("sampler", name, Sampler).fitted:
        prior = "prior" in loaded.model.bottleneck.offers
        raise UsageError(
            f"sampler {name} is fitted to latents of one shape, and draws images of {loaded.model.image} alone",
            hint="draw other sizes with --sampler prior" if prior else "leave --size out",
        )
    return build_sampler(Spec(name, options_as_checked(name, options)), loaded.model, shape)


def require_drawable(loaded: Loaded, name: str) -> None:
    """See, before minutes of work, that a sampler goes with the model, and was trained if it must be.

    Raises:
        UsageError: it does not, or was not; there is no such sampler.
    """
    if build_sampler(Spec(name, {}), loaded.model).learns and _found(loaded, name, {}) is None:
        raise _untrained(loaded, name, {})


def require_room(loaded: Loaded, count: int, more: int = 0, shape: tuple[int, ...] | None = None) -> None:
    """See that so many latents, which are drawn at once, and `more` bytes fit into the memory.

    Raises:
        EnvironmentFault: they do not.
    """
    size = 4 * count * math.prod(shape or loaded.model.latent_shape) + more
    hint = "draw fewer at a time, each time with another --seed"
    memory.require(size, f"drawing {counted(count, 'image')} at once", hint)


@torch.no_grad()
def draw_from(
    loaded: Loaded,
    drawer: Sampler,
    count: int,
    *,
    wanted: int | None,
    seed: int,
    shape: tuple[int, ...] | None = None,
) -> Iterator[Tensor]:
    """`count` latents of a sampler, of the class `wanted`, in batches (B, *z) on the model's device."""
    # Drawn on the CPU, so that a seed means the same images on every device.
    generator = torch.Generator().manual_seed(seed)
    z = _drawn(drawer, count, generator, shape or loaded.model.latent_shape)
    neck = loaded.model.bottleneck
    if wanted is not None:
        z = _of_class(neck, drawer, z, wanted, generator)
    for part in z.split(loaded.batch):
        # A density fitted ex post knows nothing of spheres and codebooks, and the decoder of nothing else.
        yield neck.nearest(part.to(loaded.device))


def _drawn(drawer: Sampler, count: int, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    z = drawer.sample(count, generator)
    outputs.checked(drawer, outputs.draws, z, count, shape)
    return z


def _class_index(loaded: Loaded, label: str) -> int:
    if "labels" not in loaded.model.bottleneck.offers:
        raise UsageError(
            f"--label {label} needs a model that was told classes, but {loaded.path} has a {loaded.about.bottleneck.name} bottleneck",
            hint="train with --objective conditional-vae on data with labels, a folder a class",
        )
    classes = loaded.about.classes
    if label not in classes and label.isdecimal() and int(label) < len(classes):
        return int(label)  # MNIST calls its classes "7 - seven"
    if label not in classes:
        hint = did_you_mean(label, classes) or f"classes are {listing(classes)}"
        raise UsageError(f"--label {label!r} is no class of {loaded.path}", hint=hint)
    return classes.index(label)


def _of_class(neck: Bottleneck, drawer: Sampler, z: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
    """As many latents as `z` has, of the class `wanted`, by drawing until there are enough."""
    kept = z[neck.labels_of(z) == wanted]
    for _ in range(_TRIES):
        if len(kept) >= len(z):
            break
        more = _drawn(drawer, len(z), generator, tuple(z.shape[1:]))
        kept = torch.cat([kept, more[neck.labels_of(more) == wanted]])
    # A sampler that hardly ever draws this class: the style of others, with this class's mark.
    kept = torch.cat([kept, z])[: len(z)]
    return neck.relabel(kept, torch.full((len(kept),), wanted))


def prepare_sampler(
    loaded: Loaded, name: str, options: dict[str, Any], say: Say, here: World, *, keep: bool = True
) -> Sampler:
    """The sampler that lies beside the checkpoint or in it, or one fitted now, which is kept beside it if `keep`.

    It is fitted by the seed of the run, as when training ends: a seed of drawing means the same images whoever drew before.
    """
    options = options_as_checked(name, options)
    sampler = _found(loaded, name, options)
    if sampler is not None:
        tell_fallback(sampler, name, say)
        return sampler
    sampler = build_sampler(Spec(name, options), loaded.model)
    if sampler.learns:
        raise _untrained(loaded, name, options)
    if sampler.fitted:
        loaded.require_encoder(f"fitting sampler {name}")
        loaded.require_run(f"fitting sampler {name}")
        settings = loaded.images("a sampler is fitted on its training images; --sampler prior does without")
        say(f"fitting sampler {name} on the training images of {settings.name}")
        data = load_data(settings, loaded.options_of(settings), say)
        if data.fingerprint() != loaded.file.header["data"]["fingerprint"]:
            raise UsageError(
                f"sampler {name} is fitted on {settings.name}, which holds other images than when the model was trained",
                hint="put those images back, or draw with --sampler prior",
            )
        fit_sampler(sampler, loaded.model, data.train, loaded.spec.train.seed, here, told_now_and_then(say), name)
        tell_fallback(sampler, name, say)
        if here.first and keep:
            _keep_sampler(loaded, Spec(name, options), sampler, say)
    return sampler


def options_as_checked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a sampler as values of their types, however they were said: `"3"` is 3.

    Raises:
        UsageError: an unknown name, option or value.
    """
    return {key: value for key, value in _completed(name, options).items() if key in options}


def _completed(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    known = options_of(load_class("sampler", name, Sampler))
    return check_options(known, options, "sampler.", f"sampler {name}")


def _found(loaded: Loaded, name: str, options: dict[str, Any]) -> Sampler | None:
    """The sampler as it was fitted to this very model, if it was, with these options as far as they are said."""
    beside = sampler_file.find(loaded.file, name)
    inside = loaded.file.header["samplers"].get(name)
    files: list[tuple[Checkpoint, dict[str, Any], str]] = []
    if beside is not None:
        files.append((beside, beside.header["options"], sampler_file.PREFIX))
    if inside is not None:
        files.append((loaded.file, inside, f"sampler.{name}."))
    for file, kept, prefix in files:
        same = not options or _completed(name, kept | options) == _completed(name, kept)
        if same:
            file.require_plugins(("sampler",))
            file.fits(lambda kept=kept: build_sampler(Spec(name, kept), loaded.model), prefix)  # type: ignore[misc]
            sampler = build_sampler(Spec(name, kept), loaded.model)
            file.restore(sampler, prefix)
            return sampler.eval().requires_grad_(False)
    return None


def _untrained(loaded: Loaded, name: str, options: Mapping[str, Any]) -> UsageError:
    other = sampler_file.of_other_weights(loaded.file, name)
    has = f"{loaded.path} has none"
    if other is not None:
        has = f"{other} was trained for other weights than those of {loaded.path}"
    elif name in fitted(loaded):
        has = f"that of {loaded.path} has other options than {dict(options)}"
    again = " --force" if has and not has.endswith("none") else ""
    with suppress(UsageError):
        place = owner(loaded.path)
        return UsageError(
            f"sampler {name} is trained, and {has}",
            hint=f"train it: aegen fit-sampler {shlex.quote(str(place))} --sampler {shlex.quote(name)}{again}",
        )
    hint = f"train it: aegen fit-sampler {shlex.quote(str(loaded.path))} --sampler {shlex.quote(name)}{again}"
    return UsageError(f"sampler {name} is trained, and {has}", hint=hint)


def tell_fallback(sampler: Sampler, name: str, say: Say) -> None:
    """In one line what it does instead of what it was asked for, if it does."""
    told = sampler.fallback()
    outputs.checked(sampler, outputs.fallback, told)
    if told:
        say(f"sampler {name}: {told}")


def _keep_sampler(loaded: Loaded, spec: Spec, sampler: Sampler, say: Say) -> None:
    """Beside the checkpoint that it was fitted for, unless training has put another one there, or a sampler lies there that is another."""
    there = sampler_file.place_of(loaded.path, spec.name)
    if there.exists():
        hint = f"aegen fit-sampler {shlex.quote(str(loaded.path))} --sampler {spec.name} --force puts one there"
        say(f"the fitted sampler was not kept: {there} has other options, or is of other weights; {hint}")
        return
    try:
        if loaded.file.replaced:
            say(f"the fitted sampler was not kept, since {loaded.path} is another checkpoint by now")
            return
        sampler_file.save(loaded.file, spec, sampler, seed=loaded.spec.train.seed)
    except OSError as error:  # the pictures do not depend on it
        say(f"the fitted sampler could not be kept in {there} ({error.strerror or error})")


Tell = Callable[[str, int, int], None]


def _untold(text: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def told_now_and_then(say: Say) -> Tell:
    """A line of progress for those who have waited long for the last one."""
    spoke = time.monotonic()

    def tell(text: str, done: int, total: int) -> None:
        nonlocal spoke
        if time.monotonic() - spoke > _QUIET_SECONDS:
            spoke = time.monotonic()
            say(f"{text}: {done:,}/{total:,}")

    return tell


@torch.no_grad()
def fit_sampler(
    sampler: Sampler,
    model: Autoencoder,
    train: Pictures,
    seed: int,
    here: World | None = None,
    tell: Tell = _untold,
    name: str = "",
) -> None:
    """Fit on the posterior means of the training images (uint8), as many as it uses; each process of `here` encodes a part of them.

    Args:
        tell: called with what is done, how much of it is over, and of how much.
        name: of the sampler, for that, and of what it is fitted for.
    """
    device = next(model.parameters()).device
    here = here or World(device)
    chosen = torch.arange(len(train))
    if sampler.most is not None and len(train) > sampler.most:
        chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: sampler.most]
    order = chosen.argsort()  # images that lie in files are read from the first to the last
    parts = chosen[order].split(_FITTED)
    text = f"encoding {counted(len(chosen), 'training image')} for sampler {name}"
    own: list[Tensor] = []
    for part in parts[here.rank :: here.size]:
        tell(text, len(own) * here.size * _FITTED, len(chosen))
        own.append(model.encode(normalize(train[part].to(device))).mean.cpu())
    told = here.gather(own)
    latents = torch.cat([told[i % here.size][i // here.size] for i in range(len(parts))])[order.argsort()]
    tell(text, len(chosen), len(chosen))
    text = f"fitting sampler {name} on {counted(len(latents), 'latent')}"
    tell(text, 0, 1)
    sampler.tell = lambda done, total: tell(text, done, total)
    with threads.one_blas():
        sampler.fit(latents, seed)
    del sampler.tell
    tell(text, 1, 1)
