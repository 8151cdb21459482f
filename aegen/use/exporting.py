"""Write a model for others, and prove that what was written is the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aegen import rules
from aegen.errors import RunError
from aegen.factory import create
from aegen.factory import load as load_class
from aegen.protocols import Exporter
from aegen.rundir import free_name
from aegen.spec import Spec
from aegen.use.loading import Say, load, refuse_present, silent, writing


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from the model: the largest absolute difference by output."""

    files: list[Path]
    parity: dict[str, float]


def export(
    place: Path | str | None = None,
    *,
    format: str = "safetensors",
    options: Mapping[str, Any] | None = None,
    out: Path | None = None,
    force: bool = False,
    tolerance: float = 1e-4,
    seed: int = 0,
    say: Say = silent,
) -> Exported:
    """Write a model for others, read it back, and compare.

    Args:
        force: replace what stands at `out`; of a folder only the files that are written anew.

    Raises:
        UsageError: an unknown format, or an output that exists.
        EnvironmentFault: the format needs packages that are not installed; the extra is named.
        RunError: what was written differs from the model by more than `tolerance`.
    """
    spec = Spec(format, dict(options or {}))
    exporter = create(load_class("exporter", format, Exporter), "exporter", spec, "export.", {})
    loaded = load(place, device="cpu")  # parity is judged where arithmetic is exact
    parent = loaded.path.parent
    stem = (parent.parent if parent.name == "checkpoints" else loaded.path).stem
    out = out or free_name(Path(f"{stem}-{format}{exporter.suffix}" if exporter.suffix else f"{stem}-{format}"))
    if not (force and out.is_dir() and not exporter.suffix):
        refuse_present([out], force)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        files = exporter.export(loaded.model, out, loaded.file.header)
        rules.checked(exporter, rules.written, files)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, *loaded.model.image, generator=generator) * 2 - 1
    parity = exporter.parity(loaded.model, out, x)
    rules.checked(exporter, rules.parity, parity)
    for name, difference in parity.items():
        say(f"{name}: largest difference {difference:.2g} (tolerance {tolerance:g})")
        if not difference <= tolerance:
            raise RunError(
                f"the {format} {name} differs from the model by {difference:.3g}, more than {tolerance:g}; it is at {out}",
                hint="do not ship it; --tolerance accepts more",
            )
    return Exported(files, parity)
