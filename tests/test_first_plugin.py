"""What somebody reads whose first objective is not right yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Aegen
from torch import Tensor

from aegen import Autoencoder, Objective, Outcome
from aegen.errors import PluginError
from aegen.spec import options_of
from aegen.testing import check_objective


class Plain(Objective):
    """Reconstruction alone."""

    bottleneck = "deterministic"

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        latent = model.encode(x)
        recon = model.decode(latent.z)
        return Outcome({"error": recon.nll(x)}, recon, latent)


class Forgot(Plain):
    """It has no parts, so that torch does not complain."""

    def __init__(self, *, weight: float = 1.0) -> None:
        self.weight = weight


class ForgotWithParts(Plain):
    """Torch complains, of a Module that the author may not know of."""

    def __init__(self) -> None:
        self.layer = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("cls", [Forgot, ForgotWithParts])
def test_a_forgotten_constructor_is_named_by_the_check(cls: type[Objective]) -> None:
    with pytest.raises(AssertionError, match=rf"__init__ of {cls.__name__} does not call super\(\).__init__\(\) first"):
        check_objective(cls)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((torch.ones(3),), "its terms by name.*given a Tensor"),
        (([torch.ones(3)],), "its terms by name.*given a list"),
        (({}, None, None, torch.ones(3)), "its watch by name.*given a Tensor"),
        (({}, None, None, None, 3), "its statistics by name.*given a int"),
    ],
)
def test_an_outcome_takes_numbers_by_name(given: tuple[Any, ...], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Outcome(*given)


def test_an_outcome_of_a_bare_tensor_names_the_line_when_it_is_trained(aegen: Aegen) -> None:
    Path("mine.py").write_text(
        "from aegen import Objective, Outcome\n\n\nclass Mine(Objective):\n    bottleneck = 'deterministic'\n\n"
        "    def loss(self, model, x):\n        return Outcome(model.decode(model.encode(x).z).nll(x))\n"
    )
    said = aegen(
        "train", "--objective", "./mine.py:Mine", "--arch", "mlp", "--arch.hidden", "[8]", "--size", 8, "--steps", 1
    )
    said.refused(3, "mine.py:8", "takes its terms by name", "Outcome({'error': error})")


def test_a_broken_rule_says_where_the_rules_can_be_read_by_who_installed_aegen(aegen: Aegen) -> None:
    Path("mine.py").write_text(
        "from aegen import Objective\n\n\nclass Mine(Objective):\n    def loss(self, model, x):\n        return 3\n"
    )
    said = aegen(
        "train", "--objective", "./mine.py:Mine", "--arch", "mlp", "--arch.hidden", "[8]", "--size", 8, "--steps", 1
    )
    said.refused(3, "the loss gave a int, not an Outcome", "help(aegen.Objective)")
    assert "aegen/protocols.py" not in said.err


def untyped(*, weight=0.5) -> None: ...  # type: ignore[no-untyped-def]


def bare(*, weight: float) -> None: ...


def counted(*, weight: int) -> None: ...


def neither(*, weight) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("init", "example"),
    [(untyped, "float = 0.5"), (bare, "float = 1.0"), (counted, "int = 1"), (neither, "float = 1.0")],
)
def test_an_option_without_type_or_default_has_an_example_of_its_own_kind(init: Any, example: str) -> None:
    cls = type("Mine", (), {"__init__": init})
    with pytest.raises(PluginError, match=f"needs a type and a default; for example weight: {example}"):
        options_of(cls)
