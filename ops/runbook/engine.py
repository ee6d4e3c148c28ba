"""The papermill engine ``runbook``: papermill's own, with every known secret masked.

``papermill --engine runbook in.ipynb out.ipynb`` masks the secrets of the environment and the workspace.
``--prepare-only`` goes around every engine, this one too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ops.redaction import Redactor
from ops.runbook.workspace_secrets import workspace_sources
from ops.workspace import Workspace

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
            kernel_name: not used: the kernel is always this interpreter's.
            output_path: where the masked notebook is saved at the start and the end of each cell, or None.
            progress_bar: as papermill has it.
            log_output: whether outputs go to papermill's log, masked.
            autosave_cell_every: seconds between saves within a long cell.
            given: ``start_timeout``, ``execution_timeout``, ``stdout_file`` and ``stderr_file`` from papermill; or
                ``redactor`` and ``options`` from the runner, in place of all others.
        """
        from ops.runbook.execution import ExecutionOptions, execute

        del kernel_name
        if "options" in given:
            return execute(nb, given["redactor"], given["options"])
        options = ExecutionOptions(
            save_to=Path(output_path) if output_path else None,
            start_timeout=given.get("start_timeout", 60),
            execution_timeout=given.get("execution_timeout"),
            progress_bar=progress_bar,
            log_output=log_output,
            stdout_file=given.get("stdout_file"),
            stderr_file=given.get("stderr_file"),
            autosave_cell_every=autosave_cell_every,
        )
        executed = execute(nb, Redactor(sources=workspace_sources(Workspace.default(), os.environ)), options)
        _end_command(executed)
        return executed

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


def _end_command(executed: Any) -> None:
    """End the command ``papermill`` with the sentences of a failure; its own end is a traceback of itself."""
    import click

    from ops.runbook.failure import failure_in

    failure = failure_in(executed, (), name="") if click.get_current_context(silent=True) else None
    if failure is not None:
        labelled = (("", failure.what), ("Why: ", failure.why), ("What to do: ", failure.todo))
        raise click.ClickException("\n".join(f"{label}{text}" for label, text in labelled if text))


def register_engine() -> None:
    """Make the engine known to papermill in this process, also when the project is not installed."""
    from papermill.engines import papermill_engines

    papermill_engines.register(ENGINE_NAME, RedactingEngine)
