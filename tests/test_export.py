"""Exports: the same model in another file, for any batch, with all that is needed to use it."""

from __future__ import annotations

import functools
import gc
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Aegen
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from aegen import Bottleneck, Latent, PluginError, RunError, load, registry
from aegen.autoencoder import Autoencoder, build_model
from aegen.factory import load as load_class
from aegen.protocols import ImageShape
from aegen.sampler_file import SamplerFile
from aegen.spec import Spec

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from aegen_builtin.exporters.onnx import ONNX, Decode, Encode, Nearest  # noqa: E402

IMAGE = ImageShape(1, 6, 5)
NETS = {
    "mlp": Spec("mlp", {"hidden": [4]}),
    "conv": Spec("conv", {"width": 2, "depth": 1, "hidden": 4}),
    "map": Spec("conv", {"width": 2, "depth": 1, "spatial": True}),
}
SIZES = {  # a graph takes as long as it has operators
    "vq": {"codes": 8},
    "vq-2": {"codes": 8},
    "residual-vq": {"codes": 8, "levels": 2},
    "product-vq": {"codes": 8, "groups": 2},
    "lfq": {"dim": 4},
    "flow-posterior": {"depth": 1},
}
NECKS = [c.name for c in registry.components("bottleneck") if c.builtin]


@pytest.fixture(scope="module", autouse=True)
def one_registry() -> Iterator[None]:
    """Half the time of a tiny graph is what torch does anew for each: the source of some five hundred operators is read, all operators
    are looked through, and the collector of garbage walks over all of it."""
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    patch, usual = pytest.MonkeyPatch(), gc.get_threshold()
    patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
    patch.setattr(utils, "_materialize_cpp_cia_ops", functools.cache(utils._materialize_cpp_cia_ops))
    gc.set_threshold(500_000, *usual[1:])
    yield
    gc.set_threshold(*usual)
    patch.undo()


def built(neck: str, net: str = "mlp", likelihood: str = "gaussian", **options: object) -> Autoencoder:
    torch.manual_seed(0)
    spec = Spec(neck, SIZES.get(neck, {}) | options)
    model = build_model(NETS[net], spec, Spec(likelihood), IMAGE, classes=3)
    return model.eval().requires_grad_(False)


def header(model: Autoencoder) -> dict[str, object]:
    return {"spec": {"arch": {}, "bottleneck": {}, "likelihood": {}}}


def run(file: Path, value: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(file)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: value.numpy()})[0])


def agree(file: Path, module: nn.Module, batches: list[Tensor]) -> None:
    """A graph gives what the module gives, for one image and for five, says that the batch is free, and draws nothing."""
    for x in batches:
        torch.testing.assert_close(run(file, x), module(x), rtol=0, atol=1e-5)
    graph = onnx.load(file).graph
    assert [v.type.tensor_type.shape.dim[0].dim_param for v in (*graph.input, *graph.output)] == ["batch", "batch"]
    assert not [node.op_type for node in graph.node if node.op_type.startswith("Random")]


def images() -> list[Tensor]:
    return [torch.rand(count, *IMAGE) * 2 - 1 for count in (1, 5)]


def check(model: Autoencoder, folder: Path) -> None:
    """All graphs of a model."""
    ONNX().export(model, folder, header(model))
    latents = [model.encode(x).mean for x in images()]
    agree(folder / "encoder.onnx", Encode(model), images())
    agree(folder / "decoder.onnx", Decode(model), latents)
    if (folder / "nearest.onnx").exists():
        agree(folder / "nearest.onnx", Nearest(model), latents)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("neck", NECKS)
def test_every_encoder_exports_for_any_batch(neck: str, net: str, tmp_path: Path) -> None:
    model = built(neck, net)
    ONNX().graph(Encode(model), torch.zeros(2, *IMAGE), tmp_path / "encoder.onnx", "image", "latent")
    agree(tmp_path / "encoder.onnx", Encode(model), images())


@pytest.mark.parametrize("net", ["conv", "map"])  # the bottleneck is given the same by conv and by mlp
@pytest.mark.parametrize(
    "neck", [name for name in NECKS if load_class("bottleneck", name, Bottleneck).nearest is not Bottleneck.nearest]
)
def test_what_every_bottleneck_can_give_exports_for_any_batch(neck: str, net: str, tmp_path: Path) -> None:
    model = built(neck, net)
    shape = model.latent_shape
    ONNX().graph(Nearest(model), torch.zeros(2, *shape), tmp_path / "nearest.onnx", "drawn", "latent")
    agree(tmp_path / "nearest.onnx", Nearest(model), [model.encode(x).mean for x in images()])


@pytest.mark.parametrize("net", NETS)
def test_every_decoder_exports_for_any_batch(net: str, tmp_path: Path) -> None:
    """Of one bottleneck: to a decoder, a latent is a latent."""
    check(built("gaussian", net), tmp_path)


@pytest.mark.parametrize(
    ("neck", "net", "likelihood", "options"),
    [
        ("vq", "map", "bernoulli", {"l2_normalised": True, "rotation_trick": True}),
        ("vq-2", "conv", "laplace", {"update": "gradient"}),
        ("flow-posterior", "mlp", "continuous-bernoulli", {"flow": "planar"}),
        ("flow-posterior", "map", "log-cosh", {"flow": "radial"}),
        ("categorical", "mlp", "discretized-logistic", {"hard": True}),
    ],
)
def test_options_and_likelihoods_export_too(
    neck: str, net: str, likelihood: str, options: dict[str, object], tmp_path: Path
) -> None:
    check(built(neck, net, likelihood, **options), tmp_path)


class Counting(Bottleneck):
    """As many zeros as the batch is long: `len` makes it a number, which a tracer may take for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.fan_in = 2

    def forward(self, features: Tensor) -> Latent:
        return Latent(features, features.new_zeros(len(features)))


class Looking(Counting):
    """Looks at values, which no graph can."""

    def forward(self, features: Tensor) -> Latent:
        return super().forward(features if features.sum().item() > 0 else -features)


class Fixed(Counting):
    """Knows one batch only."""

    def forward(self, features: Tensor) -> Latent:
        return Latent(features * torch.ones(2, 1), features.new_zeros(features.shape[0]))


def around(neck: Bottleneck) -> Autoencoder:
    model = built("deterministic", dim=2)
    model.bottleneck = neck
    return model.eval()


def encoder(model: Autoencoder, folder: Path) -> Path:
    return ONNX().graph(Encode(model), torch.zeros(2, *IMAGE), folder / "encoder.onnx", "image", "latent")


def test_a_bottleneck_that_counts_its_batch_exports_for_any_other(tmp_path: Path) -> None:
    model = around(Counting())
    agree(encoder(model, tmp_path), Encode(model), images())


@pytest.mark.parametrize("neck", [Looking, Fixed])
def test_a_bottleneck_that_cannot_be_a_graph_is_named(neck: type[Bottleneck], tmp_path: Path) -> None:
    model = around(neck())
    with pytest.raises(PluginError, match=rf"batch of any size.*bottleneck {neck.__name__} \(.+\)") as found:
        encoder(model, tmp_path)
    assert "\n" not in str(found.value) and "x.shape[0] for len(x)" in found.value.hint


# ------------------------------------------------------------------------------------------ what travels


def test_an_exported_file_draws_what_the_run_draws(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    aegen("export", "-c", trained, "-o", "small.safetensors").worked()
    aegen("sample", "-c", trained, "-n", 9, "-o", "a.png").worked()
    aegen("sample", "-c", "small.safetensors", "-n", 9, "-o", "b.png").worked()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    run, file = load(trained, device="cpu"), load("small.safetensors", device="cpu")
    for ours, theirs in zip(run.sample_batches(20, seed=3), file.sample_batches(20, seed=3), strict=True):
        assert torch.equal(ours, theirs)
    assert file.file.header["samplers"] == {"mixture": {}} and file.samplers == run.samplers
    assert file.file.header["data"]["classes"] == [str(n) for n in range(10)]
    assert not file.file.has("optim")


def test_every_kept_sampler_travels(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, "run")
    aegen("sample", "-c", "run", "--sampler", "gaussian", "-n", 4, "-o", "a.png").worked()
    aegen("export", "-c", "run", "-o", "small.safetensors").worked()
    shutil.rmtree("run")
    said = aegen("sample", "-c", "small.safetensors", "--sampler", "gaussian", "-n", 4, "-o", "b.png").worked()
    assert "fitting" not in said.err
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_an_onnx_folder_holds_what_is_needed_to_draw(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    aegen("export", "-c", trained, "--format", "onnx", "-o", "v1.0").worked()
    about = json.loads((tmp_path / "v1.0/config.json").read_text())
    assert about["image"] == {"channels": 1, "height": 16, "width": 16} and about["fit"] == "crop"
    assert about["classes"] == [str(n) for n in range(10)] and about["samplers"] == {"mixture": {}}
    kept = load_file("v1.0/samplers.safetensors")
    run = SamplerFile(trained / "samplers/mixture.safetensors").tensors("sampler.")
    assert {key: value.tolist() for key, value in kept.items()} == {f"mixture.{k}": v.tolist() for k, v in run.items()}


def test_codes_drawn_for_an_onnx_folder_are_brought_to_the_codebook(tmp_path: Path) -> None:
    model = built("vq", "map")
    ONNX().graph(Nearest(model), torch.zeros(2, *model.latent_shape), tmp_path / "nearest.onnx", "drawn", "latent")
    drawn = torch.randn(7, *model.latent_shape)
    book = model.bottleneck.book.vectors.double()
    rows = drawn.movedim(1, -1).double()
    nearest = ((rows.unsqueeze(-2) - book) ** 2).sum(-1).argmin(-1)  # by the definition, in float64
    expected = book[nearest].movedim(-1, 1).float()
    torch.testing.assert_close(run(tmp_path / "nearest.onnx", drawn), expected, rtol=0, atol=1e-6)


WEIGHTS_ALONE = '''
import numpy as np
from aegen import Exporter


class Plain(Exporter):
    """The weights alone."""

    suffix = ".npz"

    def export(self, model, path, header):
        np.savez(path, **{k: v.numpy() for k, v in model.state_dict().items()})
        return [path]

    def parity(self, model, path, x):
        return {"weights": 0.0 if len(x) > 1 else float("nan")}


class Far(Plain):
    """Right for one image alone."""

    def parity(self, model, path, x):
        return {"weights": 0.5 if len(x) > 1 else 0.0}


class Broken(Plain):
    """Ends in the middle."""

    def export(self, model, path, header):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    place = tmp_path / "mine.py"
    place.write_text(WEIGHTS_ALONE)
    return place


def test_a_difference_of_any_batch_counts(aegen: Aegen, trained: Path, mine: Path) -> None:
    said = aegen("export", "-c", trained, "--format", "./mine.py:Plain", "-o", "a.npz")
    said.refused(1, "./mine.py:Plain weights differs from the model by nan")
    said = aegen("export", "-c", trained, "--format", "./mine.py:Far", "-o", "b.npz", "--tolerance", 0.4)
    said.refused(1, "weights differs from the model by 0.5, more than 0.4")


def test_nothing_is_left_of_an_export_that_failed(aegen: Aegen, trained: Path, mine: Path, tmp_path: Path) -> None:
    aegen("export", "-c", trained, "--format", "./mine.py:Broken", "-o", "a.npz").refused(
        1, "cannot write a.npz (No space"
    )
    assert not (tmp_path / "a.npz").exists()


def test_what_a_format_does_not_hold_is_said(aegen: Aegen, trained: Path, mine: Path) -> None:
    said = aegen("export", "-c", trained, "--format", "./mine.py:Plain", "-o", "c.npz", "--tolerance", 1)
    assert said.code == 1  # NaN is no difference that can be tolerated
    assert "do not hold the fitted sampler mixture, what images are brought to, the names of the classes" in said.err


def test_an_encoder_that_nobody_trained_is_left_out(aegen: Aegen) -> None:
    aegen(
        "train",
        "--arch",
        "mlp",
        "--arch.hidden",
        "[4]",
        "--size",
        8,
        "--objective",
        "gan",
        "--steps",
        1,
        "--run-dir",
        "g",
    ).worked()
    said = aegen("export", "-c", "g", "--format", "onnx", "-o", "x", "--json").worked()
    assert json.loads(said.out)["files"] == ["x/decoder.onnx", "x/config.json"]
    assert list(json.loads(said.out)["parity"]) == ["decoder"]


# ------------------------------------------------------------------------------------------ names and rights


@pytest.mark.parametrize("name", ["exp-v0.1", "a.b.c", ".hidden", "x.safetensors.d"])
def test_an_export_is_called_by_the_whole_name(aegen: Aegen, trained: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(trained, name)
    shutil.copy(Path(name, "checkpoints/best.safetensors"), "m.v2.safetensors")
    assert aegen("export", "-c", name).worked().out == f"{name}-safetensors.safetensors\n"
    assert aegen("export", "-c", name).worked().out == f"{name}-safetensors-2.safetensors\n"
    assert (
        aegen("export", "-c", f"{name}/checkpoints/last.safetensors").worked().out.startswith(f"{name}-safetensors-3")
    )
    assert aegen("export", "-c", "m.v2.safetensors").worked().out == "m.v2-safetensors.safetensors\n"


def test_a_folder_is_numbered_after_its_whole_name(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, "exp-v0.1")
    Path("exp-v0.1-onnx").mkdir()
    said = aegen("export", "-c", "exp-v0.1", "--format", "onnx").worked()
    assert said.out.splitlines()[0] == "exp-v0.1-onnx-2/encoder.onnx"


@pytest.mark.skipif(os.name != "posix", reason="permissions are a POSIX thing")
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_every_file_is_as_readable_as_the_umask_says(aegen: Aegen, trained: Path, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        aegen("train", "--arch", "mlp", "--arch.hidden", "[8]", "--steps", 2, "--run-dir", "run").worked()
        aegen("export", "-c", "run", "-o", "small.safetensors").worked()
        aegen("sample", "-c", "run", "-n", 4, "-o", "a.png").worked()
        aegen(
            "sample", "-c", "run", "--sampler", "gaussian", "-n", 4, "-o", "b.png"
        ).worked()  # rewrites the checkpoint
        aegen("evaluate", "-c", "run", "--metric", "reconstruction").worked()
    finally:
        os.umask(before)
    modes = {str(p.relative_to(tmp_path)): stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*") if p.is_file()}
    assert "run/checkpoints/best.safetensors" in modes and "small.safetensors" in modes
    assert set(modes.values()) == {0o666 & ~mask}, modes


# ------------------------------------------------------------------------------------------ what cannot be had


@pytest.mark.parametrize("opset", [onnx.defs.onnx_opset_version() + 1, 30, 1000])
def test_an_operator_set_that_there_is_not_is_refused(aegen: Aegen, trained: Path, tmp_path: Path, opset: int) -> None:
    said = aegen("export", "-c", trained, "--format", "onnx", "--export.opset", opset, "-o", "x")
    said.refused(2, f"--export.opset is {opset}", f"from 18 to {onnx.defs.onnx_opset_version()}")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("opset", [18, 21])
def test_an_operator_set_that_there_is_is_written(opset: int, tmp_path: Path) -> None:
    model, z = built("gaussian"), torch.zeros(2, 16)
    file = ONNX(opset=opset).graph(Decode(model), z, tmp_path / "decoder.onnx", "latent", "image")
    assert [s.version for s in onnx.load(file).opset_import if not s.domain] == [opset]


def test_another_operator_set_than_was_asked_for_is_an_error(
    aegen: Aegen, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: original(*a, **k | {"opset_version": 18}))
    said = aegen("export", "-c", trained, "--format", "onnx", "--export.opset", 20, "-o", "x")
    said.refused(2, "--export.opset is 20", "coder.onnx in 18", "give --export.opset 18")
    assert not (tmp_path / "x").exists(), "half of an export is left"


def test_a_graph_that_does_not_run_is_a_sentence(tmp_path: Path) -> None:
    model = built("deterministic")
    ONNX().export(model, tmp_path, header(model))
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(RunError, match=r"onnxruntime .* cannot run .*encoder.onnx for a batch of 3") as found:
        ONNX().parity(model, tmp_path, torch.zeros(3, *IMAGE))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("data", "run"), [("faces.v2", "mlp-vae-faces-v2"), ("a.b.npz", "mlp-vae-a-b"), ("faces", "mlp-vae-faces")]
)
def test_a_run_is_called_by_the_whole_name_of_its_data(aegen: Aegen, tmp_path: Path, data: str, run: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    if data.endswith(".npz"):
        np.savez(data, images=pixels)
    else:
        Path(data).mkdir()
        for number, image in enumerate(pixels):
            Image.fromarray(image).save(Path(data, f"{number}.png"))
    aegen("train", "--arch", "mlp", "--arch.hidden", "[4]", "--data", data, "--steps", 1).worked()
    assert Path("runs", run, "config.toml").is_file()
