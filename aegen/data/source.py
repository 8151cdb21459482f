"""From `--data` to a training set and a validation set, fixed by the settings alone."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aegen import registry
from aegen.contract import outputs
from aegen.data import decoded_cache, encoded
from aegen.data.dataset_names import dataset_name
from aegen.data.decode import side
from aegen.data.image_rows import MemoryRows, Pictures, Rows, fingerprint, pick
from aegen.errors import UsageError, counted
from aegen.factory import create, load, refuse_untyped
from aegen.messages import Say, silent, warn
from aegen.protocols import Dataset, Images, ImageShape, LeftOut
from aegen.settings import DataSettings
from aegen.spec import Spec, options_of
from aegen.untrusted import quoted

_SPLIT_SEED = 20_131_220  # of the validation split, the same for every run so that runs can be compared
SMALLEST = 8
_MOVED = "if it was moved, say where it is now: --data NEW"


@dataclass
class Data:
    """Images ready for training.

    Attributes:
        train, validation: uint8 (N, C, H, W), in one tensor or read when asked for.
        train_labels, validation_labels: int64 (N,) where the data has classes.
        classes: their names.
        validation_factors: int64 (N, F) where it is known what each image was made from.
        factor_names: of its columns.
        skipped: "file (reason)" for files that could not be read.
        left_out: images that were not meant.
        name: what the user asked for.
        how: where the images are, in a few words.
    """

    train: Pictures
    validation: Pictures
    train_labels: Tensor | None = None
    validation_labels: Tensor | None = None
    classes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    name: str = ""
    validation_factors: Tensor | None = None
    factor_names: list[str] = field(default_factory=list)
    how: str = ""
    _fingerprint: str | None = None
    left_out: LeftOut = field(default_factory=LeftOut)
    _held_out: tuple[Pictures, str] | None = None

    @property
    def image(self) -> ImageShape:
        """Shape of every image."""
        return ImageShape(*self.train.shape[1:])

    def fingerprint(self) -> str:
        """A digest of the training images, so that a run is never resumed on others; the same wherever they are held."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.train)
        return self._fingerprint

    def held_out_fingerprint(self) -> str:
        """The same of the images of validation, which `best` and early stopping go by."""
        if self._held_out is None or self._held_out[0] is not self.validation:
            self._held_out = self.validation, fingerprint(self.validation)
        return self._held_out[1]


def located(
    settings: DataSettings,
    begun: Path | None,
    whose: str,
    *,
    own: bool = True,
    typed: Collection[str] = (),
    hint: str = _MOVED,
) -> DataSettings:
    """The settings of a run's data with paths that hold from the current folder.

    Relative ones that are not found from here begin at `begun`, the folder where the run was begun.

    Args:
        own: whether this user's aegen wrote them. Of others, what was not typed is not even looked for.
        typed: `name` and `root`, as far as this user named them now.

    Raises:
        UsageError: the data is neither here nor there, or only a file of others names it.
    """
    if not own:
        settings = _believed(settings, whose, typed)
    name, root = settings.name, settings.root
    if begun is not None and not _there(root) and _there(str(begun / root)):
        root = os.path.relpath(begun / root)
    try:
        dataset_name(name)
        known = not name.endswith(".tar") or _there(name)
    except UsageError:
        known = False
    if not known:
        other = str(begun / os.path.expanduser(name)) if begun is not None else name
        if not _there(other):
            also = f", nor at {other}" if other != name else ""
            raise UsageError(f"the data of {whose}, {name}, is not there{also}", hint=hint)
        name = os.path.relpath(other)
    return replace(settings, name=name, root=root)


def _believed(settings: DataSettings, whose: str, typed: Collection[str]) -> DataSettings:
    """What a file that this user's aegen did not write may ask for: a data set by its name, where such sets usually lie."""
    if not ("name" in typed or _by_name(settings.name)):
        raise UsageError(
            f"{whose} names images, {quoted(settings.name)}, without a seal of your aegen (earlier versions made none), so that they are not looked at on its word",
            hint=f"if they may be read, name them: --data {shlex.quote(settings.name)}",
        )
    return without_word(settings, typed)


_OURS = ("root", "cache", "cache_gb")


def without_word(settings: DataSettings, typed: Collection[str] = ()) -> DataSettings:
    """The settings of data in a file that this user's aegen did not write: where sets lie and what the cache may take are as usual.

    Args:
        typed: those that the user named now, which stay.
    """
    usual = DataSettings()
    return replace(settings, **{name: getattr(usual, name) for name in _OURS if name not in typed})


def options_without_word(name: str, options: Mapping[str, Any], typed: Collection[str] = ()) -> dict[str, Any]:
    """The options of a data set in such a file, but free text, which may be a file, a folder, or a place to ask.

    What is declared to be a file stays: `refuse_untyped` looks after it.

    Args:
        name: of the data set.
        typed: those that the user named now, which stay.
    """
    declared = options_of(load("dataset", dataset_name(name), Dataset)) if options else {}
    known = {key for key, option in declared.items() if option.choices or option.file}
    return {k: v for k, v in options.items() if k in typed or k in known or not _has_text(v)}


def _has_text(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value)  # its keys are
    return isinstance(value, str) or (isinstance(value, list | tuple) and any(map(_has_text, value)))


def _by_name(name: str) -> bool:
    """Whether images are named by a data set's name, or by its package's too, and by no path."""
    known = [one for one in registry.components("dataset") if one.name not in ("folder", "array", "shards")]
    if any(name == one.name for one in known):
        return True
    return any(name == f"{one.package}/{one.name}" for one in known) and not os.path.lexists(name)


def _there(name: str) -> bool:
    """Whether a path exists, or any that a pattern of shards, `a-{000..999}.tar`, may mean."""
    try:
        paths = [os.path.expanduser(part) for part in name.split("::")]  # of a user who is not known, as it is
        return any(os.path.exists(path) or glob.glob(re.sub(r"\{[^{}]*\}", "*", path)) for path in paths)
    except OSError:
        return False


def load_data(settings: DataSettings, options: dict[str, Any] | None = None, say: Say = silent) -> Data:
    """Read, check and split.

    Args:
        say: is told how far a long reading is, and what is left out.

    Raises:
        UsageError: the data is missing, empty, unreadable, or too small.
        EnvironmentFault: a data set that was not downloaded.
    """
    return split(read_data(settings, options, say), settings)


def read_data(settings: DataSettings, options: dict[str, Any] | None = None, say: Say = silent) -> Images:
    """As `load_data`, as the data set gives them."""
    name = dataset_name(settings.name)
    side(settings.size)
    spec = Spec(name, options or {})
    made = load("dataset", name, Dataset)
    refuse_untyped(made, "data set", spec)
    source = create(made, "dataset", spec, "data.", {})
    told = encoded.say.set(say)
    try:
        images = source.load(settings)
    finally:
        encoded.say.reset(told)
    outputs.checked(source, outputs.images, images)
    _check(images, settings)
    if images.skipped and settings.strict:
        raise UsageError(
            f"{skipped_text(images.skipped, settings.name)}, which --strict-data refuses",
            hint="mend or remove them, or leave --strict-data out",
        )
    if images.skipped:
        warn(say, f"{skipped_text(images.skipped, settings.name)}; it goes on without them")
    if images.left_out:
        warn(say, f"of {settings.name}, {images.left_out}")
    return images


def split(images: Images, settings: DataSettings) -> Data:
    """Hold out a part, the same in every run, where the data has no split of its own."""
    train, labels, factors = images.pixels, images.labels, images.validation_factors
    if images.validation is None:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(_SPLIT_SEED))
        held = min(max(1, round(len(train) * settings.validation)), len(train) - 1)
        # Sorted, so that neighbours on disk stay neighbours in memory.
        out, kept = order[:held].sort().values, order[held:].sort().values
        validation, validation_labels = pick(train, out), labels[out] if labels is not None else None
        factors = images.factors[out] if images.factors is not None else None
        train, labels = pick(train, kept), labels[kept] if labels is not None else None
    else:
        validation, validation_labels = images.validation
    return _data(images, settings, train, labels, validation, validation_labels, factors)


def whole(images: Images, settings: DataSettings) -> Data:
    """All images on both sides, for a model that has seen none of them; a split of the data's own is kept."""
    if images.validation is not None:
        return split(images, settings)
    return _data(images, settings, images.pixels, images.labels, images.pixels, images.labels, images.factors)


def _data(
    images: Images,
    settings: DataSettings,
    train: Pictures,
    labels: Tensor | None,
    validation: Pictures,
    validation_labels: Tensor | None,
    factors: Tensor | None,
) -> Data:
    parts = [images.pixels] if images.validation is None else [images.pixels, images.validation[0]]
    count, size = sum(len(part) for part in parts), sum(part.shape.numel() for part in parts)
    return Data(
        _plain(train),
        _plain(validation),
        labels,
        validation_labels,
        images.classes,
        images.skipped,
        settings.name,
        factors,
        images.factor_names,
        images.how or f"{count:,} in memory, {decoded_cache.amount(size)}",
        fingerprint(train) if isinstance(train, Rows) and train.digests is not None else None,
        images.left_out,
    )


def _plain(pixels: Pictures) -> Pictures:
    """Images that lie in one tensor as that tensor, which is gathered from without a detour."""
    return pixels.pixels if isinstance(pixels, MemoryRows) else pixels


def _check(images: Images, settings: DataSettings) -> None:
    pixels = images.pixels
    if len(pixels) < 2:
        raise UsageError(f"--data {settings.name} holds {counted(len(pixels), 'image')}, but training needs at least 2")
    height, width = pixels.shape[2:]
    if min(height, width) < SMALLEST:
        hint = f"give --size {SMALLEST} or more"
        raise UsageError(
            f"the images are {height}×{width} pixels (height×width), but must be at least {SMALLEST}×{SMALLEST}",
            hint=hint,
        )


def skipped_text(skipped: list[str], name: str, *, most: int = 5) -> str:
    """`"3 files of photos cannot be used: a.png (not an image), …"`."""
    shown = ", ".join(skipped[:most]) + (f" and {len(skipped) - most} more" if len(skipped) > most else "")
    return f"{counted(len(skipped), 'file')} of {name} cannot be used: {shown}"
