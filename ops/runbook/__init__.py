"""Running notebooks: parameters, redaction, records, reports. Knows no operation.

from ops.runbook import RunOptions, find_notebook, run_notebooks
paths = [find_notebook("01_provision", folder).path]
record = run_notebooks(paths, {"target": "local"}, options=RunOptions(workspace=workspace))
"""

from __future__ import annotations

from ops.parameters import Parameter
from ops.redaction import Redactor, SecretSource
from ops.runbook.notebook import Notebook, Step, find_notebook, list_notebooks
from ops.runbook.progress import ConsoleProgress, Progress, silent
from ops.runbook.record import Record, list_records, prune
from ops.runbook.runner import RunInterruptedError, RunOptions, run_notebooks

__all__ = [
    "ConsoleProgress",
    "Notebook",
    "Parameter",
    "Progress",
    "Record",
    "Redactor",
    "RunInterruptedError",
    "RunOptions",
    "SecretSource",
    "Step",
    "find_notebook",
    "list_notebooks",
    "list_records",
    "prune",
    "run_notebooks",
    "silent",
]
