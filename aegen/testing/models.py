"""What all checks share: the options, and tiny models that a component is checked on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aegen import registry
from aegen.autoencoder import Autoencoder, build_model
from aegen.contract import interfaces
from aegen.factory import load
from aegen.protocols import Bottleneck, ImageShape, Objective
from aegen.spec import Spec, positional_of

SHAPES = [ImageShape(1, 8, 8), ImageShape(3, 9, 13), ImageShape(2, 16, 11), ImageShape(4, 12, 12)]
SMALL = ImageShape(1, 12, 12)
BATCH = 6
CLASSES = 3
_ARCH = Spec("mlp", {"hidden": [24]})


def check_options(cls: type) -> None:
    """Every option has a type and a default that is a JSON value and that its own check accepts."""
    interfaces.options(cls, schedulable=issubclass(cls, Objective))


def labels(count: int) -> Tensor:
    """Classes of that many images, int64 (count,)."""
    return torch.arange(count) % CLASSES


def models(
    objective: type[Objective] | None = None, image: ImageShape = SMALL, needs: frozenset[str] = frozenset()
) -> Iterator[Autoencoder]:
    """A tiny model with each bottleneck, a vector and (with `conv`) a feature map."""
    likelihood = Spec(objective.likelihood if objective is not None else "gaussian")
    for name in registry.names("bottleneck"):
        if needs and not needs <= load("bottleneck", name, Bottleneck).offers:
            continue
        torch.manual_seed(0)
        yield build_model(_ARCH, Spec(name), likelihood, image, classes=CLASSES)
    if not needs <= load("bottleneck", "gaussian", Bottleneck).offers:
        return
    spatial = Spec("conv", {"width": 4, "depth": 1, "spatial": True})
    yield build_model(spatial, Spec("gaussian", {"dim": 2}), likelihood, image)


def made(cls: Any, model: Autoencoder, extra: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """A component of a model, of options and of what it takes by position."""
    known = {"image": model.image, "latent": model.latent_shape, "size": 100, "model": model, **extra}
    calls = f"__init__ of {cls.__name__} does not call super().__init__() first"
    try:
        part = cls(*(known[name] for name in positional_of(cls)), **options)
    except AttributeError as error:  # torch's, of a module that is given parts before it is one
        if "__init__() call" in str(error):
            raise AssertionError(calls) from error
        raise
    assert not isinstance(part, nn.Module) or "_modules" in vars(part), calls
    return part
