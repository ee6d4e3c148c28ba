"""Errors of cells: three lines, or one for an interrupt. Kernels show them in tests/notebooks."""

from __future__ import annotations

from ops import cell_errors
from ops.errors import TargetError
from ops.parameters import require


def test_an_expected_error_is_three_lines() -> None:
    error = TargetError("the oven is cold", why="the gas is off", todo="open the tap")
    assert cell_errors.explanation(error) == [
        "TargetError: the oven is cold.",
        "Why: the gas is off.",
        "What to do: open the tap.",
    ]


def test_an_unexpected_error_says_that_it_is_one_and_where_it_was_raised() -> None:
    try:
        require(None, 1)  # type: ignore[arg-type]  # for an error out of the package
    except AttributeError as error:
        lines = cell_errors.explanation(error)
    assert lines[0].startswith("Unexpected AttributeError: ")
    assert "raised in ops/parameters.py, line " in lines[1]
    assert "traceback" in lines[2]


def test_an_error_without_a_text_is_three_lines_too() -> None:
    assert [line.split(":")[0] for line in cell_errors.explanation(ValueError("a\nb\nc"))] == [
        "Unexpected ValueError",
        "Why",
        "What to do",
    ]
    assert cell_errors.explanation(ValueError())[0] == "Unexpected ValueError: no message"


def test_an_interrupt_is_one_line() -> None:
    assert len(cell_errors.explanation(KeyboardInterrupt())) == 1
