"""The check of metrics."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from aegen.autoencoder import Autoencoder
from aegen.errors import UsageError
from aegen.evaluation.batch import Seen
from aegen.evaluation.features import FeatureSpace
from aegen.evaluation.per_image import Rows
from aegen.evaluation.protocol import Protocol
from aegen.factory import load
from aegen.protocols import (
    FeatureNetwork,
    ImageShape,
    Metric,
    Objective,
)
from aegen.testing.models import CLASSES, SMALL, check_options, models

_KNOWN = {"encoder", "objective", "likelihood", "labels", "factors", "features", "sampler"}


def check_metric(
    cls: type[Metric], *, image: ImageShape = SMALL, count: int = 40, ordered: bool = False, **options: Any
) -> None:
    """Rows of every image, the same however images are batched unless noise is drawn; numbers that do not depend on the
    order of the images and lie in their intervals; no state moves. A model that it does not apply to is refused.

    Args:
        image: shape of the images, where it takes larger ones; then one model is enough.
        count: of the images, an even number.
        ordered: the order of the images may matter, since some are drawn from them or their neighbours count.
        options: of the constructor.
    """
    check_options(cls)
    assert set(cls.better.values()) <= {"lower", "higher"}, f"better is {dict(cls.better)}"
    named: set[str] = set()
    metric: Any = cls
    metric = metric(**options)
    for model in models(image=image, needs=metric.needs - _KNOWN):
        name = "vae" if "penalty" in model.bottleneck.offers else "ae"
        objective = load("objective", name, Objective)()
        players = nn.ModuleDict({"model": model, "objective": objective}).eval()
        before = {key: value.clone() for key, value in players.state_dict().items()}
        rows = _rows(metric, model, objective, count)
        if rows is None:
            continue  # refused with a reason, as it should be
        for key, value in players.state_dict().items():
            assert torch.equal(value, before[key]), f"{key} moved while it was looked at"
        _check_batches(metric, model, objective, rows, count)
        named |= _check_numbers(metric, rows, ordered)
        if named and image != SMALL:
            break
    assert named, f"{cls.__name__} applies to no installed bottleneck"
    strange = metric.ranges.keys() - {"*"} - named - metric.better.keys()  # some are of other likelihoods alone
    assert not strange, f"ranges names {', '.join(sorted(strange))}, which it does not compute"


def _check_batches(metric: Metric, model: Autoencoder, objective: Objective, rows: Rows, count: int) -> None:
    """Without noise, rows are of each image alone."""
    found = rows.of("it")
    assert found, "it keeps no rows"
    again = _rows(metric, model, objective, count, seed=1)
    halves = _rows(metric, model, objective, count, parts=4)
    assert again is not None and halves is not None, "it refuses by the seed or the batch"
    for key, value in found.items():
        if torch.equal(value, again.of("it")[key]):
            why = f"row {key} depends on the other images of a batch"
            torch.testing.assert_close(halves.of("it")[key], value, rtol=1e-4, atol=1e-5, msg=why)


def _check_numbers(metric: Metric, rows: Rows, ordered: bool) -> set[str]:
    """Values and intervals; the names of its numbers, none if it refuses."""
    found = rows.of("it")
    try:
        numbers = {number.name: number for number in rows.numbers("it", metric, 0)}
    except UsageError:
        return set()
    assert numbers, "it computes no number"
    for name, number in numbers.items():
        assert type(number.value) is float, f"{name} is a {type(number.value).__name__}"
        if number.low is not None and number.high is not None:
            assert number.low <= number.value <= number.high, f"{name} is {number.value}, outside its interval"
    ranges = metric.within(found)
    strange = ranges.keys() - {"*"} - numbers.keys() - metric.ranges.keys()
    assert not strange, f"within() names {', '.join(sorted(strange))}, which it does not compute"
    assert all(isinstance(note, str) for note in metric.notes(found))
    if ordered:
        return set(numbers)
    orders = {len(value): torch.randperm(len(value)) for value in found.values()}
    for name, value in metric.compute({key: rows_[orders[len(rows_)]] for key, rows_ in found.items()}).items():
        one, other = value[0] if isinstance(value, tuple) else value, numbers[name].value
        assert math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6), f"{name} depends on the order of the images"
    return set(numbers)


def _rows(
    metric: Metric, model: Autoencoder, objective: Objective, count: int, *, parts: int = 2, seed: int = 0
) -> Rows | None:
    """What a metric keeps of held-out images and of generated ones; nothing if it refuses."""
    rows, skipped = Rows(), dict[str, str]()
    x = torch.randint(0, 256, (count, *model.image), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    with torch.no_grad():
        z = model.encode(x.flip(0)).mean
        generated = model.decode(z).mean
    labels, rules, size = torch.arange(count) % CLASSES, Protocol(seed=seed), count // parts
    for source, images in (("held-out", x), ("samples", generated)):
        own = source == "held-out"
        batches = []
        for start in range(0, count, size):
            part = slice(start, start + size)
            told, drawn = (labels[part], None) if own else (None, z[part])
            one = Seen(source, model, objective, images[part], told, rules, _Space(), start, drawn, total=count)
            if own:
                one.factors = torch.stack([labels[part], labels[part] // 2], 1)
                one.factor_names = ["number", "last"]
            batches.append(one)
        rows.sweep(batches, {"it": metric}, skipped)
    return None if skipped else rows


class _Looks(FeatureNetwork):
    """Brightness and contrast, whole and by halves."""

    channels = (3, 3)
    width = 9
    least = 1

    def maps(self, x: Tensor) -> list[Tensor]:
        return [x, nn.functional.avg_pool2d(x, 2)]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.std((2, 3)), x[:, :, ::2].mean((2, 3))], 1)

    def logits(self, features: Tensor) -> Tensor:
        return 5 * features


class _Space(FeatureSpace):
    """Features of no weights, of images as they are."""

    def __init__(self) -> None:
        self.protocol, self.net, self.checksum, self.side = Protocol(), _Looks(), "", SMALL.height
