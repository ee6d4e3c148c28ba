"""Queue of passwords to verify, fair between addresses when more are waiting than there are processors."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from ops.index.auth.throttle import network
from ops.index.errors import LoginDelayed, PackageIndexError, TooManyAttempts

_MAX_WAITING: Final = 896
"""At a quarter of a second each on two processors, the last one waits for two minutes. A client that gives up earlier
finds its login still in the queue when it retries."""

_NICENESS: Final = 5
"""Added to the niceness of threads that verify: known users must get their pages while bcrypt has all processors."""

_SUSPICIOUS: Final = 0.5
"""An address with more suspicion than this counts as having failed recently: one failure, half a window ago."""


def processors() -> int:
    """The number of passwords verified at once: one per processor, at most four."""
    return max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def lower_priority() -> None:
    """Let the event loop's thread run before this one, as soon as it can. Only Linux has priorities of threads."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)


@dataclass(eq=False, slots=True)
class _Turn:
    """A place in the queue. *round* numbers the places of one address, starting from the round being served."""

    address: str
    round: int
    suspicious: bool = False
    refusal: PackageIndexError | None = None
    decided: threading.Event = field(default_factory=threading.Event)


class VerificationQueue:
    """Serves addresses that have not failed recently first, one login of each in turn, then in order of arrival.

    A user does not wait for hundreds who log in from another address. A flood of guesses gets at most half of the
    turns, and only if no one else wants them. When too many are waiting, the most suspicious one is rejected; among
    equals, one from the address with the most.

    Parameters:
        suspicion: the number of recent failures of an address.
        turns: how many may be taken at once; 0 for :func:`processors`.
        max_waiting: how many may wait.
    """

    def __init__(self, suspicion: Callable[[str], float], *, turns: int = 0, max_waiting: int = _MAX_WAITING) -> None:
        self._suspicion = suspicion
        self._turns = turns or processors()
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._waiting: list[_Turn] = []
        self._taken: list[_Turn] = []
        self._round = 0
        self._closed = False

    @contextmanager
    def turn(self, address: str) -> Iterator[None]:
        """Wait for a turn, and give it back at the end.

        Raises:
            TooManyAttempts: too many are waiting, and this one is the most suspicious; its address failed recently.
            LoginDelayed: likewise, but its address has not failed; or the server is stopping.
        """
        with self._lock:
            rounds = (each.round for each in self._waiting if network(each.address) == network(address))
            turn = _Turn(address, max(rounds, default=self._round - 1) + 1)
            self._waiting.append(turn)
            if self._closed:
                self._reject(turn)
            elif len(self._waiting) > self._max_waiting:
                self._reject(self._most_suspicious())
            self._grant()
        turn.decided.wait()
        if turn.refusal is not None:
            raise turn.refusal
        try:
            yield
        finally:
            with self._lock:
                self._taken.remove(turn)
                self._grant()

    def close(self) -> None:
        """Reject all waiting logins, and all later ones."""
        with self._lock:
            self._closed = True
            for turn in list(self._waiting):
                self._reject(turn)

    def _grant(self) -> None:
        """Hand out the free turns."""
        while self._waiting and len(self._taken) < self._turns:
            first = min(self._waiting, key=lambda turn: (self._suspicion(turn.address), turn.round))
            first.suspicious = self._suspicion(first.address) > _SUSPICIOUS
            if first.suspicious and sum(turn.suspicious for turn in self._taken) >= max(1, self._turns // 2):
                return
            self._round = max(self._round, first.round)
            self._waiting.remove(first)
            self._taken.append(first)
            first.decided.set()

    def _most_suspicious(self) -> _Turn:
        """The last to arrive of the most suspicious: newcomers do not displace those already waiting."""
        crowds = Counter(network(turn.address) for turn in self._waiting)
        return max(
            reversed(self._waiting), key=lambda turn: (self._suspicion(turn.address), crowds[network(turn.address)])
        )

    def _reject(self, turn: _Turn) -> None:
        self._waiting.remove(turn)
        if not self._closed and self._suspicion(turn.address) > _SUSPICIOUS:
            turn.refusal = TooManyAttempts(retry_after=2)
        else:
            turn.refusal = LoginDelayed("too many logins are waiting to be verified")
        turn.decided.set()
