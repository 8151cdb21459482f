"""The rows that training prints: columns stay in their places, and no row is wider than the terminal."""

from __future__ import annotations

import pytest

from aegen.cli import progress, render
from aegen.cli.progress import Display


def rows(monkeypatch: pytest.MonkeyPatch, width: int | None, *epochs: dict[str, float]) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(progress, "columns", lambda stream: width)
    monkeypatch.setattr(progress, "say", said.append)
    display = Display()
    for number, metrics in enumerate(epochs, 1):
        display._latest = {"loss": 81.2345}
        display.aegen_epoch_end(number, 25 * number, metrics)
    return said


FIRST = {"loss": 79.17, "error": 79.17, "penalty": 0.0, "active_units": 4.0}
LATER = {"loss": 12345.6, "error": 78.76, "penalty": 0.4112, "active_units": 12.0}


def test_each_number_stands_once_and_below_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    head, row = rows(
        monkeypatch, 80, {"loss": 79.17, "error": 78.76, "penalty": 0.4112, "kl": 0.4112, "active_units": 4.0}
    )
    assert head.split() == ["epoch", "loss", "validation", "error", "penalty", "active_units"]
    assert row.split() == ["1", "81.23", "79.17", "78.76", "0.4112", "4"]
    ends = [head.index(name) + len(name) for name in head.split()]
    assert all(row[:end].endswith(cell) for end, cell in zip(ends, row.split(), strict=True))


def test_a_column_stays_where_it_is_and_a_new_one_has_its_name_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said = rows(monkeypatch, None, FIRST, LATER, FIRST)
    assert [line.split()[0] for line in said] == ["epoch", "1", "epoch", "2", "3"]
    names = said[2].split()
    assert names == ["epoch", "loss", "validation", "penalty", "active_units", "error"]
    assert said[3].split() == ["2", "81.23", "12,346", "0.4112", "12", "78.76"]
    assert said[4].split() == ["3", "81.23", "79.17", "0", "4", "79.17"]
    assert len(said[2]) == len(said[3]) == len(said[4])


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_row_is_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    said = rows(monkeypatch, width, FIRST, LATER)
    assert all(0 < len(line) <= width for line in said) and said[0].startswith("epoch      loss  validation")


def test_long_text_in_a_narrow_terminal_has_lines_of_its_own_and_no_word_is_torn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render, "columns", lambda stream=None: 60)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    words = "Distance of reconstructions to held-out images, in the features of the protocol, whichever they are."
    render.table(["kind", "name", "package", "summary"], [["metric", "rfid", "a-long-package-name", words]])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:2]] == [["metric", "rfid", "a-long-package-name"]]
    assert " ".join(" ".join(lines[2:]).split()) == words
    assert all(len(line) <= 60 and line.startswith("    ") for line in lines[2:])
