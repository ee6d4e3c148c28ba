"""Every program that runs notebooks, on every notebook, in every way that a run can go.

A run ends with the right exit code and one sentence, changes nothing where nothing should change, and leaves a record
where expected. Of all combinations of the three, the tests pick a set in which each program and each notebook
meets each way at least once; ``RUNBOOK_MATRIX=full`` runs all of them. JupyterLab is in test_jupyterlab.py.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
import yaml
from nbformat.v4 import new_code_cell

from ops.errors import INTERRUPTED
from ops.runbook import Notebook, list_notebooks, list_records
from ops.runbook.notebook import GUARD
from ops.runbook.plan_file import is_plan_cell
from ops.runbook.store import comparable
from ops.workspace import HOME_VARIABLE, PROJECT_ROOT
from tests.benchmark.servers import free_port
from tests.index.serving import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ALL = list_notebooks(PROJECT_ROOT / "notebooks")
QUICK = comparable(ALL)
"""All notebooks but those that measure for minutes."""

GOOD: Mapping[str, Mapping[str, Any]] = {}
"""Parameters of a successful run without changes, for notebooks that need more than ``dry_run``."""

STOPPED = {
    "00_start_here": "",
    "01_provision": "",
    "06_back_up": "",
    "07_restore": "",
    "09_audit": "",
    "90_troubleshoot": "checks failed",
    "99_tear_down": "",
}
"""A notebook's message about an unresponsive index, if not from its preflight; empty if it works anyway."""

_CODE = "import sys, papermill, yaml; papermill.execute_notebook(*sys.argv[1:3], yaml.safe_load(open(sys.argv[3])))"
_BIN = Path(sys.executable).parent

Command = Callable[[Path, Path, Path], list[str | Path]]


@dataclass(frozen=True)
class Program:
    """A program that runs notebooks.

    Parameters:
        command: its arguments, for a notebook, the notebook that it writes, and a file of parameters.
        injects: whether it accepts that file; the others get the parameters in a cell, as typed by a person.
        records: whether its runs leave a record.
        refused: its exit code for a wrong parameter, and whether that leaves a record.
        interrupted: its exit code and message after SIGINT.
    """

    command: Command
    injects: bool = True
    records: bool = True
    refused: tuple[int, bool] = (1, True)
    interrupted: tuple[int, str] = (130, INTERRUPTED)


def _papermill(*more: str) -> Command:
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", *more]
    return lambda notebook, executed, file: [*command, notebook, executed, "-f", file]


PROGRAMS = {
    "papermill": Program(_papermill()),
    "papermill API": Program(
        lambda notebook, executed, file: [sys.executable, "-c", _CODE, notebook, executed, file],
        interrupted=(1, "RunInterruptedError: the run was interrupted"),
    ),
    "engine": Program(_papermill("--engine", "runbook")),
    "runbook": Program(
        lambda notebook, _, file: [sys.executable, "-m", "ops.cli", "run", notebook, "-f", file], refused=(2, False)
    ),
    # These show their own message after SIGINT.
    "nbconvert": Program(
        lambda notebook, executed, _: [
            *(_BIN / "jupyter-nbconvert", "--execute", "--to", "notebook", "--output", executed.name, notebook)
        ],
        injects=False,
        records=False,
        interrupted=(-signal.SIGINT, "KeyboardInterrupt"),
    ),
    "nbclient": Program(
        lambda notebook, executed, _: [_BIN / "jupyter-execute", "--output", executed.stem, notebook],
        injects=False,
        records=False,
        interrupted=(1, ""),
    ),
}


def combinations(way: int, notebooks: list[Notebook]) -> pytest.MarkDecorator:
    """The programs and notebooks to try in the *way* with that number."""
    full = os.environ.get("RUNBOOK_MATRIX") == "full"
    taken = [
        pytest.param(PROGRAMS[name], notebook, id=f"{name}-{notebook.name}")
        for row, notebook in enumerate(notebooks)
        for column, name in enumerate(PROGRAMS)
        if full or (row + way) % len(PROGRAMS) == column
    ]
    return pytest.mark.parametrize(("program", "notebook"), taken)


@dataclass(frozen=True)
class Index:
    """An index on this machine that all tests share."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a program that uses it."""
        return {**os.environ, HOME_VARIABLE: str(self.home / "runbook"), "HOME": str(self.home)}

    def state(self) -> dict[str, str]:
        """The digest of each file that only changes with the index."""
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in self._lasting()}

    def _lasting(self) -> Iterator[Path]:
        passing = {
            "records",
            "activity",
            "audit",
            ".audit",
            "staging",
            "pages",
            "claims",
            "removed",
            "lock",
            "server.log",
        }
        for path in sorted((self.home / "runbook").rglob("*")):
            if path.is_file() and path.suffix != ".lock" and not passing & set(path.parts):
                yield path

    def outcomes(self) -> list[str]:
        """The outcomes of all recorded runs, newest first."""
        return [record.outcome for record in list_records(self.home / "runbook" / "records")]


def make_index(home: Path) -> Iterator[Index]:
    """Start an index with one user and a snapshot in the folder *home*; stop it at the end."""
    made = Index(home)
    runbook = [sys.executable, "-m", "ops.cli"]
    # Not the usual port, which another test's index takes while this one is stopped.
    command = [*runbook, "run", "01", "02", "06", "-p", f"port={free_port()}"]
    done = subprocess.run(command, env=made.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield made
    subprocess.run([*runbook, "stop"], env=made.environment, check=True)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index that all tests share; those at the end of this module find it stopped."""
    yield from make_index(tmp_path_factory.mktemp("index"))


@dataclass(frozen=True)
class Run:
    """A notebook run by a program with parameters, in its own folder."""

    program: Program
    notebook: Notebook
    index: Index
    folder: Path

    def start(self, values: Mapping[str, Any], *, blocks: Path | None = None) -> subprocess.Popen[str]:
        """Start the program; with *blocks*, its kernel writes its id there before the first change, and waits."""
        node = nbformat.read(self.notebook.path, as_version=4)
        code = [number for number, cell in enumerate(node.cells) if cell.cell_type == "code"]
        if blocks is not None:
            plans = [number for number in code if is_plan_cell(node.cells[number].source)]
            wait = (
                f"import os, pathlib, time\npathlib.Path({str(blocks)!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
            )
            at = plans[0] if plans else next(number for number in code if node.cells[number].source == GUARD)
            node.cells.insert(at + 1, new_code_cell(wait))
        if values and not self.program.injects:
            lines = [f"{name} = {value!r}" for name, value in values.items()]
            node.cells.insert(code[0] + 1, new_code_cell("\n".join(lines)))
        source, parameters = self.folder / f"{self.notebook.name}.ipynb", self.folder / "parameters.yaml"
        nbformat.write(node, source)
        parameters.write_text(yaml.safe_dump(dict(values)))
        return subprocess.Popen(
            list(map(str, self.program.command(source, self.folder / "executed.ipynb", parameters))),
            env=self.index.environment,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self, values: Mapping[str, Any]) -> tuple[int, str]:
        """Run it to its end; returns its exit code and standard error."""
        with self.start(values) as process:
            _, errors = process.communicate(timeout=300)
        return process.returncode, re.sub(r"\x1b\[[0-9;]*m", "", errors)


@pytest.fixture
def run(program: Program, notebook: Notebook, index: Index, tmp_path: Path) -> Run:
    return Run(program, notebook, index, tmp_path)


def explained(errors: str) -> str:
    """The last error of three lines in a program's output; fails the test if there is none."""
    found = re.findall(r"^(.+)\n(Why: .+)\n(What to do: .+)$", errors, re.MULTILINE)
    assert found, errors
    return "\n".join(found[-1])


def good(notebook: Notebook) -> dict[str, Any]:
    """The parameters of a successful run that changes nothing."""
    dry = {"dry_run": True} if any(each.name == "dry_run" for each in notebook.parameters) else {}
    return {**dry, **GOOD.get(notebook.name, {})}


@combinations(0, QUICK)
def test_a_successful_run_is_recorded_as_such(run: Run, index: Index) -> None:
    before, records = index.state(), index.outcomes()
    code, errors = run.ended(good(run.notebook))
    assert code == 0, errors
    assert index.outcomes() == ["succeeded"] * run.program.records + records
    assert index.state() == before


def refused(run: Run, values: Mapping[str, Any], sentence: str) -> None:
    before, records = run.index.state(), run.index.outcomes()
    code, errors = run.ended(values)
    expected, recorded = run.program.refused
    assert code == expected, errors
    assert sentence in explained(errors).splitlines()[0], errors
    assert run.index.outcomes() == ["failed"] * (recorded and run.program.records) + records
    assert run.index.state() == before


@combinations(1, list(ALL))
def test_an_unknown_parameter_is_refused_with_the_nearest_name(run: Run) -> None:
    refused(run, {"targt": "local"}, "there is no parameter targt in ")


@combinations(2, list(ALL))
def test_a_value_of_the_wrong_type_is_refused(run: Run) -> None:
    refused(run, {"target": ["local"]}, "the parameter target cannot be ['local']")


def stopped_by(number: signal.Signals, run: Run) -> tuple[int, str]:
    """Send a signal to the program while a cell runs, before the first change, and wait until its kernel is gone."""
    mark = run.folder / "kernel"
    with run.start(good(run.notebook), blocks=mark) as process:
        eventually(lambda: process.poll() is not None or (mark.exists() and mark.read_text() != ""), seconds=300)
        assert process.poll() is None, process.communicate()[1]
        kernel = int(mark.read_text())
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
    eventually(lambda: not psutil.pid_exists(kernel), seconds=300)
    return process.returncode, errors


@combinations(3, list(ALL))
def test_an_interrupted_run_ends_its_kernel_and_is_recorded_as_such(run: Run, index: Index) -> None:
    before, records = index.state(), index.outcomes()
    code, errors = stopped_by(signal.SIGINT, run)
    expected, sentence = run.program.interrupted
    assert code == expected, errors
    assert sentence in errors
    assert index.outcomes() == ["interrupted"] * run.program.records + records
    assert index.state() == before


@combinations(4, list(ALL))
def test_a_killed_run_ends_its_kernel_and_leaves_a_complete_record(run: Run, index: Index) -> None:
    before, records = index.state(), index.outcomes()
    code, errors = stopped_by(signal.SIGKILL, run)
    assert code == -signal.SIGKILL, errors
    assert index.outcomes() == ["interrupted"] * run.program.records + records
    if run.program.records:
        (record, *_) = list_records(index.home / "runbook" / "records")
        nbformat.read(record.folder / record.notebooks[0].executed, as_version=4)
    assert index.state() == before


@pytest.fixture(scope="module")
def stopped(index: Index) -> Index:
    subprocess.run([sys.executable, "-m", "ops.cli", "stop"], env=index.environment, check=True)
    return index


@combinations(5, QUICK)
def test_without_a_running_index_a_notebook_says_so_before_its_first_step(run: Run, stopped: Index) -> None:
    before, records = stopped.state(), stopped.outcomes()
    code, errors = run.ended(good(run.notebook))
    sentence = STOPPED.get(run.notebook.name, "the preflight failed")
    assert code == (1 if sentence else 0), f"{errors}\nSTOPPED names the notebooks that work without a running index"
    assert sentence in (explained(errors) if sentence else "")
    assert stopped.outcomes() == ["failed" if sentence else "succeeded"] * run.program.records + records
    assert stopped.state() == before
