"""Tensors of files that others wrote: safetensors and nothing that could run code."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from aegen.errors import UsageError
from aegen.safetensors_file import OpenedFile

_HOW = "save it as safetensors where you trust it: from safetensors.torch import save_file; save_file(model.state_dict(), 'model.safetensors')"
_HEADS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # a zip, as torch.save writes; pickles
_MOST = 100_000  # tensors of a file


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; those of half precision and integers as they are.

    Raises:
        UsageError: there is no such file, it is damaged, or it is a pickle, which runs code when it is read.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint="give a safetensors file")
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error})") from error
    if head.startswith(_HEADS) and head[8:9] != b"{":  # a length of 640 begins as a pickle does
        raise UsageError(f"{path} is a pickle, which runs code when it is read", hint=_HOW)
    try:
        opened = OpenedFile(path)
        keys = opened.keys
        if len(keys) > _MOST:
            raise UsageError(f"{path} has {len(keys):,} tensors, more than any model")
        return {key: opened.tensor(key) for key in keys}
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise UsageError(f"{path} is not a whole safetensors file ({error})"[:400], hint=_HOW) from error
