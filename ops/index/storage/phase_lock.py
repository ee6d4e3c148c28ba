"""A phase-fair lock: readers share it, writers have it alone, and neither side starves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class PhaseLock:
    """Shared and exclusive access, in phases.

    A waiting writer precedes readers that come later; the readers that waited for it precede the next writer. A thread
    may share the lock again while it shares it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._blocked = 0
        self._waiting = 0
        self._writing = False
        self._phase = 0
        self._closed_since: float | None = None
        self._mine = threading.local()

    @property
    def held(self) -> bool:
        """True if this thread shares the lock."""
        return bool(getattr(self._mine, "depth", 0))

    @property
    def closed(self) -> bool:
        """True if a reader that comes now has to wait."""
        return self._writing or self._waiting > 0

    def closed_for(self) -> float:
        """Seconds for which readers have had to wait; 0.0 if they need not."""
        since = self._closed_since
        return 0.0 if since is None else time.monotonic() - since

    @contextmanager
    def sharing(self, seconds: float) -> Iterator[None]:
        """Share the lock.

        Parameters:
            seconds: the longest wait for a writer; 0.0 for none.

        Raises:
            TimeoutError: the writer does not end in time.
        """
        depth = getattr(self._mine, "depth", 0)
        if depth == 0:
            self._enter(seconds)
        self._mine.depth = depth + 1
        try:
            yield
        finally:
            self._mine.depth = depth
            if depth == 0:
                with self._changed:
                    self._readers -= 1
                    if not self._readers:
                        self._changed.notify_all()

    def _enter(self, seconds: float) -> None:
        with self._changed:
            if not self.closed:
                self._readers += 1
                return
            if seconds <= 0:
                raise TimeoutError
            phase = self._phase
            self._blocked += 1
            if not self._changed.wait_for(lambda: self._phase != phase, seconds):  # else the writer counted us in
                self._blocked -= 1
                raise TimeoutError

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Have the lock alone, after waiting for readers and other writers."""
        with self._changed:
            self._waiting += 1
            self._closed_since = self._closed_since or time.monotonic()
            self._changed.wait_for(lambda: not (self._writing or self._readers))
            self._waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._phase += 1
                self._readers += self._blocked
                self._blocked = 0
                # The next writer closes the lock again, to readers that come from now on.
                self._closed_since = time.monotonic() if self._waiting else None
                self._changed.notify_all()
