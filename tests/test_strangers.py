"""Third parties' code: broken metadata, components that do not load, and rules that are broken while a run goes on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY, Aegen
from torch import Tensor

from aegen import PluginError, descriptions, package_metadata, registry
from aegen.autoencoder import Autoencoder, build_model, build_objective
from aegen.contract import outputs
from aegen.contract.blame import suspected
from aegen.hooks import Hooks, hookimpl
from aegen.protocols import Images, ImageShape, Outcome, Turn
from aegen.spec import Spec
from aegen.training.run import train

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aegen: Aegen) -> Install:
    """`install("name", code, objectives={"bad": "X"})`: a package as pip leaves it, first on the path of this process."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def put(
        name: str, code: str = "", *, metadata: bytes | None = b"", text: bytes | None = None, **kinds: object
    ) -> Path:
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        if metadata is not None:
            (info / "METADATA").write_bytes(metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode())
        groups = "".join(
            f"[aegen.{kind}]\n" + "".join(f"{key} = {name}:{attribute}\n" for key, attribute in dict(entries).items())  # type: ignore[call-overload]
            for kind, entries in kinds.items()
        )
        (info / "entry_points.txt").write_bytes(groups.encode() if text is None else text)
        (site / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
        registry.forget()
        descriptions.forget()
        return site

    return put


def status_of(aegen: Aegen, name: str, *words: str) -> str:
    rows = json.loads(aegen("list-plugins", "--json", *words).worked().out)
    (row,) = [row for row in rows if row["name"] == name]
    return str(row["status"])


# -------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize(
    "text",
    [b"\xff\xfe[x]\na = aegen:c\n", b"[aegen.objectives]\na line without a sign\n", b"[aegen.objectives\na = b:c\n"],
    ids=["not UTF-8", "no equals sign", "no bracket"],
)
def test_a_package_whose_entry_points_cannot_be_read_is_named_and_alone(
    install: Install, aegen: Aegen, text: bytes
) -> None:
    install("damaged", text=text)
    aegen("train", "--print-config").worked()
    aegen("--help").worked()
    rows = json.loads(aegen("list-plugins", "--json", "--no-import").worked().out)
    if text != b"[aegen.objectives\na = b:c\n":  # Python reads that as no section at all
        (row,) = [row for row in rows if row["package"] == "damaged"]
        assert row["status"].startswith("broken: entry_points.txt cannot be read")
        assert aegen("list-plugins", "--check", "--no-import").code == 3
    assert [row["name"] for row in rows if row["kind"] == "objective"] == registry.names("objective")


@pytest.mark.parametrize("metadata", [None, b"\xff\xfe", b"Version:\n"], ids=["missing", "no text", "no name"])
def test_a_package_without_metadata_is_called_by_its_folder(
    install: Install, aegen: Aegen, metadata: bytes | None
) -> None:
    install("nameless", "def run() -> None: ...\n", metadata=metadata, commands={"hello": "run"})
    (found,) = [c for c in registry.components("command") if c.name == "hello"]
    assert found.package == "nameless"
    aegen("hello").worked()


def test_metadata_that_cannot_be_read_does_not_end_a_run(install: Install, tmp_path: Path) -> None:
    """In a process of its own: torch and pydantic too read the metadata of every package."""
    site = install("damaged", text=b"\xff\xfe[x]\na = aegen:c\n")
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "aegen", "train", *TINY, "--dry-run"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_package_that_calls_itself_aegen_is_told_from_aegen(install: Install, aegen: Aegen) -> None:
    name = b"Metadata-Version: 2.1\nName: aegen\nVersion: 9\n"
    install("impostor", "from aegen_builtin.objectives.vae import VAE as X\n", metadata=name, objectives={"vae": "X"})
    aegen("train", "--objective", "vae", "--print-config").refused(3, "aegen/vae or impostor/vae")
    assert registry.find("objective", "aegen/vae").value == "aegen_builtin.objectives.vae:VAE"
    assert registry.find("objective", "impostor/vae").value == "impostor:X"
    assert not registry.find("objective", "impostor/vae").builtin
    assert [found.package for found in package_metadata.scan()[1]] == ["impostor"]
    registry.forget()
    aegen("train", "--objective", "vae", "--print-config", "--no-plugins").worked()


def test_a_version_that_nobody_knows(install: Install) -> None:
    install("nameless", metadata=None)
    assert package_metadata.version_of("nameless") == "unknown"
    assert package_metadata.version_of("never-installed") == "unknown"
    assert package_metadata.version_of("torch") == torch.__version__.partition("+")[0] or "+" in torch.__version__


def test_a_name_that_one_package_declares_twice(install: Install, aegen: Aegen) -> None:
    install("twice", "X = Y = 1\n", text=b"[aegen.objectives]\nsame = twice:X\nsame = twice:Y\n")
    aegen("train", "--objective", "same").refused(3, "twice declares objective 'same' twice, twice:X and twice:Y")


# -------------------------------------------------------------------------------- loading

HEAD = """
from typing import Annotated, Any
import torch
from torch import nn
from aegen import Architecture, Bottleneck, Exporter, Latent, Likelihood, Metric, Objective, Outcome, Pixels, Range, Sampler, Wrapper
"""
LOSS = "    def loss(self, model, x): return Outcome({'e': model.decode(model.encode(x).z).nll(x)})\n"
BROKEN = {
    "raises": ("raise ValueError('no')", "ValueError: no at ", "bad.py:7"),
    "no Exception": ("class B(BaseException): pass\nraise B('boom')", "B: boom at ", "bad.py:8"),
    "leaves": ("raise SystemExit(0)", "SystemExit: 0"),
    "syntax": ("def (", "SyntaxError", "bad.py:7"),
    "says nothing": ("class E(Exception):\n    def __str__(self): raise E\nraise E", "(E at "),
    "lacks a package": ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
    "lacks the class": ("Y = 1", "has no attribute 'X'"),
    "no class": ("X = 3", "is not an aegen.Objective"),
    "another kind": ("class X(Sampler):\n    def sample(self, n, generator): ...", "is not an aegen.Objective"),
    "no default": (
        f"class X(Objective):\n    def __init__(self, *, w: int): super().__init__()\n{LOSS}",
        "option 'w' of X (",
        "bad.py:7) needs a type and a default",
    ),
    "no type": (f"class X(Objective):\n    def __init__(self, *, w=1): super().__init__()\n{LOSS}", "option 'w'"),
    "unknown type": (
        f"class X(Objective):\n    def __init__(self, *, w: 'Nowhere' = 1): super().__init__()\n{LOSS}",
        "the constructor of X (",
        "name 'Nowhere' is not defined",
    ),
    "unchecked type": (
        f"class X(Objective):\n    def __init__(self, *, w: nn.Module = None): super().__init__()\n"
        f"class X(Objective):\n    def __init__(self, *, w: nn.Module = 1): super().__init__()\n{LOSS}",
        "option w is of a type that cannot be checked",
    ),
    "default out of bounds": (
        f"class X(Objective):\n    def __init__(self, *, w: Annotated[int, Range(1)] = 0): super().__init__()\n{LOSS}",
        "the default of option w is refused",
    ),
    "default no JSON": (
        f"class X(Objective):\n    def __init__(self, *, w: Any = torch.relu): super().__init__()\n{LOSS}",
        "the default of option w is no JSON value",
    ),
    "positional": (
        f"class X(Objective):\n    def __init__(self, beta): super().__init__()\n{LOSS}",
        "asks for positional beta, but aegen fills only image, latent, size, inner",
    ),
    "no loss": ("class X(Objective): pass", "X (", "does not define loss()"),
    "needs a word": (f"class X(Objective):\n    needs = 'penalty'\n{LOSS}", "needs is 'penalty', not a set of words"),
    "suggests nonsense": (f"class X(Objective):\n    suggests = {{'rl': 1}}\n{LOSS}", "suggests is {'rl': 1}"),
    "stands for itself": ("class X(Objective):\n    stands_for = 'bad+bad'", "stands for itself (bad for bad)"),
    "stands for nothing": (
        "class X(Objective):\n    stands_for = 'nowhere'",
        "stands for 'nowhere', but unknown objective",
    ),
}


@pytest.mark.parametrize("why", BROKEN)
def test_a_component_that_cannot_be_used_is_named_with_its_reason(install: Install, aegen: Aegen, why: str) -> None:
    code, *pieces = BROKEN[why]
    install("bad", f"{HEAD}\n{code}\n", objectives={"bad": "X"})
    aegen("train", "--objective", "bad", "--dry-run").refused(3, *pieces)
    if not why.startswith("stands"):
        assert status_of(aegen, "bad", "--kind", "objective").startswith("broken: ")
        assert aegen("list-plugins", "--check", "--kind", "objective").code == 3
    aegen("list-plugins", "--combinations").worked()
    aegen("train", "--objective", "vae", "--bottleneck", "deterministic", "--dry-run").refused(2, "choose --bottleneck")
    aegen("train", *TINY, "--print-config").worked()


def test_what_a_module_prints_when_imported_is_no_result(install: Install, aegen: Aegen) -> None:
    install("loud", f"{HEAD}\nprint('hello')\nclass X(Objective):\n{LOSS}", objectives={"loud": "X"})
    assert status_of(aegen, "loud", "--kind", "objective") == "ok"


@pytest.mark.parametrize(
    ("kind", "code", "piece"),
    [
        ("bottleneck", "class X(Bottleneck):\n    fan_in = 4", "does not define forward()"),
        ("likelihood", "class X(Likelihood):\n    measure = 'no'\n    def forward(self, p): ...", "measure is 'no'"),
        ("metric", "class X(Metric):\n    better = {'a': 'up'}\n    def collect(self, seen): ...", "better is {'a': 'up'}"),
        ("exporter", "class X(Exporter):\n    suffix = ''", "does not define export() and parity()"),
        ("tracker", "X = 3", "is no class"),
        ("command", "X = 3", "neither a function nor a Typer app"),
        ("command", "def X(thing: 'Nowhere') -> None: ...", "cannot be read by Typer"),
    ],
)  # fmt: skip
def test_every_kind_is_looked_at(install: Install, aegen: Aegen, kind: str, code: str, piece: str) -> None:
    install("bad", f"{HEAD}\n{code}\n", **{registry.KINDS[kind].partition(".")[2]: {"bad": "X"}})
    if kind == "command":
        aegen("bad").refused(3, piece, "bad")
    else:
        assert piece in status_of(aegen, "bad", "--kind", kind)


# -------------------------------------------------------------------------------- running

MINE = f"""{HEAD}
class Good(Objective):
{LOSS}
class Unsummed(Objective):
    def loss(self, model, x): return Outcome({{'e': (model.decode(model.encode(x).z).mean - x).abs()}})
class InPlace(Objective):
    def loss(self, model, x):
        pixels = model.decode(model.encode(x).z)
        x.clamp_(-0.5, 0.5)
        return Outcome({{'e': pixels.nll(x)}})
class NoSuper(Objective):
    def __init__(self, *, w: float = 1.0): self.w = w
{LOSS}
class NoSuperNet(Objective):
    def __init__(self, *, w: float = 1.0): self.net = nn.Linear(2, 2)
{LOSS}
class Raises(Objective):
    def loss(self, model, x): return {{}}['no such']
class Leaves(Objective):
    def loss(self, model, x): raise SystemExit(7)
class Disk(Objective):
    def loss(self, model, x): return open('/no/such/file')
class Detached(Objective):
    def loss(self, model, x):
        with torch.no_grad(): return Good.loss(self, model, x)
class Alone(Objective):
    def loss(self, model, x): return model.decode(model.encode(x).z).nll(x).mean()
class Reserved(Objective):
    def loss(self, model, x): return Outcome({{'loss': model.decode(model.encode(x).z).nll(x)}})
class Number(Objective):
    def loss(self, model, x): return Outcome({{'e': model.decode(model.encode(x).z).nll(x), 'n': 1.0}})
class NoTurn(Objective):
{LOSS}
    def turns(self): return [self.loss]
class NoPart(Objective):
{LOSS}
    def turns(self):
        from aegen import Turn
        return [Turn('a', self.loss, ('encodr',))]
class Later(Objective):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0
    def loss(self, model, x):
        self.count += 1
        if self.count > 2: raise RuntimeError('later')
        return Good.loss(self, model, x)
class Backward(Objective):
    def loss(self, model, x):
        e = model.encode(x).z.exp()
        e.mul_(2)
        return Outcome({{'e': e.flatten(1).sum(1)}})
class Forgot(Wrapper):
    def __init__(self, inner): self.kept = inner
class Neck(Bottleneck):
    def __init__(self, *, dim: int = 4):
        super().__init__()
        self.fan_in = dim
    def forward(self, features): return Latent(features, features.square())
class NoFanIn(Bottleneck):
    def forward(self, features): return Latent(features, features[:, 0] * 0)
class Charges(Bottleneck):
    fan_in = 4
    def forward(self, features): return Latent(features, features.square().sum(1))
class Overwrites(Bottleneck):
    fan_in = 4
    def forward(self, features): return Latent(features.mul_(2), features.new_zeros(len(features)))
class Dots(Likelihood):
    def __init__(self, image):
        super().__init__()
        self.fan_out = image.channels
    def forward(self, p): return Points(p)
class Points(Pixels):
    def __init__(self, p): self.mean = p.tanh()
    def nll(self, x): return (self.mean - x).square()
    def sample(self): return self.mean
class Wide(Architecture):
    def __init__(self, image, fan_in): self.image, self.fan_in = image, fan_in
    def encoder(self): return nn.Sequential(nn.Flatten(), nn.Linear(self.image.height * self.image.width, self.fan_in + 1))
    def decoder(self, latent, fan_out): return nn.Linear(latent[0], fan_out)
class Flat(Wide):
    def encoder(self): return nn.Sequential(nn.Flatten(), nn.Linear(self.image.height * self.image.width, self.fan_in))
class NoNet(Wide):
    def encoder(self): return torch.relu
"""
RUNNING = {
    "Unsummed": ("objective", "term 'e' is (64, 1, 16, 16), not (B,) or ()"),
    "InPlace": ("objective", "changes the images in place"),
    "NoSuper": ("objective", "its __init__ does not call super().__init__()"),
    "NoSuperNet": ("objective", "its __init__ must call super().__init__() first"),
    "Raises": ("objective", "Raises.loss in mine.py:", "KeyError: 'no such'"),
    "Leaves": ("objective", "Leaves.loss in mine.py:", "SystemExit: 7"),
    "Disk": ("objective", "Disk.loss in mine.py:", "FileNotFoundError"),
    "Detached": ("objective", "no gradient comes of any term"),
    "Alone": ("objective", "the loss gave a Tensor, not an Outcome"),
    "Reserved": ("objective", "a term is named loss"),
    "Number": ("objective", "term 'n' is a float, not a tensor"),
    "NoTurn": ("objective", "not a Turn"),
    "NoPart": ("objective", "trains 'encodr', which is no module and none of encoder, bottleneck, decoder, likelihood"),
    "Later": ("objective", "Later.loss in mine.py:", "RuntimeError: later"),
    "Backward": ("objective", "a tensor that a gradient is computed from was modified by an inplace operation"),
    "Neck": ("bottleneck", "the penalty is (64, 4), not (B,)"),
    "NoFanIn": ("bottleneck", "fan_in is None, not a number of at least 1"),
    "Charges": ("bottleneck", "it charges something, but does not offer a penalty"),
    "Overwrites": ("bottleneck", "changes the features in place"),
    "Dots": ("likelihood", "Points (mine.py:", "nll is (64, 1, 16, 16), not (B,)"),
    "Wide": ("arch", "the encoder gave (1, 33) for 1 images, not features (B, 32)"),
    "Flat": ("arch", "what the decoder gave is (64, 1), not (B, fan_out, H, W), here (64, 1, 16, 16)"),
    "NoNet": ("arch", "must give a torch.nn.Module, not a builtin_function_or_method"),
}


@pytest.mark.parametrize("name", RUNNING)
def test_a_run_names_the_class_the_file_and_the_rule(aegen: Aegen, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    line = MINE[: MINE.index(f"class {name}(")].count("\n") + 1
    kind, *pieces = RUNNING[name]
    basic = [] if kind == "arch" else ["--arch", "mlp", "--arch.hidden", "[8]"]
    plain = ["--objective", "ae"] if kind == "bottleneck" else []
    words = [*basic, *plain, "--size", 16, f"--{kind}", f"./mine.py:{name}", "--set", "log.images_every_epochs=0"]
    said = aegen("train", *words, "--steps", 4, "--run-dir", "run")
    said.refused(3, *pieces, "mine.py:")
    if "breaks a rule" in said.err and name != "Dots":
        assert f"{name} (mine.py:{line}) breaks a rule: " in said.err


def test_a_wrapper_that_forgot_what_it_wraps(aegen: Aegen, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    aegen("train", *TINY, "--objective", "vae+./mine.py:Forgot", "--dry-run").refused(3, "Forgot", "super().__init__()")


def test_a_compiled_first_step_is_rehearsed(aegen: Aegen, tmp_path: Path) -> None:
    """Where a compiler would otherwise read the code first."""
    (tmp_path / "mine.py").write_text(MINE)
    words = [*TINY, "--objective", "./mine.py:Unsummed", "--compile", "on", "--dry-run"]
    aegen("train", *words).refused(3, "Unsummed (mine.py:", "term 'e' is")


def test_the_first_look_changes_no_number(aegen: Aegen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same objective, looked at and not: every weight after some steps is the same to the bit."""
    from aegen.checkpoint import Checkpoint
    from aegen.training.turns import TurnOptimizer

    (tmp_path / "mine.py").write_text(MINE)
    words = {
        "arch": {"name": "mlp", "hidden": [8]},
        "size": 8,
        "steps": 3,
        "objective": "./mine.py:Good",
        "bottleneck": "gaussian",
    }
    train(run_dir="one", **words)
    looked: list[object] = []
    monkeypatch.setattr(
        TurnOptimizer, "_looked_at", lambda self, x, labels: looked.append(x) or __import__("contextlib").nullcontext()
    )
    train(run_dir="two", **words)
    assert looked
    one, two = (Checkpoint(Path(run) / "checkpoints/last.safetensors").tensors("") for run in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_hooks_are_gone_after_the_first_step() -> None:
    from aegen.training.rehearsal import watched

    model, objective = tiny()
    with watched(model, objective, objective.turns()[0], learns=True) as loss:
        assert any(part._forward_hooks for part in model.modules())
        loss(model, torch.zeros(2, 1, 8, 8))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert "loss" not in vars(objective)


def tiny() -> tuple[Autoencoder, object]:
    spec = Spec("mlp", {"hidden": [4]}), Spec("gaussian"), Spec("gaussian")
    model = build_model(*spec, ImageShape(1, 8, 8))
    return model, build_objective(Spec("vae"), model)


def test_an_error_from_python_is_of_the_same_kind(aegen: Aegen, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.raises(PluginError, match=r"Raises.loss in mine.py:\d+ failed \(KeyError: 'no such'\)") as caught:
        train(arch="mlp", objective="./mine.py:Raises", steps=1, size=8, run_dir="run")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_commands_own_failure_names_its_line(install: Install, aegen: Aegen) -> None:
    install("cmd", "def run() -> None:\n    raise KeyError('gone')\ndef out() -> None:\n    raise SystemExit(5)\n",
            commands={"fails": "run", "leaves": "out"})  # fmt: skip
    aegen("fails").refused(3, "run in ", "cmd.py:2 failed (KeyError: 'gone')")
    assert aegen("leaves").code == 5  # as a command may


def test_a_component_that_does_not_load_is_not_suspected(install: Install, aegen: Aegen) -> None:
    install("gone", "raise ValueError('never')\n", objectives={"lost": "X"})
    assert "broken" in status_of(aegen, "lost")
    assert any(c.name == "lost" for c in registry.strangers())
    assert "lost" not in str(suspected(KeyError("elsewhere")) or "")


class Leaver:
    @hookimpl
    def aegen_step_end(self) -> None:
        raise SystemExit(1)


def test_a_tracker_that_leaves_ends_no_run() -> None:
    hooks = Hooks()
    hooks.add(Leaver(), "leaver")
    with pytest.warns(
        UserWarning, match=r"'leaver' failed in aegen_step_end .*SystemExit: 1 at .*test_strangers.py:\d+"
    ):
        hooks.call("aegen_step_end", step=1, metrics={})


# -------------------------------------------------------------------------------- rules of values


@pytest.mark.parametrize(
    ("rule", "values", "piece"),
    [
        (outputs.draws, (torch.zeros(3, 2), 3, (4,)), "(3, 2), not (n, *latent), here (3, 4)"),
        (outputs.draws, (torch.full((1, 2), torch.nan), 1, (2,)), "not finite"),
        (outputs.images, (torch.zeros(2),), "a Tensor, not Images"),
        (outputs.images, (Images(torch.zeros(2, 1, 8, 8)),), "torch.float32 (2, 1, 8, 8), not uint8"),
        (outputs.images, (Images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 5]), ["a"]),), "0 to 5"),
        (outputs.rows, ({"a": torch.zeros(2)}, 3), "row 'a' is (2,), not (B, …)"),
        (outputs.computed, ({"a": torch.zeros(())},), "not a float"),
        (outputs.written, ([],), "not a list of the files written"),
        (outputs.written, ([Path("nowhere.bin")],), "nowhere.bin, which is not there"),
        (outputs.parity, (3.0,), "not differences by output"),
        (outputs.turns, ([], torch.nn.Module()), "not a list of Turn"),
        (outputs.outcome, (Outcome({}), torch.zeros(1)), "no term"),
    ],
)  # fmt: skip
def test_a_value_that_breaks_a_rule(rule: Callable[..., None], values: tuple[object, ...], piece: str) -> None:
    with pytest.raises(outputs.Broken, match=re.escape(piece)):
        rule(*values)


def test_a_turn_is_what_it_says() -> None:
    model, objective = tiny()
    outputs.turns(objective.turns(), model)  # type: ignore[attr-defined]
    with pytest.raises(outputs.Broken, match="comes every 0 steps"):
        outputs.turns([Turn("a", lambda model, x: Outcome({"e": Tensor()}), every=0)], model)
