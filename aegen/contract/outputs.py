"""What a component must give: the rules of the contract, each said once; what it must be is in `aegen/contract/interfaces.py`.

`aegen.testing` asserts them for authors, `factory` when a component is loaded and built, and the engine at the first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aegen.contract.enforcement import Broken as Broken
from aegen.contract.enforcement import callable_as_asked
from aegen.contract.enforcement import checked as checked
from aegen.contract.enforcement import hold as hold
from aegen.contract.enforcement import told as told
from aegen.model_spec import ModelSpec
from aegen.protocols import (
    AUTOENCODER,
    Images,
    ImageShape,
    Imported,
    Latent,
    LeftOut,
    Outcome,
    Pixels,
    Posterior,
    Statistic,
    Turn,
)
from aegen.tracebacks import said


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _tensor(value: Any, what: str, shape: tuple[int, ...], said: str) -> None:
    hold(isinstance(value, Tensor), f"{what} is a {type(value).__name__}, not a tensor {said}")
    hold(tuple(value.shape) == shape, f"{what} is {_shape(value)}, not {said}, here {shape}")


# ---------------------------------------------------------------------------------------------------- what is stepped


def turns(found: Any, model: nn.Module) -> None:
    """What `Objective.turns()` gave."""
    hold(isinstance(found, Sequence) and len(found) > 0, f"turns() gave {found!r}, not a list of Turn")
    for turn in found:
        hold(isinstance(turn, Turn), f"turns() gave {turn!r} among its turns, not a Turn")
        hold(callable(turn.loss), f"turn {turn.name!r} has a loss that cannot be called, {turn.loss!r}")
        hold(
            turn.every >= 1 and turn.after >= 0, f"turn {turn.name!r} comes every {turn.every} steps after {turn.after}"
        )
        hold(not isinstance(turn.trains, str), f"turn {turn.name!r} trains {turn.trains!r}, not a sequence of parts")
        for part in turn.trains:
            good = isinstance(part, nn.Module) or (
                isinstance(part, str) and isinstance(getattr(model, part, None), nn.Module)
            )
            hold(good, f"turn {turn.name!r} trains {part!r}, which is no module and none of {', '.join(AUTOENCODER)}")


def module(part: nn.Module) -> None:
    """A module does what torch's do, whatever it writes anew: it has a state of tensors, and switches between training and evaluation."""
    who = type(part).__name__
    state: Any = part.state_dict()
    hold(isinstance(state, Mapping), f"state_dict() of {who} gave a {type(state).__name__}, not tensors by name")
    strange = [k for k, v in state.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    hold(not strange, f"state_dict() of {who} holds {strange[:1]}, which is no tensor: a checkpoint holds nothing else")
    for name in ("parameters", "buffers", "modules"):
        try:
            found = list(getattr(part, name)())
        except TypeError as error:
            raise Broken(f"{name}() of {who} gives no iterator ({said(error)})") from error
        kind: Any = nn.Module if name == "modules" else Tensor
        hold(all(isinstance(one, kind) for one in found), f"{name}() of {who} gives something else than {name}")
    hold(part.train(part.training) is part, f"train() of {who} does not return the module")


def nets(*found: Any) -> None:
    """What `Architecture.encoder()` and `decoder()` gave."""
    for net in found:
        hold(
            isinstance(net, nn.Module),
            f"encoder() and decoder() must give a torch.nn.Module, not a {type(net).__name__}",
        )
        module(net)


# ---------------------------------------------------------------------------------------------------- values


def features(found: Any, x: Tensor, fan_in: int) -> None:
    """What an encoder gave for images `x`."""
    said = f"features (B, {fan_in}), (B, {fan_in}, n) or (B, {fan_in}, h, w)"
    hold(isinstance(found, Tensor), f"the encoder gave a {type(found).__name__}, not {said}")
    good = found.ndim in (2, 3, 4) and tuple(found.shape[:2]) == (len(x), fan_in)
    hold(good, f"the encoder gave {_shape(found)} for {len(x)} images, not {said}")
    hold(found.is_floating_point(), f"the encoder gave features of {found.dtype}")


def latent(found: Any, given: Tensor, offers: Iterable[str]) -> None:
    """What a bottleneck gave for features `given`."""
    hold(isinstance(found, Latent), f"the bottleneck gave a {type(found).__name__}, not a Latent")
    count, spatial, offers = len(given), tuple(given.shape[2:]), set(offers)
    z = found.z
    good = isinstance(z, Tensor) and z.ndim >= 2 and len(z) == count and tuple(z.shape[2:]) == spatial
    hold(
        good,
        f"z is {_shape(z)} for features {tuple(given.shape)}, not (B, D{', n' if len(spatial) == 1 else ', h, w' * bool(spatial)})",
    )
    _tensor(found.penalty, "the penalty", (count,), "(B,)")
    hold(
        "penalty" in offers or not bool(found.penalty.detach().any()),
        "it charges something, but does not offer a penalty",
    )
    if "density" in offers:
        hold(found.posterior is not None, "it offers a density but gives no posterior")
    if found.posterior is not None:
        kind = type(found.posterior).__name__
        hold(isinstance(found.posterior, Posterior), f"the posterior is a {kind}, not a Posterior")
        callable_as_asked(type(found.posterior))
        _tensor(getattr(found.posterior, "mean", None), "the posterior's mean", tuple(z.shape), "like z")
    if "diagonal" in offers:
        std = getattr(found.posterior, "std", None)
        hold(
            isinstance(std, Tensor) and std.shape == z.shape,
            f"the posterior's std is {_shape(std)}, not like z, {_shape(z)}",
        )
    if "charges" in offers:
        charges = found.charges
        hold(isinstance(charges, Tensor), "it offers charges but gives none")
        whole = charges.detach().flatten(1).sum(1)
        close = tuple(whole.shape) == (count,) and torch.allclose(whole, found.penalty.detach(), rtol=1e-3, atol=1e-3)
        hold(close, f"the charges, {_shape(charges)}, do not add up to the penalty")
    if "codes" in offers:
        hold(found.codes is not None, "it offers codes but gives none")
        good = isinstance(found.codes, Tensor) and len(found.codes) == count and not found.codes.is_floating_point()
        hold(good, f"the codes are {_shape(found.codes)}, not whole numbers (B, …)")
    _numbers(found.watch, count, "watched")
    _statistics(found.statistics)


def _statistics(found: Any) -> None:
    hold(isinstance(found, Mapping), f"statistics: a {type(found).__name__}, not statistics by name")
    for name, one in found.items():
        hold(isinstance(name, str) and isinstance(one, Statistic), f"statistic {name!r} is {one!r}, not a Statistic")
        callable_as_asked(type(one))


def like(found: Any, z: Tensor, what: str) -> None:
    """What is like what was given, `z`."""
    _tensor(found, f"what {what} gave", tuple(z.shape), "like what it was given")


def row(found: Any, z: Tensor, what: str) -> None:
    """A number for each of the latents or images `z`."""
    _tensor(found, f"what {what} gave", (len(z),), "(B,)")
    hold(found.is_floating_point(), f"what {what} gave is of {found.dtype}")


def pair(found: Any, z: Tensor, what: str) -> None:
    """A draw like `z` and a number for each."""
    hold(isinstance(found, tuple) and len(found) == 2, f"{what} gave {_shape(found)}, not a draw and its log density")
    like(found[0], z, what)
    row(found[1], z, what)


def labels(found: Any, z: Tensor, what: str) -> None:
    """A class for each of the latents `z`."""
    _tensor(found, f"what {what} gave", (len(z),), "int64 (B,)")
    hold(found.dtype == torch.int64, f"what {what} gave is of {found.dtype}, not int64")


def pooled(found: Any, x: Tensor, width: int) -> None:
    """What a feature network gave for images `x`."""
    _tensor(found, "what the feature network gave", (len(x), width), "(B, width)")
    hold(found.is_floating_point(), f"the feature network gave {found.dtype}")


def maps(found: Any, x: Tensor, channels: Sequence[int]) -> None:
    """What `FeatureNetwork.maps` gave for images `x`."""
    hold(isinstance(found, Sequence), f"maps() gave a {type(found).__name__}, not a list of tensors")
    hold(len(found) == len(channels), f"maps() gave {len(found)} maps, but channels is {tuple(channels)}")
    for one, wanted in zip(found, channels, strict=True):
        good = isinstance(one, Tensor) and one.ndim == 4 and tuple(one.shape[:2]) == (len(x), wanted)
        hold(good, f"maps() gave {_shape(one)} for {len(x)} images, not (B, {wanted}, h, w)")


def logits(found: Any, features: Tensor) -> None:
    """What `FeatureNetwork.logits` gave for pooled features."""
    good = isinstance(found, Tensor) and found.ndim == 2 and len(found) == len(features)
    hold(good, f"logits() gave {_shape(found)} for {len(features)} images, not (B, classes)")


def notes(found: Any) -> None:
    """What `Metric.notes` gave."""
    good = isinstance(found, Sequence) and not isinstance(found, str) and all(isinstance(n, str) for n in found)
    hold(good, f"notes() gave {found!r}, not a list of texts")


def parameters(found: Any, z: Tensor, fan_out: int, image: ImageShape) -> None:
    """What a decoder gave for latents `z`."""
    _tensor(found, "what the decoder gave", (len(z), fan_out, *image[1:]), "(B, fan_out, H, W)")
    hold(found.is_floating_point(), f"the decoder gave {found.dtype}")


def pixels(found: Any, given: Tensor, image: ImageShape) -> None:
    """What a likelihood gave for parameters `given`."""
    hold(isinstance(found, Pixels), f"the likelihood gave a {type(found).__name__}, not Pixels")
    callable_as_asked(type(found))
    _tensor(getattr(found, "mean", None), "the mean of the pixels", (len(given), *image), "(B, C, H, W)")


def nll(found: Any, x: Tensor) -> None:
    """What `Pixels.nll(x)` gave."""
    _tensor(found, "nll", (len(x),), "(B,), summed over each image")


def outcome(found: Any, x: Tensor, *, learns: bool = False) -> None:
    """What a loss gave for images `x`; `learns`, whether gradients must come of it."""
    hold(isinstance(found, Outcome), f"the loss gave a {type(found).__name__}, not an Outcome")
    hold(len(found.terms) > 0, "the loss gave no term")
    _numbers(found.terms, len(x), "term")
    hold("loss" not in found.terms, "a term is named loss, which is the name of their sum")
    hold(
        not learns or any(t.requires_grad for t in found.terms.values()),
        "no gradient comes of any term: all are detached",
    )
    _numbers(found.watch, len(x), "watched")
    _statistics(found.statistics)
    hold(
        found.latent is None or isinstance(found.latent, Latent),
        f"latent is a {type(found.latent).__name__}, not a Latent",
    )
    if found.recon is not None:
        _tensor(found.recon, "recon", tuple(x.shape), "like the images")


def _numbers(values: Any, count: int, what: str) -> None:
    hold(isinstance(values, Mapping), f"{what}: a {type(values).__name__}, not numbers by name")
    for name, value in values.items():
        hold(isinstance(name, str), f"{what} {name!r} has a name that is no text")
        hold(isinstance(value, Tensor), f"{what} {name!r} is a {type(value).__name__}, not a tensor (B,) or ()")
        hold(
            tuple(value.shape) in ((count,), ()), f"{what} {name!r} is {_shape(value)}, not (B,) or (), here ({count},)"
        )
        hold(value.is_floating_point(), f"{what} {name!r} is of {value.dtype}")


def still(versions: Mapping[str, tuple[Tensor, int]]) -> None:
    """Tensors by name, with their versions before code was called that should only read them."""
    for name, (tensor, version) in versions.items():
        hold(tensor._version == version, f"it changes the {name} in place that it was given; work on a copy")


def drawn(found: Any, count: int, shape: Sequence[int], what: str) -> None:
    """So many latents."""
    _tensor(found, f"what {what} gave", (count, *shape), "(n, *latent)")


def draws(found: Any, count: int, shape: tuple[int, ...]) -> None:
    """What `Sampler.sample` gave."""
    drawn(found, count, shape, "sample()")
    hold(bool(found.isfinite().all()), "a sample is not finite")


def images(found: Any) -> None:
    """What `Dataset.load` gave."""
    hold(isinstance(found, Images), f"load() gave a {type(found).__name__}, not Images")
    for name in ("classes", "skipped", "factor_names"):
        words = getattr(found, name)
        good = isinstance(words, list) and all(isinstance(word, str) for word in words)
        hold(good, f"{name} is {_short(words)}, not a list of texts")
    hold(isinstance(found.how, str), f"how is {_short(found.how)}, not a text")
    hold(isinstance(found.left_out, LeftOut), f"left_out is a {type(found.left_out).__name__}, not a LeftOut")
    splits = [("", found.pixels, found.labels, found.factors)]
    if found.validation is not None:
        pair = isinstance(found.validation, tuple) and len(found.validation) == 2
        hold(pair, f"validation is a {type(found.validation).__name__}, not (pixels, labels)")
        splits.append(("validation ", *found.validation, found.validation_factors))
    for split, held, labels, factors in splits:
        good = getattr(held, "dtype", None) == torch.uint8 and len(held.shape) == 4
        gave = f"{getattr(held, 'dtype', type(held).__name__)} {tuple(getattr(held, 'shape', ()))}"
        hold(good, f"{split}pixels are {gave}, not uint8 (N, C, H, W)")
        count = len(held)
        if labels is not None:
            good = isinstance(labels, Tensor) and labels.dtype == torch.int64 and tuple(labels.shape) == (count,)
            hold(good, f"{split}labels are {_shape(labels)}, not int64 (N,) for {count} images")
            low, high = (int(labels.min()), int(labels.max())) if count else (0, -1)
            classes = len(found.classes) or high + 1
            hold(low >= 0 and high < classes, f"{split}labels are {low} to {high}, but there are {classes} classes")
        if factors is not None:
            wanted = (count, len(found.factor_names))
            _tensor(factors, f"{split}factors", wanted, f"a row for each of {count} images, a column for each name")
    if found.validation is not None:
        one, other = tuple(found.pixels.shape[1:]), tuple(found.validation[0].shape[1:])
        hold(one == other, f"training images are {one}, validation images {other}")


def rows(found: Any, count: int) -> None:
    """What `Metric.collect` gave for a batch."""
    hold(isinstance(found, Mapping), f"collect() gave a {type(found).__name__}, not rows by name")
    for name, value in found.items():
        good = isinstance(value, Tensor) and value.ndim >= 1 and len(value) == count
        hold(good, f"row {name!r} is {_shape(value)}, not (B, …), here ({count}, …)")


def fallback(found: Any) -> None:
    """What `Sampler.fallback` gave."""
    hold(isinstance(found, str), f"fallback() gave a {type(found).__name__}, not a text")


def computed(found: Any) -> None:
    """What `Metric.compute` gave."""
    hold(isinstance(found, Mapping), f"compute() gave a {type(found).__name__}, not numbers by name")
    for name, value in found.items():
        parts = value if isinstance(value, tuple) else (value,)
        good = len(parts) in (1, 2, 3) and all(isinstance(part, int | float) for part in parts)
        hold(
            good,
            f"{name} is {value!r}, not a float, a float and its standard error, or a float and both ends of its interval",
        )


def are_ranges(value: Any) -> bool:
    """Whether it is a least and a greatest value by the name of a number."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and isinstance(ends, tuple)
        and len(ends) == 2
        and all(isinstance(end, int | float) for end in ends)
        and ends[0] <= ends[1]
        for name, ends in value.items()
    )


def ranged(found: Any) -> None:
    """What `Metric.within` gave."""
    hold(are_ranges(found), f"within() gave {found!r}, not a least and a greatest value by the name of a number")


def written(found: Any) -> None:
    """What `Exporter.export` gave."""
    good = isinstance(found, Sequence) and all(isinstance(path, Path) for path in found) and len(found) > 0
    hold(good, f"export() gave {found!r}, not a list of the files written")
    gone = [str(path) for path in found if not path.exists()]
    hold(not gone, f"export() says that it wrote {', '.join(gone)}, which is not there")


def parity(found: Any) -> None:
    """What `Exporter.parity` gave."""
    good = isinstance(found, Mapping) and all(isinstance(value, int | float) for value in found.values())
    hold(good, f"parity() gave {found!r}, not differences by output")


def place_of_scheme(found: Any) -> bool:
    """Whether what a scheme's function gave is a path of something that is here."""
    return isinstance(found, str | Path) and str(found).strip() != "" and Path(found).exists()


def imported(found: Any) -> None:
    """What `Importer.read` gave."""
    hold(isinstance(found, Imported), f"read() gave a {type(found).__name__}, not Imported")
    hold(isinstance(found.spec, ModelSpec), f"spec is a {type(found.spec).__name__}, not a ModelSpec")
    named = isinstance(found.tensors, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.tensors.items()
    )
    hold(named, f"tensors are {_short(type(found.tensors))}, not tensors by name")
    notes(found.notes)
