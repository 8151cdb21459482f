"""A folder of pictures, searched through and through; a folder a class gives labels."""

from __future__ import annotations

from pathlib import Path

import torch

from aegen import (
    Dataset,
    DataSettings,
    ImageFiles,
    Images,
    LeftOut,
    UsageError,
    common_target,
    keep_images,
    list_images,
)


class Folder(Dataset):
    """A folder of pictures, at their own size if all have the same, else 64×64."""

    def load(self, settings: DataSettings) -> Images:
        """Decode every picture in parallel, or find them decoded; what cannot be read is skipped and named."""
        root = Path(settings.name).expanduser()
        try:
            found = list_images(root)
        except OSError as error:
            raise UsageError(f"--data {settings.name} cannot be read ({error.strerror})") from error
        names, others = found.images, [f"{Path(*name)} (not an image)" for name in found.others]
        if not names:
            have = [f"{len(others)} other file{'s' * (len(others) != 1)}"] * bool(others)
            have += [f"{len(found.left_out)} hidden image{'s' * (len(found.left_out) != 1)}"] * bool(found.left_out)
            have += found.unreadable[:1]
            raise UsageError(
                f"--data {settings.name} holds no image {'but ' + ', and '.join(have) if have else 'and nothing else'}",
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
        left = LeftOut()
        left.add(found.left_out)
        skipped = bad + found.unreadable + others
        return Images(kept.rows, labels, classes, skipped=skipped, left_out=left, how=kept.how)


def _classes(pictures: list[tuple[str, ...]]) -> list[str]:
    """Names of the subfolders, if every picture is in one and there are several."""
    names = sorted({name[0] for name in pictures if len(name) > 1})
    return names if len(names) > 1 and all(len(name) > 1 for name in pictures) else []
