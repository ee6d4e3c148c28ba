"""Runs of notebooks, in order, each in its own kernel, and their record."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ops.errors import NotebookError, ParameterError, RunError
from ops.parameters import distribute
from ops.redaction import Redactor, SecretSource
from ops.runbook import record as outcomes
from ops.runbook.engine import ENGINE_NAME, register_engine
from ops.runbook.failure import AGAIN, failure_in
from ops.runbook.notebook import Notebook, Step
from ops.runbook.plan_file import PlanFile, is_plan_cell
from ops.runbook.progress import ConsoleProgress, OnProgress, StepLog
from ops.runbook.record import PLAN_ONLY, RUN, Failure, NotebookRecord, Record, StepRecord
from ops.runbook.workspace_secrets import recorded_secrets, scan, workspace_sources
from ops.secret import REGISTER_VARIABLE
from ops.table import APPROVED_VARIABLE
from ops.workspace import HOME_VARIABLE, PROJECT_ROOT, Workspace

if TYPE_CHECKING:
    from ops.runbook.execution import ExecutionOptions

Ask = Callable[[NotebookRecord], bool]
"""Called with the entry of a notebook that has shown a plan with changes; returns whether to make them."""

Execute = Callable[[Notebook, Mapping[str, Any], Redactor, "ExecutionOptions"], object]
"""Executes a notebook with its parameters, and saves it masked, according to the options."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run. Each is a field here, and is used where it takes effect.

    Parameters:
        workspace: the operator's folder. The notebooks see it as ``PYPI_RUNBOOK_HOME``.
        name: of the run, for its folder; by default the notebook's if there is only one.
        purpose: ``plan`` ends each notebook at its plan; ``run`` runs all of it.
        plan: the approved plans; any other is refused.
        ask: called before changes are made; None to make them without asking.
        resumes: the name of the record that this run continues.
        on_progress: called at the start and the end of each step; by default writes lines to standard output.
        sources: of further known secrets.
        execution: time limits, and the directory, which is the clone unless given.
    """

    workspace: Workspace
    name: str = ""
    purpose: str = RUN
    plan: PlanFile | None = None
    ask: Ask | None = None
    resumes: str = ""
    on_progress: OnProgress = field(default_factory=ConsoleProgress)
    sources: Sequence[SecretSource] = ()
    execution: ExecutionOptions | None = None


class RunInterruptedError(KeyboardInterrupt):
    """A run was interrupted by Ctrl-C or SIGTERM; its kernel has ended and its record is written.

    Parameters:
        record: of the run.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        super().__init__(f"the run was interrupted; its record is {record.folder}")


def run_notebooks(
    notebooks: Sequence[Path], parameters: Mapping[str, object] | None = None, *, options: RunOptions
) -> Record:
    """Run *notebooks* one after the other, each in its own kernel; the first failure ends the run.

    In any case the record in the workspace says how far it got, without any known secret: those in the
    environment, in the workspace, of the options, and each :class:`ops.secret.Secret` that the notebooks make.

    Parameters:
        notebooks: their files.
        parameters: name to value, typed or as text; each must be a parameter of at least one of the notebooks.
        options: of the run.

    Returns:
        the record of a run in which every code cell of every notebook completed, or all up to their plans.

    Raises:
        NotebookError: there is no such notebook, or it has no plan; nothing was run.
        ParameterError: an unknown parameter, a value of another type, or a secret given as one; nothing was run.
        ApprovalError: the plan was made from other notebooks, parameters or code; nothing was run.
        RunError: a notebook failed, or a secret was found in the finished record; ``record`` has the folder.
        RunInterruptedError: Ctrl-C or SIGTERM came.
    """
    from ops.runbook.execution import ExecutionOptions

    if not notebooks:
        raise NotebookError("no notebook was named", todo="name one; `runbook list` lists them")
    opened = _named([Notebook.read(Path(path)) for path in notebooks])
    values = distribute(parameters or {}, {key: notebook.parameters for key, notebook in opened.items()})
    if options.purpose == PLAN_ONLY:
        _require_plans(opened)
    if options.plan is not None:
        options.plan.require(opened, values)
    execution = options.execution or ExecutionOptions()
    execution = dataclasses.replace(execution, cwd=execution.cwd or PROJECT_ROOT)
    record = record_notebooks(opened, values, _by_papermill, dataclasses.replace(options, execution=execution))
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


def record_notebooks(
    notebooks: Mapping[str, Notebook],
    values: Mapping[str, Mapping[str, Any]],
    execute: Execute,
    options: RunOptions,
) -> Record:
    """Run *notebooks* with *execute* until one fails, and keep a record of how they ended.

    Parameters:
        notebooks: by their names in the record.
        values: the parameters given to each.
        execute: runs one of them.
        options: of the run, with those of the execution.

    Raises:
        ParameterError: a secret was given as a parameter; nothing was run.
    """
    workspace = options.workspace
    given = {key: value for each in values.values() for key, value in each.items()}
    with tempfile.TemporaryDirectory(prefix="runbook-", ignore_cleanup_errors=True) as scratch:
        secrets_file = Path(scratch) / "secrets"
        secrets_file.touch(mode=0o600)
        redactor = Redactor(
            sources=(*workspace_sources(workspace, os.environ), *options.sources, recorded_secrets(secrets_file)),
        )
        refuse_secrets(given, redactor)
        workspace.create()
        name = options.name or (next(iter(notebooks)) if len(notebooks) == 1 else "run")
        record = Record.create(workspace.records, name)
        record.purpose, record.resumes, record.parameters = options.purpose, options.resumes, given
        record.notebooks = [
            NotebookRecord(
                key,
                notebook.title,
                parameters={parameter.name: parameter.default for parameter in notebook.parameters} | dict(values[key]),
                steps=[StepRecord(step.title, list(step.cells)) for step in notebook.steps],
            )
            for key, notebook in notebooks.items()
        ]
        environment = notebook_environment(workspace, secrets_file)
        run = _Run(record, redactor, execute, options, environment=environment, scratch=Path(scratch))
        with _sigterm_interrupts():
            run.all(notebooks, values)
    return record


def _by_papermill(
    notebook: Notebook, values: Mapping[str, Any], redactor: Redactor, options: ExecutionOptions
) -> object:
    from papermill import execute_notebook

    register_engine()
    return execute_notebook(
        # papermill treats the path as a format string.
        str(notebook.path).replace("{", "{{").replace("}", "}}"),
        None,
        parameters=dict(values),
        engine_name=ENGINE_NAME,
        kernel_name="python3",
        language="python",
        progress_bar=False,
        redactor=redactor,
        options=options,
    )


def _named(notebooks: Sequence[Notebook]) -> dict[str, Notebook]:
    named: dict[str, Notebook] = {}
    for notebook in notebooks:
        number = sum(key == notebook.name or key.startswith(f"{notebook.name}-") for key in named)
        named[f"{notebook.name}-{number + 1}" if number else notebook.name] = notebook
    return named


def _require_plans(notebooks: Mapping[str, Notebook]) -> None:
    without = [
        key
        for key, notebook in notebooks.items()
        if not any(cell.kind == "code" and is_plan_cell(cell.source) for cell in notebook.cells)
    ]
    if without:
        raise NotebookError(
            f"{', '.join(without)} cannot be planned",
            why="no cell calls plan(), so the notebook would run to its end",
            todo="omit it, or run it with `runbook run`",
        )


def notebook_environment(workspace: Workspace, secrets_file: Path) -> dict[str, str]:
    """The environment of kernels: this process's, the file that records secrets, and the workspace."""
    variables = {**os.environ, REGISTER_VARIABLE: str(secrets_file)}
    # Set only if not the default: notebooks show paths relative to it. Absolute, because they run elsewhere.
    if os.environ.get(HOME_VARIABLE) or workspace.home != Workspace.default().home:
        variables[HOME_VARIABLE] = str(workspace.home)
    return variables


def refuse_secrets(given: Mapping[str, object], redactor: Redactor) -> None:
    """Refuse a parameter that contains a known secret.

    Raises:
        ParameterError: one does.
    """
    redactor.refresh()
    for name, value in given.items():
        if redactor.finds(value if isinstance(value, str) else json.dumps(value, default=str)):
            raise ParameterError(
                f"the value of {name} is a secret",
                why="a parameter is written into the executed notebook, its report and its record",
                todo="omit it: the notebooks read secrets from the environment or 0600 files, or ask for them",
            )


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C while the notebooks run, so that a cancelled pipeline leaves a record too."""
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
        self,
        record: Record,
        redactor: Redactor,
        execute: Execute,
        options: RunOptions,
        *,
        environment: Mapping[str, str],
        scratch: Path,
    ) -> None:
        self._record = record
        self._redactor = redactor
        self._execute = execute
        self._options = options
        self._environment = environment
        self._scratch = scratch

    def all(self, notebooks: Mapping[str, Notebook], values: Mapping[str, Mapping[str, Any]]) -> None:
        """Run them until one fails, and finish the record."""
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

    def _one(self, notebook: Notebook, entry: NotebookRecord, values: Mapping[str, Any]) -> str:
        from papermill.exceptions import PapermillExecutionError

        from ops.runbook.execution import ExecutionOptions

        entry.outcome, entry.executed = outcomes.RUNNING, f"{entry.name}.ipynb"
        executed = self._record.folder / entry.executed
        scratch = self._scratch / entry.name
        scratch.mkdir(mode=0o700)
        log = StepLog(self._record, entry, self._redactor, self._options.on_progress)
        gate = _PlanGate(entry, plan_only=self._options.purpose == PLAN_ONLY, ask=self._options.ask)
        approved = self._options.plan.approved.get(entry.name) if self._options.plan else None
        environment = {**self._environment, **({APPROVED_VARIABLE: approved} if approved else {})}
        start = time.monotonic()
        failure: Failure | None = None
        outcome = outcomes.SUCCEEDED
        try:
            self._execute(
                notebook,
                values,
                self._redactor,
                dataclasses.replace(
                    self._options.execution or ExecutionOptions(),
                    save_to=executed,
                    scratch=scratch,
                    environment=environment,
                    on_cell=log.on_cell,
                    after_cell=gate.after_cell,
                ),
            )
        except PapermillExecutionError:
            # The notebook's own error says more, and is masked.
            pass
        except KeyboardInterrupt:
            outcome = outcomes.INTERRUPTED
            failure = Failure("the run was interrupted", todo=AGAIN, notebook=entry.name, step=log.current)
        except Exception as error:  # noqa: BLE001 - a kernel can fail to start in many ways
            failure = Failure(
                "the notebook could not be run",
                why=self._redactor.text(f"{type(error).__name__}: {error}"),
                todo="run it again; if it fails again, open it in Jupyter and run it cell by cell",
                notebook=entry.name,
                step=log.current,
                exception=type(error).__name__,
            )
        entry.seconds = round(time.monotonic() - start, 3)
        failure = failure or gate.failure or self._failure_in(executed, entry, gate.ended_at)
        if failure is not None:
            outcome = outcome if outcome == outcomes.INTERRUPTED else outcomes.FAILED
            self._record.error = failure
        log.close(outcome if failure is not None or gate.ended_at is not None else outcomes.FAILED)
        entry.outcome = outcome
        self._record.save(self._redactor)
        return outcome

    @staticmethod
    def _failure_in(executed: Path, entry: NotebookRecord, last: int | None) -> Failure | None:
        import nbformat

        node = nbformat.read(executed, as_version=4)
        if last is not None:
            del node.cells[last + 1 :]
        return failure_in(node, tuple(Step(step.title, tuple(step.cells)) for step in entry.steps), name=entry.name)

    def _finish(self) -> None:
        """Write the reports, and remove secrets from everything written."""
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
                "a secret was found in the finished record and removed",
                why=f"it was in {names}",
                todo="rotate that secret if anyone could have read the record, and find out which step wrote it",
            )
            write_reports(record, self._redactor)
            record.save(self._redactor)


class _PlanGate:
    """Ends a notebook at its plan, if only the plan is wanted or it is not approved."""

    def __init__(self, entry: NotebookRecord, *, plan_only: bool, ask: Ask | None) -> None:
        self._entry = entry
        self._plan_only = plan_only
        self._ask = ask
        self._asked = False
        self.ended_at: int | None = None
        self.failure: Failure | None = None

    def after_cell(self, notebook: Any, index: int) -> Mapping[str, str] | None:
        """Decide whether the notebook continues after the cell *index*; see :data:`ops.runbook.execution.AfterCell`."""
        cell = notebook.cells[index]
        if self._plan_only and cell.cell_type == "code" and is_plan_cell(cell.source):
            self.ended_at = index
            if self._entry.plan is None:
                self._fail("the notebook shows no plan", "display the result of plan() as the last line of its cell")
            return None
        if self._ask is None or self._asked or self._entry.plan is None:
            return {}
        self._asked = True
        if self._entry.pending and not self._ask(self._entry):
            self.ended_at = index
            self._fail("the plan was not approved, and nothing was changed", "run it again when it may be applied")
            return None
        return {APPROVED_VARIABLE: str(self._entry.plan["sha256"])}

    def _fail(self, what: str, todo: str) -> None:
        self.failure = Failure(what, todo=todo, notebook=self._entry.name)
