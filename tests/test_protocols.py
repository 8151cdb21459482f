"""Components as they stand: methods that aegen cannot call, attributes and names of other kinds, and what is only seen when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Aegen
from test_strangers import HEAD, Install, install  # noqa: F401

from aegen import PluginError, UsageError, checkpoint, factory, registry
from aegen.checkpoint import Checkpoint
from aegen.contract import interfaces, outputs
from aegen.registry import Component
from aegen.spec import Option, Range

MINE = f"""{HEAD}
from aegen import Dataset, FeatureNetwork, Images, hookimpl

def usual(model, x): return Outcome({{'e': model.decode(model.encode(x).z).nll(x)}})

class Base(Objective):
    def loss(self, model, x): return usual(model, x)
class Encodes(Base):
    encodes = 'x'
class EncodesLater(Base):
    def __init__(self):
        super().__init__()
        self.encodes = 1
class MapOptions(Base):
    map_options = [4]
class Named(Base):
    def __init__(self, *, name: str = 'a'): super().__init__()
class AsWrapper(Base):
    def __init__(self, *, adversarial: float = 1.0): super().__init__()
class NoSuchNeck(Base):
    bottleneck = 'nope'
class NoSuchLikelihood(Base):
    likelihood = 'nope'
class LossOfX(Objective):
    def loss(self, x): ...
class StaticLoss(Objective):
    @staticmethod
    def loss(model): ...
class TurnsOfModel(Base):
    def turns(self, model): return []
class TurnsThree(Base):
    turns = 3
class AtNothing(Base):
    def at(self): ...
class NoState(Base):
    def state_dict(self, *args, **kwargs): return None
class Extra(Base):
    def get_extra_state(self): return {{'a': 1}}
class NoSwitch(Base):
    def train(self, mode=True): super().train(mode)
class NoParameters(Base):
    def named_parameters(self, *args, **kwargs): return None
class Doc(Base):
    __doc__ = 3
class Back(Objective):
    def loss(self, model, x):
        found = usual(model, x)
        found.terms['e'].mean().backward()
        return found
class Spent(Objective):
    def loss(self, model, x):
        found = usual(model, x)
        torch.autograd.grad(found.terms['e'].sum(), list(model.decoder.parameters()))
        return found
class Statistics(Objective):
    def loss(self, model, x): return Outcome(usual(model, x).terms, statistics={{'s': 3}})
class Interrupts(Objective):
    def loss(self, model, x): raise KeyboardInterrupt
class OnlySeen(Wrapper):
    def loss(self, model, x):
        return self.inner.loss(model, x) if torch.is_grad_enabled() else Outcome({{'e': (x - x)}})

class Neck(Bottleneck):
    fan_in = 4
    def forward(self, features): return Latent(features, features.new_zeros(len(features)))
class NeckAlone(Neck):
    def forward(self): ...
class PriorOfN(Neck):
    offers = frozenset({{'prior'}})
    def prior(self, n): ...
class PriorFlat(Neck):
    offers = frozenset({{'prior'}})
    def prior(self, n, shape, generator=None): return torch.zeros(n)
class Nearest(Neck):
    def nearest(self, z): return z[0]
class Likeness(Neck):
    def forward(self, features):
        class Found: mean = features
        return Latent(features, features.new_zeros(len(features)), Found())
class Books(Neck):
    codebooks = 'x'
class Likely(Likelihood):
    fan_out = 1
    def forward(self, p): return Dots(p.tanh())
class Dots(Pixels):
    def __init__(self, mean): self.mean = mean
    def nll(self): ...
    def sample(self): ...
class Map(Architecture):
    map_options = {{'nope': 1}}
    def encoder(self): ...
    def decoder(self, latent, fan_out): ...
class DecoderOfLatent(Architecture):
    def encoder(self): ...
    def decoder(self, latent): ...
class Sized(Dataset):
    def __init__(self, *, size: int = 3): ...
    def load(self, settings): ...
class Classes(Dataset):
    def load(self, settings):
        return Images(torch.zeros(9, 1, 8, 8, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64), [3])
class Deaf: ...
class Tracks:
    @hookimpl
    def aegen_step_end(self, nope): ...
"""
BROKEN = {
    "Encodes": ("objective", "encodes is 'x', not true or false"),
    "EncodesLater": ("objective", "encodes is 1, not true or false"),
    "MapOptions": ("objective", "map_options is [4], not options by name"),
    "Named": ("objective", "its option name has the name of a setting of aegen's own"),
    "NoSuchNeck": ("objective", "objective './mine.py:NoSuchNeck' has bottleneck 'nope' unless", "mend ./mine.py"),
    "NoSuchLikelihood": ("objective", "has likelihood 'nope' unless another is chosen, but unknown likelihood 'nope'"),
    "LossOfX": ("objective", "LossOfX.loss(self, x) cannot be called as loss(model, x)"),
    "StaticLoss": ("objective", "StaticLoss.loss(model) cannot be called as loss(model, x)"),
    "TurnsOfModel": ("objective", "TurnsOfModel.turns(self, model) cannot be called as turns()"),
    "TurnsThree": ("objective", "TurnsThree.turns is 3, not a method"),
    "AtNothing": ("objective", "AtNothing.at(self) cannot be called as at(step)"),
    "NoState": ("objective", "state_dict() of NoState gave a NoneType"),
    "Extra": ("objective", "holds ['_extra_state'], which is no tensor"),
    "NoSwitch": ("objective", "train() of NoSwitch does not return the module"),
    "NoParameters": ("objective", "parameters() of NoParameters gives no iterator"),
    "Doc": ("objective", "__doc__ is 3, not a text"),
    "Back": ("objective", "it calls backward() itself"),
    "Spent": ("objective", "torch.autograd.grad without create_graph or retain_graph"),
    "Statistics": ("objective", "statistic 's' is 3, not a Statistic"),
    "Interrupts": ("objective", "Interrupts.loss in mine.py:", "(KeyboardInterrupt)"),
    "NeckAlone": ("bottleneck", "NeckAlone.forward(self) cannot be called as forward(features)"),
    "PriorOfN": ("bottleneck", "PriorOfN.prior(self, n) cannot be called as prior(n, shape)"),
    "Nearest": ("bottleneck", "what nearest() gave is (4,), not like what it was given"),
    "Likeness": ("bottleneck", "the posterior is a Found, not a Posterior"),
    "Books": ("bottleneck", "codebooks is 'x', not a sequence of numbers of at least 1"),
    "Likely": ("likelihood", "Dots.nll(self) cannot be called as nll(x)"),
    "Map": ("arch", "map_options is {'nope': 1}: unknown option nope"),
    "DecoderOfLatent": ("arch", "DecoderOfLatent.decoder(self, latent) cannot be called as decoder(latent, fan_out)"),
    "Sized": ("data", "its option size has the name of a setting of aegen's own"),
    "Classes": ("data", "classes is [3], not a list of texts"),
    "Deaf": ("track", "Deaf (mine.py:", "hears nothing"),
    "Tracks": ("track", "Tracks (mine.py:", "does not fit aegen's hooks"),
}
WORDS = (
    "--arch",
    "mlp",
    "--arch.hidden",
    "[8]",
    "--steps",
    2,
    "--set",
    "log.images_every_epochs=0",
    "--run-dir",
    "run",
)


@pytest.mark.parametrize("name", BROKEN)
def test_what_aegen_cannot_use_is_told_with_its_rule(aegen: Aegen, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    kind, *pieces = BROKEN[name]
    words = WORDS if kind != "arch" else WORDS[4:]
    words = (
        *words,
        *(() if kind == "data" else ("--size", 8)),
        *(("--objective", "ae") if kind == "bottleneck" else ()),
    )
    said = aegen("train", *words, f"--{kind}", f"./mine.py:{name}")
    said.refused(3, "mine.py", *pieces)
    assert not list(tmp_path.glob("run/checkpoints/*")) or name == "Nearest"
    if "breaks a rule" in said.err and name != "Likely":
        line = MINE[: MINE.index(f"class {name}(")].count("\n") + 1
        assert f"{name} (mine.py:{line}) breaks a rule: " in said.err
    assert "of file" not in said.err and "package" not in said.err


def test_an_option_with_the_name_of_a_wrapper_goes_alone_only(aegen: Aegen, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    words = ("train", *TINY, "--print-config", "--objective")
    aegen(*words, "./mine.py:AsWrapper").worked()
    aegen(*words, "./mine.py:AsWrapper+adversarial").refused(3, "option 'adversarial' of", "name of the wrapper")


def test_options_may_have_the_names_of_switches(aegen: Aegen, tmp_path: Path) -> None:
    options = "config: str = 'a', help: int = 1, set: int = 2, given: float = 1.0, json: bool = False, _x: int = 1, x_: int = 2"
    head = f"{HEAD}\nclass Good(Objective):\n    def __init__(self, *, {options}): super().__init__()\n"
    (tmp_path / "mine.py").write_text(f"{head}    def loss(self, model, x): ...\n")
    words = ("--objective", "./mine.py:Good", "--objective.config", "b", "--objective.help", 5, "--objective.json")
    out = aegen("train", *TINY, *words, "--print-config").worked().out
    assert 'config = "b"' in out and "help = 5" in out and "json = true" in out


def test_a_loss_that_only_validation_takes_is_looked_at(aegen: Aegen, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    said = aegen("train", *WORDS, "--size", 8, "--objective", "vae+./mine.py:OnlySeen")
    said.refused(3, "OnlySeen (mine.py:", "term 'e' is (180, 1, 8, 8), not (B,) or ()")


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aegen: Aegen) -> Any:
    """`guarded("bottleneck", "PriorFlat")`: an instance of a third party's class, made as a run makes it."""
    (tmp_path / "mine.py").write_text(MINE + FEATURES)

    def make(kind: str, name: str) -> Any:
        value = f"./mine.py:{name}"
        registry.trust(value)
        cls = factory.load(kind, value, factory.BASES[kind])
        return factory.create(cls, kind, factory.Spec(value), "", {})

    return make


FEATURES = """
class Net(FeatureNetwork):
    width, least, channels = 4, 8, (2,)
    def forward(self, x): return torch.zeros(len(x), self.wide)
    def maps(self, x): return [torch.zeros(len(x), self.wide - 2, 3, 3)]
    def logits(self, features): return features[:, 0] if self.wide == 5 else features
    wide = 4
class Wide(Net):
    wide = 5
"""


def test_what_a_feature_network_gives_is_held_against_its_shapes(guarded: Any) -> None:
    x, good, wide = torch.zeros(3, 3, 8, 8), guarded("feature", "Net"), guarded("feature", "Wide")
    assert good(x).shape == (3, 4) and good.maps(x)[0].shape == (3, 2, 3, 3) and good.logits(good(x)).shape == (3, 4)
    for call, piece in (
        (lambda: wide(x), r"what the feature network gave is \(3, 5\), not \(B, width\), here \(3, 4\)"),
        (lambda: wide.maps(x), r"maps\(\) gave \(3, 3, 3, 3\) for 3 images, not \(B, 2, h, w\)"),
        (lambda: wide.logits(torch.zeros(3, 4)), r"logits\(\) gave \(3,\) for 3 images, not \(B, classes\)"),
    ):
        with pytest.raises(PluginError, match=piece):
            call()


def test_a_copy_of_a_bottleneck_is_guarded_by_itself(guarded: Any) -> None:
    """The model is put together on the meta device with a copy, whose methods must not be those of the first."""
    import copy

    neck = copy.deepcopy(guarded("bottleneck", "Neck"))
    assert neck.nearest.__self__ is neck
    flat = guarded("bottleneck", "PriorFlat")
    with pytest.raises(
        PluginError,
        match=r"PriorFlat \(mine.py:\d+\).*what prior\(\) gave is \(5,\), not \(n, \*latent\), here \(5, 4\)",
    ):
        flat.prior(5, (4,))


def test_every_component_of_aegens_own_is_as_its_protocol_says() -> None:
    for component in registry.every_component():
        if component.builtin and component.kind in factory.BASES:
            factory.load_component(component)
    assert interfaces.ATTRIBUTES.keys() <= factory.BASES.keys()


# -------------------------------------------------------------------------------- whose it is


@pytest.mark.parametrize("code", ["raise KeyboardInterrupt", "class E(KeyboardInterrupt): ...\nraise E"])
def test_a_module_that_raises_ctrl_c_when_it_is_imported(aegen: Aegen, tmp_path: Path, code: str) -> None:
    (tmp_path / "mine.py").write_text(code)
    aegen("train", "--objective", "./mine.py:X", "--dry-run").refused(
        3, "could not be loaded", "mine.py:", "mend ./mine.py"
    )


@pytest.mark.parametrize(
    ("code", "piece"),
    [
        ("    def loss(self, model, x): raise MemoryError\n", "X.loss in mine.py:"),
        ("    def loss(self, model, x): return torch.empty(2**50)\n", "X.loss in mine.py:"),
        ("    def __init__(self): raise MemoryError\n    def loss(self, model, x): ...\n", "X.__init__ in mine.py:"),
        ("    raise MemoryError\n", "X in mine.py:"),
    ],
)
def test_who_ran_out_of_memory_is_named(aegen: Aegen, tmp_path: Path, code: str, piece: str) -> None:
    (tmp_path / "mine.py").write_text(f"{HEAD}\nclass X(Objective):\n{code}")
    said = aegen("train", *TINY, "--objective", "./mine.py:X", "--steps", 1)
    said.refused(4, piece, "failed, since memory ran out", "use smaller images")


def test_two_packages_in_one_folder_are_told_apart(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    site = install("one", text=b"[aegen.objectives]\none = shared.a.one:X\n")
    install("two", text=b"[aegen.objectives]\ntwo = shared.b.two:X\n")
    install("three", text=b"[aegen.objectives]\nthree = aegen_builtin.objectives.third:X\n")
    for place in ("shared/a/one.py", "shared/b/two.py"):
        (site / place).parent.mkdir(parents=True)
        (site / place).write_text("X = 1\n")
    loaded = [registry.find("objective", name) for name in ("one", "two")]
    assert registry.load(loaded[0]) == 1
    assert registry.strangers() == loaded[:1]
    assert registry.is_stranger("shared.a.helpers") and not registry.is_stranger("shared.b.two")
    assert registry.load(loaded[1]) == 1
    assert registry.strangers() == loaded and registry.is_stranger("shared.b.two")
    third = registry.find("objective", "three")
    with pytest.raises(PluginError):
        registry.load(third)
    assert registry.is_stranger("aegen_builtin.objectives.third") and not registry.is_stranger(
        "aegen_builtin.objectives.vae"
    )


def test_a_component_says_whose_it_is_and_what_to_do() -> None:
    package = Component("objective", "a", "b:C", "c", "1")
    file = Component("objective", "./m.py:A", "./m.py:A", "file", "")
    assert (package.who, package.remedy) == ("objective 'a' of c", "mend or uninstall that package")
    assert (file.who, file.remedy) == ("objective './m.py:A'", "mend ./m.py")


# -------------------------------------------------------------------------------- what is written, and what is shown


@pytest.mark.parametrize(
    ("change", "piece"),
    [
        ({"encodes": "x"}, "encodes: Input should be a valid boolean"),
        ({"latent": []}, "latent: List should have at least 1 item"),
        ({"data": {"name": "a", "count": 1, "classes": [3], "fingerprint": "f"}}, "data.classes.0"),
        ({"validation": {"loss": "no"}}, "validation.loss"),
        ({"samplers": {"a": {"b": object()}}}, "no JSON"),
    ],
)
def test_no_header_is_written_that_could_not_be_read(
    trained: Path, tmp_path: Path, change: dict[str, Any], piece: str
) -> None:
    header = dict(Checkpoint(trained / "checkpoints/last.safetensors").header)
    checkpoint.save(tmp_path / "a.safetensors", {"model.w": torch.zeros(2)}, header)
    before = (tmp_path / "a.safetensors").read_bytes()
    with pytest.raises(checkpoint.Unwritable, match=piece):
        checkpoint.save(tmp_path / "a.safetensors", {"model.w": torch.ones(2)}, header | change)
    assert (tmp_path / "a.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("limits", "shown"),
    [
        (Range(), ""),
        (Range(1), "1≤x"),
        (Range(0, 1), "0≤x≤1"),
        (Range(above=0, max=3.4e38), "0<x"),
        (Range(-3e38, 3e38), ""),
    ],
)
def test_a_bound_beyond_all_numbers_is_not_shown(limits: Range, shown: str) -> None:
    assert str(limits) == shown
    assert Option("a", float, 1.0, range=limits).kind == f"number {shown}".strip()


@pytest.mark.parametrize(
    ("kind", "limits", "value", "way"),
    [
        (int, None, 2**31, "at most 2147483647"),
        (int, Range(1), 2**31, "at most 2147483647"),
        (int, None, -(2**31), "at least -2147483647"),
        (float, None, -1e39, r"at least -3e\+38"),
        (float, Range(0), 1e39, r"at most 3e\+38"),
    ],
)
def test_a_number_too_large_is_told_the_end_that_it_passed(
    kind: type, limits: Range | None, value: float, way: str
) -> None:
    with pytest.raises(UsageError, match=f"must be {way}$"):
        Option("a", kind, 1, range=limits).check(value, "a")


def test_notes_are_a_list() -> None:
    outputs.notes(["a text"])
    with pytest.raises(outputs.Broken, match="not a list of texts"):
        outputs.notes("a text")
