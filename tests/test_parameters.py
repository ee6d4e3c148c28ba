"""Parameters are read by ast and checked before anything runs."""

from __future__ import annotations

import re

import pytest

from ops.errors import NotebookError, ParameterError
from ops.parameters import Parameter, coerce, distribute, parse_parameters, require_type

CELL = """
# Where and what.
target: str = "local"  # where the index lives
version: str = "1.10"
port: int = 8765  # a TCP port

dry_run: bool = False  # show the plan only
wait: float = 1  # seconds
names: list = ["a"]  # who
"""


def test_a_parameters_cell_gives_names_types_defaults_and_help_in_order() -> None:
    assert parse_parameters(CELL) == (
        Parameter("target", "str", "local", "where the index lives"),
        Parameter("version", "str", "1.10", ""),
        Parameter("port", "int", 8765, "a TCP port"),
        Parameter("dry_run", "bool", False, "show the plan only"),
        Parameter("wait", "float", 1.0, "seconds"),
        Parameter("names", "list", ["a"], "who"),
    )


@pytest.mark.parametrize(
    "line",
    [
        'target = "local"',
        'target: str | None = "local"',
        'target: "str" = "local"',
        "port: int = '8765'",
        "port: int = True",
        "ratio: float = False",
        "names: list = ('a',)",
        "port: int = 8000 + 765",
        "target: str",
        "import os",
        "names: list = [\n  'a',\n]",
        'target: str = "a"\ntarget: str = "b"',
        "target: str = (",
    ],
)
def test_any_other_line_is_refused_with_the_line(line: str) -> None:
    with pytest.raises(NotebookError, match="parameters of 01_x cannot be read") as caught:
        parse_parameters(line, notebook="01_x")
    assert "line " in caught.value.why


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("str", "1.10", "1.10"),
        ("str", "true", "true"),
        ("str", " kept ", " kept "),
        ("str", "", ""),
        ("bool", "true", True),
        ("bool", "Yes", True),
        ("bool", "1", True),
        ("bool", "false", False),
        ("bool", "no", False),
        ("bool", "0", False),
        ("int", "007", 7),
        ("int", "-3", -3),
        ("float", "1.5", 1.5),
        ("float", "2", 2.0),
        ("list", "a, b,", ["a", "b"]),
        ("list", '["a, b", 1]', ["a, b", 1]),
        ("list", "", []),
    ],
)
def test_text_becomes_what_the_parameter_declares(kind: str, text: str, value: object) -> None:
    result = coerce(Parameter("x", kind, ""), text)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bool", "maybe"),
        ("bool", 1),
        ("int", "1.0"),
        ("int", "eight"),
        ("int", "٣"),
        ("int", True),
        ("int", 1.0),
        ("float", "nan"),
        ("float", "inf"),
        ("float", "x"),
        ("list", "[1,"),
        ("list", {"a": 1}),
        ("list", "[NaN]"),
        ("list", [float("nan")]),
        ("list", [b"a"]),
        ("int", 10**18),
        pytest.param("int", 10**5000, id="int-huge"),
        ("float", float("inf")),
        pytest.param("float", 10**400, id="float-huge"),
        ("str", 1),
        ("str", None),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_type_and_an_example(kind: str, value: object) -> None:
    default: dict[str, object] = {"bool": True, "int": 1, "float": 1.0, "list": [], "str": "s"}
    with pytest.raises(ParameterError, match="the parameter x cannot be") as caught:
        coerce(Parameter("x", kind, default[kind]), value)  # type: ignore[arg-type]  # any of the defaults above
    assert f"it is {kind}: " in caught.value.why
    assert "x=" in caught.value.todo


@pytest.mark.parametrize(
    ("kind", "value", "remedy"),
    [
        ("bool", "false", "write x = False in Python, or -y 'x: false' for papermill"),
        ("int", "8080", "write x = 8080 in Python"),
        ("list", "a,b", "write x = ['a', 'b'] in Python"),
        ("str", 1.1, "papermill -r x VALUE keeps a number as text"),
        ("str", ["a"], "write x = 's' in Python"),
        ("bool", 1, "write x = True"),
        ("int", None, "write x = 1"),
        ("int", "port", "write x = 1"),
    ],
)
def test_in_a_kernel_text_is_not_converted_and_the_error_says_how_to_write_the_value(
    kind: str, value: object, remedy: str
) -> None:
    default: dict[str, object] = {"bool": True, "int": 1, "float": 1.0, "list": [], "str": "s"}
    with pytest.raises(ParameterError, match="the parameter x cannot be") as caught:
        require_type(Parameter("x", kind, default[kind]), value)  # type: ignore[arg-type]  # any of the defaults above
    assert remedy in caught.value.todo


def test_an_unknown_name_is_refused_with_all_valid_ones_and_a_guess() -> None:
    parameters = parse_parameters(CELL)
    with pytest.raises(ParameterError, match="there is no parameter dryrun") as caught:
        distribute({"dryrun": "true"}, {"01_x": parameters})
    for parameter in parameters:
        assert f"{parameter.name} ({parameter.type}, default {parameter.default!r})" in caught.value.why
    assert caught.value.todo == "did you mean dry_run?"


def test_an_unknown_name_for_a_notebook_without_parameters_says_that_it_has_none() -> None:
    with pytest.raises(ParameterError) as caught:
        distribute({"x": "1"}, {"01_x": ()})
    assert caught.value.why == "it takes none at all"


def test_each_of_several_notebooks_gets_the_parameters_that_it_has() -> None:
    one = parse_parameters('target: str = "local"\nport: int = 1')
    two = parse_parameters('target: str = "local"\nuser: str = "x"')
    given = distribute({"target": "modal", "user": "alice", "port": 7}, {"01": one, "02": two})
    assert given == {"01": {"target": "modal", "port": 7}, "02": {"target": "modal", "user": "alice"}}


def test_a_name_that_none_of_several_notebooks_has_is_refused() -> None:
    one, two = parse_parameters("a: int = 1"), parse_parameters("b: int = 1")
    with pytest.raises(ParameterError, match=re.escape("in 01, 02")) as caught:
        distribute({"a": "1", "c": "1"}, {"01": one, "02": two})
    assert "together they take a (int, default 1); b (int, default 1)" in caught.value.why


@pytest.mark.parametrize("value", ["zo\udceb", '["a", "zo\udceb"]', ["zo\udceb"]])
def test_text_that_is_not_utf_8_is_refused_with_a_sentence(value: object) -> None:
    with pytest.raises(ParameterError, match="not UTF-8 text"):
        coerce(Parameter("names", "list", [], ""), value)
