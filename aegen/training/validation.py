"""What the objective says of all validation images: numbers that no batch size and no number of processes moves.

The images are taken in chunks that follow from their number and shape alone. The noise of a chunk is seeded by its place, terms of a
whole batch (a covariance, a discrepancy) are those of a chunk, and whole chunks go to processes. Nothing is gathered between
processes while a chunk is measured. The encoder and the decoder, whose activations are what memory is spent on, get a chunk in
pieces of at most a training batch: an image's features are its own, so that pieces change no number.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from aegen.autoencoder import Autoencoder
from aegen.data.batches import normalize
from aegen.data.source import Data
from aegen.nn.precision import at_least_float32
from aegen.protocols import Objective, Statistic, Turn
from aegen.training import precision
from aegen.training.distributed import World
from aegen.training.rehearsal import watched
from aegen.training.turns import reduce

CHUNK = 256  # images: four batches of the default size, so that a covariance or a discrepancy means something
_VALUES = 2**24  # of a chunk: larger images come in smaller chunks, since likelihoods and critics see a chunk at once
_LEAST = 8  # images in a chunk, where there are as many


def chunks(count: int, image: Sequence[int]) -> list[tuple[int, int]]:
    """Where each chunk begins and ends: as few as may be, alike in size to one image, and of two at least where there are two.

    Args:
        image: the shape of one.
    """
    most = min(CHUNK, max(_LEAST, _VALUES // math.prod(image)))
    parts = math.ceil(count / most)
    return list(pairwise(count * i // parts for i in range(parts + 1)))


@torch.no_grad()
def measure(
    model: Autoencoder,
    objective: Objective,
    data: Data,
    world: World,
    *,
    labelled: bool,
    together: int,
    mode: str,
    sharded: bool = False,
    prepare: Callable[[Tensor], Tensor] | None = None,
    nets: Sequence[nn.Module] | None = None,
) -> dict[str, float]:
    """Means over the images of the loss, every term and what is watched, and the statistics of all of them together.

    Model and objective are in evaluation mode; all processes must call it, and get the same numbers.

    Args:
        labelled: whether the model reads the classes.
        together: how many images the nets may see at once; it changes no number.
        mode: the precision of the nets.
        sharded: whether the processes must run the nets equally often.
        prepare: makes what the loss is given of the rows of the data; images in [-1, 1], if it is not said.
        nets: what sees at most `together` images at once; encoder and decoder, if it is not said.
    """
    images, labels = data.validation, data.validation_labels if labelled else None
    parts = chunks(len(images), images.shape[1:])
    mine = list(range(world.rank, len(parts), world.size))
    # One more that does not count.
    spare = [0] * (math.ceil(len(parts) / world.size) - len(mine)) if sharded else []
    largest = max(stop - start for start, stop in parts)
    pieces = math.ceil(largest / together)
    names: list[str] = []
    rows: list[Tensor] = []
    statistics: dict[str, Statistic] = {}
    with ExitStack() as split:
        for net in (model.encoder, model.decoder) if nets is None else nets:
            split.enter_context(_in_pieces(net, pieces, even=sharded))
        for counts, number in [*((True, n) for n in mine), *((False, n) for n in spare)]:
            start, stop = parts[number]
            torch.manual_seed(start + 1)
            x = (prepare or normalize)(images[start:stop].to(world.device))
            known = model.given(None if labels is None else labels[start:stop].to(world.device))
            with (
                precision.autocast(mode, world.device),
                _seen(model, objective, look=counts and number == mine[0]) as loss,
            ):
                outcome = loss(known, x)
                metrics = reduce(outcome)[1]
            if not counts:
                continue
            names = list(metrics)
            rows.append(torch.stack([at_least_float32(value).mean() for value in metrics.values()]))
            for name, found in _statistics(outcome).items():
                _hold(found)
                if name in statistics:
                    statistics[name].merge(found)
                else:
                    statistics[name] = found
    means = torch.stack(rows).cpu().double().tolist() if rows else []
    told = world.collect((dict(zip(mine, means, strict=True)), {name: vars(s) for name, s in statistics.items()}))
    result: dict[str, float] = {}
    if world.first:  # it has the first chunk, and so all names
        every = {number: row for some, _ in told for number, row in some.items()}
        weights = [stop - start for start, stop in parts]
        for column, name in enumerate(names):  # in the order of the chunks: the sum is the same to the bit
            result[name] = sum(w * every[n][column] for n, w in enumerate(weights)) / len(images)
        for _, states in told[1:]:
            for name, state in states.items():
                statistics[name].merge(_like(statistics[name], state))
        values = {name: float(statistic.value()) for name, statistic in statistics.items()}
        result |= {
            name: value for name, value in values.items() if not math.isnan(value)
        }  # undefined for so few images
    return world.share(result)


@contextmanager
def _seen(model: Autoencoder, objective: Objective, *, look: bool) -> Iterator[Any]:
    """The loss; where one should `look`, held against the rules, since a wrapper's own may have taken no part in training."""
    if look:
        with watched(model, objective, Turn("validation", objective.loss), learns=False) as loss:
            yield loss
    else:
        yield objective.loss


@contextmanager
def _in_pieces(net: nn.Module, count: int, *, even: bool) -> Iterator[None]:
    """Inside the context a net is run for `count` parts of its batch one after another.

    The result is laid out in memory in one way, whatever the parts: noise is drawn in the order of memory.

    Args:
        even: run it `count` times even for fewer images.
    """
    whole, own = net.forward, vars(net).get("forward")

    def forward(x: Tensor, labels: Tensor | None = None) -> Tensor:
        told = [{}] * count if labels is None else [{"labels": part} for part in labels.tensor_split(count)]
        parts = [(part, own) for part, own in zip(x.tensor_split(count), told, strict=True) if len(part)]
        found = [whole(part, **own) for part, own in parts]
        for _ in range(count - len(parts) if even else 0):
            whole(x[:1], **{name: part[:1] for name, part in told[0].items()})
        return torch.cat(found).contiguous()

    net.forward = forward
    try:
        yield
    finally:
        del net.forward
        if own is not None:
            net.forward = own


def _statistics(outcome: Any) -> dict[str, Statistic]:
    return outcome.statistics if outcome.latent is None else {**outcome.statistics, **outcome.latent.statistics}


def _hold(statistic: Statistic) -> None:
    """Bring what it keeps to the CPU, without gradients."""
    for name, value in vars(statistic).items():
        setattr(statistic, name, _held(value))


def _held(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, list):
        return [_held(one) for one in value]
    if isinstance(value, dict):
        return {key: _held(one) for key, one in value.items()}
    return value


def _like(statistic: Statistic, state: dict[str, Any]) -> Statistic:
    """One of the same kind that keeps what another process's does."""
    other = copy.copy(statistic)
    vars(other).clear()
    vars(other).update(state)
    return other
