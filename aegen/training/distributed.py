"""Which process this is among how many, and what they must agree on."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from aegen import collectives
from aegen.errors import EnvironmentFault, RunError, UsageError
from aegen.settings import TrainSettings
from aegen.untrusted import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")
_PATIENCE = timedelta(hours=1)  # the others wait while the first fits a sampler; a process that died is noticed at once
_RUN, _MEETING, _TOLD = "aegen/run", "aegen/meeting", "aegen/told"
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "ncclRemoteError")


@dataclass(frozen=True)
class World:
    """This process among those that `torchrun` started; rank 0 of 1 without it.

    Attributes:
        device: where this process computes.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes, in place; no synchronisation with the host."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether any process says yes; all get the same answer."""
        if self.size == 1:
            return flag
        vote = torch.tensor(float(flag), device=self.device)
        return bool(self.sum(vote).item() > 0)

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Give every process rank 0's values."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def gather(self, own: T) -> list[T]:
        """What every process gives, by rank, for each of them."""
        if self.size == 1:
            return [own]
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, own)
        return every

    def collect(self, own: T) -> list[T]:
        """What every process gives, by rank, for the first; nothing for the others."""
        if self.size == 1:
            return [own]
        every: list[Any] | None = [None] * self.size if self.first else None
        dist.gather_object(own, every)
        return every or []

    def share(self, own: T) -> T:
        """What the first process has, for all of them."""
        if self.size == 1:
            return own
        box = [own if self.first else None]
        dist.broadcast_object_list(box, 0)
        return box[0]  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` → a device that is there.

    Raises:
        UsageError: no such kind of device.
        EnvironmentFault: the device asked for is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device is {quoted(name)}, but takes auto, cpu, cuda, cuda:N or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device is {quoted(name)}, but takes auto, cpu, cuda, cuda:N or mps")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if (device.index or 0) >= there:
        have = f"this machine has {there} of that kind" if there else f"this machine has no {device.type} device"
        raise EnvironmentFault(f"--device is {name!r}, but {have}", hint="use --device auto or --device cpu")
    return device


@contextmanager
def world(device_name: str) -> Iterator[World]:
    """Join the process group that `torchrun` describes in the environment, and leave it at the end.

    Raises:
        EnvironmentFault: there are fewer devices here than processes, or several cannot share one of that kind.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(device_name)
    if size == 1:
        yield World(device)
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "mps":
        raise EnvironmentFault("several processes cannot share an mps device", hint="use --device cpu, or one process")
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            have = f"this machine has {torch.cuda.device_count()} GPUs, but torchrun started process {local + 1} on it"
            raise EnvironmentFault(have, hint="use a lower --nproc-per-node, or --device cpu")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    rank, memory = int(os.environ.get("RANK", "0")), _launch()
    meeting = _meet(memory, rank) if memory is not None else None
    # Images and pictures on the CPU are told to others too, whatever the nets run on.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if meeting is None:
        dist.init_process_group(backend, timeout=_PATIENCE)
    else:
        dist.init_process_group(backend, store=meeting, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield World(device, dist.get_rank(), size)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _LOST):
            raise
        hint = "go on with aegen train --resume, or start torchrun with --max-restarts"
        raise RunError("another process of this run was lost", hint=hint) from error
    finally:
        collectives.end()
        dist.destroy_process_group()


def shards(settings: TrainSettings, here: World) -> bool:
    """Whether each process is to hold a part of the model; one alone holds all of it.

    Raises:
        UsageError: the model is to be compiled too.
    """
    if settings.parallel != "fsdp" or here.size == 1:
        return False
    if settings.compile != "off":
        raise UsageError("--compile does not go with --parallel fsdp", hint="leave one of the two out")
    return True


# ---------------------------------------------------------------------------------------------------- restarts


def begun_run() -> Path | None:
    """The run folder that this very launch of `torchrun` made before it had to replace a worker, if any."""
    memory = _launch()
    return Path(os.fsdecode(memory.get(_RUN))) if memory is not None and memory.check([_RUN]) else None


def remember_run(path: Path) -> None:
    """Tell the workers that may replace these which folder is this launch's own."""
    memory = _launch()
    if memory is not None:
        memory.set(_RUN, os.fsencode(path))  # names need not be text


def tells_first() -> bool:
    """Whether this is the first process of this generation on its machine to ask; all are where nothing is shared."""
    try:
        memory = _launch(timedelta(seconds=10))
    except (dist.DistError, RuntimeError, KeyError, ValueError):  # the agent is gone
        return True
    if memory is None:
        return True
    words = [os.environ.get(name, "0") for name in ("GROUP_RANK", "TORCHELASTIC_RESTART_COUNT")]
    return bool(memory.add("/".join([_TOLD, *words]), 1) == 1)


def _launch(patience: timedelta = _PATIENCE) -> Any:
    """The store that the agent of `torchrun` keeps from one generation of its workers to the next, if there is one."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in every build of torch

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=patience)


def _meet(memory: Any, rank: int) -> Any:
    """A store of this generation's own: in the agent's, whoever takes a dead worker's place finds the dead one's addresses."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    address = os.environ["MASTER_ADDR"]  # where the first process runs
    if rank == 0:
        own = TCPStore(address, 0, is_master=True, wait_for_workers=False)
        memory.set(_MEETING, str(own.port))
        return own
    while True:
        port = int(memory.get(_MEETING))
        try:
            found = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=5))
        except dist.DistError:  # that of a generation that is no more; the first process will say another
            time.sleep(0.1)
            continue
        found.set_timeout(_PATIENCE)
        return found
