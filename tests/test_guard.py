"""The guard's reading of executed cells. tests/notebooks runs it in kernels."""

from __future__ import annotations

import pytest

from ops import guard
from ops.errors import TargetError
from ops.parameters import require_type

PARAMETERS = 'target: str = "local"  # where\ndry_run: bool = False  # show only'
CHECK = "from ops import guard\n\nguard.check()"


@pytest.mark.parametrize(
    ("cells", "given"),
    [
        (["", PARAMETERS, CHECK], []),
        (["", PARAMETERS, '# Parameters\ntarget = "local"\ndryrun = True\n', CHECK], ["dryrun"]),
        (["", PARAMETERS, "# Parameters\n_x = 1\na = b = float('nan')\n", CHECK], ["_x", "a", "b"]),
        (["", PARAMETERS + "\ndryrun = True", CHECK], ["dryrun"]),
        # A corrected name, and the cell run again.
        (["", PARAMETERS + "\ndryrun = True", CHECK, PARAMETERS, CHECK], []),
        # Names used in later experiments are not parameters.
        (["", PARAMETERS, CHECK, "x = 5", CHECK], []),
        (["", "import os", "x = 5", PARAMETERS, CHECK], []),
    ],
)
def test_other_names_are_found_in_the_parameters_cell_and_in_injected_cells(cells: list[str], given: list[str]) -> None:
    declared, found = guard._read(cells)
    assert list(declared) == ["target", "dry_run"]
    assert found == given


def test_without_a_parameters_cell_nothing_is_declared() -> None:
    assert guard._read(["", "import os", "x = 5", "!ls", CHECK]) == ({}, [])


def test_outside_a_notebook_the_guard_does_nothing() -> None:
    guard.check()


def test_an_expected_error_is_three_lines() -> None:
    error = TargetError("the oven is cold", why="the gas is off", todo="open the tap")
    assert guard.explanation(error) == [
        "TargetError: the oven is cold.",
        "Why: the gas is off.",
        "What to do: open the tap. See 90_troubleshoot#TargetError.",
    ]


def test_an_unexpected_error_says_so_and_where_it_was_raised() -> None:
    try:
        require_type(None, 1)  # type: ignore[arg-type]  # for an error out of the package
    except AttributeError as error:
        lines = guard.explanation(error)
    assert lines[0].startswith("Unexpected AttributeError: ")
    assert "raised in ops/parameters.py, line " in lines[1]
    assert lines[2].endswith("See 90_troubleshoot#Unexpected.")


def test_an_error_without_a_text_is_three_lines_too() -> None:
    assert [line.split(":")[0] for line in guard.explanation(ValueError("a\nb\nc"))] == [
        "Unexpected ValueError",
        "Why",
        "What to do",
    ]
    assert guard.explanation(ValueError())[0] == "Unexpected ValueError: no message"


def test_an_interrupt_is_one_line() -> None:
    assert len(guard.explanation(KeyboardInterrupt())) == 1
