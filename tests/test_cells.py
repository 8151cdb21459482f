"""Tables of the benchmarks: a name is text, whatever stands in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ODD = "a|b`c`<script>[x](y)*\n\x1b[31m"


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`leaderboard` and `zoo`, as the scripts find them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    import leaderboard
    import zoo

    yield leaderboard, zoo
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


def neutral(table: str, rows: int) -> None:
    """Every row has as many cells as its head, and nothing of the name is markup."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(lines) == rows
    assert len({line.count("|") for line in lines}) == 1, lines
    assert "<script>" not in table and "`c`" not in table and "\x1b" not in table and "](y)" not in table


def test_names_are_text_in_the_tables_of_the_leaderboard(boards: Any) -> None:
    board, _ = boards
    row = board.Row(ODD, numbers={"nll": 1.0}, drawn={ODD: {"kid": 0.5}}, title=ODD)
    encoded, drawn = board.table("mnist", [row], "pictures").split("\n\n")[:2]
    neutral(encoded, 2)
    neutral(drawn, 2)
    assert board.key(encoded.splitlines()[2])[0] == board.cell(ODD)
    told = board.table("mnist", [board.Row(ODD, refused=ODD)], "pictures")
    assert "<script>" not in told and told.rstrip().splitlines()[-1].startswith("- <code>a&#124;b&#96;c")


def test_names_are_text_in_the_tables_of_the_zoo(boards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, zoo = boards
    monkeypatch.setattr(zoo, "has_map", lambda name: False)
    table = zoo.markdown({ODD: {"validation": {}, "kid_prior": 0.1}}).split("\n\n")[0]
    neutral(table, 2)
    assert zoo.cell("beta-tc-vae") == "beta-tc-vae"
    assert zoo.cell("a & b") == "a &amp; b"
