"""Polling until a condition holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

SECONDS = 10.0
"""Twice the time that a change takes to reach every server of an index."""


def until_equal(ask: Callable[[], _T], wanted: _T) -> _T:
    """Call *ask* until its result equals *wanted* or the time is up, and return the last result."""
    return until(ask, lambda result: result == wanted)


def until(
    ask: Callable[[], _T], wanted: Callable[[_T], bool], *, seconds: float | None = None, interval: float = 1.0
) -> _T:
    """Call *ask* until its result is *wanted* or the time is up, and return the last result.

    Parameters:
        ask: may be called any number of times.
        wanted: True for a result that ends the wait.
        seconds: how long to continue; None for :data:`SECONDS`.
        interval: seconds between two calls.
    """
    deadline = time.monotonic() + (SECONDS if seconds is None else seconds)
    while True:
        result = ask()
        if wanted(result) or time.monotonic() > deadline:
            return result
        time.sleep(interval)
