"""Signatures as configuration, TOML there and back, schedules."""

from __future__ import annotations

import json
import tomllib
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegen.errors import PluginError, UsageError
from aegen.schedules import Schedule
from aegen.settings import RunSpec, flatten, nest, to_toml
from aegen.spec import Range, Spec, check_options, options_of


class Component:
    """An example.

    Options:
        width: how wide,
            in channels.
        form: which form.
    """

    def __init__(
        self,
        image: object,
        *,
        width: Annotated[int, Range(1, 9)] = 3,
        form: Literal["a", "b"] = "a",
        rate: float = 0.5,
        sizes: list[int] = [1, 2],  # noqa: B006
        on: bool = True,
        either: float | Literal["learned"] = "learned",
    ) -> None: ...


OPTIONS = options_of(Component, schedulable=True)


def test_the_signature_is_the_schema() -> None:
    assert list(OPTIONS) == ["width", "form", "rate", "sizes", "on", "either"]
    assert OPTIONS["width"].help == "how wide, in channels."
    assert OPTIONS["width"].range == Range(1, 9)
    assert OPTIONS["form"].choices == ("a", "b")
    assert OPTIONS["rate"].schedulable
    assert not OPTIONS["either"].schedulable


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("width", "4", 4),
        ("rate", "1e-3", 1e-3),
        ("rate", "linear(0, 1, 10)", "linear(0,1,10)"),
        ("sizes", "[4, 5]", [4, 5]),
        ("on", "false", False),
        ("either", "0.25", 0.25),
        ("either", "learned", "learned"),
        ("form", "b", "b"),
    ],
)
def test_text_is_read_as_the_command_line_writes_it(name: str, text: str, value: Any) -> None:
    assert OPTIONS[name].check(text, name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", "0"),
        ("width", 10),
        ("width", "2.5"),
        ("width", True),
        ("width", "wide"),
        ("form", "c"),
        ("rate", "nan"),
        ("rate", "inf"),
        ("rate", "linear(0,1)"),
        ("rate", "liner(0,1,5)"),
        ("sizes", "[1,"),
        ("sizes", "3"),
        ("either", "learnt"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        check_options(OPTIONS, {name: value}, "arch.", "architecture example")
    assert f"arch.{name}" in str(caught.value) or str(value) in str(caught.value)


def test_an_unknown_option_brings_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean 'width'"):
        check_options(OPTIONS, {"widht": 3}, "arch.", "architecture example")


def test_an_option_without_type_or_default_is_the_authors_error() -> None:
    class Bad:
        def __init__(self, *, width: int) -> None: ...

    with pytest.raises(PluginError, match=r"option 'width' of .*Bad .*test_spec\.py.* needs a type and a default"):
        options_of(Bad)


texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.one_of(
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
    st.booleans(),
    texts,
)
tables = st.dictionaries(st.text(min_size=1), values | st.lists(values) | st.dictionaries(texts, values), max_size=5)


@given(tables)
def test_toml_is_read_back_as_it_was_written(table: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(table)) == table


def test_flatten_and_nest_are_inverse() -> None:
    tables = {"arch": {"name": "conv", "width": 3}, "objective": {"name": "a+b", "b": {"weight": 1.0}}}
    assert nest(flatten(tables)) == tables
    assert flatten({"arch": "conv"}) == {"arch.name": "conv"}


def test_a_run_spec_survives_json_and_toml() -> None:
    spec = RunSpec(
        arch=Spec("mlp", {"hidden": [4]}),
        objective=Spec("vae+adversarial", {"beta": "linear(0,1,9)", "adversarial": {"weight": 0.5}}),
        bottleneck=Spec("gaussian", {"dim": 3}),
        likelihood=Spec("gaussian"),
    )
    assert RunSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert RunSpec.from_dict(tomllib.loads(to_toml(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("linear(0,1,10)", {0: 0, 5: 0.5, 10: 1, 99: 1}),
        ("cosine(1,0,10)", {0: 1, 5: 0.5, 10: 0, 99: 0}),
        ("step(0,2,10)", {0: 0, 9: 0, 10: 2, 99: 2}),
        ("cyclic(0,1,10,2)", {0: 0, 2: 0.4, 5: 1, 9: 1, 10: 0, 12: 0.4, 20: 1, 99: 1}),
    ],
)
def test_schedules_are_functions_of_the_step(text: str, points: dict[int, float]) -> None:
    schedule = Schedule.parse(text)
    for step, value in points.items():
        assert schedule(step) == pytest.approx(value)
    assert schedule(schedule.end) == schedule(10_000)
    assert str(schedule) == text
