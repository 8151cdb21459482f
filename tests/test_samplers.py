"""Samplers: what the contract holds them to, a flow's exact density, files of their own, and a training by the loop of models."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from aegen_builtin.samplers.flow import Flow
from aegen_builtin.samplers.gaussian import Gaussian
from conftest import SMALL, Aegen
from torch import Tensor

import aegen
from aegen import Sampler, UsageError, checkpoint, checksummed, compare, sampler_file, testing, write_report
from aegen.checkpoint import Checkpoint
from aegen.energy_distance import energy_distance, energy_test
from aegen.inference.latent_rows import latent_rows
from aegen.sampler_file import SamplerFile
from aegen.spec import Spec
from aegen.training.fit_sampler import fit_sampler
from aegen.training.sampler_trainer import draws_of, means_of

# ---------------------------------------------------------------------------------------------------- the contract


class Idle(Gaussian):
    """Its fit does nothing."""

    def fit(self, latents: Tensor, seed: int = 0) -> None:
        return


class Apart(Gaussian):
    """Knows each dimension by itself alone."""

    def fit(self, latents: Tensor, seed: int = 0) -> None:
        flat = latents.flatten(1)
        self.mean.copy_(flat.mean(0))
        self.factor.copy_(torch.diag(flat.std(0)))


class Centred(Gaussian):
    """Forgets where the latents lie."""

    def fit(self, latents: Tensor, seed: int = 0) -> None:
        super().fit(latents, seed)
        self.mean.zero_()


class Deaf(Flow):
    """Its loss moves nothing that matters to what it draws."""

    def fit(self, latents: Tensor, seed: int = 0) -> None:
        return

    def loss(self, latent: Tensor, labels: Tensor | None = None) -> Any:
        return super().loss(torch.randn_like(latent), labels)


@pytest.mark.parametrize(
    ("cls", "said"), [(Idle, "the mean of"), (Apart, "a correlation"), (Centred, "the mean of"), (Deaf, "the mean of")]
)
def test_a_sampler_that_draws_something_else_than_it_was_fitted_to_fails(cls: type[Sampler], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        testing.check_sampler(cls)


def test_one_that_learns_must_have_a_loss(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from aegen import Sampler\nclass Mine(Sampler):\n    '''Mine.'''\n    learns = True\n"
        "    def sample(self, n, generator):\n        raise AssertionError\n"
    )
    aegen("fit-sampler", trained, "--sampler", "./mine.py:Mine").refused(3, "does not define loss()")


def test_the_energy_distance_is_that_of_its_definition() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(5, 2, 3), torch.randn(4, 2, 3) + 1

    def mean(one: Tensor, other: Tensor, same: bool) -> float:
        pairs = [
            float((a - b).double().norm())
            for i, a in enumerate(one)
            for j, b in enumerate(other)
            if not (same and i == j)
        ]
        return sum(pairs) / len(pairs)

    wanted = 2 * mean(x, y, False) - mean(x, x, True) - mean(y, y, True)
    assert energy_distance(x, y) == pytest.approx(wanted, rel=1e-6)


def test_the_energy_test_tells_correlations_and_not_chance() -> None:
    torch.manual_seed(0)
    x, alike = ((torch.randn(200, 1) * 0.9 + torch.randn(200, 3) * 0.4) for _ in range(2))
    shuffled = torch.stack([c[torch.randperm(200)] for c in alike.T], 1)
    assert energy_test(x, shuffled) < 0.02
    shares = torch.tensor([energy_test(torch.randn(40, 2), torch.randn(40, 2), draws=49) for _ in range(40)])
    assert 0.3 < float(shares.mean()) < 0.7 and float((shares < 0.1).float().mean()) < 0.3


# ---------------------------------------------------------------------------------------------------- the flow


def moved_flow(latent: tuple[int, ...], **options: int) -> Flow:
    torch.manual_seed(0)
    flow = Flow(latent, **options).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    flow.fit(torch.randn(50, *latent) * 3 - 2)
    return flow


@pytest.mark.parametrize("latent", [(2,), (5,), (2, 2, 3)])
def test_a_flow_is_inverted_and_its_determinant_is_that_of_the_jacobian(latent: tuple[int, ...]) -> None:
    flow, dim = moved_flow(latent, depth=5, width=16), math.prod(latent)
    z = torch.randn(4, *latent, dtype=torch.float64) * 2
    u, logdet = flow.noise_of(z)
    torch.testing.assert_close(flow.latent_of(u), z, rtol=1e-9, atol=1e-9)
    for i in range(len(z)):
        jacobian = torch.autograd.functional.jacobian(lambda one: flow.noise_of(one[None])[0][0], z[i]).view(dim, dim)
        torch.testing.assert_close(jacobian.slogdet().logabsdet, logdet[i], rtol=1e-9, atol=1e-9)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    torch.testing.assert_close(flow.log_prob(z), normal.log_prob(u).sum(1) + logdet)
    torch.testing.assert_close(flow.loss(z).terms["nll"], -flow.log_prob(z))


def test_the_density_of_a_flow_is_one() -> None:
    flow = moved_flow((2,), depth=3, width=8)
    grid = torch.linspace(-40, 40, 801, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        mass = sum(float(flow.log_prob(part).exp().sum()) for part in z.split(50_000)) * 0.1**2
    assert mass == pytest.approx(1, abs=0.02)


def test_one_dimension_is_refused_with_what_would_do() -> None:
    with pytest.raises(UsageError, match="at least 2 dimensions"):
        Flow((1,))


# ---------------------------------------------------------------------------------------------------- files


def test_a_file_is_read_back_and_one_of_other_weights_is_named(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "r")
    best = tmp_path / "r/checkpoints/best.safetensors"
    model = aegen.load(tmp_path / "r", device="cpu")
    flow = moved_flow(model.latent_shape).float()
    before = best.read_bytes()
    place = sampler_file.save(model.file, Spec("flow"), flow, seed=3, step=5)
    assert place == tmp_path / "r/samplers/flow.safetensors" and best.read_bytes() == before
    found = SamplerFile(place)
    assert found.header["seed"] == 3 and found.header["step"] == 5 and found.header["options"] == {}
    assert all(torch.equal(v, flow.state_dict()[k]) for k, v in found.tensors("sampler.").items())
    assert model.samplers == ["mixture", "flow", "prior"]
    one = model.sample(3, sampler="flow", seed=2)
    shutil.move(tmp_path / "r", tmp_path / "moved")
    assert torch.equal(aegen.load(tmp_path / "moved", device="cpu").sample(3, sampler="flow", seed=2), one)
    moved = tmp_path / "moved/checkpoints/best.safetensors"
    file = Checkpoint(moved)
    tensors = file.tensors("")
    key = next(k for k in tensors if k.startswith("model.decoder") and tensors[k].is_floating_point())
    checkpoint.save(moved, tensors | {key: tensors[key] + 0.01}, file.header)
    other = aegen.load(tmp_path / "moved", device="cpu")
    assert "flow" not in other.samplers and "mixture" not in other.samplers
    with pytest.raises(UsageError, match=r"flow.safetensors was trained for other weights") as error:
        other.sample(2, sampler="flow")
    assert "aegen fit-sampler" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw[: len(raw) // 2], "not a whole safetensors file"),
        (lambda raw: raw[:-40] + bytes(40), "checksum"),
        (lambda raw: b"", "not a whole safetensors file"),
    ],
)
def test_a_damaged_file_is_told_and_the_rest_goes_on(
    aegen: Aegen, trained: Path, tmp_path: Path, change: Any, said: str
) -> None:
    shutil.copytree(trained, "r")
    file = Path("r/samplers/mixture.safetensors")
    file.write_bytes(change(file.read_bytes()))
    aegen("sample", "-c", "r", "--sampler", "mixture", "-o", "a.png").refused(2, said)
    aegen("sample", "-c", "r", "--sampler", "prior", "-o", "b.png").worked()


def test_options_larger_than_the_file_are_refused_before_anything_is_made(
    aegen: Aegen, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, "r")
    place = Path("r/samplers/mixture.safetensors")
    file = SamplerFile(place)
    header = {**file.header, "options": {"components": 60_000}}
    tensors = {f"sampler.{k}": v for k, v in file.tensors("sampler.").items()}
    checksummed.write(place, tensors, json.dumps(header), SamplerFile.entry)
    aegen("sample", "-c", "r", "--sampler", "mixture", "-o", "a.png").refused(2, "does not fit its own configuration")


def test_a_sampler_is_no_model_and_a_model_no_sampler(aegen: Aegen, trained: Path) -> None:
    aegen("sample", "-c", trained / "samplers/mixture.safetensors").refused(2, "is a fitted sampler and no model")
    with pytest.raises(UsageError, match="is a model and no fitted sampler"):
        SamplerFile(trained / "checkpoints/best.safetensors")


# ---------------------------------------------------------------------------------------------------- the training


def states(run: Path) -> dict[str, Tensor]:
    return Checkpoint(run / "samplers/flow/checkpoints/last.safetensors").tensors("")


def test_a_flow_is_trained_kept_and_drawn_from(aegen: Aegen, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, "r")
    before = {path: path.read_bytes() for path in Path("r/checkpoints").iterdir()}
    aegen("sample", "-c", "r", "--sampler", "flow").refused(
        2, "sampler flow is trained", "aegen fit-sampler r --sampler flow"
    )
    words = ("--epochs", 2, "--sampler.depth", 2, "--sampler.width", 8, "--batch-size", 256)
    said = json.loads(aegen("fit-sampler", "r", "--sampler", "flow", *words, "--json").worked().out)
    assert said["file"] == "r/samplers/flow.safetensors" and Path(said["samples"]).is_file() and said["steps"] == 12
    assert {"loss", "nll", "energy_distance"} <= set(said["metrics"])
    assert {path: path.read_bytes() for path in before} == before, "the model's file was written again"
    aegen("sample", "-c", "r", "--sampler", "flow", "-n", 4, "-o", "a.png").worked()
    lines = [json.loads(line) for line in Path("r/samplers/flow/metrics.jsonl").read_text().splitlines()]
    validated = [line["nll"] for line in lines if line["split"] == "validation"]
    assert len(validated) == 2 and validated[1] < validated[0]
    assert list(Path("r/samplers/flow/samples").glob("samples-*.png"))
    keys = set(states(Path("r")))
    assert any(k.startswith("objective.sampler.couplings") for k in keys) and any(k.startswith("ema.") for k in keys)
    assert not any(k.startswith("model.") for k in keys), "the frozen model is not written once more"
    aegen("fit-sampler", "r", *words).refused(2, "exists already", "--force", "--resume")
    aegen("fit-sampler", "r", "--sampler", "flow", "--resume", "--lr", 1).refused(2, "--lr", "this training has")
    aegen("train", "--resume", "r/samplers/flow").refused(2, "is the training of a sampler, flow, and no model")
    aegen("evaluate", "-c", "r", "--sampler", "flow", "--metric", "mmd", "-n", 50).worked()


def test_stopped_anywhere_it_goes_on_to_the_same_bits(trained: Path, tmp_path: Path) -> None:
    for name in ("whole", "part"):
        shutil.copytree(trained, tmp_path / name)
    fit_sampler(tmp_path / "whole", "flow", **_settings(9))
    fit_sampler(tmp_path / "part", "flow", **_settings(4))
    fit_sampler(tmp_path / "part", "flow", resume=True, steps=9)
    one, other = states(tmp_path / "whole"), states(tmp_path / "part")
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def _settings(steps: int) -> dict[str, Any]:
    usual = {"train.schedule": "constant", "train.ema": 0.9, "train.accumulate": 2}
    return {"steps": steps, "batch_size": 100, "options": {"depth": 2, "width": 8}, **usual}


MORTAL = '''
"""A flow whose process is killed at its ninth step, when that is asked for."""
import os, signal
from aegen_builtin.samplers.flow import Flow

class Mortal(Flow):
    """A flow.

    Options:
        depth: number of couplings.
        width: of the hidden layers of their nets.
    """
    seen = 0

    def loss(self, latent, labels=None):
        self.seen += self.training and len(latent) > 2  # a look at two rows is no step
        if self.seen == 9 and os.environ.get("MORTAL"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(latent, labels)
'''
WORDS = ["--sampler.depth", "2", "--sampler.width", "8", "--steps", "30", "--set", "checkpoint.every_steps=5"]


def test_killed_in_the_middle_it_goes_on_to_the_same_file(
    trained: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "mine.py").write_text(MORTAL)
    line = [sys.executable, "-m", "aegen", "fit-sampler"]
    words = ["--sampler", "./mine.py:Mortal"]
    asked: dict[str, Any] = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300}
    for name in ("whole", "part"):
        shutil.copytree(trained, tmp_path / name)
        kills = {"MORTAL": "1"} if name == "part" else {}
        done = subprocess.run([*line, name, *words, *WORDS], env=environment | kills, check=False, **asked)
        assert done.returncode == (-signal.SIGKILL if kills else 0), done.stderr
    file = "samplers/mine.py-Mortal.safetensors"
    assert not (tmp_path / "part" / file).exists()
    done = subprocess.run([*line, "part", *words, "--resume"], env=environment, check=False, **asked)
    # The checkpoint of step 5 is written beside the loop, and may not have been whole when it was killed.
    assert done.returncode == 0 and ("from step 5" in done.stderr or "from step 0" in done.stderr), done.stderr
    # By what they hold: safetensors writes its two texts in any order.
    part, whole = (SamplerFile(tmp_path / name / file) for name in ("part", "whole"))
    one, other = part.tensors("sampler."), whole.tensors("sampler.")
    assert part.header == whole.header and list(one) == list(other)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_two_processes_train_the_sampler_of_one(trained: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    for name in ("one", "two"):
        shutil.copytree(trained, tmp_path / name)
    fit = ["-m", "aegen", "fit-sampler"]
    launch = ["-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    lines = [[*fit, "one", *WORDS, "--batch-size", "64"], [*launch, *fit, "two", *WORDS, "--batch-size", "32"]]
    for words in lines:
        line = [sys.executable, *words]
        done = subprocess.run(
            line, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("samplers/flow.safetensors") == 1, "one process says it"
    one, two = (SamplerFile(tmp_path / name / "samplers/flow.safetensors") for name in ("one", "two"))
    assert one.header == two.header
    theirs = two.tensors("sampler.")
    for key, value in one.tensors("sampler.").items():
        torch.testing.assert_close(theirs[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_a_training_of_other_weights_is_not_gone_on_with(aegen: Aegen, trained: Path) -> None:
    shutil.copytree(trained, "r")
    words = ("--steps", 2, "--sampler.depth", 2, "--sampler.width", 8)
    aegen("fit-sampler", "r", *words).worked()
    aegen("report", "r", "--sampler", "flow", "--no-evaluate", "-o", "before.html").worked()
    page = Path("before.html").read_text()
    assert "samples of r, flow" in page and "samples of r, mixture" in page and "samples of r, prior" in page
    aegen("train", "--resume", "r", "--epochs", 2).worked()
    said = aegen("fit-sampler", "r", *words)
    said.refused(2, "exists already", "--force")
    assert "--resume" not in said.err, "which would be refused"
    aegen("fit-sampler", "r", "--resume").refused(2, "for other weights", "--force")
    for command in ("evaluate", "report"):
        aegen(command, *("-c",) * (command == "evaluate"), "r", "--sampler", "flow").refused(2, "for other weights")
    aegen("report", "r", "--sampler", "flwo").refused(2, "unknown sampler", "did you mean 'flow'")


def test_a_report_measures_by_the_sampler_that_is_asked_for(aegen: Aegen, trained: Path) -> None:
    shutil.copytree(trained, "r", ignore=shutil.ignore_patterns("evaluations"))
    found = compare(["r"], sampler="gaussian", protocol="aegen-1")
    names = [table.protocol for table in found.tables]
    assert names == ["aegen-1 with sampler=gaussian"] and found.tables[0].rules["sampler"] == "gaussian"
    page = write_report(found, Path("r.html")).read_text()
    assert (
        page.index("samples of r, gaussian") < page.index("samples of r, mixture") < page.index("samples of r, prior")
    )
    assert "a mixture fitted" in page and "--sampler gaussian" in page
    again = aegen("report", "r", "--sampler", "gaussian", "-o", "again.html").worked()
    assert "evaluating" not in again.err, "it was measured before"
    aegen("fit-sampler", "r", "--sampler", "gaussian", "--force").worked()
    assert compare(["r"], sampler="gaussian", evaluates=False).tables, "it is the same once more"
    place = Path("r/samplers/gaussian.safetensors")
    file = SamplerFile(place)
    state = {f"sampler.{key}": value + 0.1 for key, value in file.tensors("sampler.").items()}
    checksummed.write(place, state, json.dumps(file.header), SamplerFile.entry)
    assert not compare(["r"], sampler="gaussian", evaluates=False).tables, "numbers of another fit"


def test_in_closed_form_it_is_written_beside(aegen: Aegen, trained: Path) -> None:
    shutil.copytree(trained, "r")
    words = ("fit-sampler", "r", "--sampler", "mixture", "--sampler.components", 3)
    aegen(*words).refused(2, "exists already", "--force")
    aegen(*words, "--force").worked()
    assert SamplerFile(Path("r/samplers/mixture.safetensors")).header["options"] == {"components": 3}
    assert Path("r/samplers/mixture.png").is_file()
    aegen("fit-sampler", "r", "--sampler", "prior").refused(2, "draws without being fitted")
    aegen("fit-sampler", "r", "--sampler", "gaussian", "--resume").refused(2, "--resume goes on with a training")


# ---------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize(("objective", "flip"), [("vae", True), ("ae", False), ("vq-vae", False)])
def test_latents_are_encoded_once_and_kept_by_content(
    objective: str, flip: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGEN_CACHE", str(tmp_path / "cache"))
    aegen.train(objective=objective, run_dir=tmp_path / "r", **SMALL, **{"train.steps": 2, "data.flip": flip})
    model = aegen.load(tmp_path / "r", device="cpu")
    from aegen.data.source import load_data
    from aegen.training.distributed import World

    data = load_data(model.images(), {})
    told: list[str] = []

    def rows() -> Any:
        return latent_rows(model, data, model.images(), World(model.device), lambda text, *_: told.append(text))

    first = rows()
    assert told and len(first.train) == len(data.train) * (1 + flip) == len(first.train_labels)
    told.clear()
    again = rows()
    assert not told, "it encoded once more"
    assert torch.equal(first.train, again.train) and torch.equal(first.validation, again.validation)
    x = data.train[:5].float() / 127.5 - 1
    torch.testing.assert_close(
        means_of(model.model, first.train[:5]), model.encode(x).mean.float(), rtol=1e-3, atol=1e-4
    )
    if objective == "vae":
        torch.manual_seed(0)
        one, other = (draws_of(model.model, first.train[:5]) for _ in range(2))
        assert not torch.equal(one, other)
        turned = means_of(model.model, first.train[len(data.train) : len(data.train) + 5])
        torch.testing.assert_close(turned, model.encode(x.flip(-1)).mean, rtol=1e-3, atol=1e-4)
    if objective == "vq-vae":
        assert first.train.dtype == torch.int64
    for path in (tmp_path / "cache/latents").iterdir():
        path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    assert torch.equal(rows().train, first.train) and told, "a damaged file was believed"
