"""A notebook guards itself, whichever program runs it: one sentence, and nothing changed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell
from papermill.exceptions import PapermillExecutionError

from ops.errors import INTERRUPTED
from ops.workspace import PROJECT_ROOT

NOTEBOOKS = PROJECT_ROOT / "notebooks"
EVERY = (
    "00_start_here",
    "01_provision",
    "02_onboard_user",
    "03_smoke_test",
    "04_rotate_credentials",
    "05_offboard_user",
    "06_back_up",
    "07_restore",
    "10_benchmark",
    "12_incident",
    "90_troubleshoot",
    "99_tear_down",
)


@dataclass(frozen=True)
class Ended:
    """Result of a run: True if it succeeded, and the lines that say why not."""

    good: bool
    lines: tuple[str, ...] = ()


Values = Mapping[str, Any]


def _program(arguments: list[str], executed: Path) -> Ended:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    return Ended(done.returncode == 0, _error_in(executed) if executed.exists() else ())


def _error_in(executed: Path) -> tuple[str, ...]:
    """The lines of the first error that a notebook shows."""
    node = nbformat.read(executed, as_version=4)
    outputs = [output for cell in node.cells for output in cell.get("outputs", ())]
    found = next((output for output in outputs if output.output_type == "error"), None)
    return tuple("\n".join(found.traceback).splitlines()) if found else ()


def _papermill(*more: str) -> Callable[[Path, Path, Values], Ended]:
    def run(notebook: Path, executed: Path, values: Values) -> Ended:
        given = ["-y", yaml.safe_dump(dict(values))] if values else []
        return _program(
            [sys.executable, "-m", "papermill", "--no-progress-bar", *more, str(notebook), str(executed), *given],
            executed,
        )

    return run


def _papermill_file(notebook: Path, executed: Path, values: Values) -> Ended:
    parameters = executed.with_suffix(".yaml")
    parameters.write_text(yaml.safe_dump(dict(values)))
    return _papermill("-f", str(parameters))(notebook, executed, {})


def _papermill_api(notebook: Path, executed: Path, values: Values) -> Ended:
    try:
        papermill.execute_notebook(str(notebook), str(executed), parameters=dict(values), progress_bar=False)
    except PapermillExecutionError:
        return Ended(False, _error_in(executed))
    return Ended(True)


def _runbook(notebook: Path, executed: Path, values: Values) -> Ended:
    given = [f"--parameter={name}={value}" for name, value in values.items()]
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli", "run", str(notebook), *given],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return Ended(done.returncode == 0, tuple(done.stderr.splitlines()))


def _with_cell(notebook: Path, values: Values) -> Any:
    node = nbformat.read(notebook, as_version=4)
    at = next(number for number, cell in enumerate(node.cells) if "parameters" in cell.metadata.get("tags", ()))
    node.cells.insert(at + 1, new_code_cell("\n".join(f"{name} = {value!r}" for name, value in values.items())))
    return node


def _nbclient(notebook: Path, executed: Path, values: Values) -> Ended:
    node = _with_cell(notebook, values)
    try:
        NotebookClient(node, resources={"metadata": {"path": str(executed.parent)}}).execute()
    except CellExecutionError:
        nbformat.write(node, executed)
        return Ended(False, _error_in(executed))
    return Ended(True)


def _nbconvert(notebook: Path, executed: Path, values: Values) -> Ended:
    source = executed.with_name("source.ipynb")
    nbformat.write(_with_cell(notebook, values), source)
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "nbconvert", "--execute", "--to", "notebook", "--allow-errors",
         "--output", executed.name, str(source)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = _error_in(executed)
    return Ended(not lines, lines)


RUNNERS = {
    "papermill": _papermill(),
    "papermill-f": _papermill_file,
    "engine": _papermill("--engine", "runbook"),
    "papermill API": _papermill_api,
    "runbook": _runbook,
    "nbconvert": _nbconvert,
    "nbclient": _nbclient,
}

every_runner = pytest.mark.parametrize("runner", RUNNERS)


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    """Path of the executed notebook."""
    return tmp_path / "executed.ipynb"


def left_by_runs(newcomer: Path) -> list[str]:
    """Files of the workspace besides records."""
    home = newcomer / "runbook"
    return [path.name for path in home.iterdir() if path.name != "records"] if home.is_dir() else []


@pytest.mark.slow
@every_runner
def test_a_good_parameter_is_taken(runner: str, executed: Path, newcomer: Path) -> None:
    assert RUNNERS[runner](NOTEBOOKS / "01_provision.ipynb", executed, {"dry_run": True}) == Ended(True)
    assert left_by_runs(newcomer) == []


@pytest.mark.slow
@every_runner
def test_an_unknown_parameter_ends_the_run_with_the_nearest_name(runner: str, executed: Path, newcomer: Path) -> None:
    ended = RUNNERS[runner](NOTEBOOKS / "01_provision.ipynb", executed, {"dryrun": True})
    assert not ended.good
    assert "there is no parameter dryrun in " in ended.lines[0]
    assert ended.lines[1].startswith("Why: it takes target (str")
    assert ended.lines[2:] == ("What to do: did you mean dry_run? See 90_troubleshoot#ParameterError.",)
    assert left_by_runs(newcomer) == []


@pytest.mark.parametrize(
    ("given", "what", "records"),
    [
        (("dryrun", "True"), "there is no parameter dryrun in this notebook.", 1),
        # Neither can be written into the notebook, so its guard could not run.
        (("dry-run", "True"), "there is no parameter dry-run in this notebook.", 0),
        (("target", "zo\udceb"), "the value of target is not UTF-8 text.", 0),
    ],
)
def test_papermills_own_command_ends_in_three_lines(
    given: tuple[str, str], what: str, records: int, executed: Path, newcomer: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--no-progress-bar",
         str(NOTEBOOKS / "01_provision.ipynb"), str(executed), "-p", *given],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-3] == f"Error: {what}"
    assert [line.split(":")[0] for line in lines[-2:]] == ["Why", "What to do"]
    assert "Traceback" not in done.stderr
    assert len(list(newcomer.glob("runbook/records/*/record.json"))) == records
    assert left_by_runs(newcomer) == []


@pytest.mark.slow
@every_runner
def test_a_value_of_another_type_ends_the_run_in_three_lines(runner: str, executed: Path, newcomer: Path) -> None:
    # The command takes text for any type: it is a person who types there.
    value = "maybe" if runner == "runbook" else "false"
    ended = RUNNERS[runner](NOTEBOOKS / "01_provision.ipynb", executed, {"dry_run": value})
    assert not ended.good
    assert ended.lines[0].endswith(f": the parameter dry_run cannot be '{value}'.")
    assert [line.split(":")[0] for line in ended.lines[1:]] == ["Why", "What to do"]
    assert left_by_runs(newcomer) == []


@pytest.mark.parametrize("notebook", EVERY)
def test_every_notebook_refuses_an_unknown_parameter_and_another_type(
    notebook: str, executed: Path, newcomer: Path
) -> None:
    for values in ({"targt": "local"}, {"target": None}):
        ended = _nbclient(NOTEBOOKS / f"{notebook}.ipynb", executed, values)
        assert ended.lines[0].startswith("ParameterError: "), ended.lines
        assert len(ended.lines) == 3
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
def test_a_value_that_only_a_kernel_can_hold_is_refused(values: Values, executed: Path) -> None:
    node = nbformat.read(NOTEBOOKS / "02_onboard_user.ipynb", as_version=4)
    code = [cell.source for cell in node.cells if cell.cell_type == "code"][:2]
    name, value = next(iter(values.items()))
    code.insert(1, f"# Parameters\n{name} = {value!a}".replace("nan", "float('nan')"))
    lines = error_of(code)
    assert re.match(f"ParameterError: the (parameter|value of) {name} ", lines[0])
    assert len(lines) == 3


@pytest.mark.parametrize("notebook", ["02_onboard_user", "03_smoke_test", "04_rotate_credentials", "05_offboard_user"])
@pytest.mark.parametrize("runner", ["papermill", "nbclient"])
def test_without_an_index_a_notebook_that_needs_one_ends_in_its_preflight(
    runner: str, notebook: str, executed: Path, newcomer: Path
) -> None:
    ended = RUNNERS[runner](NOTEBOOKS / f"{notebook}.ipynb", executed, {})
    assert not ended.good
    assert ended.lines[0] == "PreflightError: the preflight failed."
    assert "run the notebook 01_provision first" in ended.lines[1]
    assert len(ended.lines) == 3
    assert left_by_runs(newcomer) == []


def error_of(code: list[str]) -> list[str]:
    """The lines of the error that ends a notebook of these cells; the outputs after it as one more."""
    node = nbformat.v4.new_notebook(cells=[new_code_cell(source) for source in code])
    with pytest.raises(CellExecutionError):
        NotebookClient(node, kernel_name="python3").execute()
    outputs = [output for cell in node.cells for output in cell.outputs]
    folded = [output["data"]["text/html"] for output in outputs[1:]]
    return [*outputs[0].traceback, *folded]


GUARDED = ['target: str = "local"', "from ops import guard\n\nguard.check()"]


def test_an_unexpected_error_says_that_it_is_one_and_folds_its_traceback_in() -> None:
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


def test_a_group_of_errors_and_an_asynchronous_cell_are_explained_too() -> None:
    assert error_of([*GUARDED, "raise ExceptionGroup('many', [ValueError('a')])"])[0].startswith("Unexpected Exception")
    assert error_of([*GUARDED, "import asyncio\nawait asyncio.sleep(0)\n1 / 0"])[0].startswith(
        "Unexpected ZeroDivision"
    )


def test_no_cell_runs_while_a_parameter_is_wrong_and_all_do_once_it_is_corrected() -> None:
    code = ['target: str = "local"\ntargt = "x"', GUARDED[1], "x = 1", "y = open('mark', 'w')", *GUARDED, "print(x)"]
    node = nbformat.v4.new_notebook(cells=[new_code_cell(source) for source in code])
    NotebookClient(node, kernel_name="python3", allow_errors=True).execute()
    shown = [output.get("text") or output.traceback[0] for cell in node.cells for output in cell.outputs]
    assert shown == [
        "ParameterError: there is no parameter targt in this notebook.",
        "ParameterError: this cell was not run.",
        "1\n",
    ]


def test_without_its_parameters_cell_a_notebook_ends_at_the_guard() -> None:
    assert error_of(GUARDED[1:])[0] == "ParameterError: the parameters of this notebook are not set."
