"""Queue of passwords to verify, fair between addresses when more wait than there are processors."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from ops.index.auth.throttle import network
from ops.index.errors import LoginDelayed, PackageIndexError, TooManyAttempts

_WAITING: Final = 384
"""At a quarter of a second each, the last of them waits for a minute and a half on one processor. A client that does
not want to wait for that long comes again, and finds its login where it was."""

_FAILING: Final = 0.5
"""The suspicion from which on an address counts as one that has failed of late: one failure, half a window ago."""


def processors() -> int:
    """How many passwords are verified at once: one a processor, but no more than four."""
    return max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


class VerificationQueue:
    """Gives turns: to who comes from an address that has not failed of late first, then in order of arrival.

    A flood of guesses from a few addresses gets half of the turns at most, and only those that nobody else wants. When
    too many wait, the most suspicious is sent away, and among equals one of the address that has most of them.

    Parameters:
        suspicion: how often an address has failed of late.
        turns: how many may be taken at once.
        waiting: how many may wait.
    """

    def __init__(self, suspicion: Callable[[str], float], *, turns: int = 0, waiting: int = _WAITING) -> None:
        self._suspicion = suspicion
        self._turns = turns or processors()
        self._limit = waiting
        self._lock = threading.Lock()
        self._waiting: list[Turn] = []
        self._taken: list[Turn] = []
        self._closed = False

    def turn(self, address: str) -> Turn:
        """A turn to be waited for with ``with``, which raises what :meth:`enter` does."""
        return Turn(self, address)

    def enter(self, turn: Turn) -> None:
        """Wait for the turn.

        Raises:
            TooManyAttempts: too many wait, and none of them is more suspicious than this one, whose address has failed.
            LoginDelayed: likewise, but it has not failed; or the server is stopping.
        """
        with self._lock:
            self._waiting.append(turn)
            if self._closed:
                self._send_away(turn)
            elif len(self._waiting) > self._limit:
                self._send_away(self._worst())
            self._give()
        turn.decided.wait()
        if turn.refusal is not None:
            raise turn.refusal

    def leave(self, turn: Turn) -> None:
        """Give the turn back."""
        with self._lock:
            self._taken.remove(turn)
            self._give()

    def close(self) -> None:
        """Send away all who wait, and who will come."""
        with self._lock:
            self._closed = True
            for turn in list(self._waiting):
                self._send_away(turn)

    def _give(self) -> None:
        """Give the turns that are free."""
        while (turn := self._next()) is not None:
            self._waiting.remove(turn)
            self._taken.append(turn)
            turn.suspicious = self._suspicion(turn.address) > _FAILING
            turn.decided.set()

    def _next(self) -> Turn | None:
        """Who is to have a free turn."""
        if len(self._taken) >= self._turns or not self._waiting:
            return None
        first = min(self._waiting, key=lambda one: self._suspicion(one.address))
        guessing = sum(turn.suspicious for turn in self._taken)
        if self._suspicion(first.address) > _FAILING and guessing >= max(1, self._turns // 2):
            return None
        return first

    def _worst(self) -> Turn:
        """The last of the most suspicious: who has waited is not sent away for who has just come."""
        crowds = Counter(network(turn.address) for turn in self._waiting)
        return max(
            reversed(self._waiting), key=lambda one: (self._suspicion(one.address), crowds[network(one.address)])
        )

    def _send_away(self, turn: Turn) -> None:
        self._waiting.remove(turn)
        if not self._closed and self._suspicion(turn.address) > _FAILING:
            turn.refusal = TooManyAttempts(retry_after=2)
        else:
            turn.refusal = LoginDelayed("more logins are waiting than can be looked at now")
        turn.decided.set()


class Turn:
    """One turn of :class:`VerificationQueue`, a context manager."""

    def __init__(self, verification_queue: VerificationQueue, address: str) -> None:
        self._verification_queue = verification_queue
        self.address = address
        self.refusal: PackageIndexError | None = None
        self.suspicious = False
        self.decided = threading.Event()
        """Once it was given or refused."""

    def __enter__(self) -> Self:
        self._verification_queue.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._verification_queue.leave(self)
