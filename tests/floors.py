"""The floors of the house, lowest first: the one list from which the test, CONTRIBUTING's table and docs/rooms.md are made.

python tests/floors.py      write the table and the page anew
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What a floor is for, and its modules in rows, lowest first; those of one row do not import each other, not even for type checkers.
FLOORS: list[tuple[str, list[str]]] = [
    (
        "errors, what comes from outside, several processes, files that are whole or not there",
        [
            "errors collectives atomic threads untrusted accumulation filenames safetensors_file messages signals "
            "caches intervals energy_distance objective_name",
            "schedules noise tracebacks memory lock signing nn.precision checksummed",
        ],
    ),
    (
        "signatures → schema → settings; kind → name → entry point; hooks",
        [
            "spec package_metadata contract.enforcement",
            "settings registry hooks data.image_rows data.decode_memory data.values",
            "model_spec",
        ],
    ),
    (
        "every shape said, what is held to it, and construction from a name and options",
        [
            "protocols contract.blame contract.commands data.dataset_names",
            "contract.outputs",
            "contract.interfaces",
            "factory",
            "descriptions",
            "combinations",
        ],
    ),
    (
        "what an autoencoder is, how it is made and kept",
        [
            "autoencoder rundir pictures header foreign fitting",
            "places",
            "checkpoint",
            "sampler_file",
        ],
    ),
    (
        "layers and densities that components share; plugins import them as they import the façade",
        [
            "nn.spectral nn.densities nn.kernels nn.importance",
        ],
    ),
    (
        "files → uint8 rows → batches",
        [
            "data.bmp data.png data.jpeg data.tiff_page data.cache_file data.prefetch data.augment",
            "data.convert data.tiff",
            "data.decode",
            "data.batches data.encoded data.listing",
            "data.decoded_cache",
            "data.source data.shards",
        ],
    ),
    (
        "one loop over the turns, and what it needs; layers of configuration → one RunSpec",
        [
            "training.cpu training.diagnostics training.distributed training.precision training.optim "
            "training.ema training.preview",
            "training.progress",
            "training.nonfinite_guard training.stop_signal training.checkpoint_writer training.rehearsal",
            "training.metrics training.turns",
            "training.checkpointing training.gradient_reach training.recovery training.sharding training.validation",
            "config training.loop",
            "training.autotune training.sampler_trainer",
        ],
    ),
    (
        "the handle on a trained model, and what the commands do with it",
        [
            "inference.arguments inference.concatenation inference.latents inference.loading inference.sizes",
            "inference.reading inference.samplers inference.statistics inference.latent_rows",
            "inference.coding",
            "inference.model",
            "inference.sampling inference.reconstruction inference.exporting inference.importing",
            "inference.interpolation",
            "inference",
        ],
    ),
    (
        "metrics under a protocol, from a few numbers of every image",
        [
            "evaluation.protocol evaluation.published",
            "evaluation.features",
            "evaluation.feature_cache",
            "evaluation.batch",
            "evaluation.per_image",
            "evaluation.evaluator",
            "evaluation",
        ],
    ),
    (
        "a run from its first look at the data to its card",
        [
            "training.warm_start",
            "training.run",
            "training.fit_sampler",
        ],
    ),
    (
        "the contract that every plugin can be tested against",
        [
            "testing.models",
            "testing.metrics testing.objectives testing.components testing.importers testing.samplers testing.tools",
            "testing",
        ],
    ),
    (
        "runs side by side or one alone, as a page and as tables",
        [
            "reporting",
        ],
    ),
    (
        "the command kit and the core's own commands; `render` and `progress` alone import rich",
        [
            "cli.text_width cli.help_format cli.options",
            "cli.render",
            "cli.progress",
            "command cli.builtin_commands",
            "cli.app",
            "cli.train cli.evaluate cli.list_plugins",
            "cli",
        ],
    ),
]
ROWS = [(what, [row.split() for row in rows]) for what, rows in FLOORS]
HEIGHT = {name: height for height, row in enumerate(row for _, rows in ROWS for row in rows) for name in row}


def modules(folder: str) -> list[Path]:
    """All Python files below a folder of the project."""
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Modules named by import statements, also by those for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def floor(module: str) -> str:
    """`aegen.cli.train` → `cli`; `aegen.data.decode.read` → `data.decode`; "" where it has none."""
    parts = module.split(".")[1:]
    while parts and ".".join(parts) not in HEIGHT:
        parts.pop()
    return ".".join(parts)


def name_of(path: Path) -> str:
    """The dotted name of a file of the project."""
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


def purpose(path: Path) -> str:
    """The first sentence of a file's docstring."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=\.)\s|\n\n", " ".join(said.partition("\n\n")[0].split()))[0]


def table() -> str:
    """The floors as CONTRIBUTING shows them."""
    lines = ["| floor | rooms | for |", "|---|---|---|"]
    for number, (what, rows) in enumerate(ROWS):
        names = [name for row in rows for name in row]
        folders = list(dict.fromkeys(name.partition(".")[0] for name in names))
        shown = []
        for folder in folders:
            inner = [name.partition(".")[2] for name in names if name.startswith(folder + ".")]
            whole = {p.stem for p in (ROOT / "aegen" / folder).glob("[!_]*.py")} <= set(inner) if inner else False
            if not inner:
                shown.append(f"`{folder}{'/' if (ROOT / 'aegen' / folder).is_dir() else ''}`")
            elif whole or len(inner) > 4:
                shown.append(f"`{folder}/`")
            else:
                shown += [f"`{folder}/{name}`" for name in inner]
        lines.append(f"| {number} | {' '.join(shown)} | {what} |")
    return "\n".join(lines)


def page() -> str:
    """docs/rooms.md: every file with what its first sentence says of it."""
    lines = ["# Every room, and what it is for", ""]
    lines += [
        "Made by `python tests/floors.py` from the first sentence of every file; a file imports only from rows above its own."
    ]
    for number, (what, rows) in enumerate(ROWS):
        lines += ["", f"## {number}. {what[0].upper()}{what[1:]}", "", "| file | what it is for |", "|---|---|"]
        for row in rows:
            for name in row:
                place = ROOT / "aegen" / name.replace(".", "/")
                files = [place.with_suffix(".py")] if place.with_suffix(".py").exists() else sorted(place.glob("*.py"))
                if not place.with_suffix(".py").exists() and any(other.startswith(name + ".") for other in HEIGHT):
                    files = [place / "__init__.py"]
                lines += [f"| `{f.relative_to(ROOT)}` | {purpose(f).replace('|', '/')} |" for f in files]
    lines += ["", "## The built-in components", "", "| folder | what it is for |", "|---|---|"]
    for folder in sorted((ROOT / "plugins" / "aegen_builtin").iterdir()):
        if (folder / "__init__.py").exists():
            lines.append(f"| `{folder.relative_to(ROOT)}/` | {purpose(folder / '__init__.py')} |")
    return "\n".join(lines) + "\n"


MARKED = re.compile(r"(<!-- floors: made by tests/floors.py -->\n).*?(\n<!-- /floors -->)", re.DOTALL)


def contributing() -> str:
    """CONTRIBUTING.md with the table as it must be."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return MARKED.sub(lambda found: found[1] + table() + found[2], text)


if __name__ == "__main__":
    (ROOT / "CONTRIBUTING.md").write_text(contributing(), encoding="utf-8")
    (ROOT / "docs" / "rooms.md").write_text(page(), encoding="utf-8")
    print("written: CONTRIBUTING.md, docs/rooms.md", file=sys.stderr)
