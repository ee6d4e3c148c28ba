"""Running notebooks, in order, and keeping a record of it."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ops.errors import NotebookError, ParameterError, RunError
from ops.parameters import Value, assign
from ops.runbook import record as outcomes
from ops.runbook.engine import ENGINE_NAME, register_engine
from ops.runbook.failure import AGAIN, failure_in
from ops.runbook.notebook import Notebook, Step, steps
from ops.runbook.progress import ConsoleProgress, OnProgress, Progress
from ops.runbook.record import Failure, NotebookRecord, Record, StepRecord, scan
from ops.runbook.redaction import Redactor, SecretSource
from ops.runbook.sources import register, workspace_sources
from ops.secret import REGISTER_VARIABLE
from ops.workspace import HOME_VARIABLE, PROJECT_ROOT, Workspace

CELL_TIMEOUT = 30 * 60
"""Seconds that one cell may take, unless the caller says otherwise: a build on a slow network fits, a hang does not."""

START_TIMEOUT = 120
"""Seconds that the kernel may take to answer for the first time."""


class RunInterruptedError(KeyboardInterrupt):
    """A run was interrupted by Ctrl-C or SIGTERM; its kernel is ended and its record written.

    Parameters:
        record: what it left.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        super().__init__(f"the run was interrupted; its record is {record.folder}")


def run_notebooks(
    notebooks: Sequence[Path],
    parameters: Mapping[str, object] | None = None,
    *,
    workspace: Workspace,
    name: str = "",
    on_progress: OnProgress | None = None,
    sources: Sequence[SecretSource] = (),
    cell_timeout: int = CELL_TIMEOUT,
    start_timeout: int = START_TIMEOUT,
    cwd: Path = PROJECT_ROOT,
) -> Record:
    """Run *notebooks* one after the other, each in a kernel of its own; the first that fails ends the run.

    Whatever happens, the record in the workspace says how far it came, without any secret that is known: those in the
    environment, in the workspace, of *sources*, and each :class:`ops.secret.Secret` that the notebooks make.

    Parameters:
        notebooks: their files.
        parameters: name to value, typed or as text; each must be a parameter of at least one of the notebooks.
        workspace: the operator's folder. The notebooks see it as ``PYPI_RUNBOOK_HOME``.
        name: of the run, for its folder; the notebook's own when there is only one.
        on_progress: called at the start and the end of each step; writes lines to standard output when not given.
        sources: where further secrets are known from.
        cell_timeout: seconds that one cell may take.
        start_timeout: seconds that a kernel may take to start.
        cwd: the directory that the notebooks run in, wherever the caller is.

    Returns:
        the record of a run in which every code cell of every notebook was completed.

    Raises:
        NotebookError: there is no such notebook; nothing was run.
        ParameterError: an unknown parameter, a value of another type, or a secret given as one; nothing was run.
        RunError: a notebook failed, or a secret was found in the finished record; ``record`` has the folder.
        RunInterruptedError: Ctrl-C or SIGTERM came.
    """
    if not notebooks:
        raise NotebookError("no notebook was named", todo="name one; `runbook list` lists them")
    opened = _named([Notebook.read(Path(path)) for path in notebooks])
    values = assign(parameters or {}, {key: notebook.parameters for key, notebook in opened.items()})
    with tempfile.TemporaryDirectory(prefix="runbook-", ignore_cleanup_errors=True) as scratch:
        secrets_file = Path(scratch) / "secrets"
        secrets_file.touch(mode=0o600)
        redactor = Redactor(
            sources=(*workspace_sources(workspace, os.environ), *sources, register(secrets_file)),
        )
        _refuse_secrets(parameters or {}, redactor)
        workspace.create()
        record = Record.create(workspace.records, name or (next(iter(opened)) if len(opened) == 1 else "run"))
        record.parameters = {key: value for given in values.values() for key, value in given.items()}
        record.notebooks = [
            NotebookRecord(
                key,
                notebook.title,
                parameters={parameter.name: parameter.default for parameter in notebook.parameters} | dict(values[key]),
                steps=[StepRecord(step.title, list(step.cells)) for step in notebook.steps],
            )
            for key, notebook in opened.items()
        ]
        run = _Run(
            record,
            redactor,
            on_progress or ConsoleProgress(),
            options={
                "environment": _environment(workspace, secrets_file),
                "cwd": cwd,
                "start_timeout": start_timeout,
                "execution_timeout": cell_timeout,
            },
            scratch=Path(scratch),
        )
        with _sigterm_interrupts():
            run.all(opened, values)
    if record.outcome == outcomes.INTERRUPTED:
        raise RunInterruptedError(record)
    if record.error is not None:
        raise RunError(
            f"{record.error.notebook or record.name} failed"
            + (f" in its step {record.error.step!r}" if record.error.step else ""),
            why=": ".join(part for part in (record.error.what, record.error.why) if part),
            todo=f"{record.error.todo.rstrip('.')}. The report is {record.report}",
            record=record.folder,
        )
    return record


def _named(notebooks: Sequence[Notebook]) -> dict[str, Notebook]:
    named: dict[str, Notebook] = {}
    for notebook in notebooks:
        number = sum(key == notebook.name or key.startswith(f"{notebook.name}-") for key in named)
        named[f"{notebook.name}-{number + 1}" if number else notebook.name] = notebook
    return named


def _environment(workspace: Workspace, secrets_file: Path) -> dict[str, str]:
    variables = {**os.environ, REGISTER_VARIABLE: str(secrets_file)}
    # Set only when it says something: notebooks show paths by it. Absolute, since they run in another directory.
    if os.environ.get(HOME_VARIABLE) or workspace.home != Workspace.default().home:
        variables[HOME_VARIABLE] = str(workspace.home)
    return variables


def _refuse_secrets(given: Mapping[str, object], redactor: Redactor) -> None:
    redactor.refresh()
    for name, value in given.items():
        if redactor.finds(value if isinstance(value, str) else json.dumps(value, default=str)):
            raise ParameterError(
                f"the value of {name} is a secret",
                why="a parameter is written into the executed notebook, its report and its record",
                todo="leave it out: the notebooks find secrets in the environment, in 0600 files, or ask for them",
            )


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """While the notebooks run, SIGTERM does what Ctrl-C does: a pipeline that is cancelled leaves a record too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Run:
    """One run, from its first cell to the scan of its record."""

    def __init__(
        self, record: Record, redactor: Redactor, on_progress: OnProgress, *, options: Mapping[str, Any], scratch: Path
    ) -> None:
        self._record = record
        self._redactor = redactor
        self._on_progress = on_progress
        self._options = options
        self._scratch = scratch

    def all(self, notebooks: Mapping[str, Notebook], values: Mapping[str, Mapping[str, Value]]) -> None:
        """Run them until one is not good, and finish the record."""
        start = time.monotonic()
        outcome = outcomes.SUCCEEDED
        try:
            self._record.save(self._redactor)
            for entry in self._record.notebooks:
                outcome = self._one(notebooks[entry.name], entry, values[entry.name])
                if outcome != outcomes.SUCCEEDED:
                    break
        except KeyboardInterrupt:  # before a notebook ran, while papermill was imported
            outcome = outcomes.INTERRUPTED
            self._record.error = self._record.error or Failure("the run was interrupted", todo=AGAIN)
            for entry in self._record.notebooks:
                entry.outcome = outcome if entry.outcome == outcomes.RUNNING else entry.outcome
        self._record.end(outcome, time.monotonic() - start)
        self._finish()

    def _one(self, notebook: Notebook, entry: NotebookRecord, values: Mapping[str, Value]) -> str:
        from papermill import execute_notebook
        from papermill.exceptions import PapermillExecutionError

        register_engine()
        entry.outcome, entry.executed = outcomes.RUNNING, f"{entry.name}.ipynb"
        executed = self._record.folder / entry.executed
        scratch = self._scratch / entry.name
        scratch.mkdir(mode=0o700)
        steps_seen = _Steps(self._record, entry, self._redactor, self._on_progress)
        start = time.monotonic()
        failure: Failure | None = None
        outcome = outcomes.SUCCEEDED
        try:
            execute_notebook(
                # papermill takes the path for a format string.
                str(notebook.path).replace("{", "{{").replace("}", "}}"),
                None,
                parameters=dict(values),
                engine_name=ENGINE_NAME,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                redactor=self._redactor,
                save_to=executed,
                on_cell=steps_seen.on_cell,
                scratch=scratch,
                **self._options,
            )
        except PapermillExecutionError:
            # What the notebook holds says more, and is masked.
            pass
        except KeyboardInterrupt:
            outcome = outcomes.INTERRUPTED
            failure = Failure("the run was interrupted", todo=AGAIN, notebook=entry.name, step=steps_seen.current)
        except Exception as error:  # noqa: BLE001 - a kernel that does not start has many ways not to
            failure = Failure(
                "the notebook could not be run",
                why=self._redactor.text(f"{type(error).__name__}: {error}"),
                todo="run it again; when it goes on, open it in Jupyter and run it cell by cell",
                notebook=entry.name,
                step=steps_seen.current,
                exception=type(error).__name__,
            )
        entry.seconds = round(time.monotonic() - start, 3)
        failure = failure or self._failure_in(executed, entry)
        if failure is not None:
            outcome = outcome if outcome == outcomes.INTERRUPTED else outcomes.FAILED
            self._record.error = failure
        steps_seen.close(outcome)
        entry.outcome = outcome
        self._record.save(self._redactor)
        return outcome

    @staticmethod
    def _failure_in(executed: Path, entry: NotebookRecord) -> Failure | None:
        import nbformat

        node = nbformat.read(executed, as_version=4)
        return failure_in(node, tuple(Step(step.title, tuple(step.cells)) for step in entry.steps), name=entry.name)

    def _finish(self) -> None:
        """Write the reports, and let no secret stay in anything that was written."""
        from ops.runbook.report import write_reports

        record = self._record
        self._redactor.refresh()
        write_reports(record, self._redactor)
        record.save(self._redactor)
        spoiled = scan(record.folder, self._redactor)
        if spoiled:
            names = ", ".join(str(path.relative_to(record.folder)) for path in spoiled)
            record.outcome = outcomes.FAILED
            record.error = Failure(
                "a secret was found in the finished record and taken out of it",
                why=f"it stood in {names}",
                todo="rotate that secret if anyone can have read the record, and find out which step wrote it",
            )
            write_reports(record, self._redactor)
            record.save(self._redactor)


class _Steps:
    """Follows one notebook cell by cell, and makes steps of it."""

    def __init__(self, record: Record, entry: NotebookRecord, redactor: Redactor, on_progress: OnProgress) -> None:
        self._record = record
        self._entry = entry
        self._redactor = redactor
        self._on_progress = on_progress
        self._by_cell: dict[int, int] = {}
        self._open: int | None = None
        self._start = 0.0

    @property
    def current(self) -> str:
        """The title of the step that runs, or an empty string."""
        return self._entry.steps[self._open].title if self._open is not None else ""

    def on_cell(self, notebook: Any, index: int, status: str) -> None:
        """Take in that the cell *index* is now ``running``, ``completed`` or ``failed``."""
        if not self._by_cell:
            # Only now the injected parameters are among the cells.
            cells = ((cell.cell_type, cell.source) for cell in notebook.cells)
            found = steps(cells, title=self._entry.title)
            self._entry.steps = [StepRecord(step.title, list(step.cells)) for step in found]
            self._by_cell = {cell: number for number, step in enumerate(found) for cell in step.cells}
        number = self._by_cell.get(index)
        if number is None:
            return
        step = self._entry.steps[number]
        if status == "running":
            if self._open != number:
                self._open, self._start = number, time.monotonic()
                step.outcome = outcomes.RUNNING
                self._record.save(self._redactor)
                self._tell(step)
        elif status == "completed" and index == step.cells[-1]:
            self._end(outcomes.SUCCEEDED)

    def close(self, outcome: str) -> None:
        """The notebook has ended with *outcome*; so has the step that was still open."""
        if self._open is not None:
            self._end(outcomes.FAILED if outcome == outcomes.SUCCEEDED else outcome)

    def _end(self, outcome: str) -> None:
        if self._open is None:
            return
        step = self._entry.steps[self._open]
        step.outcome, step.seconds = outcome, round(time.monotonic() - self._start, 3)
        self._tell(step)
        self._open = None
        self._record.save(self._redactor)

    def _tell(self, step: StepRecord) -> None:
        position, total = self._entry.steps.index(step) + 1, len(self._entry.steps)
        self._on_progress(
            Progress(self._entry.name, position, total, self._redactor.text(step.title), step.outcome, step.seconds)
        )
