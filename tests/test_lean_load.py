"""A checkpoint is compared with its own configuration without torch's compiler, and as strictly as with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Aegen
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import aegen as package
from aegen import registry
from aegen.autoencoder import build_model, build_sampler
from aegen.checkpoint import Checkpoint
from aegen.errors import UsageError
from aegen.factory import unvalued
from aegen.inference.loading import _gives_its_latents
from aegen.protocols import ImageShape
from aegen.spec import Spec

COMMAND = """
import sys
from aegen.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(end.code, [name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


@pytest.mark.parametrize("command", ["sample", "reconstruct"])
def test_no_compiler_is_imported_to_use_a_model(
    trained: Path, tmp_path: Path, environment: dict[str, str], command: str
) -> None:
    Image.new("L", (16, 16)).save(tmp_path / "a.png")
    words = {"sample": ["-n", "2"], "reconstruct": ["a.png"]}[command]
    line = [sys.executable, "-c", COMMAND, command, *words, "-c", str(trained), "-o", "out.png"]
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert (tmp_path / "out.png").exists()


def _with_latent(source: Path, latent: list[int], path: Path) -> Path:
    with safe_open(source, "pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["aegen"])
    header["latent"] = latent
    save_file(kept, path, {"aegen": json.dumps(header)})
    return path


@pytest.mark.parametrize("latent", [[4, 8, 8], [4, 4, 5], [4], [4, 4], [4, 4000, 4000], [4, 1, 1], [4, 4, 4, 1]])
def test_a_map_of_another_size_fits_the_weights_and_is_refused(aegen: Aegen, tmp_path: Path, latent: list[int]) -> None:
    aegen(
        *("train", "--objective", "ae", "--arch", "conv", "--arch.spatial", "--arch.width", 2, "--arch.depth", 2),
        *("--size", 16, "--latent-dim", 4, "--steps", 1, "--run-dir", "map"),
    ).worked()
    file = Path("map/checkpoints/best.safetensors")
    assert package.load(file).latent_shape == (4, 4, 4)
    made = _with_latent(file, latent, tmp_path / "made.safetensors")
    told, words = "×".join(map(str, latent)), ["sample", "-n", 1, "-c", made, "--sampler", "gaussian"]
    aegen(*words).refused(2, f"its latents are {told}, the model's 4×4×4")


@pytest.mark.parametrize("neck", registry.names("bottleneck"))
def test_no_image_tells_the_latents_of_a_model(trained: Path, neck: str) -> None:
    """And leaves the random state as it was; where it tells nothing, the model is built without values."""
    file = Checkpoint(trained / "checkpoints/best.safetensors")
    try:
        model = build_model(
            Spec("mlp", {"hidden": [8]}), Spec(neck), Spec("gaussian"), ImageShape(1, 16, 16), classes=3
        )
    except UsageError:
        return  # one that takes maps
    model.eval()
    before = torch.get_rng_state()
    assert _gives_its_latents(file, model) == (neck not in ("full-gaussian", "vq-2"))
    model.latent_shape = (7,)
    if neck not in ("full-gaussian", "vq-2"):
        with pytest.raises(UsageError, match=r"its latents are 7, the model's \d+"):
            _gives_its_latents(file, model)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
@pytest.mark.parametrize("dim", [3, 300])
def test_samplers_without_values_have_the_shapes_of_those_with(name: str, dim: int) -> None:
    model = build_model(
        Spec("mlp", {"hidden": [8]}), Spec("gaussian", {"dim": dim}), Spec("gaussian"), ImageShape(1, 8, 8)
    )
    with unvalued():
        bare = build_sampler(Spec(name), model).state_dict()
    real = build_sampler(Spec(name), model).state_dict()
    assert {k: (v.shape, v.dtype) for k, v in bare.items()} == {k: (v.shape, v.dtype) for k, v in real.items()}
    assert all(v.is_meta for v in bare.values())
    square = next((v for v in real.values() if v.shape[-2:] == (dim, dim)), None)
    assert square is None or torch.equal(square, torch.eye(dim).expand_as(square))
