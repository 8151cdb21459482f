"""A folder of pictures, searched through and through; a folder a class gives labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from aegen import (
    IMAGE_SUFFIXES,
    Dataset,
    DataSettings,
    ImageFiles,
    Images,
    UsageError,
    common_target,
    keep_images,
)

_LEFT = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


class Folder(Dataset):
    """A folder of pictures, at their own size if all have the same, else 64×64."""

    def load(self, settings: DataSettings) -> Images:
        """Decode every picture in parallel, or find them decoded; what cannot be read is skipped and named."""
        root = Path(settings.name).expanduser()
        try:
            files = sorted(_files(root))
        except OSError as error:
            raise UsageError(f"--data {settings.name} cannot be read ({error.strerror})") from error
        names = [name for name in files if _suffix(name) in IMAGE_SUFFIXES]
        skipped = [f"{Path(*name)} (not an image)" for name in files if _suffix(name) not in IMAGE_SUFFIXES]
        if not names:
            have = f"{len(files)} other files" if files else "nothing"
            raise UsageError(
                f"--data {settings.name} holds no image but {have}",
                hint="PNG, JPEG, WebP, BMP, GIF and TIFF are read, in subfolders too",
            )
        pictures = [root.joinpath(*name) for name in names]
        kept = keep_images(ImageFiles(pictures), settings, lambda: common_target(settings, pictures))
        bad = [f"{Path(*names[number])} ({reason})" for number, reason in sorted(kept.bad.items())]
        if not len(kept.good):
            raise UsageError(f"none of the {len(bad)} images of --data {settings.name} can be read: {bad[0]}, …")
        good = [names[number] for number in kept.good.tolist()]
        classes = _classes(good)
        number = {name: n for n, name in enumerate(classes)}
        labels = torch.tensor([number[name[0]] for name in good]) if classes else None
        return Images(kept.rows, labels, classes, skipped=bad + skipped, how=kept.how)


def _files(folder: Path | str, inside: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The name of every file below a folder, by its parts, but for what systems leave in folders of pictures.

    Raises:
        OSError: the folder cannot be read; of subfolders those that may not be read are passed over.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _LEFT:
                continue
            name = (*inside, entry.name)
            if entry.is_dir(follow_symlinks=False):
                with suppress(PermissionError):
                    yield from _files(entry.path, name)
            elif entry.is_file():
                yield name


def _suffix(name: tuple[str, ...]) -> str:
    return os.path.splitext(name[-1])[1].lower()


def _classes(pictures: list[tuple[str, ...]]) -> list[str]:
    """Names of the subfolders, if every picture is in one and there are several."""
    names = sorted({name[0] for name in pictures if len(name) > 1})
    return names if len(names) > 1 and all(len(name) > 1 for name in pictures) else []
