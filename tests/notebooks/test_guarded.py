"""A notebook guards itself, whatever program runs it: one sentence, and nothing changed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell

from ops.errors import INTERRUPTED
from ops.workspace import PROJECT_ROOT

NOTEBOOKS = PROJECT_ROOT / "notebooks"
Values = Mapping[str, Any]


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    """Path of the executed notebook."""
    return tmp_path / "executed.ipynb"


def left_by_runs(newcomer: Path) -> list[str]:
    """Files of the workspace besides records."""
    home = newcomer / "runbook"
    return [path.name for path in home.iterdir() if path.name != "records"] if home.is_dir() else []


@pytest.mark.parametrize(
    ("given", "what", "records"),
    [
        (("-p", "dryrun", "True"), "there is no parameter dryrun in this notebook.", 1),
        (("-y", "dry_run: 'false'"), "the parameter dry_run cannot be 'false'.", 1),
        (("-r", "port", "8000"), "the parameter port cannot be '8000'.", 1),
        # Neither can be written into the notebook, so its guard cannot run.
        (("-p", "dry-run", "True"), "there is no parameter dry-run in this notebook.", 0),
        (("-p", "target", "zo\udceb"), "the value of target is not UTF-8 text.", 0),
    ],
)
def test_papermill_s_own_command_ends_with_three_lines(
    given: tuple[str, ...], what: str, records: int, executed: Path, newcomer: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--no-progress-bar",
         str(NOTEBOOKS / "01_provision.ipynb"), str(executed), *given],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-3] == f"Error: {what}"
    assert [line.split(":")[0] for line in lines[-2:]] == ["Why", "What to do"]
    assert "Traceback" not in done.stderr
    assert len(list(newcomer.glob("runbook/records/*/record.json"))) == records
    assert left_by_runs(newcomer) == []


@pytest.mark.parametrize("given", [("dryrun", "True"), ("dry-run", "True"), ("target", "zo\udceb")])
def test_without_our_code_in_papermill_nothing_is_changed_either(
    given: tuple[str, str], executed: Path, newcomer: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--engine", "nbclient", "--no-progress-bar",
         str(NOTEBOOKS / "01_provision.ipynb"), str(executed), "-p", *given],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert left_by_runs(newcomer) == []


@pytest.mark.parametrize(
    "values",
    [
        {"username": 1.1},
        {"username": 7},
        {"username": ["alice"]},
        {"username": True},
        {"archive": 1},
        {"archive": float("nan")},
        {"username": "zo\udceb"},
        {"username": {"a": 1}},
    ],
)
def test_a_value_that_only_a_kernel_can_have_is_refused(values: Values, executed: Path) -> None:
    node = nbformat.read(NOTEBOOKS / "02_onboard_user.ipynb", as_version=4)
    code = [cell.source for cell in node.cells if cell.cell_type == "code"][:2]
    name, value = next(iter(values.items()))
    code.insert(1, f"# Parameters\n{name} = {value!a}".replace("nan", "float('nan')"))
    lines = error_of(code)
    assert re.match(f"ParameterError: the (parameter|value of) {name} ", lines[0])
    assert len(lines) == 3


def test_without_an_index_a_notebook_that_needs_one_ends_in_its_preflight(newcomer: Path) -> None:
    node = nbformat.read(NOTEBOOKS / "02_onboard_user.ipynb", as_version=4)
    lines = error_of([cell.source for cell in node.cells if cell.cell_type == "code"])
    assert lines[0] == "PreflightError: the preflight failed."
    assert "run the notebook 01_provision first" in lines[1]
    assert left_by_runs(newcomer) == []


def error_of(code: list[str]) -> list[str]:
    """The lines of the error that ends a notebook with these cells, and the later outputs as one more."""
    node = nbformat.v4.new_notebook(cells=[new_code_cell(source) for source in code])
    with pytest.raises(CellExecutionError):
        NotebookClient(node, kernel_name="python3").execute()
    error, *more = next(
        cell.outputs for cell in node.cells if any(each.output_type == "error" for each in cell.outputs)
    )
    return [*error.traceback, *(output["data"]["text/html"] for output in more)]


GUARDED = ['target: str = "local"', "from ops import guard\n\nguard.check()"]


def test_an_unexpected_error_says_so_and_folds_its_traceback() -> None:
    lines = error_of([*GUARDED, "import json\njson.loads('<b>')"])
    assert lines[0].startswith("Unexpected JSONDecodeError: ")
    assert lines[1].endswith("; it was raised in line 2 of this cell.")
    assert lines[2].startswith("What to do: ")
    assert lines[3].startswith("<details><summary>Traceback</summary><pre>Traceback (most recent call last)")
    assert "raise JSONDecodeError" in lines[3]
    assert "&lt;b&gt;" in lines[3]
    assert "IPython" not in lines[3]


def test_an_interrupt_is_one_line() -> None:
    assert error_of([*GUARDED, "raise KeyboardInterrupt"]) == [INTERRUPTED]


def test_exception_groups_and_asynchronous_cells_are_explained_too() -> None:
    assert error_of([*GUARDED, "raise ExceptionGroup('many', [ValueError('a')])"])[0].startswith("Unexpected Exception")
    assert error_of([*GUARDED, "import asyncio\nawait asyncio.sleep(0)\n1 / 0"])[0].startswith(
        "Unexpected ZeroDivision"
    )


def test_cells_run_only_once_a_wrong_parameter_is_corrected() -> None:
    code = ['target: str = "local"\ntargt = "x"', GUARDED[1], "x = 1", "y = open('mark', 'w')", *GUARDED, "print(x)"]
    node = nbformat.v4.new_notebook(cells=[new_code_cell(source) for source in code])
    NotebookClient(node, kernel_name="python3", allow_errors=True).execute()
    shown = [output.get("text") or output.traceback[0] for cell in node.cells for output in cell.outputs]
    assert shown == [
        "ParameterError: there is no parameter targt in this notebook.",
        "ParameterError: this cell was not run.",
        "1\n",
    ]


def test_without_its_parameters_cell_a_notebook_stops_at_the_guard() -> None:
    assert error_of(GUARDED[1:])[0] == "ParameterError: the parameters of this notebook are not set."
