"""The floors of the house: a file imports only from lower ones, and a plugin only the façade."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import aegen

ROOT = Path(__file__).parents[1]
# Lowest first; modules of one row do not import each other.
FLOORS = [
    [
        "errors",
        "ranks",
        "atomic",
        "threads",
        "outside",
        "micro",
        "names",
        "opened",
        "talk",
        "signals",
        "caches",
        "intervals",
    ],
    ["schedules", "noise", "places", "memory", "lock", "seals"],
    ["spec", "installed", "holding"],
    ["settings", "registry", "plugins", "data.rows", "data.room", "data.values"],
    ["protocols", "blame", "data.naming"],
    ["rules"],
    ["forms"],
    ["factory"],
    ["descriptions"],
    ["combining"],
    ["model", "rundir", "pictures"],
    ["checkpoint", "data.bmp", "data.png", "data.jpeg", "data.tiff_page", "data.store", "data.ahead", "data.augment"],
    ["data.convert", "data.tiff"],
    ["data.decode"],
    ["data.batches", "data.files", "data.listing"],
    ["data.keep"],
    ["data.source", "data.shards"],
    [
        "engine.host",
        "engine.notices",
        "engine.parallel",
        "engine.precision",
        "engine.optim",
        "engine.ema",
        "engine.preview",
    ],
    ["engine.progress"],
    ["engine.guard", "engine.stop", "engine.writer", "engine.rehearsal"],
    ["engine.recorder", "engine.stage"],
    ["engine.keeper", "engine.reach", "engine.recovery", "engine.sharding", "engine.validation"],
    ["config", "engine.loop"],
    ["engine.trial", "use.given", "use.joining", "use.latents", "use.loading"],
    ["use.reading", "use.samplers"],
    ["use.model"],
    ["use.sampling", "use.reconstruction", "use.exporting"],
    ["use.interpolation"],
    ["evaluation.protocol", "evaluation.published"],
    ["evaluation.features"],
    ["evaluation.cache"],
    ["evaluation.seen"],
    ["evaluation.rows"],
    ["evaluation.examination"],
    ["use", "evaluation"],
    ["beginning"],
    ["run"],
    ["testing.models"],
    ["testing.metrics", "testing.objectives", "testing.parts"],
    ["testing"],
    ["reporting"],
    ["cli"],
]
HEIGHT = {name: height for height, row in enumerate(FLOORS) for name in row}
FACADE = set(aegen.__all__)


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Modules named by import statements, those for type checkers alone left out."""
    found = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and child.level == 0:
                found.add(child.module)
                found.update(f"{child.module}.{alias.name}" for alias in child.names)
            walk(child)

    walk(ast.parse(path.read_text(encoding="utf-8")))
    return found


def floor(module: str) -> str:
    """`aegen.cli.train` → `cli`; `aegen.data.decode.read` → `data.decode`."""
    parts = module.split(".")[1:]
    while parts and ".".join(parts) not in HEIGHT:
        parts.pop()
    return ".".join(parts)


def name_of(path: Path) -> str:
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


@pytest.mark.parametrize("path", modules("aegen"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_from_lower_floors(path: Path) -> None:
    me = floor(name_of(path))
    if path.name in ("__init__.py", "__main__.py") and not me:
        assert not {i for i in imports(path) if i.startswith("aegen.") and not i.startswith("aegen.cli")}
        return
    assert me, f"{path} has no floor: add it to FLOORS"
    for module in imports(path):
        other = floor(module)
        if module.startswith("aegen.") and other and other != me:
            assert HEIGHT[other] < HEIGHT[me], (
                f"{name_of(path)} (floor {HEIGHT[me]}) imports {module} ({HEIGHT[other]})"
            )


@pytest.mark.parametrize("path", modules("plugins") + modules("examples"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_plugin_imports_only_the_facade(path: Path) -> None:
    own = path.relative_to(ROOT).parts[1 if path.is_relative_to(ROOT / "plugins") else 2]
    for module in imports(path):
        head, _, rest = module.partition(".")
        if head == "aegen":
            inner = rest.partition(".")[0]
            reaches = (ROOT / "aegen" / inner).is_dir() or (ROOT / "aegen" / f"{inner}.py").exists()
            kit = inner == "testing" and "tests" in path.parts
            assert not rest or kit or not reaches or inner in FACADE, f"{path} reaches into {module}"
        elif head.startswith("aegen_") and "tests" not in path.parts:
            assert head == own, f"{path} imports another plugin, {module}"


@pytest.mark.parametrize("path", modules("aegen"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_never_imports_a_plugin(path: Path) -> None:
    assert not {m for m in imports(path) if m.startswith("aegen_")}


def test_only_one_module_imports_rich() -> None:
    users = {name_of(p) for p in modules("aegen") if any(m.split(".")[0] == "rich" for m in imports(p))}
    assert users == {"aegen.cli.render"}


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
