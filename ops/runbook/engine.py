"""The papermill engine ``runbook``: papermill's own, with every known secret masked, and a record of the run.

papermill uses it for the runbook's notebooks if no engine is named, and for any with ``--engine runbook``;
``--engine nbclient`` is papermill's own. ``--prepare-only`` bypasses every engine, including this one.
"""

from __future__ import annotations

import keyword
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops.errors import INTERRUPTED, RunbookError, RunError
from ops.parameters import refuse_unknown, require_utf8
from ops.workspace import Workspace

if TYPE_CHECKING:
    from ops.runbook.execution import ExecutionOptions
    from ops.runbook.notebook import Notebook

ENGINE_NAME = "runbook"


class RedactingEngine:
    """The class methods of papermill's ``Engine``, called by the entry point ``papermill.engine``.

    Not a subclass of it: papermill loads this module while it is itself being imported.
    """

    @classmethod
    def execute_notebook(  # noqa: PLR0917 - papermill's signature
        cls,
        nb: Any,
        kernel_name: str,
        output_path: str | None = None,
        progress_bar: bool | dict[str, Any] = True,
        log_output: bool = False,
        autosave_cell_every: int = 30,
        **given: Any,
    ) -> Any:
        """Execute *nb* and return it, masked.

        Parameters:
            nb: the notebook, already parameterised.
            kernel_name: ignored: the kernel is always this interpreter's.
            output_path: where the masked notebook is saved at the start and the end of each cell, or None.
            progress_bar: as in papermill.
            log_output: whether masked outputs go to papermill's log.
            autosave_cell_every: seconds between saves within a long cell.
            given: ``start_timeout``, ``execution_timeout``, ``stdout_file`` and ``stderr_file`` from papermill; or
                ``redactor`` and ``options`` from the runner, instead of all others.
        """
        from ops.runbook.execution import ExecutionOptions, execute

        del kernel_name
        if "options" in given:
            return execute(nb, given["redactor"], given["options"])
        # Anything but a local path is left to papermill, which writes it at the end.
        local = output_path and output_path != "-" and "://" not in output_path
        options = ExecutionOptions(
            copy_to=Path(output_path).absolute() if output_path and local else None,
            start_timeout=given.get("start_timeout", 60),
            execution_timeout=given.get("execution_timeout"),
            progress_bar=progress_bar,
            log_output=log_output,
            stdout_file=given.get("stdout_file"),
            stderr_file=given.get("stderr_file"),
            autosave_cell_every=autosave_cell_every,
        )
        try:
            return _recorded(nb, options)
        except RunbookError as error:
            _end_command(str(error), 1)
            raise
        except KeyboardInterrupt:
            _end_command(INTERRUPTED, 130)
            raise

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> str:
        """The kernel is always ``python3``, whatever the notebook or the caller says."""
        del nb, name
        return "python3"

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> str:
        """The language is always Python."""
        del nb, language
        return "python"


class DefaultEngine:
    """papermill's own engine, except for the notebooks of the runbook.

    Parameters:
        own: papermill's engine.
    """

    def __init__(self, own: Any) -> None:
        self._own = own

    def _engine(self, nb: Any) -> Any:
        from ops.runbook.notebook import GUARD

        guarded = any(cell.cell_type == "code" and cell.source == GUARD for cell in nb.cells)
        return RedactingEngine if guarded else self._own

    def execute_notebook(self, nb: Any, *arguments: Any, **given: Any) -> Any:
        """Execute *nb* with the engine that it needs."""
        return self._engine(nb).execute_notebook(nb, *arguments, **given)

    def nb_kernel_name(self, nb: Any, name: str | None = None) -> Any:
        """The kernel of that engine."""
        return self._engine(nb).nb_kernel_name(nb, name)

    def nb_language(self, nb: Any, language: str | None = None) -> Any:
        """The language of that engine."""
        return self._engine(nb).nb_language(nb, language)


def _recorded(nb: Any, options: ExecutionOptions) -> Any:
    """Execute a notebook for papermill, and keep a record.

    Raises:
        ParameterError: a parameter cannot be written into the notebook, or is a secret; nothing was run.
        RunError: something other than a cell failed.
        RunInterruptedError: Ctrl-C or SIGTERM came.
    """
    from ops.runbook import record as outcomes
    from ops.runbook.execution import execute
    from ops.runbook.notebook import Notebook
    from ops.runbook.progress import silent
    from ops.runbook.runner import RunInterruptedError, RunOptions, record_notebooks
    from ops.runbook.summary import tell

    notebook = Notebook.of(nb, Path(nb.metadata.papermill["input_path"] or "notebook"))
    given = nb.metadata.papermill.get("parameters", {})
    _require_writable(notebook, given)
    executed: list[Any] = []
    record = record_notebooks(
        {notebook.name: notebook},
        {notebook.name: given},
        lambda _notebook, _values, redactor, how: executed.append(execute(nb, redactor, how)),
        RunOptions(workspace=Workspace.default(), on_progress=silent, execution=options),
    )
    if _in_command():
        tell(record, sys.stderr, os.environ)
        sys.stderr.write(f"Report: {record.report}\n")
    if record.outcome == outcomes.INTERRUPTED:
        raise RunInterruptedError(record)
    error = record.error
    # papermill's own exception reports a cell's error; it considers the others a success.
    if error is not None and (_in_command() or error.cell is None or error.exception in {"SystemExit", "NotExecuted"}):
        raise RunError(error.what, why=error.why, todo=error.todo, record=record.folder)
    return executed[0]


def _require_writable(notebook: Notebook, given: Mapping[str, Any]) -> None:
    """Refuse parameters that would make the notebook unreadable, so that its guard would never run.

    Raises:
        ParameterError: a name is not an identifier, or a text is not UTF-8.
    """
    unusable = [name for name in given if not name.isidentifier() or keyword.iskeyword(name)]
    refuse_unknown(unusable, {"this notebook": notebook.parameters})
    for name, value in given.items():
        require_utf8(name, value)


def _in_command() -> bool:
    """True in the command ``papermill``, false in a program that uses its API."""
    import click

    context = click.get_current_context(silent=True)
    return context is not None and context.command.name == "papermill"


def _end_command(message: str, code: int) -> None:
    """Exit the command ``papermill`` with a message, in place of its own traceback."""
    import click

    if _in_command():
        click.echo(f"Error: {message}", err=True)
        raise click.exceptions.Exit(code) from None


def register_engine() -> None:
    """Register the engine with papermill in this process, even if the project is not installed."""
    from papermill.engines import papermill_engines

    papermill_engines.register(ENGINE_NAME, RedactingEngine)


def _become_default() -> None:
    """Make this engine the default for the runbook's notebooks, if papermill is just being imported."""
    engines = getattr(sys.modules.get("papermill.engines"), "papermill_engines", None)
    if engines is not None:
        engines.register(None, DefaultEngine(engines.get_engine()))


_become_default()
