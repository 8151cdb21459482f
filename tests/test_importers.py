"""Models that were trained elsewhere: files of plain PyTorch modules become checkpoints that do what the modules did."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from aegen_builtin.importers.state_dict import StateDict
from conftest import Aegen
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import aegen as library
from aegen import Imported, UsageError, import_model
from aegen.checkpoint import Checkpoint
from aegen.testing import check_importer


class Tutorial(nn.Module):
    """The VAE of PyTorch's examples: fc1, fc21 (mean), fc22 (log-variance), fc3, fc4."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(784, 40), nn.Linear(40, 5), nn.Linear(40, 5)
        self.fc3, self.fc4 = nn.Linear(5, 40), nn.Linear(40, 784)

    def encode(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc21(torch.relu(self.fc1(x.flatten(1))))
        return found

    def logvar(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc22(torch.relu(self.fc1(x.flatten(1))))
        return found

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.fc4(torch.relu(self.fc3(z)))).view(-1, 1, 28, 28)


class Plain(nn.Module):
    """An autoencoder of two Sequentials."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Tensor) -> Tensor:
        found: Tensor = self.encoder(x)
        return found

    def decode(self, z: Tensor) -> Tensor:
        found: Tensor = self.decoder(z)
        return found


class Heads(Plain):
    """A convolutional VAE with nested blocks, batch norms, heads and a layer from the latent, as much code has."""

    def __init__(self) -> None:
        def down(fan_in: int, out: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(fan_in, out, 3, 2, 1), nn.BatchNorm2d(out), nn.LeakyReLU())

        def up(fan_in: int, out: int) -> nn.Module:
            return nn.Sequential(
                nn.ConvTranspose2d(fan_in, out, 3, 2, 1, output_padding=1), nn.BatchNorm2d(out), nn.LeakyReLU()
            )

        super().__init__(nn.Sequential(down(3, 6), down(6, 8)), nn.Sequential(up(8, 6), up(6, 6)))
        self.fc_mu, self.fc_var = nn.Linear(8 * 64, 4), nn.Linear(8 * 64, 4)
        self.decoder_input = nn.Linear(4, 8 * 64)
        self.final_layer = nn.Sequential(nn.Conv2d(6, 3, 3, 1, 1), nn.Tanh())

    def encode(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc_mu(self.encoder(x).flatten(1))
        return found

    def decode(self, z: Tensor) -> Tensor:
        h = nn.functional.leaky_relu(self.decoder_input(z)).view(-1, 8, 8, 8)
        found: Tensor = self.final_layer(self.decoder(h))
        return found


def mlp() -> Plain:
    forth = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 3))
    back = nn.Sequential(
        nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 64), nn.Unflatten(1, (1, 8, 8))
    )
    return Plain(forth, back)


def conv() -> Plain:
    forth = [
        nn.Conv2d(1, 6, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 49, 5),
    ]
    back = [nn.Linear(5, 8 * 49), nn.ReLU(), nn.Unflatten(1, (8, 7, 7)), nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.ReLU()]
    return Plain(nn.Sequential(*forth), nn.Sequential(*back, nn.ConvTranspose2d(6, 1, 4, 2, 1), nn.Sigmoid()))


def maps() -> Plain:
    """Convolutions alone, whose latent is a map; no bias, other strides."""
    forth = [nn.Conv2d(3, 8, 5, 4, 1, bias=False), nn.GELU(), nn.Conv2d(8, 4, 3, 1, 1)]
    back = [nn.ConvTranspose2d(4, 8, 4, 4, 0), nn.GELU(), nn.Conv2d(8, 3, 3, 1, 1), nn.Sigmoid()]
    return Plain(nn.Sequential(*forth), nn.Sequential(*back))


def unit(x: Tensor) -> Tensor:
    return (x + 1) / 2


CASES: dict[
    str,
    tuple[Callable[[], Any], tuple[int, ...], dict[str, Any], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
] = {
    "tutorial": (Tutorial, (1, 28, 28), {}, unit, lambda y: 2 * y - 1),
    "mlp": (
        mlp,
        (1, 8, 8),
        {"activation": "tanh", "output": "none", "pixels": "symmetric"},
        lambda x: x,
        lambda y: y.clamp(-1, 1),
    ),
    "conv": (conv, (1, 28, 28), {}, unit, lambda y: 2 * y - 1),
    "conv, mean squares": (conv, (1, 28, 28), {"likelihood": "gaussian"}, unit, lambda y: 2 * y - 1),
    "heads": (
        Heads,
        (3, 32, 32),
        {"activation": "leaky-relu", "output": "tanh", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]},
        lambda x: (
            (unit(x) - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.2, 0.2, 0.1]).view(1, 3, 1, 1)
        ),
        lambda y: y,
    ),
    "maps": (
        maps,
        (3, 24, 32),
        {"activation": "gelu", "size": [24, 32], "strides": [4, 1], "back_strides": [4, 1]},
        unit,
        lambda y: 2 * y - 1,
    ),
}


def made(build: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    module = build().train()
    with torch.no_grad():
        for one in module.modules():
            if isinstance(one, nn.BatchNorm2d):
                one.running_mean.normal_()
                one.running_var.uniform_(0.5, 2)
                one.weight.uniform_(0.5, 2)
    return module.eval()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_what_is_imported_does_what_the_module_did(name: str, tmp_path: Path) -> None:
    build, image, options, pixels, result = CASES[name]
    module = made(build)
    save_file(module.state_dict(), tmp_path / "mine.safetensors")
    file = import_model(tmp_path / "mine.safetensors", options=options, out=tmp_path / "model.safetensors")
    model = library.load(file, device="cpu")
    x = torch.rand(3, *image) * 2 - 1
    z = model.encode(x).mean
    torch.testing.assert_close(z, module.encode(pixels(x)), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.decode(z), result(module.decode(z)), rtol=0, atol=1e-6)
    assert model.image == image and not model.file.has_run


@torch.no_grad()
def test_the_spread_of_the_posterior_is_that_of_the_head(tmp_path: Path) -> None:
    module = made(Tutorial)
    save_file(module.state_dict(), tmp_path / "mine.safetensors")
    posterior: Any = (
        library.load(import_model(tmp_path / "mine.safetensors", out=tmp_path / "a.safetensors"))
        .encode(torch.zeros(1, 1, 28, 28))
        .posterior
    )
    logvar = module.logvar(torch.full((1, 1, 28, 28), 0.5))
    torch.testing.assert_close(posterior.std, torch.exp(logvar / 2), rtol=1e-5, atol=1e-6)
    options = {"heads": "log-std"}
    posterior = (
        library.load(import_model(tmp_path / "mine.safetensors", options=options, out=tmp_path / "b.safetensors"))
        .encode(torch.zeros(1, 1, 28, 28))
        .posterior
    )
    torch.testing.assert_close(posterior.std, torch.exp(logvar), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_layers_that_are_said_outright_are_taken(tmp_path: Path) -> None:
    forth = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3, padding=1))
    back = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.SiLU(),
        nn.Upsample(scale_factor=2.0, mode="nearest"),
        nn.Conv2d(4, 1, 1),
        nn.Sigmoid(),
    )
    module = made(lambda: Plain(forth, back))
    save_file({f"model.{k}": v for k, v in module.state_dict().items()}, tmp_path / "mine.safetensors")
    options: dict[str, Any] = {
        "size": [8, 8],
        "encoder": [str(one) for one in forth],
        "decoder": [str(one) for one in back],
    }
    model = library.load(
        import_model(tmp_path / "mine.safetensors", options=options, out=tmp_path / "m.safetensors"), device="cpu"
    )
    x = torch.rand(2, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(model.reconstruct(x), 2 * module.decode(module.encode(unit(x))) - 1, rtol=0, atol=1e-6)


def test_commands_work_on_what_was_imported(aegen: Aegen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(made(mlp).state_dict(), tmp_path / "mine.safetensors")
    Image.new("L", (8, 8), 90).save("a.png")
    Image.new("L", (8, 8), 190).save("b.png")
    options = ["--importer.activation", "tanh", "--importer.output", "none"]
    told = aegen("import", "mine.safetensors", *options, "--data", "digits", "-o", "m.safetensors")
    assert told.code == 0, told.err
    assert "encoder: Affine(0.5, 0.5), Flatten(), Linear(64, 20), Tanh()" in told.err
    file = Checkpoint(Path("m.safetensors"))
    assert file.header["samplers"] == {"mixture": {}} and file.model_spec.statistics is not None
    for words in (
        ["reconstruct", "a.png"],
        ["sample", "-n", "4"],
        ["interpolate", "a.png", "b.png"],
        ["export", "-o", "again.safetensors"],
        ["evaluate", "--data", "digits", "--metric", "reconstruction", "--metric", "latents"],
    ):
        done = aegen(*words, "-c", "m.safetensors")
        assert done.code == 0, done.err
    for words, sentence in (
        (["evaluate", "-c", "m.safetensors"], "was imported and has no images of its own; name images"),
        (["report", "m.safetensors"], "m.safetensors was imported and has no run here"),
        (["compare", "m.safetensors", "m.safetensors"], "m.safetensors was imported and has no run here"),
        (["train", "--resume", "m.safetensors"], "m.safetensors was imported and has no run here"),
        (["sample", "-c", "m.safetensors", "--sampler", "gaussian"], "needs the images that the model was trained on"),
        (["import", "mine.safetensors", "-o", "m.safetensors"], "m.safetensors exists already"),
    ):
        aegen(*words).refused(2, sentence)


def test_a_checkpoint_that_was_imported_exports_to_onnx(tmp_path: Path) -> None:
    save_file(made(conv).state_dict(), tmp_path / "mine.safetensors")
    file = import_model(tmp_path / "mine.safetensors", out=tmp_path / "m.safetensors")
    done = library.export(file, format="onnx", out=tmp_path / "onnx")
    assert max(done.parity.values()) < 1e-4 and (tmp_path / "onnx" / "encoder.onnx") in done.files


def test_the_contract_holds_the_importer(tmp_path: Path) -> None:
    save_file(made(mlp).state_dict(), tmp_path / "mine.safetensors")
    check_importer(StateDict, tmp_path / "mine.safetensors", output="none")

    class Careless(StateDict):
        """Gives tensors that do not fit."""

        def read(self, place: Path) -> Imported:
            found = super().read(place)
            return Imported(found.spec, {k: v[:1] for k, v in found.tensors.items()})

    with pytest.raises(AssertionError, match="the model has"):
        check_importer(Careless, tmp_path / "mine.safetensors")

    class Fragile(StateDict):
        """Opens what it likes as it likes."""

        def read(self, place: Path) -> Imported:
            if place.is_file() and place.read_bytes()[:1] == b"\xff":
                raise ValueError("what is this")
            return super().read(place)

    with pytest.raises(AssertionError, match="of a damaged file it makes a ValueError"):
        check_importer(Fragile, tmp_path / "mine.safetensors")


def test_pickles_are_refused_and_never_read(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "old.pt").write_bytes(pickle.dumps(Bomb()))
    with zipfile.ZipFile(tmp_path / "new.pth", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    for name in ("old.pt", "new.pth"):
        with pytest.raises(UsageError, match="is a pickle, which runs code when it is read; save it as safetensors"):
            import_model(tmp_path / name, out=tmp_path / "m.safetensors")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize(
    ("tensors", "options", "told"),
    [
        ({}, {}, "its layers do not tell"),
        ({"a": torch.zeros(2)}, {}, "is of no linear layer"),
        ({"encoder.0.weight": torch.zeros(3)}, {}, "may be a group norm"),
        (
            {"encoder.0.weight": torch.zeros(3, 7), "decoder.0.weight": torch.zeros(7, 3)},
            {},
            "size of its images is not known",
        ),
        (
            {"encoder.0.weight": torch.zeros(3, 4), "decoder.0.weight": torch.zeros(4, 9)},
            {},
            "does not take features of 3",
        ),
        (
            {"encoder.0.weight": torch.full((3, 4), torch.nan), "decoder.0.weight": torch.zeros(4, 3)},
            {},
            "not finite",
        ),
        (
            {"encoder.0.weight": torch.zeros(3, 4), "decoder.0.weight": torch.zeros(4, 3)},
            {"mean": [1.0]},
            "importer.mean has 1 numbers",
        ),
        (
            {"encoder.0.weight": torch.zeros(3, 4), "decoder.0.weight": torch.zeros(4, 3)},
            {"encoder": ["Flatten()", "Linear(4, 3)", "os.system(1)"]},
            "is no layer",
        ),
        (
            {
                "fc_mu.weight": torch.zeros(3, 4),
                "encoder.0.weight": torch.zeros(4, 4),
                "decoder.0.weight": torch.zeros(4, 3),
            },
            {},
            "heads fc_mu",
        ),
        (
            {"encoder.0.weight": torch.zeros(3, 4), "decoder.0.weight": torch.zeros(4, 3)},
            {"activaton": "relu"},
            "did you mean",
        ),
    ],
)
def test_what_cannot_be_put_in_a_row_is_one_sentence(
    tensors: dict[str, Tensor], options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "mine.safetensors")
    with pytest.raises(UsageError, match=told):
        import_model(tmp_path / "mine.safetensors", options=options, out=tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()
