"""An objective shows its options where its usual bottleneck is missing or broken."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Aegen

from aegen import descriptions, registry

CODE = '''
from aegen import Objective, Outcome

class Lonely(Objective):
    """An objective.

    Options:
        strength: of it.
    """

    bottleneck = "no-such-neck"

    def __init__(self, *, strength: float = 1.5) -> None:
        super().__init__()

    def loss(self, model, x):
        return Outcome({})
'''


@pytest.fixture(params=["", "[aegen.bottlenecks]\nno-such-neck = nothing_there:Neck\n"], ids=["missing", "broken"])
def lonely(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    info = tmp_path / "site/lonely-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lonely\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[aegen.objectives]\nlonely = lonely_objective:Lonely\n{request.param}")
    (tmp_path / "site/lonely_objective.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "lonely_objective", raising=False)
    registry.forget()
    descriptions.forget()
    yield
    monkeypatch.undo()
    registry.forget()
    descriptions.forget()


@pytest.mark.usefixtures("lonely")
def test_options_are_shown_without_the_bottleneck(aegen: Aegen) -> None:
    told = aegen("list-plugins", "lonely").worked().out
    assert "--objective.strength" in told and "[default: 1.5]" in told
