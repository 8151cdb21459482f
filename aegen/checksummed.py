"""Tensors and a JSON text → one safetensors file with a digest of each, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from aegen.atomic import drafted
from aegen.untrusted import parse_json


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    about: str,
    entry: str,
    may: Callable[[], None] | None = None,
    *,
    replaces: bool = True,
) -> None:
    """Write atomically: a temporary file in the same folder, flushed to disk, then renamed over `path`.

    Args:
        about: JSON, which becomes the metadata `entry`; `checksums` stands beside it.
        may, replaces: as `atomic.drafted` has them.

    Raises:
        OSError: the file cannot be written; what stood at `path` is untouched and nothing is left behind.
    """
    plain = _detached(tensors)
    sums = {"header": digest_of_text(about.encode()), "tensors": {k: digest(v) for k, v in plain.items()}}
    with drafted(path, may=may, replaces=replaces) as temporary:
        try:
            save_file(plain, temporary, {entry: about, "checksums": json.dumps(sums)})
        except SafetensorError as error:
            raise _disk(error) from error


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, each with memory of its own, which safetensors demands."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        if plain.numel() and plain.untyped_storage().data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        result[name] = plain
    return result


def _disk(error: SafetensorError) -> OSError:
    """safetensors reports a full disk with an error of its own, the system's number in its text."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else OSError(str(error))


_BLOCK = 4096  # bytes


def digest(tensor: Tensor) -> str:
    """Sixteen hexadecimal digits of a contiguous tensor's bytes, at the speed of memory.

    BLAKE2b of the sums of its words of 64 bits in each whole block of 4,096 bytes, and of the bytes that are left. It is there
    for accidents: it sees any flipped bit and any block that is lost, zeroed or moved, and hides nothing from an attacker. A
    cryptographic hash of all bytes would take longer than reading them.
    """
    raw = tensor.reshape(-1).view(torch.uint8)
    whole = raw.numel() // _BLOCK * _BLOCK
    found = hashlib.blake2b(digest_size=8)
    if whole:  # read as a buffer: in a file a tensor begins anywhere, and a view of words would have to be aligned
        words = torch.frombuffer(raw.numpy(), dtype=torch.int64, count=whole // 8)
        found.update(words.view(-1, _BLOCK // 8).sum(1).numpy().data)
    found.update(raw[whole:].numpy().data)
    return found.hexdigest()


def digest_of_text(text: bytes) -> str:
    """Sixteen hexadecimal digits of a text."""
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def checksums(metadata: Mapping[str, str], entry: str) -> dict[str, str]:
    """Digests of the tensors by key; none in a file from before there were any."""
    if "checksums" not in metadata:
        return {}
    sums = parse_json(metadata["checksums"])
    if not isinstance(sums, dict) or sums.get("header") != digest_of_text(metadata[entry].encode()):
        raise ValueError("its checksum does not fit")
    return dict(sums["tensors"])
