"""FSDP2: of encoder and decoder, with their gradients and moments, each process holds a part.

All else is whole in every process: the bottleneck and the likelihood, which are small and whose parameters are read outside of
a forward pass (priors), and what the objective owns, since a sharded critic can neither be kept still for a turn nor be derived
twice. Optimizers step the parts themselves, which are plain tensors that share memory with what FSDP2 gathers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from aegen.autoencoder import Autoencoder, lifted
from aegen.errors import UsageError
from aegen.settings import TrainSettings
from aegen.training.distributed import World
from aegen.training.turns import Stage, TurnOptimizer

PARTS = ("encoder", "decoder")
_LEAST = 2**20  # weights that make a layer worth being gathered by itself
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FOREIGN = ("DTensor", "FSDP", "fully_shard", "setStorage")  # the last: what was freed is derived again
_OTHER = "use --parallel ddp"


def shard(model: Autoencoder, settings: TrainSettings, world: World) -> None:
    """Leave each process its part of encoder and decoder, whose classes change in place.

    Raises:
        UsageError: a layer cannot be sharded.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    half = _HALF.get(settings.precision)
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for name in PARTS:
        part: nn.Module = getattr(model, name)
        large = [layer for layer in part.children() if sum(p.numel() for p in layer.parameters()) >= _LEAST]
        for layer in [*(large if isinstance(part, nn.Sequential) else ()), part]:
            if next(layer.parameters(), None) is None:
                continue
            try:
                # After a forward pass without a backward one the whole would stay, and be stale once the parts move.
                fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
            except (NotImplementedError, ValueError, RuntimeError, AssertionError) as error:
                reason = str(error).splitlines()[0]
                raise UsageError(f"the {name} cannot be sharded ({reason})", hint=_OTHER) from error


class ShardedPlayer(TurnOptimizer):
    """A turn whose parameters lie in parts, as far as they are those of encoder and decoder.

    FSDP2 averages the gradients of these in the backward pass, and they require gradients in every turn; what they receive in
    turns that do not train them is dropped.
    """

    def moved(self) -> list[nn.Parameter]:
        """Parts as plain tensors, and what is whole."""
        self._sharded = [p for p in self.names if _spread(p)]
        self._parts = {p: nn.Parameter(local(p).detach()) for p in self.parameters if _spread(p)}
        self.names = {**self.names, **{part: self.names[p] for p, part in self._parts.items()}}
        return [self._parts.get(p, p) for p in self.parameters]

    def share(self, other: TurnOptimizer) -> None:
        """Step with another turn's optimizer, and so with its view of the parts."""
        super().share(other)
        if isinstance(other, ShardedPlayer):
            self._parts = other._parts

    def spread(self, stage: Stage) -> nn.Module:
        """FSDP2 works in the modules themselves."""
        return stage

    def seats(self) -> None:
        """As with one process, but parts always require gradients: FSDP2 cannot do without them for a turn."""
        super().seats()
        for parameter in self._sharded:
            parameter.requires_grad_(True)

    def accumulate(self, x: Tensor, labels: Tensor | None, *, share: float, last: bool) -> dict[str, Tensor]:
        """As with one process.

        Raises:
            UsageError: the loss reads weights outside of a forward pass, or derives them twice.
        """
        try:
            return super().accumulate(x, labels, share=share, last=last)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            if not any(word in str(error) for word in _FOREIGN):
                raise
            reason = "its loss reads or derives weights in a way that parts of them do not allow"
            raise UsageError(f"turn {self.turn.name!r} cannot be sharded: {reason}", hint=_OTHER) from error

    def step(self, lr: float) -> None:
        """Average what is whole, then move the parts."""
        wholes = [p.grad for p in self.parameters if p.grad is not None and p not in self._parts]
        average(wholes, self.world)
        for parameter, part in self._parts.items():
            part.grad = local(parameter.grad) if parameter.grad is not None else None
        if self.scaler.is_enabled():
            agree_on_overflow(self._gradients() + wholes)
        super().step(lr)
        for moved in [*self._sharded, *self._parts.values()]:
            moved.grad = None

    def clip(self) -> None:
        """By the norm of the gradients of all processes."""
        wholes = [p.grad for p in self.parameters if p.grad is not None and p not in self._parts]
        clip(self._gradients(), wholes, self.settings.clip)

    def _gradients(self) -> list[Tensor]:
        return [part.grad for part in self._parts.values() if part.grad is not None]

    def state(self) -> dict[str, Tensor]:
        """Moments as parts that know their whole."""
        found = super().state()
        prefix = f"optim/{self.turn.name}/"
        for parameter in self._parts:
            for key in [k for k in found if k.rpartition("/")[0] == prefix + self.names[parameter]]:
                found[key] = like(found[key], parameter)
        return found

    def may_lack(self) -> frozenset[str]:
        """What is whole, such as a prior: copies of parts, by which one could know, cannot be made."""
        return frozenset(self.names[p] for p in self.parameters if p not in self._parts)

    def restore(self, saved: dict[str, Tensor], unmoved: Collection[str] | None = None) -> None:
        """From whole tensors."""
        for parameter in self._parts:
            for key in [k for k in saved if k.rpartition("/")[0] == self.names[parameter]]:
                saved[key] = part_of(saved[key], parameter)
        super().restore(saved, unmoved)


# ---------------------------------------------------------------------------------------------------- parts


def _spread(tensor: object) -> bool:
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all processes, which must all ask; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(part: Tensor, of: Tensor) -> Tensor:
    """A part, such as a moment, of something that lies in parts as `of` does; as it is if `of` does not."""
    if not isinstance(of, DTensor) or part.shape != of.to_local().shape:
        return part
    return DTensor.from_local(part, of.device_mesh, of.placements, shape=of.shape, stride=of.stride())


def part_of(tensor: Tensor, of: Tensor) -> Tensor:
    """This process's part of a whole tensor that lies in parts as `of` does; as it is if `of` does not."""
    if not isinstance(of, DTensor) or tensor.shape != of.shape:
        return tensor
    spread = distribute_tensor(tensor.to(of.device), of.device_mesh, of.placements, src_data_rank=None)
    return spread.to_local()


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Every tensor whole, one after the other, on the CPU where they are kept; nothing in processes that do not keep them."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if keep:
            found[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return found


def average(gradients: list[Tensor], world: World) -> None:
    """What DDP does: each becomes its mean over the processes, in place."""
    for dtype in dict.fromkeys(g.dtype for g in gradients):
        some = [g for g in gradients if g.dtype == dtype]
        together = torch.cat([g.flatten() for g in some])
        dist.all_reduce(together)
        for gradient, mean in zip(some, together.div_(world.size).split([g.numel() for g in some]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def clip(parts: list[Tensor], wholes: list[Tensor], most: float) -> None:
    """`clip_grad_norm_` for gradients of which some lie in parts; the norm is that of all of them, of all processes."""
    square = torch.zeros((), device=(parts or wholes)[0].device, dtype=lifted((parts or wholes)[0]).dtype)
    for gradient in parts:
        square += lifted(gradient).square().sum()
    dist.all_reduce(square)
    for gradient in wholes:
        square += lifted(gradient).square().sum()
    scale = (most / (square.sqrt() + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([*parts, *wholes], scale)


def agree_on_overflow(gradients: list[Tensor]) -> None:
    """If a gradient is not finite in one process, none is in any: so all of them leave out the same steps."""
    flaw = torch.stack([(g * 0).sum() for g in gradients]).sum()
    dist.all_reduce(flaw)
    for gradient in gradients:
        gradient += flaw
