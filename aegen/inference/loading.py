"""A trained model, read from its checkpoint and ready for use."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from aegen import pictures, registry
from aegen.atomic import Present
from aegen.autoencoder import Autoencoder, built_of
from aegen.checkpoint import Checkpoint
from aegen.data.source import located, options_without_word
from aegen.errors import RunError, UsageError, unwritable
from aegen.messages import Say as Say
from aegen.messages import silent as silent
from aegen.model_spec import ModelSpec
from aegen.places import resolve
from aegen.rundir import begun_in, free_name, owner
from aegen.settings import DataSettings, RunSpec
from aegen.training.distributed import World, choose_device

_VALUES = 64 * 3 * 64 * 64  # pixel values that are encoded or decoded at a time
_FEWEST, _MOST = 16, 256  # images


@dataclass
class Loaded:
    """A model ready for use: averaged weights if the run kept them, evaluation mode, no gradients.

    Attributes:
        file: its checkpoint, whose tensors that are not the model's are still on disk.
        about: what it is, apart from how it was trained; `spec` is the run that trained it, if there was one.
    """

    path: Path
    file: Checkpoint
    about: ModelSpec
    model: Autoencoder
    device: torch.device

    @property
    def spec(self) -> RunSpec:
        """The run that trained it.

        Raises:
            UsageError: it was imported, and has none.
        """
        return self.file.spec

    @property
    def trained_as(self) -> str:
        """The objective of its run; nothing where it has none."""
        return self.spec.objective.name if self.file.has_run else ""

    def images(
        self,
        hint: str = "if it was moved, say where it is now: --data NEW",
        *,
        typed: Collection[str] = (),
        moved: Mapping[str, Any] | None = None,
    ) -> DataSettings:
        """The settings of the run's own data, with paths that hold from here.

        Args:
            typed: `name` and `root`, as far as the user named them too.
            moved: settings that are other than the run's.

        Raises:
            UsageError: it is not where it was, and `hint` says what to do; or nothing but a file of others names it.
        """
        begun = None
        with suppress(UsageError):  # a checkpoint without a run
            begun = begun_in(owner(self.path))
        return located(
            replace(self.spec.data, **(moved or {})), begun, str(self.path), own=self.file.own, typed=typed, hint=hint
        )

    def options_of(self, settings: DataSettings) -> dict[str, Any]:
        """The options of the run's data set, read from where `settings` say, as far as its checkpoint's word is enough for them."""
        options = self.spec.data_options
        return options if self.file.own else options_without_word(settings.name, options)

    @property
    def batch(self) -> int:
        """How many images are encoded or decoded at a time: more of small ones, whose net takes less time than being called."""
        return max(_FEWEST, min(_MOST, _VALUES // math.prod(self.model.image)))

    def require_encoder(self, what: str) -> None:
        """Refuse what needs an encoder where none was trained.

        Raises:
            UsageError: the objective of the run trains only a decoder.
        """
        if not self.about.encodes:
            raise UsageError(
                f"{what} needs an encoder, but objective {self.trained_as} of {self.path} trains none",
                hint="use `aegen sample` with this run, or train with ae-gan, vae-gan or vae",
            )

    def require_run(self, what: str) -> None:
        """Refuse what needs the images of a run where there was none.

        Raises:
            UsageError: the model was imported.
        """
        if not self.file.has_run:
            raise UsageError(
                f"{what} needs the images that the model was trained on, but {self.path} was imported and knows none",
                hint="import it again with --data, which fits a mixture to them, or draw with --sampler prior where it has a prior",
            )

    def decode_shared(self, batches: Iterable[Tensor], here: World) -> Iterator[Tensor]:
        """Batches of latents → their images, in the first of several processes, each of which decodes a part; none in others.

        They are uint8 where they were sent by another process.
        """
        if here.size == 1:
            yield from itertools.chain.from_iterable(map(self.decode_batches, batches))
            return
        rest = iter(batches)
        while some := list(itertools.islice(rest, here.size)):
            own = [pictures.to_uint8(torch.cat(list(self.decode_batches(z)))) for z in some[here.rank : here.rank + 1]]
            yield from itertools.chain.from_iterable(here.collect(own))

    @torch.no_grad()
    def decode_batches(self, z: Tensor) -> Iterator[Tensor]:
        """Latents (N, *z) → their images (B, C, H, W) in [-1, 1] on the CPU, a batch at a time.

        Raises:
            RunError: a pixel is not finite.
        """
        size = self.batch * math.prod(self.model.latent_shape) // max(1, z[0].numel()) if len(z) else self.batch
        for part in z.split(max(1, min(self.batch, size))):
            images = self.model.decode(part.to(self.device, torch.float32)).mean.cpu()
            if not images.sum().isfinite():  # pixels are in [-1, 1], so that only NaN can do that
                raise RunError(
                    f"the model of {self.path} gives pixels that are not finite",
                    hint="its weights are damaged; use another checkpoint of the run",
                )
            yield images


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        draws = func in (Tensor.uniform_, Tensor.normal_) or getattr(func, "__module__", "") == "torch.nn.init"
        weight = kwargs.get("tensor", args[0] if args else None)
        return weight if draws and isinstance(weight, nn.Parameter) else func(*args, **kwargs)


def undrawn() -> TorchFunctionMode:
    """The context in which layers are made without drawing weights that a file is about to replace: most of the time of a load."""
    return _Undrawn()


def open_checkpoint(place: Path | str | None = None, *, device: str = "auto") -> Loaded:
    """The model of a run folder, a checkpoint file, or the latest run under ./runs.

    Only the tensors of the model are read from the file.

    Raises:
        UsageError: there is no such checkpoint, or it is damaged.
        PluginError: it needs a plugin that is not installed.
    """
    path = resolve(place)
    file = Checkpoint(path)
    file.require_model()
    file.require_plugins(("architecture", "bottleneck", "likelihood"))
    about, where = file.model_spec, choose_device(device)
    prefix = "ema." if file.has("ema.") else "model."
    build = partial(built_of, about)
    with undrawn():
        if file.fits(build, prefix) is None:
            check_fits(file, prefix)
        model = build().eval().requires_grad_(False)
    file.restore(model, prefix, mapped=True)
    if not _gives_its_latents(file, model):
        check_fits(file, prefix)
    return Loaded(path, file, about, model.to(where), where)


@torch.no_grad()
def _gives_its_latents(file: Checkpoint, model: Autoencoder) -> bool:
    """See that a model, whose weights are its file's, has the latents that the file tells of, by encoding and decoding no image.

    That takes neither memory nor time, whatever sizes the file tells of, and tensors without values would take a second: any arithmetic with
    them imports torch's compiler.

    Returns:
        Whether that told anything; not of nets that take no batch of no images.

    Raises:
        UsageError: it has others.
    """
    told = model.latent_shape
    try:
        with torch.random.fork_rng([]):
            found = model.encode(torch.empty(0, *model.image)).z.shape[1:]
            made = model.decode(torch.empty(0, *found)).mean.shape[1:] if tuple(found) == told else model.image
    except Exception:  # whatever a net makes of no image at all
        return False
    _compare_latents(file, told, tuple(found))
    return tuple(made) == tuple(model.image)


def check_fits(file: Checkpoint, prefix: str) -> None:
    """Refuse a checkpoint that says it holds another model than it does, before that is built.

    Args:
        prefix: of the keys of its tensors.

    Raises:
        UsageError: it does.
    """
    made = file.fits(partial(built_of, replace(file.model_spec, latent=None)), prefix)
    if made is not None:
        _compare_latents(file, file.header["latent"], made.latent_shape)


def _compare_latents(file: Checkpoint, told: Sequence[int], found: Sequence[int]) -> None:
    if tuple(told) != tuple(found):
        has, gives = ("×".join(map(str, shape)) for shape in (told, found))
        raise UsageError(
            f"{file.path} does not fit its own configuration: its latents are {has}, the model's {gives}",
            hint="the file was altered, or a plugin changed since it was written",
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A failed write as advice.

    Raises:
        UsageError: what is written inside cannot be.
        RunError: the disk is full or fails.
    """
    try:
        yield
    except Present as error:
        hint = "give another place with -o, or --force to replace it"
        raise UsageError(f"{path} exists already", hint=hint) from error
    except OSError as error:
        raise unwritable(error, f"cannot write {path}", "give another place with -o") from error


def refuse_present(files: Iterable[Path], force: bool) -> None:
    """Write over nothing that is there, unless that is asked for.

    Raises:
        UsageError: one of `files` exists, or, with `force`, is a folder.
    """
    there = [file for file in files if os.path.lexists(file) and not (force and not file.is_dir())]
    if there:
        more = f" (and {len(there) - 1:,} more)" * (len(there) > 1)
        what = "is a folder" if force else "exists already"
        hint = "give another place with -o" + ", or --force to replace it" * (not there[0].is_dir())
        raise UsageError(f"{there[0]}{more} {what}", hint=hint)


class Output:
    """Where a command writes a file: the place that the user named, or the first free name that begins with the usual one.

    Args:
        force: replace what the user named.

    Raises:
        UsageError: what the user named is there.
    """

    def __init__(self, named: Path | None, usual: str | Path, force: bool = False) -> None:
        if named is not None:
            refuse_present([named], force)
        self._named, self._usual, self._force = named, Path(usual), force

    @property
    def path(self) -> Path:
        """Where it would go now."""
        return self._named or free_name(self._usual)

    def write(self, make: Callable[[Path, bool], None]) -> Path:
        """`make(path, replaces)` the file; again under the next name where another process was faster.

        Raises:
            UsageError: it cannot be written, or what the user named is there by now.
        """
        while True:
            path = self.path
            try:
                with writing(path):
                    make(path, self._named is not None and self._force)
            except UsageError as error:
                if self._named is None and isinstance(error.__cause__, Present):
                    continue
                raise
            return path


def folder_for_each(out: Path | None, name: str) -> Path:
    """The folder for one file an image: the place that the user named, or a new one under the first free name.

    Raises:
        UsageError: `out` is a file.
    """
    if out is not None:
        if out.exists() and not out.is_dir():
            raise UsageError(f"-o {out} is a file, but --each writes into a folder", hint="give a folder with -o")
        return out
    while True:
        folder = free_name(Path(name))
        try:
            with writing(folder):
                folder.mkdir()
        except UsageError as error:
            if isinstance(error.__cause__, FileExistsError):
                continue
            raise
        return folder


def save_each(images: Iterable[Tensor], files: Sequence[Path], force: bool = False) -> None:
    """One file an image."""
    for image, file in zip(images, files, strict=True):
        with writing(file):
            pictures.save(pictures.to_pil(image), file, replaces=force)


def trust_components(names: Sequence[str]) -> None:
    """Allow files that a checkpoint names, components (`./mine.py:Mine`) and weights, because the user named them too."""
    for name in names:
        if not registry.is_file(name) and not Path(name).is_file():
            hint = "write ./mine.py:ClassName, or the path of weights"
            raise UsageError(f"--component {name!r} is no file component", hint=hint)
        registry.trust(name)
