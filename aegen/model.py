"""An autoencoder put together from named parts, and the check that the parts belong together."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from aegen import noise, registry
from aegen.errors import PluginError, UsageError
from aegen.factory import create, load
from aegen.protocols import (
    Architecture,
    Bottleneck,
    ImageShape,
    Latent,
    Likelihood,
    Objective,
    Pixels,
    Sampler,
    Wrapper,
)
from aegen.spec import Spec


class Autoencoder(nn.Module):
    """Encoder, bottleneck, decoder and likelihood for images of one shape.

    Attributes:
        image: the shape of the images.
        latent_shape: of one latent, `(D,)` or `(D, h, w)`.
        labels: int64 (B,), classes of the images that are being encoded, where they are known; for bottlenecks that offer
            `labels`.
    """

    labels: Tensor | None = None

    def __init__(
        self,
        image: ImageShape,
        encoder: nn.Module,
        bottleneck: Bottleneck,
        decoder: nn.Module,
        likelihood: Likelihood,
        latent_shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.image = image
        self.latent_shape = latent_shape
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.likelihood = likelihood
        bottleneck.attach(encoder)

    def encode(self, x: Tensor) -> Latent:
        """Images (B, C, H, W) in [-1, 1] → Latent. `.z` is a draw from the posterior, `.mean` its mean."""
        features = self.encoder(x)
        with _full_precision(features):  # a KL or a codebook distance is not for bf16
            known = {"labels": self.labels} if "labels" in self.bottleneck.offers else {}
            latent: Latent = self.bottleneck(lifted(features), **known)
        return latent

    def decode(self, z: Tensor) -> Pixels:
        """Latents (B, *latent_shape) → p(x|z), whose `.mean` is the image in [-1, 1]."""
        parameters = self.decoder(z)
        with _full_precision(parameters):
            pixels: Pixels = self.likelihood(lifted(parameters))
        return pixels

    def draw(self, latent: Latent) -> tuple[Tensor, Tensor]:
        """Another draw (B, *latent_shape) from the posterior of a latent that has one, and its log q(z|x) in nats, (B,)."""
        assert latent.posterior is not None, "a bottleneck that offers no density has no posterior"
        with _full_precision(latent.z):
            return latent.posterior.draw()

    def log_prior(self, z: Tensor) -> Tensor:
        """log p(z) of latents (B, *latent_shape) in nats, (B,)."""
        with _full_precision(z):
            return self.bottleneck.log_prior(z)

    def reconstruct(self, x: Tensor, *, stochastic: bool = False) -> Tensor:
        """Images → images in [-1, 1], by the posterior mean; `stochastic` samples the posterior instead."""
        latent = self.encode(x)
        return self.decode(latent.z if stochastic else latent.mean).mean

    def prior(
        self, n: int, generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """`n` latents from the prior, (n, *latent_shape), drawn on `device`, or on the CPU."""
        with torch.device(device) if device is not None else nullcontext():
            if generator is not None:
                return self.bottleneck.prior(n, self.latent_shape, generator)
            return noise.draw_rows(n, device, lambda count, g: self.bottleneck.prior(count, self.latent_shape, g))


def lifted(x: Tensor) -> Tensor:
    """Half precision → float32; what is wider stays as it is."""
    return x.float() if x.dtype.itemsize < 4 else x


def _full_precision(x: Tensor) -> Any:
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


# ---------------------------------------------------------------------------------------------------- building


def build_model(
    arch: Spec,
    bottleneck: Spec,
    likelihood: Spec,
    image: ImageShape,
    *,
    classes: int = 0,
    latent: Sequence[int] | None = None,
) -> Autoencoder:
    """Put an autoencoder together; weights are drawn from torch's current random state.

    Args:
        classes: number of class labels in the data, for bottlenecks that read them.
        latent: shape of z where it is known, else it is found by running the encoder without arithmetic.

    Raises:
        UsageError: unknown names or options, or parts that do not fit the image.
    """
    known = {"image": image, "classes": classes}
    neck = create(load("bottleneck", bottleneck.name, Bottleneck), "bottleneck", bottleneck, "bottleneck.", known)
    pixels = create(load("likelihood", likelihood.name, Likelihood), "likelihood", likelihood, "likelihood.", known)
    nets = create(
        load("architecture", arch.name, Architecture),
        "architecture",
        arch,
        "arch.",
        known | {"fan_in": neck.fan_in},
    )
    if latent is None:
        with torch.device("meta"), torch.no_grad():
            features = nets.encoder().eval()(torch.empty(1, *image))
            # Not attached yet: the prior is not needed for a shape.
            latent = copy.deepcopy(neck).to("meta").eval()(features).z.shape[1:]
    latent_shape = tuple(latent)
    encoder = nets.encoder()
    decoder = nets.decoder(latent_shape, pixels.fan_out)
    return Autoencoder(image, encoder, neck, decoder, pixels, latent_shape)


def objective_classes(name: str) -> list[tuple[str, type[Objective]]]:
    """`"vae+adversarial"` → the classes, innermost first.

    Raises:
        UsageError: a name is unknown, a wrapper stands first, or something that wraps nothing stands later.
    """
    classes = _classes(name)
    parts = [part for part, _ in classes]
    first, *others = classes
    if issubclass(first[1], Wrapper):
        raise UsageError(f"objective {first[0]!r} wraps another", hint=f"put one before it: vae+{name}")
    for part, cls in others:
        if not issubclass(cls, Wrapper):
            raise UsageError(f"{part!r} in objective {name!r} wraps nothing", hint=f"only wrappers follow {first[0]}+")
    if len(set(map(short, parts))) < len(parts):
        raise UsageError(f"objective {name!r} names a part twice")
    return classes


def _classes(name: str) -> list[tuple[str, type[Objective]]]:
    return [(part, load("objective", part, Objective)) for part in name.split("+")]


def meant_classes(name: str) -> list[tuple[str, type[Objective]]]:
    """The classes that a name as it was typed means: its parts, innermost first, then those that stand for several of them."""
    short_for = [(part, cls) for part, cls in _classes(name) if cls.stands_for]
    return [*objective_classes(expand(name)), *short_for]


def expand(name: str) -> str:
    """An objective's name with what stands for a combination written out: `vqgan` → `vq-vae+perceptual+adversarial`.

    Raises:
        UsageError: a name is unknown.
    """
    parts = [load("objective", part, Objective).stands_for or part for part in name.split("+")]
    return "+".join(parts) if parts == name.split("+") else expand("+".join(parts))


def short(part: str) -> str:
    """The name under which a wrapper's options stand: that of the class for `./mine.py:Mine`, none of a package's."""
    return part.rpartition(":")[2] if registry.is_file(part) else part.rpartition("/")[2]


def objective_options(name: str, options: Mapping[str, Any]) -> list[Spec]:
    """One Spec for each part of a stack: options of the innermost stand bare, a wrapper's under its short name."""
    first, *wrappers = name.split("+")
    own = {k: v for k, v in options.items() if k not in map(short, wrappers)}
    return [Spec(first, own), *(Spec(w, dict(options.get(short(w), {}))) for w in wrappers)]


def build_objective(spec: Spec, model: Autoencoder, *, size: int = 1) -> Objective:
    """The objective of a model, wrappers around it, checked against what the bottleneck offers.

    Args:
        size: number of training images, for objectives that need it.

    Raises:
        UsageError: unknown names or options, or a need that the bottleneck does not meet.
    """
    known: dict[str, Any] = {"image": model.image, "latent": model.latent_shape, "size": size}
    objective: Objective | None = None
    for (_, cls), part in zip(objective_classes(spec.name), objective_options(spec.name, spec.options), strict=True):
        prefix = "objective." if objective is None else f"objective.{short(part.name)}."
        extra = {} if objective is None else {"inner": objective}
        objective = create(cls, "objective", part, prefix, known | extra)
    assert objective is not None
    check_needs(
        f"objective {spec.name!r}", objective.needs, model.bottleneck, objective_classes(spec.name)[0][1].bottleneck
    )
    turns = [turn.name for turn in objective.turns()]
    if len(set(turns)) < len(turns):  # metrics and optimizer states go by these names
        twice = next(turn for turn in turns if turns.count(turn) > 1)
        raise UsageError(
            f"objective {spec.name!r} has two turns named {twice!r}", hint="leave one part out, or rename its turn"
        )
    return objective


def build_sampler(spec: Spec, model: Autoencoder) -> Sampler:
    """A sampler for a model's latents.

    Raises:
        UsageError: unknown name or option, or a need that the bottleneck does not meet.
    """
    cls = load("sampler", spec.name, Sampler)
    check_needs(f"sampler {spec.name!r}", cls.needs, model.bottleneck, "gaussian")
    known = {"model": model, "latent": model.latent_shape}
    return create(cls, "sampler", spec, "sampler.", known)


def combinations() -> list[dict[str, Any]]:
    """What goes with what: for each objective its defaults and the bottlenecks that offer what it needs.

    A third party's component that cannot be loaded is left out.
    """
    offers: dict[str, set[str]] = {}
    for name in registry.names("bottleneck"):
        with suppress(PluginError, UsageError):
            offers[name] = set(load("bottleneck", name, Bottleneck).offers)
    rows = []
    for name in registry.names("objective"):
        with suppress(PluginError, UsageError):
            parts = [cls for _, cls in _classes(expand(name))]
            needs = set(parts[0].needs)
            rows.append(
                {
                    "objective": name,
                    "stands_for": load("objective", name, Objective).stands_for,
                    "wraps": issubclass(parts[0], Wrapper),
                    "map": any(cls.map_options is not None for cls in (*parts, load("objective", name, Objective))),
                    "bottleneck": "" if issubclass(parts[0], Wrapper) else parts[0].bottleneck,
                    "likelihood": "" if issubclass(parts[0], Wrapper) else parts[0].likelihood,
                    "goes_with": [neck for neck, has in offers.items() if needs <= has],
                    "goes_without": [neck for neck, has in offers.items() if not needs <= has],
                }
            )
    return rows


def check_needs(who: str, needs: frozenset[str] | set[str], bottleneck: Bottleneck, usual: str = "") -> None:
    """Refuse a combination that makes no sense, and name the bottlenecks that would do, the `usual` one first.

    Raises:
        UsageError: `needs` is not a subset of what the bottleneck offers.
    """
    lacking = set(needs) - set(bottleneck.offers)
    if not lacking:
        return
    able: list[str] = []
    for name in registry.names("bottleneck"):
        try:
            offers = load("bottleneck", name, Bottleneck).offers
        except (PluginError, UsageError):
            continue  # a broken plugin is no advice
        if set(needs) <= set(offers):
            able.insert(0 if name == usual else len(able), name)
    have = type(bottleneck).__name__.lower()
    best, *others = able or [""]
    what = f"--bottleneck {best}" + f" (or {', '.join(others)})" * bool(others)
    if not able:
        what = "a sampler that needs none" if who.startswith("sampler") else "another objective"
    raise UsageError(
        f"{who} needs a {' and a '.join(sorted(lacking))}, which the {have} bottleneck has not",
        hint=f"choose {what}",
    )
