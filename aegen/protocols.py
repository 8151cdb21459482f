"""What crosses what: the pieces of an autoencoder and the values that pass between them.

    image ─ Encoder ─► features ─ Bottleneck ─► Latent ─ Decoder ─► parameters ─ Likelihood ─► Pixels
                                 Objective.turns() ─► [Turn]      turn.loss(model, x) ─► Outcome
                                 Sampler.fit(latents) or loss(latent, labels); sample(n) ─► latents ─► model.decode ─► Pixels

Shapes: B batch, C image channels, H × W pixels, z the shape of one latent: `(D,)`, `(D, n)` of tokens in a row, or `(D, h, w)`.
Images are float32 in [-1, 1]. Losses are nats per image: summed over pixels and latent dimensions, averaged over
the batch, so that beta = 1 is the bound itself and a mean over images does not depend on the batch size.

In every constructor, what the framework knows is positional and is filled by name; what a user may choose is
keyword-only, with a type and a default.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from aegen.data.image_rows import Pictures
from aegen.errors import UsageError
from aegen.intervals import mean_interval
from aegen.model_spec import ImageShape as ImageShape
from aegen.model_spec import ModelSpec
from aegen.schedules import Schedule
from aegen.settings import DataSettings

if TYPE_CHECKING:  # types only: they stand floors above
    from aegen.autoencoder import Autoencoder
    from aegen.evaluation.batch import Seen


# ---------------------------------------------------------------------------------------------------- values


class Posterior(ABC):
    """q(z|x): what a bottleneck with a density gives beside its sample."""

    mean: Tensor  # (B, *z)

    @abstractmethod
    def sample(self) -> Tensor:
        """A reparameterised draw, (B, *z)."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) in nats, (B,)."""

    def draw(self) -> tuple[Tensor, Tensor]:
        """A reparameterised draw (B, *z) and its log q(z|x) in nats, (B,)."""
        z = self.sample()
        return z, self.log_prob(z)


class Statistic(ABC):
    """A number of many images together that is no mean over them: how many codes they use, how widely their latents vary.

    What makes one gives it the images of its batch. Validation merges those of all held-out images and logs the value of the
    whole, whatever batches and processes they came in; training, whose steps see no set, logs none. What is kept are
    attributes: numbers, tensors, and lists and dictionaries of these. The engine holds the tensors on the CPU.
    """

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Take in what another one keeps, of other images."""

    @abstractmethod
    def value(self) -> float:
        """The number, of all images that were merged; NaN where so few have none, and it is then left out."""

    def __float__(self) -> float:
        return self.value()


@dataclass
class Latent:
    """What every bottleneck returns.

    Attributes:
        z: what the decoder eats, (B, *z).
        penalty: what the bottleneck charges, (B,): nats for a KL divergence, a commitment for a codebook, 0 for a
            deterministic one.
        posterior: q(z|x), where there is a density.
        codes: integers (B, …), where the latent is discrete.
        charges: the penalty by latent dimension, (B, *z), where it is a sum over them.
        watch: numbers worth a curve that nothing minimises, each () or (B,).
        statistics: numbers of all validation images together, worth a curve too; made in evaluation only.
    """

    z: Tensor
    penalty: Tensor
    posterior: Posterior | None = None
    codes: Tensor | None = None
    charges: Tensor | None = None
    watch: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Statistic] = field(default_factory=dict)

    @property
    def mean(self) -> Tensor:
        """The posterior mean, or `z` where nothing is sampled: what reconstruct, interpolate and export use."""
        return self.z if self.posterior is None else self.posterior.mean


class Pixels(ABC):
    """p(x|z) for a batch of latents."""

    mean: Tensor  # (B, C, H, W) in [-1, 1]

    @abstractmethod
    def nll(self, x: Tensor) -> Tensor:
        """-log p(x|z) in nats, summed over the image, (B,). `x` is (B, C, H, W) in [-1, 1]."""

    @abstractmethod
    def sample(self) -> Tensor:
        """Images drawn with their pixel noise, (B, C, H, W) in [-1, 1]."""


class Outcome:
    """What a loss returns. The engine averages each term over the batch, adds them, and logs those very terms.

    Args:
        terms: what is minimised, by name, each (B,) or ().
        recon: the reconstruction, (B, C, H, W) in [-1, 1], for wrappers that judge it; or the Pixels that have it, whose mean is
            then not computed for nobody.
        latent: of the same images.
        watch: numbers worth a curve that nothing minimises, each (B,) or ().
        statistics: numbers of all validation images together; those of the latent need not be repeated.
    """

    def __init__(
        self,
        terms: Mapping[str, Tensor],
        recon: Tensor | Pixels | None = None,
        latent: Latent | None = None,
        watch: Mapping[str, Tensor] | None = None,
        statistics: Mapping[str, Statistic] | None = None,
    ) -> None:
        for what, numbers in (("terms", terms), ("watch", watch), ("statistics", statistics)):
            if numbers is not None and not isinstance(numbers, Mapping):
                given = f"a {type(numbers).__name__}"
                raise TypeError(
                    f"Outcome takes its {what} by name, as in Outcome({{'error': error}}), and was given {given}"
                )
        self.terms = dict(terms)
        self.latent = latent
        self.watch = dict(watch or {})
        self.statistics = dict(statistics or {})
        self._recon = recon

    @property
    def recon(self) -> Tensor | None:
        """The reconstruction, (B, C, H, W) in [-1, 1]."""
        return self._recon.mean if isinstance(self._recon, Pixels) else self._recon

    def plus(self, terms: Mapping[str, Tensor], watch: Mapping[str, Tensor] | None = None) -> Outcome:
        """The same with more terms: what a wrapper returns."""
        watch = {**self.watch, **(watch or {})}
        return Outcome({**self.terms, **terms}, self._recon, self.latent, watch, self.statistics)


AUTOENCODER = ("encoder", "bottleneck", "decoder", "likelihood")


@dataclass(frozen=True)
class Turn:
    """One optimizer step of one loss on some parts.

    Attributes:
        name: of its metrics and its optimizer state.
        loss: `loss(model, x) -> Outcome`.
        trains: parts of the model by name, and the objective's own modules themselves; turns that train the very same parts
            share one optimizer.
        every: taken at each so-many-th step only.
        after: not taken before this step.
        varies: whether the loss reaches all that it trains in some steps and not in others, which several processes must know.
    """

    name: str
    loss: Callable[[Autoencoder, Tensor], Outcome]
    trains: Sequence[str | nn.Module] = AUTOENCODER
    every: int = 1
    after: int = 0
    varies: bool = False


# ---------------------------------------------------------------------------------------------------- pieces


class Architecture(ABC):
    """A family of encoder and decoder for one image shape: layers and nothing else, no loss and no sampling.

    `__init__(self, image: ImageShape, fan_in: int, *, options…)`, where `fan_in` is the number of channels that the
    bottleneck wants to receive.

    Attributes:
        map_options: options with which its latent is a feature map, the one that decides it first: `{"spatial": True, "depth": 2}`. Empty
            where it has no such choice. Objectives that usually have a map ask for them.
        any_size: whether its nets take images of other sizes than its own, and latents of other sides; of an instance, since options decide.
        factor: of what the sides of those must be multiples; a latent's are so many times smaller.
    """

    map_options: ClassVar[Mapping[str, Any]] = {}
    any_size: bool = False
    factor: int = 1

    @abstractmethod
    def encoder(self) -> nn.Module:
        """(B, C, H, W) → features, (B, fan_in), (B, fan_in, n) of tokens in a row, or (B, fan_in, h, w).

        One that reads classes says `forward(x, labels=None)`: int64 (B,), or None where they are not known.
        """

    @abstractmethod
    def decoder(self, latent: tuple[int, ...], fan_out: int) -> nn.Module:
        """Latents (B, *latent) → (B, fan_out, H, W), the parameters of the likelihood."""


class Bottleneck(nn.Module, ABC):
    """What lies between encoder and decoder: the posterior, the prior, codebooks.

    Positional constructor parameters are filled by name: `image` (ImageShape), `classes` (number of class labels in the data,
    0 without any).

    Attributes:
        fan_in: channels that the encoder must emit.
        offers: any of `prior` (it can be drawn from), `density` (a posterior, and log_prior), `diagonal` (the posterior is a
            normal, independent in every dimension, with `mean` and `std`), `penalty` (not always 0), `charges`, `codes`,
            `labels` (its `forward` takes `labels` beside the features, int64 (B,) or None where they are not known).
        any_size: whether the maps that it takes and draws may have other sides than those it was trained on; not where its prior is made of
            images, or of maps, of one size.
        codebooks: how many codes each codebook has, if the bottleneck offers codes; of several, `codes` are (B, books, …).
        undecayed: names of those of its own parameters that weight decay leaves alone: priors, pseudo-inputs, codebooks, shifts by
            class, for which 0 is no simpler than another value. Any module may declare such, a layer inside this one or a net; of
            `torch.nn`'s, embeddings need not.

    State that is not trained by gradients (an EMA codebook) moves only when
    `self.training and torch.is_grad_enabled()`.
    """

    fan_in: int
    any_size: bool = True
    offers: frozenset[str] | set[str] = frozenset()
    codebooks: Sequence[int] = ()
    undecayed: Collection[str] = ()

    @abstractmethod
    def forward(self, features: Tensor) -> Latent:
        """Features (B, fan_in), (B, fan_in, n) or (B, fan_in, h, w), float32 → Latent, whose z has the same positions."""

    def prior(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """`n` latents drawn from the prior, (n, *shape), if the bottleneck offers one."""
        raise TypeError(f"{type(self).__name__} offers no prior")

    def log_prior(self, z: Tensor) -> Tensor:
        """log p(z) of latents (B, *z), (B,) nats, if the bottleneck offers a density."""
        raise TypeError(f"{type(self).__name__} offers no density")

    def nearest(self, z: Tensor) -> Tensor:
        """The nearest latents that this bottleneck can give, (B, *z); `z` itself where it can give any."""
        return z

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes, int64 (B, …) as a Latent has them → the latents that they stand for, (B, *z), if the bottleneck offers codes."""
        raise TypeError(f"{type(self).__name__} offers no codes")

    def labels_of(self, z: Tensor) -> Tensor:
        """The class of each latent, int64 (B,), if the bottleneck offers labels."""
        raise TypeError(f"{type(self).__name__} offers no labels")

    def relabel(self, z: Tensor, labels: Tensor) -> Tensor:
        """Latents (B, *z) with the class part of `labels` (B,), if the bottleneck offers labels."""
        raise TypeError(f"{type(self).__name__} offers no labels")

    def attach(self, encoder: nn.Module) -> None:
        """Called once, when the model is put together, for a prior that is made of encoded images. Registers nothing."""
        return


class Likelihood(nn.Module, ABC):
    """p(x|z): `__init__(self, image: ImageShape, *, options…)`.

    Attributes:
        fan_out: channels that the decoder must emit.
        measure: what `nll` is of: a `density`, over all numbers or over [-1, 1], the mass of grey `levels`, or that of `binary` pixels, which of grey
            ones is a cross-entropy.
    """

    fan_out: int
    measure: ClassVar[Literal["density", "levels", "binary"]] = "density"

    @abstractmethod
    def forward(self, parameters: Tensor) -> Pixels:
        """Decoder output (B, fan_out, H, W), float32 → Pixels."""


class Objective(nn.Module):
    """What is minimised. It owns its forward pass, its terms and its own networks.

    A subclass writes `loss`. Its `float` options take a schedule instead of a number if they are kept under their own
    name (`self.beta = beta`): the engine sets the attribute before each step.

    Positional constructor parameters are filled by name: `image` (ImageShape), `latent` (shape of one latent),
    `size` (number of training images), and `inner` for a wrapper.

    Attributes:
        bottleneck, likelihood: names used when the user gives none.
        stands_for: a combination of others that this name is short for, `vae+adversarial`; such a class has nothing else but `suggests` and
            `map_options`.
        map_options: for a name that means a feature map as latent: what its own bottleneck is then given, `{"dim": 4}`; None where a vector is
            as good. Where the architecture has the choice, the map is the default, weaker than anything that a user says.
        suggests: settings of [train] that suit it better than the usual ones, `{"lr": 2e-4}`; any that a user gives is stronger.
        encodes: whether it trains an encoder; without one there is nothing to reconstruct.
        needs: what the bottleneck must offer; an instance may need more than its class, never less.
    """

    bottleneck: ClassVar[str] = "deterministic"
    likelihood: ClassVar[str] = "gaussian"
    stands_for: ClassVar[str] = ""
    map_options: ClassVar[Mapping[str, Any] | None] = None
    suggests: ClassVar[Mapping[str, Any]] = {}
    encodes: bool = True
    needs: frozenset[str] | set[str] = frozenset()

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The loss of images `x` (B, C, H, W) in [-1, 1]. Also what validation measures."""
        raise TypeError(f"{type(self).__name__} does not define loss()")

    def turns(self) -> list[Turn]:
        """What is stepped, in order; the first turn is the autoencoder's."""
        return [Turn("autoencoder", self.loss)]

    # Schedules live beside the attribute that they drive; set by the builder, read by the engine.
    def schedule(self, name: str, schedule: Schedule) -> None:
        """Drive the attribute `name` by `schedule`.

        It becomes a buffer, so that it follows the device and a compiled loss need not be compiled again when it
        changes; being a function of the step, it is not saved.
        """
        if not hasattr(self, name):
            raise TypeError(f"{type(self).__name__} takes a schedule for {name!r} but keeps no attribute of that name")
        delattr(self, name)
        self.register_buffer(name, torch.tensor(schedule(0)), persistent=False)
        self.__dict__.setdefault("_schedules", {})[name] = schedule

    def at(self, step: int) -> None:
        """Set every scheduled value, also those of wrapped objectives, for `step`."""
        for module in self.modules():
            for name, schedule in module.__dict__.get("_schedules", {}).items():
                getattr(module, name).fill_(schedule(step))

    def settled(self, step: int) -> bool:
        """Whether every schedule has ended, so that losses of different epochs may be compared."""
        return all(
            step >= schedule.end
            for module in self.modules()
            for schedule in module.__dict__.get("_schedules", {}).values()
        )


class Wrapper(Objective):
    """An objective around an objective, `--objective vae+adversarial`: `__init__(self, inner, …, *, options…)`.

    It has the needs and, unless it changes them, the loss and the turns of what it wraps.
    """

    def __init__(self, inner: Objective) -> None:
        super().__init__()
        self.inner = inner
        self.needs = frozenset(inner.needs)
        self.encodes = inner.encodes

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        """The loss of what is wrapped, so that validation stays comparable with and without the wrapper."""
        return self.inner.loss(model, x)

    def turns(self) -> list[Turn]:
        """The turns of what is wrapped."""
        return self.inner.turns()


class Sampler(nn.Module, ABC):
    """How latents are drawn: fitted on latents in closed form, or trained on them; kept in a file beside the model's.

    Positional constructor parameters are filled by name: `model` (Autoencoder), `latent` (shape of one latent; for one that is not fitted maybe
    of another size than the model's, and that is what it then draws). What is found is kept in buffers and parameters whose shapes the constructor fixes.

    One in closed form writes `fit`. One that learns says `learns = True` and writes `loss`, which `aegen fit-sampler` minimises over its
    parameters by the loop that trains models; if it writes `fit` too, that is called once before the first step, for what is not found by
    gradients, such as the scale of the latents.

    Attributes:
        needs: what the bottleneck must offer.
        fitted: whether it must be given training latents, by `fit` or `loss`, before `sample`.
        learns: whether it is trained by its `loss`.
        suggests: settings of [train] that suit its training better than the usual ones, `{"lr": 2e-4}`; any that a user gives is stronger.
        most: how many latents `fit` uses at most, so that no more images are encoded; all of them if None.
        tell: to be called by a `fit` that takes long, as `self.tell(done, total)`; set by whoever shows progress.
    """

    needs: frozenset[str] | set[str] = frozenset()
    fitted: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    suggests: ClassVar[Mapping[str, Any]] = {}
    most: int | None = None
    tell: Callable[[int, int], None] = staticmethod(lambda done, total: None)

    def fit(self, latents: Tensor, seed: int = 0) -> None:
        """Learn from the posterior means of the training images, (N, *z)."""
        return

    def loss(self, latent: Tensor, labels: Tensor | None = None) -> Outcome:
        """Of one that learns: its terms, nats an image, of a batch of latents (B, *z), float32, drawn from their posteriors.

        Args:
            labels: class of each image, int64 (B,), where the data has classes.
        """
        raise TypeError(f"{type(self).__name__} does not define loss()")

    def fallback(self) -> str:
        """What it draws from instead of what it was asked for, since the latents were too few; users are told. Nothing otherwise."""
        return ""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """`n` latents on the CPU, (n, *z)."""


class FeatureNetwork(nn.Module, ABC):
    """A frozen network that was trained to recognise things, in whose features images are compared.

    `__init__(self, *, options…)`, among them `weights: str = ""`, a safetensors file, unless the weights come from elsewhere.

    Attributes:
        channels: of each map of `maps`, from shallow to deep.
        width: of the pooled features.
        least: shortest side of the images that it takes, in pixels; smaller ones are to be enlarged.
    """

    channels: tuple[int, ...]
    width: int
    least: int

    @abstractmethod
    def maps(self, x: Tensor) -> list[Tensor]:
        """RGB images (B, 3, H, W) in [-1, 1] → features of its levels, each (B, c, h, w); gradients pass to `x`."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """RGB images (B, 3, H, W) in [-1, 1] → pooled features, (B, width)."""

    def logits(self, features: Tensor) -> Tensor:
        """Pooled features (B, width) → logits of the classes that the network was trained on, (B, classes), where it has them."""
        raise UsageError(f"the feature network {type(self).__name__} gives no class probabilities")


class Metric(ABC):
    """Numbers about a trained model: `__init__(self, *, options…)`.

    It is shown held-out and generated images a batch at a time and keeps a few numbers of each image, its rows; what it finds of
    all of them together is for `compute` to say.

    Attributes:
        needs: what must be there: anything that a bottleneck offers, `encoder`, `sampler` (generated images), `labels`,
            `likelihood` (p(x|z) was trained, its scale too), `factors` (what each image was made from), `features` (a feature network).
        better: `lower` or `higher`, by the name of a number, where one of them is.
        ranges: the least and the greatest value that is possible, by the name of a number, `*` for all that are not named: an interval
            ends there. Infinite where there is none. An estimate may lie beyond, if it has no bias; its interval then ends at it.
        resamples: how often the images are drawn again for an interval; 0 gives none.
    """

    needs: frozenset[str] | set[str] = frozenset({"encoder"})
    better: ClassVar[Mapping[str, str]] = {}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    resamples: int = 200

    @abstractmethod
    def collect(self, seen: Seen) -> Mapping[str, Tensor]:
        """Rows of a batch by name, each (B, …); none of a batch that it does not look at.

        Rows of one name mean the same in every metric, and are kept once: `features.samples`.

        Raises:
            UsageError: it does not apply to this model or these images, and why.
        """

    def compute(self, rows: Mapping[str, Tensor]) -> Mapping[str, float | tuple[float, ...]]:
        """The numbers, from the rows of all images, each (N, …); by default the mean of each row, with its interval.

        A number may come with its standard error, `(value, error)`, or with the ends of its 95 % interval, `(value, low, high)`; the
        images are then not drawn again for it.

        Raises:
            UsageError: it does not apply to these images, and why.
        """
        return {
            name: mean_interval(values) if values.ndim == 1 else float(values.double().mean())
            for name, values in rows.items()
        }

    def within(self, rows: Mapping[str, Tensor]) -> Mapping[str, tuple[float, float]]:
        """The `ranges` of the numbers of these rows, where they follow from those, such as how many dimensions there are."""
        return self.ranges

    def notes(self, rows: Mapping[str, Tensor]) -> list[str]:
        """What a reader of the numbers should know, such as that there were too few images."""
        return []


# ---------------------------------------------------------------------------------------------------- data, export


@dataclass
class LeftOut:
    """Images that are not used, however many: how many, and the first few by name.

    Attributes:
        count: of all.
        names: "file (reason)" of the first.
    """

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, names: Iterable[str], more: int = 0) -> None:
        """Count the images of these names, and so many of which no name is known."""
        for name in names:
            self.count += 1
            if len(self.names) < 5:
                self.names.append(name)
        self.count += more

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        rest = self.count - len(self.names)
        shown = ", ".join(self.names) + (f" and {rest:,} more" if rest else "")
        return f"{self.count:,} image{'s are' if self.count != 1 else ' is'} left out: {shown}"


@dataclass
class Images:
    """Decoded images.

    Attributes:
        pixels: uint8, (N, C, H, W), in one tensor or as rows that are read when asked for.
        labels: int64 (N,), where the data has classes.
        classes: their names, by label.
        validation: (pixels, labels) where the data has a split of its own.
        factors: int64 (N, F), where it is known what each image was made from; equal numbers mean equal values.
        factor_names: of its columns.
        validation_factors: of `validation`.
        skipped: "file (reason)" for files that could not be read.
        left_out: images that are there and were not meant, such as hidden ones.
        how: where the images are, said to the user, as in `60,000 decoded once into memory, 47 MB`.
    """

    pixels: Pictures
    labels: Tensor | None = None
    classes: list[str] = field(default_factory=list)
    validation: tuple[Pictures, Tensor | None] | None = None
    skipped: list[str] = field(default_factory=list)
    factors: Tensor | None = None
    factor_names: list[str] = field(default_factory=list)
    validation_factors: Tensor | None = None
    how: str = ""
    left_out: LeftOut = field(default_factory=LeftOut)


class Dataset(ABC):
    """A source of images: `__init__(self, *, options…)`, options written `--data.name`."""

    @abstractmethod
    def load(self, settings: DataSettings) -> Images:
        """Read the images at the size and with the channels of `settings`, or at their own where those are None."""


class Exporter(ABC):
    """A file format that others read: `__init__(self, *, options…)`.

    Attributes:
        suffix: of the default output, such as `.safetensors`; empty for a folder.
        carries: what the format holds beside the model, any of `samplers` (those that were fitted), `preprocessing` (the shape and the
            fit of images) and `classes` (their names); what it does not hold is said.
        samplers: tensors of the fitted samplers, by sampler and buffer; set before `export`, their options are in the header.
    """

    suffix: ClassVar[str] = ""
    carries: ClassVar[frozenset[str] | set[str]] = frozenset()
    samplers: Mapping[str, Mapping[str, Tensor]] = {}

    @abstractmethod
    def export(self, model: Autoencoder, path: Path, header: Mapping[str, Any]) -> list[Path]:
        """Write the model; the files written. `header` is that of its checkpoint."""

    @abstractmethod
    def parity(self, model: Autoencoder, path: Path, x: Tensor) -> dict[str, float]:
        """Read back what was written and run it: largest absolute difference from `model` by output, for images `x` (B, C, H, W).

        Called for batches of several sizes.
        """


@dataclass
class Imported:
    """What an importer made of a foreign file.

    Attributes:
        spec: what the model is.
        tensors: of its `state_dict`, by name: `encoder.…`, `bottleneck.…`, `decoder.…`, `likelihood.…`.
        notes: what was guessed, or left out, said to the user.
    """

    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    notes: list[str] = field(default_factory=list)


class Importer(ABC):
    """A foreign file or folder → a model: `__init__(self, *, options…)`, options written `--importer.name`.

    What a file does not say (activations, strides, the range of pixels) is an option. No code of a file is run and nothing is fetched; tensors are
    read by `aegen.read_tensors`, texts by `aegen.read_text` and `aegen.parse_json`.
    """

    @abstractmethod
    def read(self, place: Path) -> Imported:
        """The model of a file or folder.

        Raises:
            UsageError: it is damaged, or none of this kind; or an option does not fit it.
        """
