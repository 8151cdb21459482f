"""The README's generated table. `python tests/test_readme.py` writes it anew."""

from __future__ import annotations

from pathlib import Path

from aegen import registry
from aegen.combinations import combinations

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- combinations -->\n", "<!-- end -->\n"


def table() -> str:
    """The built-in objectives, one row each."""
    builtin = {c.name for kind in ("objective", "bottleneck") for c in registry.components(kind) if c.builtin}
    lines = ["| objective | bottleneck | likelihood | goes with |", "|---|---|---|---|"]
    for row in combinations():
        if row["objective"] not in builtin:
            continue
        able = [f"`{name}`" for name in row["goes_with"] if name in builtin]
        lacking = [f"`{name}`" for name in row["goes_without"] if name in builtin]
        if row["wraps"]:
            goes = f"any objective: `vae+{row['objective']}`"
        elif not lacking:
            goes = "every bottleneck"
        else:
            goes = f"all but {', '.join(lacking)}" if len(lacking) < len(able) else ", ".join(able)
        name = f"`{row['objective']}`" + (f" = `{row['stands_for']}`" if row["stands_for"] else "")
        lines.append(f"| {name} | {row['bottleneck']} | {row['likelihood']} | {goes} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_combinations_is_what_the_components_say() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == table(), "python tests/test_readme.py writes it anew"


if __name__ == "__main__":
    whole = README.read_text(encoding="utf-8")
    head, _, rest = whole.partition(BEGIN)
    README.write_text(head + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
