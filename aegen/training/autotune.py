"""`--precision auto` and `--compile auto`: a short measured trial before a run, on copies of what will be trained.

What is chosen replaces `auto` in the run's configuration, so that a resumed run computes as it began.
"""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from aegen.autoencoder import Autoencoder, build_objective
from aegen.contract.blame import blamed
from aegen.data.source import Data
from aegen.errors import AegenError
from aegen.hooks import Hooks
from aegen.settings import RunSpec
from aegen.training import precision
from aegen.training.distributed import World
from aegen.training.loop import Trainer

_SECONDS = 1.5  # that a candidate is timed for, in two rounds
_FEWEST, _MOST = 4, 200  # steps of a round
_WARM = 3
_WORTH = 1.05  # a smaller gain is not told from noise
_CLOSE = 0.02  # relative difference of the first loss to that in fp32
_REPAID = 30.0  # seconds: a shorter run cannot repay a compilation


@dataclass
class _Candidate:
    """One way to compute, ready to be timed.

    Attributes:
        loss: of its first step.
        first: seconds that step took, compilation included.
        step: seconds of a step, the median of each round's.
    """

    spec: RunSpec
    trainer: Trainer
    begin: int
    loss: float
    first: float
    step: float = float("inf")
    taken: int = 0


def settle(spec: RunSpec, model: Autoencoder, data: Data, here: World, say: Callable[[str], None]) -> RunSpec:
    """The configuration with `auto` replaced by what is fastest here; the model is left as it is.

    Args:
        say: told what was chosen and why, a sentence each.
    """
    with torch.random.fork_rng([here.device] if here.device.type == "cuda" else []):
        if spec.train.precision == "auto":
            spec = _precision(spec, model, data, here, say)
        if spec.train.compile == "auto" and spec.train.parallel == "fsdp" and here.size > 1:
            say("compile off: it does not go with --parallel fsdp")
            spec = _with(spec, compile="off")
        elif spec.train.compile == "auto":
            spec = _compile(spec, model, data, here, say)
    gc.collect()  # models and optimizers of the trial, which hold each other
    return spec


def _precision(spec: RunSpec, model: Autoencoder, data: Data, here: World, say: Callable[[str], None]) -> RunSpec:
    rest = {"cuda": ["tf32", "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp16"]}
    names = ["fp32", *rest.get(here.device.type, ["bf16"])]
    eager = "off" if spec.train.compile == "auto" else spec.train.compile
    plain, *others = [_begun(_with(spec, precision=name, compile=eager), model, data, here) for name in names]
    assert isinstance(plain, _Candidate)
    told, ready = [], []
    for name, other in zip(names[1:], others, strict=True):
        if isinstance(other, str):
            told.append(f"{name} fails ({other})")
        elif not abs(other.loss - plain.loss) <= _CLOSE * abs(plain.loss):
            told.append(f"{name} gives a loss of {other.loss:.5g}, fp32 {plain.loss:.5g}")
        else:
            ready.append(other)
    _time([plain, *ready], here)
    told += [f"{c.spec.train.precision} {plain.step / c.step:.2f} times as fast as fp32" for c in ready]
    best = min(ready, key=lambda c: c.step, default=plain)
    chosen = best if plain.step > best.step * _WORTH else plain
    say(f"precision {chosen.spec.train.precision}: {', '.join(told)}")
    return _with(spec, precision=chosen.spec.train.precision)


def _compile(spec: RunSpec, model: Autoencoder, data: Data, here: World, say: Callable[[str], None]) -> RunSpec:
    plain = _begun(_with(spec, compile="off"), model, data, here)
    assert isinstance(plain, _Candidate)
    _time([plain], here)
    total = plain.trainer.total
    whole = total * plain.step
    if whole < _REPAID:
        say(f"compile off: the {total:,} steps take about {whole:.0f} s without it, which no compilation repays")
        return _with(spec, compile="off")
    modes = ["on", "reduce-overhead"] if here.device.type == "cuda" else ["on"]
    begun = [_begun(_with(spec, compile=mode), model, data, here) for mode in modes]
    ready = [c for c in begun if isinstance(c, _Candidate)]
    told = [f"{mode} fails ({c})" for mode, c in zip(modes, begun, strict=True) if isinstance(c, str)]
    _time([plain, *ready], here)
    told += [
        f"{c.spec.train.compile} {plain.step / c.step:.2f} times as fast after {c.first:.0f} s of compiling"
        for c in ready
    ]
    gain = {id(c): (plain.step - c.step) * total - c.first for c in ready}
    best = max(ready, key=lambda c: gain[id(c)], default=plain)
    pays = best is not plain and plain.step > best.step * _WORTH and gain[id(best)] > 0
    chosen = best.spec.train.compile if pays else "off"
    say(f"compile {chosen}: {', '.join(told)}, {total:,} steps to take")
    return _with(spec, compile=chosen)


def _with(spec: RunSpec, **changes: str) -> RunSpec:
    return replace(spec, train=replace(spec.train, **changes))  # type: ignore[arg-type]


def _begun(spec: RunSpec, model: Autoencoder, data: Data, here: World) -> _Candidate | str:
    """A candidate that has taken its first step, or why it cannot.

    Raises:
        AegenError: what is wrong with the run itself, and not with the candidate.
    """
    copied = copy.deepcopy(model)
    objective = build_objective(spec.objective, copied, size=len(data.train))
    try:
        trainer = Trainer(spec, copied, objective, data, here, run=None, header={}, hooks=Hooks())
        # Where every turn is due.
        begin = min(max(player.turn.after for player in trainer.players), max(trainer.total - 1, 0))
        copied.train()
        objective.train()
        started = time.perf_counter()
        trainer.take_step(begin)
        loss = trainer.recorded()["loss"]
        return _Candidate(spec, trainer, begin, loss, _agreed(time.perf_counter() - started, here))
    except AegenError:
        raise
    except Exception as error:
        found = blamed(error)
        if found is not None:
            raise found from error
        # A compiler or a kernel that is not there may raise anything.
        return f"{type(error).__name__}: {error}".splitlines()[0][:100]


def _time(candidates: list[_Candidate], here: World) -> None:
    """Fill in the seconds of a step: two rounds in turn, so that a busy moment does not decide."""
    counts = {}
    for c in candidates:
        _steps(c, _WARM, here)
        once = _agreed(_steps(c, _FEWEST, here), here) / _FEWEST
        counts[id(c)] = int(min(max(_SECONDS / 2 / max(once, 1e-6), _FEWEST), _MOST))
    rounds: dict[int, list[float]] = {id(c): [] for c in candidates}
    for _ in range(2):
        for c in candidates:
            count = counts[id(c)]
            rounds[id(c)].append(_agreed(_steps(c, count, here), here) / count)
    for c in candidates:
        c.step = statistics.median(rounds[id(c)])


def _steps(candidate: _Candidate, count: int, here: World) -> float:
    """Seconds of that many steps, the device's work included."""
    precision.prepare(candidate.spec.train.precision, here.device)  # its switches are those of the whole process
    _wait(here)
    started = time.perf_counter()
    for _ in range(count):
        candidate.trainer.take_step(candidate.begin + candidate.taken % candidate.trainer.batches.per_epoch)
        candidate.taken += 1
    _wait(here)
    return time.perf_counter() - started


def _wait(here: World) -> None:
    if here.device.type != "cpu":
        torch.get_device_module(here.device).synchronize()


def _agreed(seconds: float, here: World) -> float:
    """The mean over the processes, so that all of them choose alike."""
    return float(here.sum(torch.tensor(seconds, device=here.device, dtype=torch.float32)).item()) / here.size
