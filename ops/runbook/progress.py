"""Progress of a run on the console: one line a step, with the time that passes on a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

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
        lines: the plan or the changes that the step has shown, masked.
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

    Below it stand the lines of a plan or of changes. A terminal also shows the seconds that have passed; elsewhere no
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
        """Write what *progress* adds."""
        stream = self._stream or sys.stdout
        if progress.outcome == "running":
            write(stream, f"{progress.notebook}  {progress.step:>2}/{progress.steps}  {progress.title} … ")
            self._clock = _Clock(stream) if stream.isatty() else None
            return
        if self._clock is not None:
            self._clock.stop()
        write(stream, f"{_WORDS.get(progress.outcome, progress.outcome)} {progress.seconds:.1f} s\n")
        for line in progress.lines if self._detailed else ():
            write(stream, f"    {line}\n")


class _Clock:
    """Writes the seconds since its start at the end of the line, each over the last."""

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
        write(self._stream, f"{back}{blank}{back}{text}")
        self._shown = text

    def stop(self) -> None:
        """Take the seconds away."""
        self._ended.set()
        self._thread.join()
        self._replace("")


def write(stream: TextIO, text: str) -> None:
    """Write and flush; a stream of another encoding gets ASCII, since letters are not worth a failed run."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.replace("…", "...").encode("ascii", "replace").decode("ascii"))
    stream.flush()


def silent(progress: Progress) -> None:
    """Ignore *progress*."""
    del progress
