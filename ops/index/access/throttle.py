"""How long whoever fails to log in has to wait, without shutting out those who can."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeVar

from ops.index.errors import TooManyAttempts

K = TypeVar("K")

_LONGEST: Final = 300.0
"""Seconds that a wait grows to at most."""

_REPEATED: Final = 2.0
"""Seconds to wait at most when it is always the same wrong password: a client with an old one, no guessing."""

_MANY: Final = 3
"""An address may fail this many times as often as one user from it: a team may share it."""

_PACE: Final = 1.0
"""Seconds between the attempts of an address that has failed more often than that."""

_TURNS: Final = 4
"""How many attempts of such an address may wait for their turn."""

_FADED: Final = 0.5
"""What was counted fades from the first moment on: ten failures in a row are a little less than ten."""

_TABLE: Final = 10_000
"""Users and addresses that are kept; each costs whoever wants to be forgotten a bcrypt."""


@dataclass(slots=True)
class _Record:
    guesses: float = 0.0
    """Failures with ever new passwords, as many as still count."""
    repeats: float = 0.0
    """Failures with a password that had failed before."""
    at: float = 0.0
    until: float = 0.0
    """Nothing is looked at before; of an address: its last turn that was given away."""
    flying: int = 0
    """Attempts that are being looked at. They count as failures until they are known to be none."""

    def fade(self, now: float, window: float) -> None:
        """Let what was counted fade to a quarter in each window, but not while a wait lasts: it would undo itself."""
        since = max(self.at, self.until)
        if now > since:
            share = 0.25 ** ((now - since) / window)
            self.guesses *= share
            self.repeats *= share
            self.at = now


class Throttle:
    """Counts failed logins per user and address, and per address.

    A few failures are free. Then one user from one address waits twice as long after each failure; a correct password
    from there is looked at after the wait, from elsewhere at once. An address that fails with many users is not shut
    out, since a team may be behind it, but its attempts are taken one a second. Who has logged in before and is
    remembered never comes here.

    Parameters:
        failures: that are free for a user from one address.
        window: seconds without an attempt after which a failure counts for a quarter.
        clock: seconds, for instance ``time.monotonic``.
    """

    def __init__(self, failures: int, window: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = failures
        self._window = window
        self._clock = clock
        self._lock = threading.Lock()
        self._pairs: OrderedDict[tuple[str, str], _Record] = OrderedDict()
        self._addresses: OrderedDict[str, _Record] = OrderedDict()

    def check(self, user: str, address: str) -> None:
        """Whether this user may try from there now.

        Raises:
            TooManyAttempts: not before some seconds.
        """
        with self._lock:
            self._check(self._pairs.get((user, network(address))), self._clock())

    def admit(self, user: str, address: str) -> float:
        """Begin an attempt, which ends with one of :meth:`failed`, :meth:`succeeded` and :meth:`abandoned`.

        Returns:
            Seconds to wait before it is looked at.

        Raises:
            TooManyAttempts: not before some seconds.
        """
        with self._lock:
            now = self._clock()
            pair, record = self._records(user, address, now)
            self._check(pair, now)
            if pair.flying and pair.guesses + pair.flying > self._free - _FADED:
                raise TooManyAttempts(retry_after=1)
            delay = 0.0
            if record.guesses + record.flying > self._free * _MANY - _FADED:
                delay = max(0.0, record.until - now)
                if delay > _PACE * _TURNS:
                    raise TooManyAttempts(retry_after=delay)
                record.until = now + delay + _PACE
            pair.flying += 1
            record.flying += 1
            return delay

    def failed(self, user: str, address: str) -> None:
        """End an attempt: the password was wrong."""
        with self._lock:
            now = self._clock()
            pair, record = self._landed(user, address, now)
            pair.guesses += 1
            record.guesses += 1
            self._slow(pair, now)

    def wrong(self, user: str, address: str) -> None:
        """Count a failure that took no work and was not begun with :meth:`admit`."""
        with self._lock:
            now = self._clock()
            pair, _ = self._records(user, address, now)
            pair.guesses += 1
            self._slow(pair, now)

    def repeated(self, user: str, address: str) -> None:
        """Count a password that had been found wrong before: nothing can be learnt from trying it again."""
        with self._lock:
            now = self._clock()
            pair = _kept(self._pairs, (user, network(address)))
            pair.fade(now, self._window)
            pair.repeats += 1
            self._slow(pair, now)

    def succeeded(self, user: str, address: str) -> None:
        """End an attempt: the password was right. The failures of this user from there are forgotten."""
        with self._lock:
            pair, _ = self._landed(user, address, self._clock())
            pair.guesses = pair.repeats = pair.until = 0.0

    def abandoned(self, user: str, address: str) -> None:
        """End an attempt without a verdict."""
        with self._lock:
            self._landed(user, address, self._clock())

    def suspicion(self, address: str) -> float:
        """How often the address has failed of late; who has not is served first."""
        with self._lock:
            record = self._addresses.get(network(address))
            if record is None:
                return 0.0
            record.fade(self._clock(), self._window)
            return record.guesses

    def _records(self, user: str, address: str, now: float) -> tuple[_Record, _Record]:
        address = network(address)
        pair = _kept(self._pairs, (user, address))
        record = _kept(self._addresses, address)
        pair.fade(now, self._window)
        record.fade(now, self._window)
        return pair, record

    def _landed(self, user: str, address: str, now: float) -> tuple[_Record, _Record]:
        pair, record = self._records(user, address, now)
        pair.flying = max(0, pair.flying - 1)
        record.flying = max(0, record.flying - 1)
        return pair, record

    def _slow(self, pair: _Record, now: float) -> None:
        """Have the pair wait, if it has failed often enough."""
        if pair.guesses > self._free - _FADED:
            pair.until = now + min(2.0 ** min(pair.guesses - self._free + _FADED, 30.0), _LONGEST)
        elif pair.guesses + pair.repeats > self._free - _FADED:
            pair.until = now + _REPEATED

    @staticmethod
    def _check(pair: _Record | None, now: float) -> None:
        if pair is not None and pair.until > now:
            raise TooManyAttempts(retry_after=pair.until - now)


@lru_cache(maxsize=4096)
def network(address: str) -> str:
    """What one holder of an address can vary at will, as one: a /64 of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)).network_address)


def _kept(table: OrderedDict[K, _Record], key: K) -> _Record:
    """The record of *key*, as the youngest; the oldest gives way to a new one."""
    record = table.get(key)
    if record is None:
        record = table[key] = _Record()
        if len(table) > _TABLE:
            table.popitem(last=False)
    else:
        table.move_to_end(key)
    return record
