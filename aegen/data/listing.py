"""Which files of a folder are its images, by one rule for every command.

Folders below it are searched through and through, and so are those that are links, once each: under their own name where they have one below,
and never in a circle. What is hidden (a name that begins with a dot) or left behind by systems is left out; its images are named.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from aegen.data.decode import SUFFIXES

_SYSTEM = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
HIDDEN = "hidden"


@dataclass
class Listing:
    """The files of a folder.

    Attributes:
        images: their names below the folder, by their parts, sorted.
        others: those of files that are no images by their endings.
        unreadable: "name (reason)" of what may hold images but cannot be read.
        left_out: "name (reason)" of images that are there, and are not meant.
    """

    images: list[tuple[str, ...]] = field(default_factory=list)
    others: list[tuple[str, ...]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def is_image(name: str) -> bool:
    """Whether a file is an image by its ending."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a part of a path keeps what is called so, or lies in it, from being listed."""
    return (name.startswith(".") and name not in (".", "..")) or name in _SYSTEM


def list_folder(root: Path) -> Listing:
    """Everything below a folder.

    Raises:
        OSError: the folder itself cannot be read.
    """
    found, seen = Listing(), set[tuple[int, int]]()
    # Links wait until all that lies here was seen, so that a folder goes by its own name and not by that of a link to it.
    here: list[tuple[tuple[str, ...], bool]] = [((), False)]
    links: list[tuple[str, ...]] = []
    while here or links:
        if not here:
            here.append((links.pop(0), False))
        parts, hidden = here.pop()
        folder = root.joinpath(*parts)
        try:
            told = os.stat(folder)
            if (told.st_dev, told.st_ino) in seen:
                continue
            seen.add((told.st_dev, told.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not parts:
                raise
            if not hidden:
                found.unreadable.append(f"{Path(*parts)} (a folder that cannot be read: {error.strerror})")
            continue
        for entry in inside:
            name, concealed = (*parts, entry.name), hidden or is_hidden(entry.name)
            if not _is_dir(entry):
                _add(found, name, entry, concealed)
            elif not entry.is_symlink():
                here.append((name, concealed))
            elif not concealed:
                links.append(name)
    found.images.sort()
    found.others.sort()
    found.unreadable.sort()
    found.left_out.sort()
    return found


def _add(found: Listing, name: tuple[str, ...], entry: os.DirEntry[str], hidden: bool) -> None:
    image = is_image(entry.name)
    if hidden:
        found.left_out += [f"{Path(*name)} ({HIDDEN})"] * image
    elif _is_file(entry):
        (found.images if image else found.others).append(name)
    elif image:
        found.unreadable.append(f"{Path(*name)} ({'a link to nothing' if entry.is_symlink() else 'no file'})")


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def match(pattern: str) -> tuple[list[Path], list[str]]:
    """The files and folders that a pattern such as `photos/*.png` means, sorted, and "name (reason)" of images that are left out."""
    if "**" in Path(pattern).parts:
        return _match_deep(pattern)
    shown = sorted(Path(path) for path in glob.glob(pattern))
    every = sorted(Path(path) for path in glob.glob(pattern, include_hidden=True))
    told = set(shown)
    return shown, [f"{path} ({HIDDEN})" for path in every if path not in told and is_image(path.name)]


def _match_deep(pattern: str) -> tuple[list[Path], list[str]]:
    """By the listing of a folder: glob follows links in circles."""
    parts = Path(pattern).parts
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    base, wanted = Path(*parts[:first]), parts[first:]
    try:
        found = list_folder(base)
    except OSError:
        return [], []
    names = [name for name in sorted(found.images + found.others) if _fits(name, wanted)]
    left = [text for text in found.left_out if _fits(Path(text.rpartition(" (")[0]).parts, wanted)]
    return [base.joinpath(*name) for name in names], [f"{base / text}" for text in left]


def _fits(name: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a name is one that a pattern means, part by part; `**` stands for any number of folders."""
    if not pattern or not name:
        return not pattern and not name
    if pattern[0] == "**":
        return _fits(name, pattern[1:]) or _fits(name[1:], pattern)
    return fnmatchcase(name[0], pattern[0]) and _fits(name[1:], pattern[1:])
