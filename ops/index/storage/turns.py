"""Turns of threads: the interpreter runs one at a time anyway.

Threads that compete for it hand it over at almost every system call. With eight clients, that took a quarter of the
processor time of an upload.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_LONGEST_WAIT: Final = 0.05
"""Seconds after which a thread goes on without a turn: others spend theirs waiting for a slow disk."""

_REST_SECONDS: Final = 0.5
"""Time without turns after that: threads had better wait for the disk together."""

_thread = threading.local()
"""``turns`` are those of which this thread has one; None or missing if it has none."""


class Turns:
    """Lets threads work one after another, unless they wait too long for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rest_until = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold while a thread works for a few milliseconds. Waits for others, but not for long."""
        self.begin()
        try:
            yield
        finally:
            _give_up()

    def begin(self) -> None:
        """Begin a turn, or go on without one."""
        if time.monotonic() < self._rest_until:
            return
        if self._lock.acquire(timeout=_LONGEST_WAIT):
            _thread.turns = self
        else:
            self._rest_until = time.monotonic() + _REST_SECONDS

    def end(self) -> None:
        """End the turn of this thread."""
        _thread.turns = None
        self._lock.release()


@contextmanager
def between_turns() -> Iterator[None]:
    """Hold while this thread waits for something slow. Does nothing in a thread that has no turn."""
    turns = _give_up()
    try:
        yield
    finally:
        if turns is not None:
            turns.begin()


def _give_up() -> Turns | None:
    turns: Turns | None = getattr(_thread, "turns", None)
    if turns is not None:
        turns.end()
    return turns
