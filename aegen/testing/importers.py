"""Checks of importers: a good file becomes a model, and what is no good file is refused in one sentence."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from aegen.autoencoder import built_of
from aegen.contract import outputs
from aegen.errors import AegenError, UsageError
from aegen.fitting import compare
from aegen.protocols import Importer
from aegen.testing.models import check_options

_DAMAGED = 24  # copies


def check_importer(cls: type[Importer], place: Path | str, **options: Any) -> None:
    """Of a good file or folder: its tensors are those of the model that it tells of, twice the same, and the model computes. Damaged copies
    of it (cut short, bytes changed), and what is not there, are a UsageError or a model, and nothing else; what is given is not touched."""
    check_options(cls)
    make: Any = cls
    source = Path(place)
    before = {path: path.read_bytes() for path in _files(source)}
    found, again = make(**options).read(source), make(**options).read(source)
    outputs.imported(found)
    assert found.spec == again.spec, "it reads another model the second time"
    assert all(torch.equal(value, again.tensors[key]) for key, value in found.tensors.items())
    model = built_of(found.spec).eval()
    held = {key: (tuple(value.shape), value.is_floating_point()) for key, value in found.tensors.items()}
    try:
        compare(source, "", model.state_dict(), held)
    except UsageError as error:
        raise AssertionError(error.message) from error
    model.load_state_dict(dict(found.tensors))
    with torch.no_grad():
        x = torch.rand(2, *found.spec.image) * 2 - 1
        assert model.reconstruct(x).isfinite().all(), "what it reconstructs is not finite"
    with TemporaryDirectory() as folder:
        _refused(make(**options), Path(folder) / "nothing", "what is not there")
        for copy in _damaged(source, Path(folder)):
            _refused(make(**options), copy, "a damaged file")
    assert {path: path.read_bytes() for path in _files(source)} == before, "it changes what it reads"


def _files(source: Path) -> list[Path]:
    return sorted(path for path in ([source] if source.is_file() else source.rglob("*")) if path.is_file())


def _damaged(source: Path, folder: Path) -> Iterator[Path]:
    """Copies of which one file each is cut short, has other bytes, or is something else."""
    chance = random.Random(0)
    for number in range(_DAMAGED):
        copy = folder / f"{number}{source.suffix}"
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
        file = chance.choice(_files(copy))
        held = bytearray(file.read_bytes())
        if number % 3 == 0:
            del held[chance.randrange(len(held) + 1) :]
        elif number % 3 == 1:
            for _ in range(chance.randint(1, 8)):
                held[chance.randrange(min(len(held), 2000))] = chance.randrange(256)
        else:
            held = bytearray(chance.choice([b"\xff" * 64, b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"{}" * 40]))
        file.write_bytes(held)
        yield copy


def _refused(importer: Importer, place: Path, what: str) -> None:
    try:
        importer.read(place)
    except AegenError:
        return
    except Exception as error:
        raise AssertionError(f"of {what} it makes a {type(error).__name__} ({error}), not a UsageError") from error
