"""The floors of the house: a file imports only from lower ones, and a plugin only the façade."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from floors import HEIGHT, ROOT, contributing, floor, imports, modules, name_of, page

import aegen

FACADE = set(aegen.__all__)
SHELVES = {"command", "nn"}  # public rooms beside the façade
# Upward for type checkers alone: the protocols say what an autoencoder and an evaluated batch are given to.
NAMED_ABOVE = {("protocols", "autoencoder"), ("protocols", "evaluation.batch")}


@pytest.mark.parametrize("path", modules("aegen"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_from_lower_floors(path: Path) -> None:
    me = floor(name_of(path))
    if path.name in ("__init__.py", "__main__.py") and not me:
        # The façade names all of them, for type checkers, and imports none; the command line begins in __main__.
        assert path.parent.name == "aegen" or not {i for i in imports(path) if i.startswith("aegen.")}
        return
    assert me, f"{path} has no floor: add it to FLOORS"
    for module in imports(path):
        other = floor(module)
        if module.startswith("aegen.") and other and other != me and (me, other) not in NAMED_ABOVE:
            assert HEIGHT[other] < HEIGHT[me], (
                f"{name_of(path)} (floor {HEIGHT[me]}) imports {module} ({HEIGHT[other]})"
            )


@pytest.mark.parametrize("path", modules("plugins") + modules("examples"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_plugin_imports_only_the_facade(path: Path) -> None:
    """The built-ins are one package, of which a kind imports no other kind."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = ".".join(parts[1:3]) if parts[0] == "plugins" else parts[2]
    for module in imports(path):
        head, _, rest = module.partition(".")
        if head == "aegen":
            inner = rest.partition(".")[0]
            reaches = (ROOT / "aegen" / inner).is_dir() or (ROOT / "aegen" / f"{inner}.py").exists()
            kit = inner == "testing" and "tests" in path.parts
            assert not rest or kit or inner in SHELVES or not reaches or inner in FACADE, (
                f"{path} reaches into {module}"
            )
        elif head.startswith("aegen_") and "tests" not in path.parts:
            assert (module + ".").startswith(own + ".") or module == own.partition(".")[0], (
                f"{path} imports another plugin, {module}"
            )


def test_the_table_and_the_page_are_made_from_the_list() -> None:
    assert contributing() == (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), "run python tests/floors.py"
    assert page() == (ROOT / "docs" / "rooms.md").read_text(encoding="utf-8"), "run python tests/floors.py"
    assert "floors: made by" in contributing()


def test_the_facade_lists_all_that_it_gives() -> None:
    given = {name.partition("=")[0] for names in aegen._HOME.values() for name in names}
    assert sorted(aegen.__all__) == sorted(given)
    assert all(hasattr(aegen, name) for name in given)


def test_every_file_says_what_it_is_for() -> None:
    silent = [line for line in page().splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert not silent


@pytest.mark.parametrize("path", modules("aegen"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_never_imports_a_plugin(path: Path) -> None:
    assert not {m for m in imports(path) if m.startswith("aegen_")}


def test_only_two_modules_import_rich() -> None:
    users = {name_of(p) for p in modules("aegen") if any(m.split(".")[0] == "rich" for m in imports(p))}
    assert users == {"aegen.cli.render", "aegen.cli.progress"}


def test_nobody_imports_click_or_the_private_part_of_typer() -> None:
    for path in modules("aegen"):
        assert not {m for m in imports(path) if m.split(".")[0] == "click" or m.startswith("typer._")}, path


@pytest.mark.parametrize("path", [*modules("aegen"), *modules("plugins"), *modules("examples"), *modules("benchmarks")])
def test_no_code_is_taken_from_data(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    forbidden = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    assert not {m.split(".")[0] for m in imports(path)} & forbidden
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("torch.load", "torch.save", "eval", "exec", "torch.jit.load"), f"{path}: {called}"
            if called == "np.load":
                assert "allow_pickle=False" in ast.unparse(node), f"{path}: np.load may run pickled code"


def test_no_path_of_the_machine_it_was_written_on() -> None:
    """Nothing in the project names the machine that it was written on."""
    for path in ROOT.rglob("*"):
        if path.suffix in (".py", ".md", ".toml") and path != Path(__file__) and ".venv" not in path.parts:
            assert not re.search(r"/work/(main|shared)|/tmp/w\b", path.read_text(encoding="utf-8")), path
