"""The guard: what it reads from the executed cells. Kernels run it in tests/notebooks."""

from __future__ import annotations

import pytest

from ops import guard

PARAMETERS = 'target: str = "local"  # where\ndry_run: bool = False  # show only'
CHECK = "from ops import guard\n\nguard.check()"


@pytest.mark.parametrize(
    ("cells", "given"),
    [
        (["", PARAMETERS, CHECK], []),
        (["", PARAMETERS, '# Parameters\ntarget = "local"\ndryrun = True\n', CHECK], ["dryrun"]),
        (["", PARAMETERS, "# Parameters\n_x = 1\na = b = float('nan')\n", CHECK], ["_x", "a", "b"]),
        (["", PARAMETERS + "\ndryrun = True", CHECK], ["dryrun"]),
        # A name that was corrected, and the cell run again.
        (["", PARAMETERS + "\ndryrun = True", CHECK, PARAMETERS, CHECK], []),
        # What is tried out later is nobody's parameter.
        (["", PARAMETERS, CHECK, "x = 5", CHECK], []),
        (["", "import os", "x = 5", PARAMETERS, CHECK], []),
    ],
)
def test_a_name_beside_the_parameters_is_found_in_their_cell_and_in_those_injected_after_it(
    cells: list[str], given: list[str]
) -> None:
    declared, found = guard._read(cells)
    assert list(declared) == ["target", "dry_run"]
    assert found == given


def test_without_a_parameters_cell_nothing_is_declared() -> None:
    assert guard._read(["", "import os", "x = 5", "!ls", CHECK]) == ({}, [])


def test_outside_a_notebook_the_guard_does_nothing() -> None:
    guard.check()
