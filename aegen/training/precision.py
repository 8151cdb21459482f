"""Arithmetic: what runs in half, and how small gradients survive it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from aegen.errors import EnvironmentFault

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass; weights stay fp32, so a small step is never rounded away."""
    if precision not in _HALF:
        return nullcontext()
    return torch.autocast(device.type, _HALF[precision])


def scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """A gradient scaler, one per turn; it does nothing unless the precision is fp16."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def prepare(precision: str, device: torch.device) -> None:
    """Set the process-wide switches that a precision means.

    Raises:
        EnvironmentFault: the GPU has no bf16.
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise EnvironmentFault("--precision is bf16, which this GPU has not", hint="use --precision fp16")
