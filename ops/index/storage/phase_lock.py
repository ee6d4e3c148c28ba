"""A lock that readers share and writers have alone, in turns, so that neither side starves (a phase-fair lock)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class PhaseLock:
    """Shared and exclusive access, in phases.

    A writer that waits goes before readers that come later; the readers that waited for it go before the next writer. A
    thread that shares the lock may share it again.
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
        """Whether this thread shares the lock."""
        return bool(getattr(self._mine, "depth", 0))

    @property
    def closed(self) -> bool:
        """Whether a reader that comes now has to wait."""
        return self._writing or self._waiting > 0

    def closed_for(self) -> float:
        """Seconds since when readers have to wait; 0.0 when they need not."""
        since = self._closed_since
        return 0.0 if since is None else time.monotonic() - since

    @contextmanager
    def sharing(self, seconds: float) -> Iterator[None]:
        """Share the lock.

        Parameters:
            seconds: to wait for the writers of this phase; 0.0 for not at all.

        Raises:
            TimeoutError: they do not end in time.
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
            if not self._changed.wait_for(lambda: self._phase != phase, seconds):  # else we have been counted in
                self._blocked -= 1
                raise TimeoutError

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Have the lock alone; wait for readers and other writers for as long as they take."""
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
                # Whoever waits to write closes the lock anew, for the readers that come from now on.
                self._closed_since = time.monotonic() if self._waiting else None
                self._changed.notify_all()
