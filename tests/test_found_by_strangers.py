"""What fresh eyes found: pages whose settings were one line, files of tars that nobody counted, samples that were left out, damaged lines."""

from __future__ import annotations

import importlib
import io
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import Aegen
from PIL import Image
from safetensors.torch import save_file

import aegen
from aegen import ImageShape, Spec, UsageError, registry
from aegen.autoencoder import Autoencoder, build_model
from aegen.checkpoint import Checkpoint
from aegen.cli import progress
from aegen.cli.app import single
from aegen.command import Annotated, chosen, command
from aegen.contract import commands
from aegen.factory import unvalued

ROOT = Path(__file__).parents[1]

TINY = ("--data", "digits", "--size", 8, "--arch", "mlp", "--arch.hidden", "[8]", "--steps", 2, "--batch-size", 16)


def test_settings_of_a_page_stand_a_line_each(aegen: Aegen) -> None:
    aegen("train", *TINY, "--run-dir", "r").worked()
    with open("r/metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"split": "train", "step": "x"}\n{"split": ')
    said = aegen("report", "r", "--no-evaluate", "-o", "page.html").worked()
    page = Path("page.html").read_text(encoding="utf-8")
    lines = page[page.index("<pre>[arch]") :].splitlines()
    assert lines[:3] == ["<pre>[arch]", "name = &quot;mlp&quot;", "hidden = [8]"]
    assert "r: 1 line of metrics.jsonl is damaged and left out" in said.err


def test_a_file_without_an_ending_in_a_tar_is_counted(aegen: Aegen) -> None:
    stored = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(stored, "png")
    with tarfile.open("s.tar", "w") as archive:
        for name in [*(f"{i}.png" for i in range(6)), "noext"]:
            member = tarfile.TarInfo(name)
            member.size = len(stored.getvalue())
            archive.addfile(member, io.BytesIO(stored.getvalue()))
    said = aegen("train", *TINY, "--data", "s.tar", "--batch-size", 2, "--run-dir", "r").worked()
    assert "1 image is left out: s.tar, noext (its name has no ending that says what it is)" in said.err


def test_samples_beyond_the_colours_are_told(aegen: Aegen) -> None:
    Path("bands").mkdir()
    for number in range(4):
        pixels = np.full((8, 8, 5), 40 * number, np.uint8)
        tifffile.imwrite(f"bands/{number}.tif", pixels, photometric="minisblack", planarconfig="contig")
    said = aegen("train", *TINY, "--data", "bands", "--batch-size", 2, "--run-dir", "r").worked()
    assert "4 images hold more samples a pixel than colours and opacity, of which the rest is left out" in said.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_while_the_command_line_is_imported_has_its_sentence() -> None:
    code = (
        "import sys, time, aegen.__main__ as m\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'aegen.cli':\n"
        "            print('here', flush=True)\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "m.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted; nothing is left half-written\n")


def test_values_that_somebody_asks_for_are_values_while_layers_are_outlined() -> None:
    with unvalued():
        seeded = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
        assert seeded.is_meta and seeded.shape == (3, 2)
        here = torch.randn(64, device="cpu")
        with torch.device("cpu"):
            eye, constant = torch.eye(3), torch.rand(64)
    assert torch.equal(eye, torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
    assert 0.5 < float(here.std()) < 2 and float(constant.min()) >= 0 and 0.1 < float(constant.std()) < 0.5


def test_a_net_with_a_seeded_projection_and_constants_is_trained_and_loaded(aegen: Aegen) -> None:
    Path("mine.py").write_text(
        "import torch\n"
        "from aegen_builtin.nets.mlp import MLP\n"
        "LIMITS = torch.rand(1000) + 1\n"
        "class Mine(MLP):\n"
        "    def encoder(self):\n"
        "        found = super().encoder()\n"
        "        found.register_buffer('fixed', torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))\n"
        "        assert LIMITS.min() >= 1 and LIMITS.max() <= 2 and LIMITS.std() > 0.1\n"
        "        return found\n"
    )
    aegen("train", *TINY, "--arch", "./mine.py:Mine", "--run-dir", "r").worked()
    code = "import sys, aegen; from aegen import registry; registry.trust('./mine.py:Mine'); aegen.load('r').sample(2)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_diverging_row_shows_its_numbers_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "columns", lambda *where: 40)
    display = progress.Display()
    display.aegen_epoch_end(1, 3, {"loss": 1.3e10, "error": 1.25e15, "validation": 5.0})
    head, row = capsys.readouterr().err.splitlines()
    assert head.split() == ["epoch", "validation", "error"] and row.split() == ["1", "1.30e+10", "1.25e+15"]


def test_a_path_of_a_file_is_not_looked_up_unless_its_name_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(registry, "_trusted_files", {"./other.py:Mine"})
    monkeypatch.setattr(registry.os.path, "exists", lambda path: asked.append(path) or False)
    with pytest.raises(UsageError):
        registry.find("objective", "/net/elsewhere/mine.py:Mine")
    assert asked == []


def test_rows_of_a_board_that_were_refused_are_known_in_both_spellings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    board = importlib.import_module("leaderboard")
    tables = "| a | b |\n|---|---|\n| x | 1 |\n\n| c | d |\n|---|---|\n| y | 2 |"
    old = f"{tables}\n\nNot here:\n\n- `vae`: old\n- `ae`: stays\n"
    new = f"{tables}\n\n- <code>vae</code>: new"
    assert board.kept(new, old).strip().splitlines()[-2:] == ["- `ae`: stays", "- <code>vae</code>: new"]


# ---------------------------------------------------------------------------------------------------- images of other sizes


def _layers(encoder: list[str], decoder: list[str], side: int, wide: int | None = None) -> Autoencoder:
    arch = Spec("sequential", {"encoder": encoder, "decoder": decoder})
    image = ImageShape(1, side, wide or side)
    return build_model(arch, Spec("deterministic", {"dim": 4}), Spec("gaussian"), image).eval()


@pytest.mark.parametrize(
    ("encoder", "decoder", "side"),
    [
        (["Conv2d(1,4,3,stride=2,padding=1)"], ["ConvTranspose2d(4,1,3,stride=2,padding=1)"], 33),  # 34 became 33
        (["Conv2d(1,4,4,stride=2,padding=1)"], [], 32),  # a linear layer that nobody wrote
        (["Conv2d(1,4,(4,8),stride=(2,4),padding=(1,2))"], ["ConvTranspose2d(4,1,(4,8),(2,4),(1,2))"], 32),
    ],
)
def test_layers_take_any_size_only_where_they_give_it_back(encoder: list[str], decoder: list[str], side: int) -> None:
    assert not _layers(encoder, decoder, side).any_size


def test_layers_that_do_take_any_size() -> None:
    model = _layers(["Conv2d(1,4,4,stride=2,padding=1)"], ["ConvTranspose2d(4,1,4,stride=2,padding=1)"], 32, 24)
    assert model.any_size and model.factor == 2
    assert model.reconstruct(torch.zeros(1, 1, 34, 50)).shape == (1, 1, 34, 50)


@pytest.mark.parametrize(
    "text",
    ["MaxPool2d(2, return_indices=True)", "MaxPool2d(2, padding=3)", "Flatten(2)", "GELU('foo')", "Affine((1, 2, 3))"],
)
def test_layers_that_torch_refuses_only_when_they_run_are_refused_at_once(text: str) -> None:
    with pytest.raises(UsageError, match="does not take features of 4×16×16"):
        _layers(["Conv2d(1,4,4,stride=2,padding=1)", text], [], 32)


def test_other_sizes_are_tiled_on_the_grid_of_the_nets_scored_and_looked_up(tmp_path: Path) -> None:
    small = {"arch": "conv", "data": "digits", "train.steps": 2, "data.size": [8, 8], "train.device": "cpu"}
    nets = {"arch.spatial": True, "arch.width": 4, "bottleneck.dim": 3, "train.batch_size": 16}
    aegen.train(objective="ae", run_dir=tmp_path / "ae", **small, **nets, **{"arch.depth": 2})
    model = aegen.load(tmp_path / "ae", device="cpu")
    x = torch.rand(1, 1, 13, 15, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = ((model.reconstruct(x) - x) / 2).square().mean()
    torch.testing.assert_close(model.score(x)[0], exact)  # the rows that were repeated are not the image's
    wide = torch.rand(1, 1, 24, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(model.reconstruct(wide, tile=12, overlap=6), model.reconstruct(wide, tile=12, overlap=4))
    aegen.train(objective="vq-vae", run_dir=tmp_path / "vq", **small, **nets, **{"arch.depth": 1})
    model = aegen.load(tmp_path / "vq", device="cpu")
    latent = model.encode(wide)
    assert torch.equal(model.lookup(latent.codes), latent.mean)


# ---------------------------------------------------------------------------------------------------- commands and samplers


def test_an_option_of_a_command_may_have_any_name() -> None:
    got: list[tuple[int, int, str]] = []

    @command("aegen odd")
    def odd(
        given: int = 1,
        ctx: int = 2,
        sampler: Annotated[str, chosen("sampler", "--sampler", help="Which.")] = "gaussian",
    ) -> None:
        """Odd names."""
        got.append((given, ctx, sampler))

    made = commands.kit(odd)
    assert made is not None
    args = ["--given", "7", "--ctx", "8", "--sampler", "mixture"]
    single(made.plain(args)[0], "odd")(args, standalone_mode=False)
    assert got == [(7, 8, "mixture")]


def test_a_fitted_sampler_that_is_not_there_any_more_does_not_stop_an_export(aegen: Aegen) -> None:
    aegen("train", *TINY, "--objective", "vae", "--device", "cpu", "--run-dir", "r").worked()
    Path("mine.py").write_text(
        "import torch\nfrom aegen import Sampler\n"
        "class Mine(Sampler):\n"
        "    def __init__(self, latent):\n"
        "        super().__init__()\n"
        "        self.register_buffer('mean', torch.zeros(latent))\n"
        "    def fit(self, latents, seed=0):\n"
        "        self.mean.copy_(latents.mean(0))\n"
        "    def sample(self, n, generator):\n"
        "        return self.mean + torch.randn(n, *self.mean.shape, generator=generator)\n"
    )
    aegen("fit-sampler", "r", "--sampler", "./mine.py:Mine", "--device", "cpu").worked()
    Path("mine.py").rename("theirs.py")
    aegen("export", "-c", "r", "-o", "out.safetensors").worked()
    header = Checkpoint(Path("out.safetensors")).header
    assert header["plugins"]["sampler:./mine.py:Mine"]["package"] == "file"


def test_a_sampler_of_an_imported_model_is_refused_with_what_helps(aegen: Aegen) -> None:
    layers = {"encoder.0": (4, 64), "decoder.0": (64, 4)}
    tensors = {f"{name}.weight": torch.full(shape, 0.1) for name, shape in layers.items()}
    save_file(
        tensors | {f"{name}.bias": torch.zeros(shape[0]) for name, shape in layers.items()}, "foreign.safetensors"
    )
    aegen("import", "foreign.safetensors", "-o", "m.safetensors").worked()
    aegen("fit-sampler", "m.safetensors", "--data", "digits").refused(2, "import it again with --data")


def test_drawing_never_replaces_a_sampler_that_was_kept(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    """Fitted anew with other options for one picture, or lying where another model's file was put."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    aegen("sample", "-c", run, "-n", 1, "--sampler", "gaussian").worked()
    kept = run / "samplers/mixture.safetensors"
    aegen("fit-sampler", run, "--sampler", "mixture", "--sampler.components", 2, "--force").worked()
    before = kept.read_bytes()
    said = aegen("sample", "-c", run, "-n", 1, "--sampler", "mixture", "--sampler.components", 3).worked()
    assert kept.read_bytes() == before and "not kept" in said.err and "--force" in said.err
    shutil.copy(run / "samplers/gaussian.safetensors", kept)
    before = kept.read_bytes()
    aegen("sample", "-c", run, "-n", 1, "--sampler", "mixture").worked()
    assert kept.read_bytes() == before


def test_what_lies_where_a_sampler_is_to_be_is_told_before_the_work(
    aegen: Aegen, trained: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    place = run / "samplers/flow"
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("mine")
    for force in ([], ["--force"]):
        said = aegen("fit-sampler", run, "--sampler", "flow", "--steps", 1, *force)
        said.refused(2, "is no training of a sampler", "move it elsewhere")
        assert "encoding" not in said.err and (place / "thesis.txt").read_text() == "mine"
    shutil.rmtree(place)
    (run / "samplers/flow.safetensors").mkdir()
    aegen("fit-sampler", run, "--sampler", "flow", "--steps", 1, "--force").refused(
        2, "is a folder", "move it elsewhere"
    )


def test_an_importer_says_that_it_guesses_and_what_it_cannot_take(aegen: Aegen, tmp_path: Path) -> None:
    weights = {"encoder.0.weight": torch.ones(4, 64), "decoder.0.weight": torch.ones(64, 4)}
    save_file(weights, tmp_path / "plain.safetensors")
    said = aegen("import", tmp_path / "plain.safetensors", "-o", tmp_path / "a.safetensors").worked()
    assert "guessed" in said.err and "--importer.decoder" in said.err
    save_file({key: value.to(torch.float8_e4m3fn) for key, value in weights.items()}, tmp_path / "eight.safetensors")
    aegen("import", tmp_path / "eight.safetensors", "-o", tmp_path / "b.safetensors").worked()
    conv = {"encoder.0.weight": torch.ones(16, 64), "encoder.2.weight": torch.ones(8, 16, 3, 3)}
    save_file({**conv, "decoder.0.weight": torch.ones(64, 8)}, tmp_path / "after.safetensors")
    aegen("import", tmp_path / "after.safetensors", "-o", tmp_path / "c.safetensors").refused(2, "encoder.2")
