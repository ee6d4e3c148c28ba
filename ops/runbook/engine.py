"""The papermill engine ``runbook``: papermill's own, except that nothing leaves it unmasked.

``papermill --engine runbook in.ipynb out.ipynb`` works as well as the runner of this package; it then masks what the
environment and the workspace know. ``--prepare-only`` goes around every engine, this one too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ops.runbook.redaction import Redactor
from ops.runbook.sources import workspace_sources
from ops.workspace import Workspace

ENGINE_NAME = "runbook"


class RedactingEngine:
    """What papermill calls by the entry point ``papermill.engine``: the four class methods of its ``Engine``.

    Not a subclass of it, and papermill is imported only when a notebook runs: papermill loads this module while it is
    itself being imported, so importing it here would find it half made.
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
        **options: Any,
    ) -> Any:
        """Execute *nb* and return it, masked.

        Parameters:
            nb: the notebook, already parameterised.
            kernel_name: not used: the kernel is always this interpreter's.
            output_path: where the masked notebook is saved at the start and the end of each cell, or None.
            progress_bar: as papermill has it.
            log_output: whether outputs go to papermill's log, masked.
            autosave_cell_every: seconds between saves within a long cell.
            options: ``start_timeout`` and ``execution_timeout`` in seconds, and what the runner passes on:
                ``redactor``, ``save_to``, ``environment``, ``cwd``, ``scratch`` and ``on_cell``.
        """
        from ops.runbook.execution import Options, execute

        del kernel_name
        redactor = options.get("redactor") or Redactor(
            sources=workspace_sources(Workspace.default(), os.environ),
        )
        save_to = options.get("save_to") or output_path
        return execute(
            nb,
            redactor,
            Options(
                save_to=Path(save_to) if save_to else None,
                environment=options.get("environment"),
                cwd=options.get("cwd"),
                scratch=options.get("scratch"),
                on_cell=options.get("on_cell"),
                start_timeout=options.get("start_timeout", 60),
                execution_timeout=options.get("execution_timeout"),
                progress_bar=progress_bar,
                log_output=log_output,
                stdout_file=options.get("stdout_file"),
                stderr_file=options.get("stderr_file"),
                autosave_cell_every=autosave_cell_every,
            ),
        )

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


def register_engine() -> None:
    """Make the engine known to papermill in this process, also when the project is not installed."""
    from papermill.engines import papermill_engines

    papermill_engines.register(ENGINE_NAME, RedactingEngine)
