"""A folder of pictures, searched through and through; a folder a class gives labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from aegen import (
    IMAGE_SUFFIXES,
    Dataset,
    DataSettings,
    Images,
    Target,
    UsageError,
    image_side,
    probe_image,
    read_images,
)

_USUAL = (64, 64)


class Folder(Dataset):
    """A folder of pictures, at their own size if all have the same, else 64×64."""

    def load(self, settings: DataSettings) -> Images:
        """Decode every picture in parallel; what cannot be read is skipped and named."""
        root = Path(settings.name).expanduser()
        try:
            files = sorted(p for p in root.rglob("*") if p.is_file() and not _hidden(p, root))
            next(iter(root.iterdir()), None)  # rglob passes over a folder that may not be read
        except OSError as error:
            raise UsageError(f"--data {settings.name} cannot be read ({error.strerror})") from error
        pictures = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
        skipped = [f"{p.relative_to(root)} (not an image)" for p in files if p.suffix.lower() not in IMAGE_SUFFIXES]
        if not pictures:
            have = f"{len(files)} other files" if files else "nothing"
            raise UsageError(
                f"--data {settings.name} holds no image but {have}",
                hint="PNG, JPEG, WebP, BMP, GIF and TIFF are read, in subfolders too",
            )
        target = _target(settings, pictures)
        tensors, bad = read_images(pictures, target)
        skipped = [f"{path.relative_to(root)} ({reason})" for path, reason in bad] + skipped
        good = [(p, t) for p, t in zip(pictures, tensors, strict=True) if t is not None]
        if not good:
            raise UsageError(f"none of the {len(bad)} images of --data {settings.name} can be read: {skipped[0]}, …")
        classes = _classes([p for p, _ in good], root)
        labels = torch.tensor([classes.index(p.relative_to(root).parts[0]) for p, _ in good]) if classes else None
        return Images(torch.stack([t for _, t in good]), labels, classes, skipped=skipped)


def _hidden(path: Path, root: Path) -> bool:
    """Files that systems leave in folders of pictures."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts) or (
        path.name in ("Thumbs.db", "desktop.ini")
    )


def _target(settings: DataSettings, pictures: list[Path]) -> Target:
    """The shape asked for, or the one that all pictures share."""
    size, channels = image_side(settings.size), settings.channels
    if size is None or channels is None:
        shapes = [s for s in map(probe_image, pictures) if s is not None]
        sizes = Counter(s[0] for s in shapes)
        if size is None:
            size = next(iter(sizes)) if len(sizes) == 1 else _USUAL
        channels = channels or max((s[1] for s in shapes), default=3)
    return Target(size, channels, settings.fit)


def _classes(pictures: list[Path], root: Path) -> list[str]:
    """Names of the subfolders, if every picture is in one and there are several."""
    parts = [p.relative_to(root).parts for p in pictures]
    names = sorted({p[0] for p in parts if len(p) > 1})
    return names if len(names) > 1 and all(len(p) > 1 for p in parts) else []
