"""Turns of threads: the interpreter runs one at a time anyway.

Threads that compete for it hand it over at almost every system call. With eight clients, that took a quarter of the
processor time of an upload.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_LONGEST_WAIT: Final = 0.05
"""Seconds after which a thread goes on without a turn: another waits during its own, perhaps for a slow disk."""

_thread = threading.local()
"""``lock`` is the lock of the turn that this thread has."""


class Turns:
    """Lets threads work one after another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold while a thread works for a few milliseconds. Waits for others, but not for long."""
        _take(self._lock)
        try:
            yield
        finally:
            _give_up()


@contextmanager
def between_turns() -> Iterator[None]:
    """Hold while this thread waits for something slow. Does nothing in a thread that has no turn."""
    lock = _give_up()
    try:
        yield
    finally:
        if lock is not None:
            _take(lock)


def _take(lock: threading.Lock) -> None:
    if lock.acquire(timeout=_LONGEST_WAIT):
        _thread.lock = lock


def _give_up() -> threading.Lock | None:
    lock: threading.Lock | None = getattr(_thread, "lock", None)
    if lock is not None:
        _thread.lock = None
        lock.release()
    return lock
