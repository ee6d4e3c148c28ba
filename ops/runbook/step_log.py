"""Step log of a notebook: makes steps of its cells, and notes its plan and outcome."""

from __future__ import annotations

import time
from typing import Any

from ops.runbook import record as outcomes
from ops.runbook.notebook import steps
from ops.runbook.progress import OnProgress, Progress
from ops.runbook.record import NotebookRecord, Record, StepRecord
from ops.runbook.redaction import Redactor
from ops.runbook.summary import lines


class StepLog:
    """The steps of one notebook while it runs.

    Parameters:
        record: of the run; saved at each start and end of a step.
        entry: the notebook's part of it.
        redactor: masks what is told and kept.
        on_progress: told of each start and end of a step.
    """

    def __init__(self, record: Record, entry: NotebookRecord, redactor: Redactor, on_progress: OnProgress) -> None:
        self._record = record
        self._entry = entry
        self._redactor = redactor
        self._on_progress = on_progress
        self._by_cell: dict[int, int] = {}
        self._open: int | None = None
        self._start = 0.0
        self._lines: tuple[str, ...] = ()

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
        elif status == "completed":
            outputs = [output for output in notebook.cells[index].outputs if output.get("metadata")]
            if outputs and self._entry.learn(self._redactor.tree(outputs)):
                self._lines += lines(self._entry)
            if index == step.cells[-1]:
                self._end(outcomes.SUCCEEDED)

    def close(self, outcome: str) -> None:
        """End the step that is still open, as the notebook has ended with *outcome*."""
        self._end(outcome)

    def _end(self, outcome: str) -> None:
        if self._open is None:
            return
        step = self._entry.steps[self._open]
        step.outcome, step.seconds = outcome, round(time.monotonic() - self._start, 3)
        self._tell(step)
        self._open, self._lines = None, ()
        self._record.save(self._redactor)

    def _tell(self, step: StepRecord) -> None:
        position, total = self._entry.steps.index(step) + 1, len(self._entry.steps)
        title = self._redactor.text(step.title)
        self._on_progress(
            Progress(self._entry.name, position, total, title, step.outcome, step.seconds, lines=self._lines)
        )
