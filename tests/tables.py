"""What is made from the components themselves: the table of aegen's own commands, and docs/components.md.

python tests/tables.py      write both anew
"""

from __future__ import annotations

import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMMANDS = ROOT / "aegen/cli/builtin_commands.py"
PAGE = ROOT / "docs/components.md"

_GROUPS = {
    "architectures": ("Architectures", "`--arch`: encoder and decoder"),
    "bottlenecks": ("Bottlenecks", "`--bottleneck`: what lies between"),
    "likelihoods": ("Likelihoods", "`--likelihood`: of a pixel, given the latent"),
    "objectives": ("Objectives", "`--objective`: what is minimised; wrappers are added with `+`"),
    "samplers": ("Samplers", "`--sampler`: how latents are drawn"),
    "features": ("Feature networks", "`--features`, `--objective.perceptual.features`"),
    "metrics": ("Metrics", "`aegen evaluate --metric`"),
    "datasets": ("Data sets", "`--data`"),
    "exporters": ("Exporters", "`aegen export --format`"),
    "importers": ("Importers", "`aegen import --importer`"),
    "trackers": ("Trackers", "`--track`"),
    "commands": ("Commands", "`aegen NAME`, beside `train`, `evaluate` and `list-plugins`"),
}


def declared() -> dict[str, dict[str, str]]:
    """Group without `aegen.` → name → entry point, as pyproject.toml has them."""
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    return {group.removeprefix("aegen."): names for group, names in entries.items()}


def load(value: str) -> Any:
    """What an entry point names."""
    module, _, attribute = value.partition(":")
    return getattr(import_module(module), attribute)


def commands() -> str:
    """aegen/cli/builtin_commands.py: what `aegen --help` says of commands that it does not import."""
    lines = [
        '"""aegen\'s own commands that are plugins, made by `python tests/tables.py`: `aegen --help` imports and scans nothing."""',
        "",
        "BUILTIN: dict[str, tuple[str, str, tuple[str, ...]]] = {",
    ]
    for name, value in declared()["commands"].items():
        made = load(value).__aegen_command__
        assert made.short, f"command {name} says nothing for `aegen --help`: @command(…, short=…)"
        lines.append(f"    {_quoted(name)}: (")
        lines += [f"        {_quoted(value)},", f"        {_quoted(made.short)},"]
        words = ", ".join(map(_quoted, made.meant)) + "," * (len(made.meant) == 1)
        lines += [f"        ({words}),", "    ),"]
    return "\n".join(
        [*lines, "}", '"""Name → entry point, the line in `aegen --help`, and what people call it."""', ""]
    )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def page() -> str:
    """docs/components.md: every built-in component, with the first line of its documentation."""
    lines = ["# The built-in components", ""]
    lines += [
        "Made by `python tests/tables.py` from what `aegen list-plugins` says; `aegen list-plugins NAME` shows options."
    ]
    for group, names in declared().items():
        heading, where = _GROUPS[group]
        lines += ["", f"## {heading}", "", f"{where}.", "", "| name | what it is |", "|---|---|"]
        for name, value in names.items():
            lines.append(f"| `{name}` | {_summary(group, name, value).replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _summary(group: str, name: str, value: str) -> str:
    from aegen import registry
    from aegen.descriptions import describe

    kind = next(kind for kind, entry in registry.KINDS.items() if entry == f"aegen.{group}")
    return describe(registry.Component(kind, name, value, registry.BUILTIN, "")).summary


if __name__ == "__main__":
    COMMANDS.write_text(commands(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {COMMANDS.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}", file=sys.stderr)
