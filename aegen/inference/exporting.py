"""Write a model for others, and prove that what was written is the model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aegen import sampler_file
from aegen.contract import outputs
from aegen.errors import RunError, listing
from aegen.factory import create
from aegen.factory import load as load_class
from aegen.inference.loading import Loaded, Say, refuse_present, silent, writing
from aegen.inference.model import load
from aegen.inference.samplers import fitted, states
from aegen.protocols import Exporter
from aegen.rundir import free_name
from aegen.spec import Spec

_BATCHES = (5, 1)  # images: a graph may have been fixed to the number that it was made with


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
        UsageError: an unknown format, an option that cannot be had, or an output that exists.
        PluginError: a part of the model cannot be written in this format.
        EnvironmentFault: the format needs packages that are not installed; the extra is named.
        RunError: what was written differs from the model by more than `tolerance`.
    """
    spec = Spec(format, dict(options or {}))
    exporter = create(load_class("exporter", format, Exporter), "exporter", spec, "export.", {})
    loaded = load(place, device="cpu")  # parity is judged where arithmetic is exact
    out = out or free_name(Path(f"{_name(loaded.path)}-{format}{exporter.suffix}"), exporter.suffix)
    if not (force and out.is_dir() and not exporter.suffix):
        refuse_present([out], force)
    # Others read one file: what lies beside the checkpoint goes inside.
    exporter.samplers, options = states(loaded), fitted(loaded)
    plugins = dict(loaded.file.header["plugins"])
    for file in sampler_file.kept(loaded.file).values():  # by its word: nothing of it is run
        plugins |= file.header["plugins"]
    header: dict[str, Any] = {**loaded.file.header, "samplers": options, "plugins": plugins}
    _tell_what_stays(exporter, loaded, format, say)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        new = not out.exists()
        try:
            files = exporter.export(loaded.model, out, header)
        except BaseException:
            if new:
                _discard(out)
            raise
        outputs.checked(exporter, outputs.written, files)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {}
    for count in _BATCHES:
        x = torch.rand(count, *loaded.model.image, generator=generator) * 2 - 1
        differences = exporter.parity(loaded.model, out, x)
        outputs.checked(exporter, outputs.parity, differences)
        for name, difference in differences.items():
            found.setdefault(name, []).append(difference)
    parity = {name: max(values, key=lambda d: (d != d, d)) for name, values in found.items()}  # NaN is the worst
    for name, difference in parity.items():
        say(f"{name}: largest difference {difference:.2g} (tolerance {tolerance:g})")
        if not difference <= tolerance:
            raise RunError(
                f"the {format} {name} differs from the model by {difference:.3g}, more than {tolerance:g}; it is at {out}",
                hint="do not ship it; --tolerance accepts more",
            )
    return Exported(files, parity)


def _name(path: Path) -> str:
    """What a model is called: its run's folder, or its file without the ending. Dots in a name are no ending."""
    return (
        path.parent.resolve().parent.name
        if path.parent.name == "checkpoints"
        else path.name.removesuffix(".safetensors")
    )


def _tell_what_stays(exporter: Exporter, loaded: Loaded, format: str, say: Say) -> None:
    drawn, classes = list(fitted(loaded)), loaded.about.classes
    things = {
        "samplers": f"the fitted sampler {listing(drawn)}" if drawn else "",
        "preprocessing": "what images are brought to",
        "classes": "the names of the classes" if classes else "",
    }
    stays = [text for key, text in things.items() if text and key not in exporter.carries]
    if stays:
        say(f"{format} files do not hold {', '.join(stays)}: that stays with {loaded.path}")


def _discard(out: Path) -> None:
    """Half of an export is nothing; there was nothing of that name before."""
    if out.is_dir() and not out.is_symlink():
        shutil.rmtree(out, ignore_errors=True)
    else:
        with suppress(OSError):
            out.unlink()
