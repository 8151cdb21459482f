"""A folder of pictures, searched through and through; a folder a class gives labels."""

from __future__ import annotations

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


class Folder(Dataset):
    """A folder of pictures, at their own size if all have the same, else 64×64."""

    def load(self, settings: DataSettings) -> Images:
        """Decode every picture in parallel, or find them decoded; what cannot be read is skipped and named."""
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
        kept = keep_images(ImageFiles(pictures), settings, lambda: common_target(settings, pictures))
        bad = [f"{pictures[number].relative_to(root)} ({reason})" for number, reason in sorted(kept.bad.items())]
        if not len(kept.good):
            raise UsageError(f"none of the {len(bad)} images of --data {settings.name} can be read: {bad[0]}, …")
        good = [pictures[number] for number in kept.good.tolist()] if bad else pictures
        classes = _classes(good, root)
        number = {name: n for n, name in enumerate(classes)}
        labels = torch.tensor([number[p.relative_to(root).parts[0]] for p in good]) if classes else None
        return Images(kept.rows, labels, classes, skipped=bad + skipped, how=kept.how)


def _hidden(path: Path, root: Path) -> bool:
    """Files that systems leave in folders of pictures."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts) or (
        path.name in ("Thumbs.db", "desktop.ini")
    )


def _classes(pictures: list[Path], root: Path) -> list[str]:
    """Names of the subfolders, if every picture is in one and there are several."""
    parts = [p.relative_to(root).parts for p in pictures]
    names = sorted({p[0] for p in parts if len(p) > 1})
    return names if len(names) > 1 and all(len(p) > 1 for p in parts) else []
