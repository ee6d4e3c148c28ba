"""Failures of notebooks, read from their outputs: what, why and what to do instead of a traceback."""

from __future__ import annotations

import re
from typing import Any

from ops.errors import GUIDE
from ops.runbook.notebook import Step
from ops.runbook.record import Failure

_OF_THE_CLIENT = frozenset({"TimeoutError", "DeadKernelError", "CellTimeoutError"})
"""Errors that the client reports on behalf of the kernel; their text explains them."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_WHY = "Why: "
_TODO = "What to do: "

UNEXPECTED = (
    "run the notebook again; if it happens again, report it with the traceback in the executed notebook. "
    f"See {GUIDE}#Unexpected"
)

AGAIN = "fix the cause and run the notebook again; it skips what is already done"


def failure_in(executed: Any, steps: tuple[Step, ...], *, name: str) -> Failure | None:
    """Find the first failure in an executed notebook; None if every cell completed.

    Parameters:
        executed: the masked notebook, with papermill's status in each cell.
        steps: the notebook's steps.
        name: the notebook's name.

    Returns:
        the failure for an error output, a cell that did not complete, or a cell that was never executed.
    """
    for index, cell in enumerate(executed.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        found = _error(cell) or _not_completed(cell)
        if found is not None:
            step = next((step.title for step in steps if index in step.cells), "")
            found.notebook, found.step, found.cell = name, step, index
            found.todo = found.todo or AGAIN
            return found
    return None


def _error(cell: Any) -> Failure | None:
    for output in cell.outputs:
        if output.output_type == "error":
            if output.ename == "SystemExit":
                return _exited(output.evalue)
            return failure_of(output.ename, output.evalue)
    return None


def _not_completed(cell: Any) -> Failure | None:
    status = cell.metadata.get("papermill", {}).get("status")
    if status == "completed" and cell.execution_count is not None:
        return None
    return Failure(
        "a cell was not executed",
        why=f"its status is {status}, without an error" if status != "completed" else "it was skipped by a tag",
        exception="NotExecuted",
    )


def _exited(code: str) -> Failure:
    return Failure(
        "a cell ended the notebook by sys.exit()",
        why=f"it exited with {code or '0'}, so the cells after it never ran",
        todo="raise an error instead, or let the cell end; a run succeeds only if every cell ran",
        exception="SystemExit",
    )


def failure_of(ename: str, evalue: str) -> Failure:
    """Split the text of an exception into what, why and what to do, as :class:`ops.errors.RunbookError` writes it.

    Parameters:
        ename: the exception's class.
        evalue: its text; only the first line of any other exception is used.
    """
    text = _COLOUR.sub("", evalue).strip()
    lines = text.splitlines()
    failure = Failure(what="", exception=ename)
    what: list[str] = []
    for line in lines:
        if line.startswith(_WHY):
            failure.why = line.removeprefix(_WHY).rstrip(".")
        elif line.startswith(_TODO):
            failure.todo = line.removeprefix(_TODO).rstrip(".")
        elif not failure.why and not failure.todo:
            what.append(line)
    if failure.why or failure.todo:
        failure.what = " ".join(what).rstrip(".")
    elif ename == "KeyboardInterrupt":
        failure.what = "the run was interrupted"
    else:
        failure.what = f"{ename}: {lines[0] if lines else ''}".rstrip(": .")
        if ename not in _OF_THE_CLIENT:
            failure.what, failure.todo = f"unexpected {failure.what}", UNEXPECTED
    return failure
