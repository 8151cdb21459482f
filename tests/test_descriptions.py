"""What is known of components without importing them, and that a cache of it is never believed when it is stale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Aegen
from test_startup import run

from aegen import caches, combinations, descriptions, registry
from aegen.descriptions import Description, describe
from aegen.factory import load
from aegen.objective_name import ObjectiveName
from aegen.protocols import Bottleneck, Objective

CODE = """
from typing import Annotated, Literal
from aegen import Objective, Range, Schedule

class X(Objective):
    \"\"\"{summary}\"\"\"
    needs = {{"penalty"}}
    def __init__(self, *, beta: Annotated[float, Range(0)] = {beta}, way: Literal["a", "b"] = "a",
                 hidden: Annotated[list[int], Range(1)] | None = None, free: bool = False) -> None:
        super().__init__()
    def loss(self, model, x): ...
"""


def old(path: Path) -> None:
    """As if it were written long ago: what was written just now is not kept, since it may change unseen."""
    os.utime(path, (1e9, 1e9))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aegen: Aegen) -> Callable[..., Path]:
    """`package(beta=1.0)`: writes or changes an installed package; returns its module."""
    site = tmp_path / "site"
    info = site / "thing-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[aegen.objectives]\nthing = thing:X\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(descriptions, "_BEGAN", 1 << 62)  # files of any age are settled

    def write(**words: object) -> Path:
        (site / "thing.py").write_text(CODE.format(**{"summary": "One.", "beta": 1.0, **words}))
        fresh()
        return site / "thing.py"

    return write


def fresh() -> None:
    """As a new process begins."""
    registry.forget()
    descriptions.forget()
    sys.modules.pop("thing", None)


def seen() -> tuple[Description, bool]:
    """The description of the package's objective, and whether it was imported for that."""
    fresh()
    found = describe(registry.find("objective", "thing"))
    return found, "thing" in sys.modules


def kept() -> Path:
    folder = caches.folder()
    assert folder is not None
    (path,) = (folder / "components").glob("thing-*.json")
    return path


def test_what_is_kept_is_what_was_seen(package: Callable[..., Path]) -> None:
    package()
    first, imported = seen()
    assert imported
    again, imported = seen()
    assert not imported
    assert again == first
    assert [option.kind for option in again.options] == ["number 0≤x|schedule", "a|b", "[integer,…] 1≤x", "true|false"]
    assert again.options[0].check("linear(0,1,5)", "beta") == "linear(0,1,5)"
    assert again.needs == {"penalty"}


def change_module(package: Callable[..., Path]) -> None:
    package(beta=2.0)


def change_same_size_and_time(package: Callable[..., Path]) -> None:
    path = package(beta=2.0)
    os.utime(path, ns=(10**18, 10**18))  # the time of the change of the file itself cannot be set back


def change_declared(package: Callable[..., Path]) -> None:
    info = package().parent / "thing-1.0.dist-info/entry_points.txt"
    info.write_text("[aegen.objectives]\nthing = thing:X\nother = thing:X\n")


def change_installed(package: Callable[..., Path]) -> None:
    (Path(sys.path[0]) / "newcomer.py").write_text("")


def damage(package: Callable[..., Path]) -> None:
    kept().write_bytes(b"\x00not JSON")


def hollow(package: Callable[..., Path]) -> None:
    told = json.loads(kept().read_text())
    told["components"] = {key: {"title": 3} for key in told["components"]}
    kept().write_text(json.dumps(told))


def strange(package: Callable[..., Path]) -> None:
    kept().write_text("[" * 10_000)


@pytest.mark.parametrize(
    "change",
    [change_module, change_same_size_and_time, change_declared, change_installed, damage, hollow, strange],
)
def test_a_cache_that_is_stale_or_damaged_is_made_anew(
    package: Callable[..., Path], change: Callable[[Callable[..., Path]], None]
) -> None:
    os.utime(package(), ns=(10**18, 10**18))
    seen()
    assert not seen()[1]
    change(package)
    found, imported = seen()
    assert imported
    assert found.options[0].default == (2.0 if change in (change_module, change_same_size_and_time) else 1.0)
    assert not seen()[1]


def test_a_file_that_was_written_just_now_is_not_kept(
    package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    package()
    monkeypatch.setattr(descriptions, "_BEGAN", 0)
    assert seen()[1]
    assert seen()[1]


def test_what_does_not_load_is_looked_at_again(package: Callable[..., Path]) -> None:
    path = package()
    path.write_text("import nowhere_to_be_found\n")
    fresh()
    (found,) = descriptions.describe_all([registry.find("objective", "thing")]).values()
    assert "nowhere_to_be_found" in str(found)
    package(summary="Mended.")
    assert seen()[0].summary == "Mended."


def test_without_a_cache_and_where_none_can_be_written(
    package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package()
    for place in ("", str(tmp_path / "a file/below")):
        (tmp_path / "a file").write_text("")
        monkeypatch.setenv("AEGEN_CACHE", place)
        assert seen()[1]
        assert seen()[1]
        assert seen()[0].summary == "One."


def test_no_code_is_taken_from_the_cache(package: Callable[..., Path], tmp_path: Path) -> None:
    package()
    seen()
    told = json.loads(kept().read_text())
    (row,) = told["components"].values()
    row["options"][0]["type"] = {"__import__": "os"}
    kept().write_text(json.dumps(told))
    found, imported = seen()
    assert imported
    assert found.options[0].type is float


def test_descriptions_say_what_the_classes_say() -> None:
    for name in registry.names("bottleneck"):
        cls = load("bottleneck", name, Bottleneck)
        told = describe(registry.find("bottleneck", name))
        assert told.offers == frozenset(cls.offers)
        assert told.settled, f"{name} offers something else in an instance"
    for name in registry.names("objective"):
        made, described = load("objective", name, Objective), describe(registry.find("objective", name))
        assert (described.bottleneck, described.stands_for) == (made.bottleneck, made.stands_for)
        assert described.needs == frozenset(made.needs)


def test_a_bottleneck_that_decides_what_it_offers_is_asked_when_it_is_built() -> None:
    class Decides(Bottleneck):
        def __init__(self) -> None:
            super().__init__()
            self.offers = frozenset({"penalty"})

        def forward(self, features): ...  # type: ignore[no-untyped-def]

    assert descriptions._sets(Decides, "offers")
    assert not descriptions._sets(load("bottleneck", "gaussian", Bottleneck), "offers")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (["list-plugins"], 0),
        (["list-plugins", "conv", "--json"], 0),
        (["list-plugins", "--combinations"], 0),
        (["train", "--objective", "vae", "--bottleneck", "deterministic"], 2),
        (["train", "--objective", "vq-vae+adversarial", "--print-config"], 0),
        (["train", "--arch", "conv", "--objective", "kl-gan", "--help"], 0),
        (["sample", "--sampler", "mixture", "--help"], 0),
        (["export", "--format", "onnx", "--help"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_nothing_heavy_is_loaded_for_what_is_known(line: list[str], code: int, cache: Path) -> None:
    result, _ = run(line, AEGEN_CACHE=str(cache))
    assert (result["heavy"], result["code"]) == ([], code)


def test_completion_of_a_components_option_loads_nothing_heavy(cache: Path) -> None:
    words = "aegen train --objective beta-vae --objective.b"
    extra = {"_AEGEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "4", "_TYPER_COMPLETE_ARGS": words}
    result, out = run([], AEGEN_CACHE=str(cache), **extra)
    assert result["heavy"] == []
    assert out.split() == ["--objective.beta"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which every built-in component is described."""
    folder = tmp_path_factory.mktemp("cache")
    code = (
        "from aegen import descriptions as d, registry; d._BEGAN = 1 << 62; d.describe_all(registry.every_component())"
    )
    env = {**os.environ, "AEGEN_CACHE": str(folder), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    return folder


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AEGEN_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert caches.folder() == tmp_path / ".cache/aegen"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))
    assert caches.folder() == tmp_path / "there/aegen"


def test_a_refusal_by_description_is_the_refusal_by_the_instances() -> None:
    from aegen.autoencoder import build_model, build_objective
    from aegen.errors import UsageError
    from aegen.protocols import ImageShape
    from aegen.spec import Spec

    with pytest.raises(UsageError) as early:
        combinations.check_fit(ObjectiveName.parse("vae"), "deterministic")
    model = build_model(Spec("mlp", {"hidden": [4]}), Spec("deterministic"), Spec("gaussian"), ImageShape(1, 8, 8))
    with pytest.raises(UsageError) as late:
        build_objective(Spec("vae"), model)
    assert str(early.value) == str(late.value)
