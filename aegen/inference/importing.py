"""A model that was trained elsewhere → a checkpoint that every command reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aegen import checkpoint, registry
from aegen.autoencoder import Autoencoder, build_sampler, built_of
from aegen.contract import outputs
from aegen.data.dataset_names import dataset_name
from aegen.data.source import load_data
from aegen.errors import UsageError
from aegen.factory import create
from aegen.factory import load as load_class
from aegen.fitting import compare, fitting
from aegen.header import note_of
from aegen.inference.loading import Output, Say, silent, undrawn
from aegen.inference.samplers import ex_post, fit_sampler, tell_fallback, told_now_and_then
from aegen.inference.statistics import measure
from aegen.model_spec import ModelSpec
from aegen.package_metadata import version_of
from aegen.places import locate
from aegen.protocols import Imported, Importer
from aegen.settings import DataSettings
from aegen.spec import Spec

_TRIED = 2  # images


def import_model(
    place: Path | str,
    *,
    importer: str = "state-dict",
    options: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    out: Path | None = None,
    force: bool = False,
    say: Say = silent,
) -> Path:
    """Write a foreign file or folder as a checkpoint; the file written.

        >>> path = aegen.import_model("weights.safetensors", options={"size": [8, 8]})
        >>> aegen.load(path).latent_shape
        (3,)

    Args:
        importer: who reads it, by name.
        options: of the importer: what the file does not say.
        data: settings of images that it was trained on, such as their `name`: its latents are then measured on them and a sampler is fitted,
            as when a training ends.
        force: replace what stands at `out`.

    Raises:
        UsageError: it cannot be read, does not fit what it says, or something stands at `out`.
        PluginError: the importer does not keep to the contract.
    """
    source = locate(place)
    if not source.exists():
        raise UsageError(f"there is no {source}", hint="give a file that was saved elsewhere")
    target = Output(out, f"{source.stem}-imported.safetensors", force)
    reader = create(
        load_class("importer", importer, Importer), "importer", Spec(importer, dict(options or {})), "importer.", {}
    )
    if data and "name" in data:  # before the file is read: it may be a path that was typed, or nothing at all
        registry.trust(str(data["name"]))
        dataset_name(str(data["name"]))
    found = reader.read(source)
    outputs.checked(reader, outputs.imported, found)
    for note in found.notes:
        say(note)
    about, model = _built(source, found)
    tensors: dict[str, Tensor] = {f"model.{key}": value for key, value in model.state_dict().items()}
    parts = [("architecture", about.arch.name), ("bottleneck", about.bottleneck.name)]
    parts += [("likelihood", about.likelihood.name), ("importer", importer)]
    fitted: dict[str, dict[str, Any]] = {}
    if data:
        about, sampler = _measured(about, model, data, say)
        if sampler is not None:
            name, state = sampler
            tensors |= {f"sampler.{name}.{key}": value for key, value in state.items()}
            parts.append(("sampler", name))
            fitted[name] = {}
    assert about.latent is not None
    header: dict[str, Any] = {
        "image": list(about.image),
        "latent": list(about.latent),
        "model": about.to_dict(),
        "plugins": checkpoint.origins(parts),
        "samplers": fitted,
        "versions": {"aegen": version_of("aegen"), "torch": torch.__version__},
        "imported": {"importer": importer, "file": source.name},
        "encodes": about.encodes,
    }
    if about.statistics is not None:
        header["latents"] = note_of(about.statistics)
    size = "×".join(map(str, about.latent))
    say(
        f"images of {about.image}, latents of {size}, {about.bottleneck.name} bottleneck, {about.likelihood.name} likelihood"
    )
    return target.write(lambda path, replaces: checkpoint.save(path, tensors, header, replaces=replaces))


@torch.no_grad()
def _built(source: Path, found: Imported) -> tuple[ModelSpec, Autoencoder]:
    """The model that an importer told of, with its weights, its latents known, tried on a few images."""
    held = {key: (tuple(value.shape), value.is_floating_point()) for key, value in found.tensors.items()}
    made = fitting(source, lambda: built_of(found.spec), held)
    try:
        with undrawn():
            latent = found.spec.latent if made is None else made.latent_shape
            model = built_of(replace(found.spec, latent=latent))
    except UsageError as error:
        raise UsageError(f"{source} cannot be used: {error.message}", hint=error.hint) from error
    compare(source, "", model.state_dict(), held)
    model.load_state_dict(dict(found.tensors))
    model.eval().requires_grad_(False)
    x = torch.rand(_TRIED, *model.image, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.random.fork_rng([]):
        again = model.reconstruct(x)
    if tuple(again.shape) != tuple(x.shape) or not bool(again.isfinite().all()):
        raise UsageError(f"{source} gives pixels that are not finite", hint="look at importer.output and at the file")
    return replace(found.spec, latent=tuple(model.latent_shape)), model


def _measured(
    about: ModelSpec, model: Autoencoder, data: Mapping[str, Any], say: Say
) -> tuple[ModelSpec, tuple[str, dict[str, Tensor]] | None]:
    """The spec with the statistics of its latents, and the sampler that is fitted ex post, if one should be."""
    image = about.image
    usual = {"size": [image.height, image.width], "channels": image.channels, "fit": about.fit, "white": about.white}
    train = load_data(DataSettings(**{**usual, **data}), {}, say).train
    name = ex_post(model)
    with torch.random.fork_rng([]):  # encoding may draw
        torch.manual_seed(0)
        about = replace(about, statistics=measure(model, train))
        if name is None:
            return about, None
        sampler = build_sampler(Spec(name), model)
        torch.manual_seed(0)
        fit_sampler(sampler, model, train, 0, tell=told_now_and_then(say), name=name)
    tell_fallback(sampler, name, say)
    return about, (name, dict(sampler.state_dict()))
