"""Which data set `--data` means."""

from __future__ import annotations

from pathlib import Path

from aegen import registry
from aegen.errors import UsageError, did_you_mean, listing
from aegen.untrusted import quoted


def dataset_name(name: str) -> str:
    """The registered data set that `--data NAME` means: a name, or `folder`, `array` or `shards` for a path.

    Raises:
        UsageError: neither a name nor an existing path.
    """
    if not name.strip():
        raise UsageError(f"--data {name!r} names nothing", hint="give a data set, a folder, a .npy, a .npz or a .tar")
    known = registry.names("dataset")
    if name in known or ("/" in name and name.partition("/")[2] in known and not Path(name).exists()):
        return name
    if registry.is_file(name):
        return name
    if name.endswith(".tar") and "shards" in known:
        return "shards"
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return "folder"
        is_file = path.is_file()
        if path.suffix in (".npy", ".npz") and is_file:
            return "array"
        if path.exists() and not is_file:
            raise UsageError(f"--data {name} is a pipe or a device, but takes a folder, a .npy, a .npz or a .tar")
    except OSError as error:
        raise UsageError(f"--data {name} cannot be read ({error.strerror})") from error
    except (ValueError, RuntimeError) as error:  # a NUL in it; ~ of a user who is not known
        raise UsageError(f"--data {quoted(name)} is no path ({error})") from error
    named = [n for n in known if n not in ("folder", "array", "shards")]
    if is_file:
        raise UsageError(f"--data {name} is a file, but takes a folder, a .npy or a .npz", hint="give its folder")
    hint = did_you_mean(name, named) or "give an existing folder, .npy or .npz, or one of those names"
    raise UsageError(f"--data {name!r} is no existing path and no data set ({listing(named)})", hint=hint)
