"""Who may have a password verified next, when more are waiting than there are processors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from ops.index.errors import TooManyAttempts

_WAITING: Final = 32
"""At a quarter of a second each, nobody waits for longer than some seconds."""


def processors() -> int:
    """How many passwords are verified at once: one a processor, but no more than four."""
    return max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


class Lanes:
    """Gives turns: to who comes from an address that has not failed of late first, then in order of arrival.

    A flood of guesses from a few addresses gets half of the turns at most, and only those that nobody else wants. When
    too many wait, the most suspicious is sent away.

    Parameters:
        suspicion: how often an address has failed of late.
        turns: how many may be taken at once.
        waiting: how many may wait.
    """

    def __init__(self, suspicion: Callable[[str], float], *, turns: int = 0, waiting: int = _WAITING) -> None:
        self._suspicion = suspicion
        self._turns = turns or processors()
        self._limit = waiting
        self._condition = threading.Condition()
        self._waiting: list[Turn] = []
        self._taken: list[Turn] = []

    def turn(self, address: str) -> Turn:
        """A turn to be waited for with ``with``, which raises TooManyAttempts when too many wait."""
        return Turn(self, address)

    def enter(self, turn: Turn) -> None:
        """Wait for the turn.

        Raises:
            TooManyAttempts: too many wait, and none of them is more suspicious.
        """
        with self._condition:
            self._waiting.append(turn)
            if len(self._waiting) > self._limit:
                # The last of the most suspicious: who has waited is not sent away for who has just come.
                worst = max(reversed(self._waiting), key=lambda one: self._suspicion(one.address))
                worst.refused = True
                self._waiting.remove(worst)
                self._condition.notify_all()
            self._condition.wait_for(lambda: turn.refused or self._next() is turn)
            if turn.refused:
                raise TooManyAttempts(retry_after=2)
            self._waiting.remove(turn)
            self._taken.append(turn)
            turn.suspicious = self._suspicion(turn.address) > 0
            self._condition.notify_all()

    def leave(self, turn: Turn) -> None:
        """Give the turn back."""
        with self._condition:
            self._taken.remove(turn)
            self._condition.notify_all()

    def _next(self) -> Turn | None:
        """Who is to have a free turn."""
        if len(self._taken) >= self._turns or not self._waiting:
            return None
        first = min(self._waiting, key=lambda one: self._suspicion(one.address))
        guessing = sum(turn.suspicious for turn in self._taken)
        if self._suspicion(first.address) > 0 and guessing >= max(1, self._turns // 2):
            return None
        return first


class Turn:
    """One turn of :class:`Lanes`, a context manager."""

    def __init__(self, lanes: Lanes, address: str) -> None:
        self._lanes = lanes
        self.address = address
        self.refused = False
        self.suspicious = False

    def __enter__(self) -> Self:
        self._lanes.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lanes.leave(self)
