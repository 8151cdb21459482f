"""What a run begins with: its folder, another run's weights, and what is written down of it."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aegen import registry, sampler_file, signing
from aegen.atomic import sweep, write_text
from aegen.autoencoder import Autoencoder
from aegen.checkpoint import Checkpoint, Resumable, origins
from aegen.combinations import short, stack
from aegen.data.dataset_names import dataset_name
from aegen.data.source import Data, located, options_without_word, without_word
from aegen.errors import UsageError
from aegen.filenames import native, portable
from aegen.inference.loading import check_fits
from aegen.objective_name import ObjectiveName
from aegen.package_metadata import version_of
from aegen.protocols import Objective
from aegen.rundir import ASKS, BEGUN, FIRST, RUNS, RunDir, disk_error, sealed_paths, told_paths
from aegen.settings import PARTS, DataSettings, RunSpec, to_toml
from aegen.training.distributed import World
from aegen.training.loop import Trainer
from aegen.untrusted import parse_json, quoted, read_text


def initialise(model: Autoencoder, objective: Objective, source: Checkpoint, spec: RunSpec) -> None:
    """Begin with another run's weights: its averaged ones if it has them, and its objective's if that is the same.

    Raises:
        UsageError: the architectures differ.
    """
    theirs = source.model_spec
    for key in PARTS:
        mine, other = getattr(spec, key), getattr(theirs, key)
        if mine != other:
            raise UsageError(
                f"--init-from {source.path} has {key} {other.name} {other.options}, this run {mine.name} {mine.options}",
                hint="give the same --arch, --bottleneck and --likelihood with the same options",
            )
    image = theirs.image
    if image != model.image:
        raise UsageError(
            f"--init-from {source.path} is for images of {image}, this run's are {model.image}",
            hint="give that model's --size and --channels",
        )
    prefix = "ema." if source.has("ema.") else "model."
    check_fits(source, prefix)
    source.restore(model, prefix)
    if source.has_run and spec.objective.name == source.spec.objective.name and source.has("objective."):
        source.restore(objective, "objective.")


def open_run(
    spec: RunSpec,
    here: World,
    home: Path | None,
    run_dir: Path | None,
    trainer: Trainer,
    source: Path | None,
    begun: Path | None = None,
    *,
    replaces: bool = False,
) -> RunDir:
    """The run's folder: rank 0 makes it, or finds it, and writes what the run is made of.

    Args:
        source: its first weights.
        begun: where its relative paths begin, if that is not the current folder.
        replaces: whether another run at `run_dir` may be replaced.
    """

    def describe(run: RunDir) -> None:
        write_text(run.config, to_toml(spec.to_dict()))
        about, place = environment(here), home or run_dir or RUNS / "any"
        # Seen from the run, so that it holds where all of it is moved, or seen under another path by another machine.
        about[BEGUN] = _seen_from(place, begun or Path.cwd())
        if source is not None:
            about[FIRST] = os.path.relpath(source, place)
        about[ASKS] = spec.asks
        write_text(run.environment, json.dumps(portable(sealed_paths(about)), indent=2) + "\n")

    if not here.first:
        return RunDir(home or run_dir or RUNS)
    try:
        if home is not None:
            run = RunDir(home)
            for folder in (run.path.parent, run.path, run.checkpoints, run.samples, run.path / sampler_file.FOLDER):
                sweep(folder)
            run.forget_after(trainer.progress.step)
            describe(run)
            return run
        return RunDir.create(run_dir, run_name(spec), describe, replaces=replaces)
    except OSError as error:
        raise disk_error(error, home or run_dir or RUNS, last_good=trainer.keeper.last_good) from error


def run_name(spec: RunSpec) -> str:
    """What a run is called unless it is told: architecture, objective, a bottleneck that is not the objective's own, data."""
    objective = ObjectiveName.parse(spec.objective.name)
    parts = [short(spec.arch.name), str(ObjectiveName(tuple(map(short, objective.parts))))]
    if spec.bottleneck.name != stack(objective)[0][1].bottleneck:
        parts.append(short(spec.bottleneck.name))
    name = spec.data.name
    # Of a folder, what follows a dot is no ending.
    name = short(name) if registry.is_file(name) else re.sub(r"\.(npy|npz|tar)$", "", Path(name).name)
    parts.append(re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "data")
    return re.sub(r"[^A-Za-z0-9+.-]+", "-", "-".join(parts)).strip("-.")


def _seen_from(place: Path, folder: Path) -> str:
    try:
        return os.path.relpath(folder, place.resolve())
    except ValueError:  # another drive
        return str(folder)


def same_images(saved: Checkpoint, data: Data, name: str) -> None:
    """See that a run goes on with the images that it began with, wherever they lie now.

    Raises:
        UsageError: they are others.
    """
    note = saved.header["data"]
    if data.fingerprint() == note["fingerprint"]:
        if note.get("held_out") in (None, data.held_out_fingerprint()):
            return
        raise UsageError(
            f"--data {name} has the same images for training, but others for validation than when {saved.path} was written",
            hint="its best checkpoint and early stopping go by those: put them back, or begin a new run with these weights: "
            f"aegen train --init-from {shlex.quote(str(saved.path))} --data {shlex.quote(name)}",
        )
    before, now = saved.header["data"]["count"], len(data.train)
    what = f"{now:,} for training, and there were {before:,}" if before != now else f"as many, {now:,} for training"
    raise UsageError(
        f"--data {name} holds other images than when {saved.path} was written: {what}",
        hint=f"give those images with --data, or begin a new run with these weights: "
        f"aegen train --init-from {shlex.quote(str(saved.path))} --data {shlex.quote(name)}",
    )


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
    """The weights that a run began with, if they were another run's.

    Raises:
        UsageError: what it began with cannot be read, or is not from this user: weights are not read on the word of others.
    """
    try:
        about = native(parse_json(read_text(home / "environment.json")))
        told = told_paths(home)
        named = FIRST in about
    except (OSError, ValueError, TypeError) as error:
        hint = "it took no step that was saved; begin a new one"
        raise UsageError(f"{home / 'environment.json'} cannot be read ({error})", hint=hint) from error
    if named and FIRST not in told:
        raise UsageError(
            f"{home} names weights to begin with, {quoted(about[FIRST])}, without a seal of your aegen (earlier versions made none), so that they are not read on its word",
            hint="it took no step that was saved; begin a new one, with --init-from if those weights may be read",
        )
    return home / told[FIRST] if named else None


def followed(found: Resumable, begun: Path | None, typed: Collection[str]) -> tuple[RunSpec, DataSettings]:
    """A run's settings as far as they may be followed, with paths that hold from here; and those of its data alone.

    Args:
        begun: where its relative paths begin.
        typed: dotted keys of what the user says now, which is followed whoever wrote the run.

    Raises:
        UsageError: its data is not where it was, or is not to be looked for.
    """
    spec = found.spec
    data, names = spec.data, [key.removeprefix("data.") for key in typed]
    if "data.name" not in typed:
        data = located(data, begun, f"the run {found.home}", own=found.own, typed=names)
    elif not found.own:
        data = without_word(data, names)
    if not found.own:
        spec = replace(spec, data_options=options_without_word(data.name, spec.data_options, names))
    if not found.own and "log.trackers" not in typed:  # a tracker may tell the world
        spec = replace(spec, log=replace(spec.log, trackers=[]))
    return replace(spec, data=data), data


def header_of(spec: RunSpec, model: Autoencoder, data: Data, fingerprint: str, kind: str = "") -> dict[str, Any]:
    """What every checkpoint says; `kind` is the registered name of the data set, where its path is another one from here."""
    parts = [
        ("architecture", spec.arch.name),
        ("bottleneck", spec.bottleneck.name),
        ("likelihood", spec.likelihood.name),
        *(("objective", name) for name in ObjectiveName.parse(spec.objective.name).parts),
        ("dataset", kind or dataset_name(spec.data.name)),
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
            "held_out": data.held_out_fingerprint(),
        },
        "plugins": origins(parts),
        "samplers": {},
        **({"seal": mark} if (mark := signing.seal(spec.asks)) else {}),
        "versions": {"aegen": version_of("aegen"), "torch": torch.__version__},
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
        "versions": {name: version_of(name) for name in names},
        "plugins": sorted({f"{c.package} {c.version}" for c in registry.every_component() if not c.builtin}),
        "device": device,
        "command": sys.argv[1:],
    }
