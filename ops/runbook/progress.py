"""Progress of a run: the steps of a notebook while it runs, and their display on the console."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from ops.redaction import Redactor
from ops.runbook import record as outcomes
from ops.runbook.notebook import steps
from ops.runbook.record import NotebookRecord, Record, StepRecord
from ops.runbook.summary import outcome_lines, write_flushed

TICK_SECONDS = 1.0
"""Seconds between two updates of the elapsed time on a terminal."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The start or the end of a step.

    Parameters:
        notebook: its name, ``01_provision``.
        step: the step's number, from 1.
        steps: how many steps the notebook has.
        title: the step's heading.
        outcome: ``running``, ``succeeded``, ``failed`` or ``interrupted``.
        seconds: how long it took; 0.0 while it runs.
        lines: the masked plan or changes that the step has shown.
    """

    notebook: str
    step: int
    steps: int
    title: str
    outcome: str
    seconds: float = 0.0
    lines: tuple[str, ...] = ()


OnProgress = Callable[[Progress], None]

_WORDS = {"succeeded": "ok", "failed": "FAILED", "interrupted": "INTERRUPTED"}


class ConsoleProgress:
    """Writes ``01_provision   3/9  Plan … ok 0.4 s``: the first part when the step starts, the rest when it ends.

    Below it are the lines of a plan or of changes. A terminal also shows the elapsed seconds; elsewhere no
    control character is written.

    Parameters:
        stream: where to write; standard output when not given.
        detailed: whether plans and changes are shown.
    """

    def __init__(self, stream: TextIO | None = None, *, detailed: bool = True) -> None:
        self._stream = stream
        self._detailed = detailed
        self._clock: _Clock | None = None

    def __call__(self, progress: Progress) -> None:
        """Write a step's start or end."""
        stream = self._stream or sys.stdout
        if progress.outcome == "running":
            write_flushed(stream, f"{progress.notebook}  {progress.step:>2}/{progress.steps}  {progress.title} … ")
            self._clock = _Clock(stream) if stream.isatty() else None
            return
        if self._clock is not None:
            self._clock.stop()
        write_flushed(stream, f"{_WORDS.get(progress.outcome, progress.outcome)} {progress.seconds:.1f} s\n")
        for line in progress.lines if self._detailed else ():
            write_flushed(stream, f"    {line}\n")


class _Clock:
    """Writes the elapsed seconds at the end of the line, overwriting them each time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._start = time.monotonic()
        self._shown = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._thread.start()

    def _tick(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            self._replace(f"{time.monotonic() - self._start:.0f} s")

    def _replace(self, text: str) -> None:
        back, blank = "\b" * len(self._shown), " " * len(self._shown)
        write_flushed(self._stream, f"{back}{blank}{back}{text}")
        self._shown = text

    def stop(self) -> None:
        """Remove the seconds."""
        self._ended.set()
        self._thread.join()
        self._replace("")


def silent(progress: Progress) -> None:
    """Ignore *progress*."""
    del progress


class StepLog:
    """The steps of one notebook while it runs.

    Parameters:
        record: of the run; saved at each start and end of a step.
        entry: the notebook's part of it.
        redactor: masks what is shown and stored.
        on_progress: called at each start and end of a step.
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
        """The title of the running step, or an empty string."""
        return self._entry.steps[self._open].title if self._open is not None else ""

    def on_cell(self, notebook: Any, index: int, status: str) -> None:
        """Record that the cell *index* is now ``running``, ``completed`` or ``failed``."""
        if not self._by_cell:
            # Only now are the injected parameters among the cells.
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
                self._lines += outcome_lines(self._entry)
            if index == step.cells[-1]:
                self._end(outcomes.SUCCEEDED)

    def close(self, outcome: str) -> None:
        """End the open step: the notebook has ended with *outcome*."""
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
