"""An autoencoder put together from named parts, and the check that the parts belong together."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from aegen import memory, noise
from aegen.combinations import meet, objective_options, short, stack
from aegen.contract import outputs
from aegen.errors import UsageError
from aegen.factory import TooMuch, bounded, create, load, refuse_untyped, unvalued
from aegen.model_spec import ModelSpec
from aegen.nn.precision import at_least_float32
from aegen.objective_name import ObjectiveName
from aegen.protocols import (
    Architecture,
    Bottleneck,
    ImageShape,
    Latent,
    Likelihood,
    Objective,
    Pixels,
    Sampler,
)
from aegen.spec import Spec


class Autoencoder(nn.Module):
    """Encoder, bottleneck, decoder and likelihood for images of one shape.

    Whatever encodes takes `labels`, the classes of the images, int64 (B,), or None where they are not known. They go to an encoder
    whose `forward` has a parameter of that name and to a bottleneck that offers `labels`; all others are called without.

    Attributes:
        image: the shape of the images.
        latent_shape: of one latent, `(D,)` or `(D, h, w)`.
        labelled: whether the encoder or the bottleneck reads classes.
        any_size, factor: whether it takes images of other sizes, and of what their sides are multiples: see `Architecture`.
    """

    architecture: type | None = None  # that made encoder and decoder, where it is known
    any_size: bool = False
    factor: int = 1

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
        self._encoder_reads, self._bottleneck_reads = _reads_labels(encoder), "labels" in bottleneck.offers
        self.labelled = self._encoder_reads or self._bottleneck_reads

    @property
    def labels(self) -> Tensor | None:
        """The classes that this model was given, (B,): None, but for what `given` makes and a loss receives. It cannot be set."""
        return None

    def given(self, labels: Tensor | None) -> Autoencoder:
        """This model with the classes (B,) of the images that it will encode: what the engine hands to a loss, which says none itself.

        A value that is made for a call, of the same parts; where there are no classes, the model itself.
        """
        return self if labels is None else cast(Autoencoder, _Given(self, labels))

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] → what the encoder gives, (B, fan_in) or (B, fan_in, h, w)."""
        found: Tensor = self.encoder(x, labels=labels) if self._encoder_reads else self.encoder(x)
        return found

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Latent:
        """Images (B, C, H, W) in [-1, 1] → Latent. `.z` is a draw from the posterior, `.mean` its mean."""
        return self.latent(self.features(x, labels), labels)

    def latent(self, features: Tensor, labels: Tensor | None = None) -> Latent:
        """What the encoder gave, (B, fan_in) or (B, fan_in, h, w) → Latent."""
        with _full_precision(features):  # a KL or a codebook distance is not for bf16
            known = {"labels": labels} if self._bottleneck_reads else {}
            latent: Latent = self.bottleneck(at_least_float32(features), **known)
        return latent

    def decode(self, z: Tensor) -> Pixels:
        """Latents (B, *latent_shape) → p(x|z), whose `.mean` is the image in [-1, 1].

        They may be wider than the decoder's weights: a density may have needed the digits.
        """
        if z.dtype == torch.float64:
            z = z.to(next((p.dtype for p in self.decoder.parameters()), z.dtype))
        parameters = self.decoder(z)
        with _full_precision(parameters):
            pixels: Pixels = self.likelihood(at_least_float32(parameters))
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

    def reconstruct(self, x: Tensor, labels: Tensor | None = None, *, stochastic: bool = False) -> Tensor:
        """Images → images in [-1, 1], by the posterior mean; `stochastic` samples the posterior instead."""
        latent = self.encode(x, labels)
        return self.decode(latent.z if stochastic else latent.mean).mean

    def prior(
        self,
        n: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Tensor:
        """`n` latents from the prior, (n, *latent_shape) or of another shape, drawn on `device`, or on the CPU."""
        shape = shape or self.latent_shape
        with torch.device(device) if device is not None else nullcontext():
            if generator is not None:
                return self.bottleneck.prior(n, shape, generator)
            return noise.draw_rows(n, device, lambda count, g: self.bottleneck.prior(count, shape, g))


class _Given:
    """An autoencoder whose images have the classes `labels` unless others are said; all else is the autoencoder's own."""

    _model: Autoencoder
    _labels: Tensor

    def __init__(self, model: Autoencoder, labels: Tensor) -> None:
        vars(self).update(_model=model, _labels=labels)

    def __getattr__(self, name: str) -> Any:
        if name in ("_model", "_labels"):  # not there yet, in a copy that is being made
            raise AttributeError(name)
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)

    @property
    def labels(self) -> Tensor:
        return self._labels

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self._model.features(x, self._labels if labels is None else labels)

    def encode(self, x: Tensor, labels: Tensor | None = None) -> Latent:
        return self._model.encode(x, self._labels if labels is None else labels)

    def latent(self, features: Tensor, labels: Tensor | None = None) -> Latent:
        return self._model.latent(features, self._labels if labels is None else labels)

    def reconstruct(self, x: Tensor, labels: Tensor | None = None, *, stochastic: bool = False) -> Tensor:
        return self._model.reconstruct(x, self._labels if labels is None else labels, stochastic=stochastic)


def _reads_labels(encoder: nn.Module) -> bool:
    try:
        return "labels" in inspect.signature(encoder.forward).parameters
    except (TypeError, ValueError):  # written in C
        return False


def there(model: Autoencoder, objective: Objective) -> set[str]:
    """What a model has that this objective trains: what its bottleneck offers, `encoder`, and `likelihood`, p(x|z) with its scale."""
    trained = [part for turn in objective.turns() for part in turn.trains]
    scaled = "likelihood" in trained or not list(model.likelihood.parameters())
    return {*model.bottleneck.offers, *["encoder"] * objective.encodes, *["likelihood"] * scaled}


BOUND = frozenset({"encoder", "density", "penalty", "likelihood"})
"""What must be there for error and charge to bound -log p(x): a posterior and a prior with densities, and a trained p(x|z)."""


def bound(model: Autoencoder, objective: Objective, error: Tensor, charge: Tensor) -> dict[str, Tensor]:
    """What to watch of the error and of what the bottleneck charges, (B,) nats each, under the names that they deserve.

    `negative_elbo` and `kl` where these are a bound on -log p(x) and its divergence. Else the charge alone, as `charge`: the
    commitment of a codebook, the entropies of codes, relaxed categories or the teaching of labels make no bound, and no sum with
    the error that could be compared.
    """
    if there(model, objective) >= BOUND:
        return {"negative_elbo": error + charge, "kl": charge}
    return {"charge": charge}


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
        with unvalued():
            probe = nets.encoder()
            outputs.checked(nets, outputs.nets, probe)
            features = probe.eval()(torch.empty(1, *image))
            outputs.checked(nets, outputs.features, features, torch.empty(1, *image), neck.fan_in)
            # Not attached yet: the prior is not needed for a shape.
            found = copy.deepcopy(neck).to("meta").eval()(features)
            outputs.checked(
                neck,
                outputs.hold,
                isinstance(found, Latent),
                f"the bottleneck gave a {type(found).__name__}, not a Latent",
            )
            latent = found.z.shape[1:]
    latent_shape = tuple(latent)
    encoder = nets.encoder()
    decoder = nets.decoder(latent_shape, pixels.fan_out)
    outputs.checked(nets, outputs.nets, encoder, decoder)
    model = Autoencoder(image, encoder, neck, decoder, pixels, latent_shape)
    model.architecture = type(nets)
    model.any_size, model.factor = nets.any_size and neck.any_size and len(latent_shape) == 3, nets.factor
    return model


def built_of(spec: ModelSpec) -> Autoencoder:
    """The autoencoder that a `ModelSpec` says, with weights drawn from torch's current random state.

    Raises:
        UsageError, PluginError: as `build_model`.
    """
    return build_model(
        spec.arch, spec.bottleneck, spec.likelihood, spec.image, classes=len(spec.classes), latent=spec.latent
    )


_LAYERS = 200_000
_SMALLER = "use a smaller width, fewer layers, a smaller --latent-dim or smaller images"


def check_room(build: Callable[[], nn.Module], have: int | None = None) -> None:
    """Refuse a model that cannot be trained in any memory here, before it is built: its sizes are known without values.

    Args:
        have: bytes where its weights and their gradients are to be, if that is not this process's memory.

    Raises:
        EnvironmentFault: it is larger than the memory.
        UsageError: it is larger than any, or has more layers than can be built.
    """
    try:
        with bounded(_LAYERS), unvalued():
            made = build()
    except TooMuch:
        raise UsageError(f"the model has more than {_LAYERS:,} layers", hint=_SMALLER) from None
    except (RuntimeError, NotImplementedError, TypeError, OverflowError) as error:
        if "overflow" in str(error).lower():
            raise UsageError("the model is larger than any memory", hint=_SMALLER) from error
        return  # a plugin's code that cannot be run without values
    weights = sum(p.numel() * p.element_size() for p in made.parameters())
    rest = sum(b.numel() * b.element_size() for b in made.buffers())
    memory.require(weights + rest, "the model", _SMALLER)  # it is built on the CPU, wherever it goes then
    memory.require(2 * weights + rest, "training the model", _SMALLER, have)


def objective_classes(name: ObjectiveName) -> list[tuple[str, type[Objective]]]:
    """The classes of its parts, innermost first.

    Raises:
        UsageError: a name is unknown, a wrapper stands first, or something that wraps nothing stands later.
    """
    return [(part, load("objective", part, Objective)) for part, _ in stack(name)]


def build_objective(spec: Spec, model: Autoencoder, *, size: int = 1) -> Objective:
    """The objective of a model, wrappers around it, checked against what the bottleneck offers.

    Args:
        size: number of training images, for objectives that need it.

    Raises:
        UsageError: unknown names or options, or a need that the bottleneck does not meet.
    """
    known: dict[str, Any] = {"image": model.image, "latent": model.latent_shape, "size": size}
    objective: Objective | None = None
    name = ObjectiveName.parse(spec.name)
    classes = objective_classes(name)
    for (_, cls), part in zip(classes, objective_options(name, spec.options), strict=True):
        prefix = "objective." if objective is None else f"objective.{short(part.name)}."
        extra = {} if objective is None else {"inner": objective}
        objective = create(cls, "objective", part, prefix, known | extra)
    assert objective is not None
    check_needs(f"objective {spec.name!r}", objective.needs, model.bottleneck, classes[0][1].bottleneck)
    found = objective.turns()
    outputs.checked(objective, outputs.turns, found, model)
    turns = [turn.name for turn in found]
    if len(set(turns)) < len(turns):  # metrics and optimizer states go by these names
        twice = next(turn for turn in turns if turns.count(turn) > 1)
        raise UsageError(
            f"objective {spec.name!r} has two turns named {twice!r}", hint="leave one part out, or rename its turn"
        )
    return objective


def require_typed(spec: Spec) -> None:
    """Refuse the files that an objective of a checkpoint would read, unless the user named them too.

    Raises:
        UsageError: naming the first that was not typed.
    """
    name = ObjectiveName.parse(spec.name)
    for (_, cls), part in zip(objective_classes(name), objective_options(name, spec.options), strict=True):
        refuse_untyped(cls, "objective", part)


def build_sampler(spec: Spec, model: Autoencoder, latent: tuple[int, ...] | None = None) -> Sampler:
    """A sampler for a model's latents, or for those of another shape, if it is not fitted.

    Raises:
        UsageError: unknown name or option, or a need that the bottleneck does not meet.
    """
    cls = load("sampler", spec.name, Sampler)
    check_needs(f"sampler {spec.name!r}", cls.needs, model.bottleneck, "gaussian")
    known = {"model": model, "latent": latent or model.latent_shape}
    return create(cls, "sampler", spec, "sampler.", known)


def check_needs(who: str, needs: frozenset[str] | set[str], bottleneck: Bottleneck, usual: str = "") -> None:
    """Refuse a combination that makes no sense, and name the bottlenecks that would do, the `usual` one first.

    Raises:
        UsageError: `needs` is not a subset of what the bottleneck offers.
    """
    meet(who, needs, type(bottleneck).__name__, bottleneck.offers, usual)
