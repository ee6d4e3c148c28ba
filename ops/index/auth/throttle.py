"""Rate limiting for failed logins that does not lock out users who know their password."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

from ops.index.bounded_dict import BoundedDict
from ops.index.errors import LoginDelayed, TooManyAttempts

K = TypeVar("K")

_MAX_WAIT: Final = 300.0
"""The longest wait, in seconds."""

_REPEAT_WAIT: Final = 2.0
"""The longest wait, in seconds, for the same wrong password: a client with an old one, not a guesser."""

_ADDRESS_FACTOR: Final = 3
"""Factor by which an address may fail more often than one user from it: a team may share it."""

_PACE: Final = 1.0
"""Seconds between the attempts of an address that has failed more often than that."""

_PACED_WAITING: Final = 4
"""Attempts of such an address that may be waiting."""

MAX_PENDING: Final = 1024
"""Pending attempts. An address may have as many as there is room left for others: half of them if it is alone, so that
a whole team may log in at once, and a third each if two rush in. So a few addresses cannot shut out the rest."""

_TOLERANCE: Final = 0.5
"""Failures start to fade at once: ten in a row count slightly less than ten."""

_TABLE: Final = 10_000
"""Users and addresses in memory. Evicting one costs an attacker a bcrypt, or another address: refusals evict none."""


@dataclass(slots=True)
class _Failures:
    """Failures of a user from an address, or of an address; both fade.

    Parameters:
        guesses: with a new password each.
        repeats: with a password that had failed before.
        at: when they last faded.
        until: no attempt before; for an address, the last turn assigned.
        pending: attempts that have begun. A user's attempts count as failures until they end otherwise.
    """

    guesses: float = 0.0
    repeats: float = 0.0
    at: float = 0.0
    until: float = 0.0
    pending: int = 0

    def fade(self, now: float, window: float) -> None:
        """Fade to a quarter in each window, but not during a wait, which would shorten it."""
        since = max(self.at, self.until)
        if now > since:
            share = 0.25 ** ((now - since) / window)
            self.guesses *= share
            self.repeats *= share
            self.at = now


class Admission(NamedTuple):
    """Permission for an attempt.

    Parameters:
        delay: seconds to wait before it is verified.
        paced: True if its address has failed too often, and is limited to few attempts.
    """

    delay: float
    paced: bool


class Throttle:
    """Counts failed logins by user and address, and by address.

    A few failures are free. Then each doubles the wait for that user from that address; a correct password
    from there is verified after the wait, from elsewhere at once. An address that fails with many users is not locked
    out, since a team may share it, but gets one attempt a second. Users of an address that has not failed may all log
    in at once; if the first of them turn out to be guesses, :meth:`proceed` rejects the rest. Cached logins never get
    here.

    Parameters:
        failures: that are free, for a user from one address.
        window: seconds without an attempt after which a failure counts for a quarter.
        clock: seconds, such as ``time.monotonic``.
    """

    def __init__(self, failures: int, window: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = failures
        self._window = window
        self._clock = clock
        self._lock = threading.Lock()
        self._pending = 0
        self._users: BoundedDict[tuple[str, str], _Failures] = BoundedDict(_TABLE)
        self._addresses: BoundedDict[str, _Failures] = BoundedDict(_TABLE)

    def check(self, user: str, address: str) -> None:
        """Raise if this user has to wait before the next attempt from this address.

        Raises:
            TooManyAttempts: with the seconds to wait.
        """
        with self._lock:
            _check_wait(self._users.get((user, network(address))), self._clock())

    def admit(self, user: str, address: str) -> Admission:
        """Begin an attempt, which ends with one of :meth:`failed`, :meth:`succeeded` and :meth:`abandoned`.

        Raises:
            TooManyAttempts: this user, or this address, has to wait.
            LoginDelayed: too many attempts are pending, from this address though none has failed, or from many.
        """
        with self._lock:
            now = self._clock()
            of_user = self._users.get((user, network(address)), _Failures())
            of_address = self._addresses.get(network(address), _Failures())
            of_user.fade(now, self._window)
            of_address.fade(now, self._window)
            _check_wait(of_user, now)
            if of_user.pending and of_user.guesses + of_user.pending > self._free - _TOLERANCE:
                raise TooManyAttempts(retry_after=1)
            paced = self._exceeded(of_address)
            delay = max(0.0, of_address.until - now) if paced else 0.0
            if delay > _PACE * _PACED_WAITING:
                raise TooManyAttempts(retry_after=delay)
            if of_address.pending >= MAX_PENDING - self._pending:
                if not of_address.pending:
                    raise LoginDelayed("too many logins are waiting to be verified")
                if of_address.guesses > _TOLERANCE:
                    raise TooManyAttempts(retry_after=_PACE)
                raise LoginDelayed("too many users are logging in from one address")
            of_user, of_address = self._failures(user, address, now)  # remembered only now
            if paced:
                of_address.until = now + delay + _PACE
            self._pending += 1
            of_user.pending += 1
            of_address.pending += 1
            return Admission(delay, paced)

    def proceed(self, address: str) -> None:
        """Check again an attempt that was admitted without pacing, now that its turn has come.

        Raises:
            TooManyAttempts: its address has failed too often meanwhile.
        """
        with self._lock:
            of_address = self._addresses.get(network(address))
            if of_address is not None and self._exceeded(of_address):
                raise TooManyAttempts(retry_after=of_address.until - self._clock())

    def failed(self, user: str, address: str) -> None:
        """End an attempt: the password was wrong."""
        with self._lock:
            now = self._clock()
            of_user, of_address = self._ended(user, address, now)
            of_user.guesses += 1
            of_address.guesses += 1
            self._set_wait(of_user, now)

    def wrong(self, user: str, address: str) -> None:
        """Count a failure that cost no work and was not begun with :meth:`admit`."""
        with self._lock:
            now = self._clock()
            of_user, _ = self._failures(user, address, now)
            of_user.guesses += 1
            self._set_wait(of_user, now)

    def repeated(self, user: str, address: str) -> None:
        """Count a password that had failed before: trying it again teaches a guesser nothing."""
        with self._lock:
            now = self._clock()
            of_user, _ = self._failures(user, address, now)
            of_user.repeats += 1
            self._set_wait(of_user, now)

    def succeeded(self, user: str, address: str) -> None:
        """End an attempt: the password was right. Forgets the failures of this user from this address."""
        with self._lock:
            of_user, _ = self._ended(user, address, self._clock())
            of_user.guesses = of_user.repeats = of_user.until = 0.0

    def abandoned(self, user: str, address: str) -> None:
        """End an attempt without a result."""
        with self._lock:
            self._ended(user, address, self._clock())

    def suspicion(self, address: str) -> float:
        """Number of recent failures of an address."""
        with self._lock:
            of_address = self._addresses.get(network(address))
            if of_address is None:
                return 0.0
            of_address.fade(self._clock(), self._window)
            return of_address.guesses

    def _exceeded(self, of_address: _Failures) -> bool:
        return of_address.guesses > self._free * _ADDRESS_FACTOR - _TOLERANCE

    def _failures(self, user: str, address: str, now: float) -> tuple[_Failures, _Failures]:
        address = network(address)
        of_user, of_address = _youngest(self._users, (user, address)), _youngest(self._addresses, address)
        of_user.fade(now, self._window)
        of_address.fade(now, self._window)
        return of_user, of_address

    def _ended(self, user: str, address: str, now: float) -> tuple[_Failures, _Failures]:
        of_user, of_address = self._failures(user, address, now)
        self._pending -= 1
        of_user.pending = max(0, of_user.pending - 1)
        of_address.pending = max(0, of_address.pending - 1)
        return of_user, of_address

    def _set_wait(self, of_user: _Failures, now: float) -> None:
        excess = of_user.guesses - self._free + _TOLERANCE
        if excess > 0:
            of_user.until = now + min(2.0 ** min(excess, 30.0), _MAX_WAIT)
        elif excess + of_user.repeats > 0:
            of_user.until = now + _REPEAT_WAIT


@lru_cache(maxsize=4096)
def network(address: str) -> str:
    """The addresses that one client can choose from, as one: a /64 network of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)).network_address)


def _check_wait(of_user: _Failures | None, now: float) -> None:
    if of_user is not None and of_user.until > now:
        raise TooManyAttempts(retry_after=of_user.until - now)


def _youngest(table: BoundedDict[K, _Failures], key: K) -> _Failures:
    """The failures of *key*, moved to the end that is dropped last."""
    failures = table[key] = table.pop(key, _Failures())
    return failures
