"""Progress of a run: one line a step, the same in a terminal and in a pipeline's log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True, slots=True)
class Progress:
    """A step has started or ended.

    Parameters:
        notebook: its name, ``01_provision``.
        step: the step's number, from 1.
        steps: how many steps the notebook has.
        title: the step's heading.
        outcome: ``running``, ``succeeded``, ``failed`` or ``interrupted``.
        seconds: how long it took; 0.0 while it runs.
    """

    notebook: str
    step: int
    steps: int
    title: str
    outcome: str
    seconds: float = 0.0


OnProgress = Callable[[Progress], None]

_WORDS = {"succeeded": "ok", "failed": "FAILED", "interrupted": "INTERRUPTED"}


class ConsoleProgress:
    """Writes ``01_provision   3/9  Plan … ok 0.4 s``: the first part when the step starts, the rest when it ends.

    Nothing is ever overwritten, so that no control character is needed and a log shows what a terminal shows.

    Parameters:
        stream: where to write; standard output when not given.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._open = False

    def __call__(self, progress: Progress) -> None:
        """Write what *progress* adds."""
        stream = self._stream or sys.stdout
        if progress.outcome == "running":
            text = f"{progress.notebook}  {progress.step:>2}/{progress.steps}  {progress.title} … "
            self._open = True
        else:
            text = f"{_WORDS.get(progress.outcome, progress.outcome)} {progress.seconds:.1f} s\n"
            self._open = False
        try:
            stream.write(text)
        except UnicodeEncodeError:
            # A pipeline with LANG=C: the heading's letters are not worth a failed run.
            stream.write(text.replace("…", "...").encode("ascii", "replace").decode("ascii"))
        stream.flush()


def silent(progress: Progress) -> None:
    """Say nothing."""
    del progress
