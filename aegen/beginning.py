"""What a run begins with: its folder, another run's weights, and what is written down of it."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from aegen import registry
from aegen.atomic import sweep, write_text
from aegen.checkpoint import Checkpoint, origins
from aegen.data.source import Data, dataset_name
from aegen.engine.loop import Trainer
from aegen.engine.parallel import World
from aegen.errors import UsageError
from aegen.model import Autoencoder
from aegen.protocols import ImageShape, Objective
from aegen.rundir import RUNS, RunDir, disk_error
from aegen.settings import RunSpec, to_toml


def initialise(model: Autoencoder, objective: Objective, source: Checkpoint, spec: RunSpec) -> None:
    """Begin with another run's weights: its averaged ones if it has them, and its objective's if that is the same.

    Raises:
        UsageError: the architectures differ.
    """
    theirs = source.spec
    for key in ("arch", "bottleneck", "likelihood"):
        mine, other = getattr(spec, key), getattr(theirs, key)
        if mine != other:
            raise UsageError(
                f"--init-from {source.path} has {key} {other.name} {other.options}, this run {mine.name} {mine.options}",
                hint="give the same --arch, --bottleneck and --likelihood with the same options",
            )
    image = ImageShape(*source.header["image"])
    if image != model.image:
        raise UsageError(
            f"--init-from {source.path} is for images of {image}, this run's are {model.image}",
            hint="give that model's --size and --channels",
        )
    source.restore(model, "ema." if source.has("ema.") else "model.")
    if spec.objective.name == theirs.objective.name and source.has("objective."):
        source.restore(objective, "objective.")


def open_run(
    spec: RunSpec, here: World, home: Path | None, run_dir: Path | None, trainer: Trainer, source: Path | None
) -> RunDir:
    """The run's folder: rank 0 makes it, or finds it, and writes what the run is made of, `source` being its first weights."""

    def describe(run: RunDir) -> None:
        write_text(run.config, to_toml(spec.to_dict()))
        about = environment(here)
        if source is not None:
            about["init_from"] = os.path.relpath(source, home or run_dir or RUNS / "any")
        write_text(run.environment, json.dumps(about, indent=2) + "\n")

    if not here.first:
        return RunDir(home or run_dir or RUNS)
    try:
        if home is not None:
            run = RunDir(home)
            for folder in (run.path.parent, run.path, run.checkpoints, run.samples):
                sweep(folder)
            run.forget_after(trainer.progress.step)
            describe(run)
            return run
        name = re.sub(
            r"\.(npy|npz|tar)$", "", Path(spec.data.name).name
        )  # of a folder, what follows a dot is no ending
        data = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "data"
        stem = re.sub(r"[^A-Za-z0-9+.-]+", "-", f"{spec.arch.name}-{spec.objective.name}-{data}").strip("-.")
        return RunDir.create(run_dir, stem, describe)
    except OSError as error:
        raise disk_error(error, home or run_dir or RUNS, last_good=trainer.keeper.last_good) from error


def same_batch(spec: RunSpec, saved: Checkpoint, here: World) -> RunSpec:
    """With the images of a step shared by another number of processes, so that the run goes on as it began.

    Raises:
        UsageError: they cannot be shared evenly.
    """
    before, batch = saved.header.get("processes", here.size), saved.header.get("batch", 0)
    if before == here.size or not batch:
        return spec
    if batch % here.size:
        raise UsageError(
            f"{saved.path} was written by a run with {batch} images a step, which {here.size} processes cannot share evenly",
            hint=f"use {before} processes, or another number that divides {batch}",
        )
    return replace(spec, train=replace(spec.train, batch_size=batch // here.size))


def first_weights(home: Path) -> Path | None:
    """The weights that a run began with, if they were another run's."""
    try:
        about = json.loads((home / "environment.json").read_text(encoding="utf-8"))
        return home / about["init_from"] if "init_from" in about else None
    except (OSError, ValueError, TypeError) as error:
        hint = "it took no step that was saved; begin a new one"
        raise UsageError(f"{home / 'environment.json'} cannot be read ({error})", hint=hint) from error


def header_of(spec: RunSpec, model: Autoencoder, data: Data, fingerprint: str) -> dict[str, Any]:
    parts = [
        ("architecture", spec.arch.name),
        ("bottleneck", spec.bottleneck.name),
        ("likelihood", spec.likelihood.name),
        *(("objective", name) for name in spec.objective.name.split("+")),
        ("dataset", dataset_name(spec.data.name)),
        *(("tracker", name) for name in spec.log.trackers),
    ]
    return {
        "spec": spec.to_dict(),
        "image": list(model.image),
        "latent": list(model.latent_shape),
        "data": {
            "name": spec.data.name,
            "count": len(data.train),
            "classes": data.classes,
            "fingerprint": fingerprint,
        },
        "plugins": origins(parts),
        "samplers": {},
        "versions": {"aegen": version("aegen"), "torch": torch.__version__},
    }


def environment(here: World) -> dict[str, Any]:
    """What the run ran on: versions and device, and the command; nothing that names a person."""
    names = ("aegen", "torch", "torchvision", "numpy", "pillow", "simplejpeg", "scikit-learn", "safetensors")
    device: dict[str, Any] = {
        "type": here.device.type,
        "processes": here.size,
        "threads": torch.get_num_threads(),
    }
    if here.device.type == "cuda":
        device["name"] = torch.cuda.get_device_name(here.device)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in names},
        "plugins": sorted({f"{c.package} {c.version}" for c in registry.every_component() if not c.builtin}),
        "device": device,
        "command": sys.argv[1:],
    }
