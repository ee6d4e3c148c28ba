"""Detection of a slow disk: an event loop may read small files as long as that takes microseconds."""

from __future__ import annotations

import time
from typing import Final

_SLOW: Final = 0.01
"""Seconds on the event loop that are too many: the disk is slow, or another thread keeps the interpreter busy."""

_REST: Final = 8
"""Time for which the disk is then left to threads, in multiples of that duration."""


class SlowDisk:
    """Keeps an event loop off a disk while it is slow: at most a ninth of the time is spent waiting for it."""

    __slots__ = ("_rest_until",)

    def __init__(self) -> None:
        self._rest_until = 0.0

    def begin(self) -> float | None:
        """Begin a read: the time, for :meth:`end`; None if the disk must not be read now."""
        now = time.monotonic()
        return now if now >= self._rest_until else None

    def end(self, began: float) -> None:
        """End a read, and leave the disk alone for a while if it took too long."""
        now = time.monotonic()
        if now - began > _SLOW:
            self._rest_until = now + _REST * (now - began)
