"""Polling until a condition holds, since the servers of one index do not learn of a change at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

SECONDS = 10.0
"""Twice the time within which a change reaches every server of an index."""


def until(ask: Callable[[], _T], wanted: Callable[[_T], bool], *, seconds: float | None = None) -> _T:
    """Ask until the answer is as *wanted* or the time is up; return the last answer.

    Parameters:
        ask: what may be asked again without harm.
        wanted: whether an answer will do.
        seconds: how long to go on asking, with a second between two questions; :data:`SECONDS` when not given.
    """
    deadline = time.monotonic() + (SECONDS if seconds is None else seconds)
    while True:
        answer = ask()
        if wanted(answer) or time.monotonic() > deadline:
            return answer
        time.sleep(1.0)
