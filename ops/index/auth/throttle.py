"""Rate limiting for failed logins that does not shut out users who know their password."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

from ops.index.errors import LoginDelayed, TooManyAttempts

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

_CROWD: Final = 256
"""How many attempts of one address may be under way at once, also when none has failed: a team that logs in anew."""

_FADED: Final = 0.5
"""What was counted fades from the first moment on: ten failures in a row are a little less than ten."""

_TABLE: Final = 10_000
"""Users and addresses that are kept; each costs whoever wants to be forgotten a bcrypt."""


@dataclass(slots=True)
class _Record:
    guesses: float = 0.0
    """Failures with ever new passwords, as many as still count."""
    fast_path: float = 0.0
    """Failures with a password that had failed before."""
    at: float = 0.0
    until: float = 0.0
    """Nothing is looked at before; of an address: its last turn that was given away."""
    flying: int = 0
    """Attempts that are under way. Those of one user count as failures until they are known to be none."""

    def fade(self, now: float, window: float) -> None:
        """Let what was counted fade to a quarter in each window, but not while a wait lasts: it would undo itself."""
        since = max(self.at, self.until)
        if now > since:
            share = 0.25 ** ((now - since) / window)
            self.guesses *= share
            self.fast_path *= share
            self.at = now


class Admission(NamedTuple):
    """An attempt that may be made.

    Parameters:
        delay: seconds to wait before it is looked at.
        paced: whether it is one of the few that an address may make that has failed too often.
    """

    delay: float
    paced: bool


class Throttle:
    """Counts failed logins per user and address, and per address.

    A few failures are free. Then one user from one address waits twice as long after each failure; a correct password
    from there is looked at after the wait, from elsewhere at once. An address that fails with many users is not shut
    out, since a team may be behind it, but its attempts are taken one a second. Users of an address that has not
    failed may all come at once; when the first of them turn out to be guesses, :meth:`proceed` sends away the rest. Who
    has logged in before and is remembered never comes here.

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

    def admit(self, user: str, address: str) -> Admission:
        """Begin an attempt, which ends with one of :meth:`failed`, :meth:`succeeded` and :meth:`abandoned`.

        Raises:
            TooManyAttempts: not before some seconds.
            LoginDelayed: likewise, though nobody there has failed: there are too many of them.
        """
        with self._lock:
            now = self._clock()
            pair, record = self._records(user, address, now)
            self._check(pair, now)
            if pair.flying and pair.guesses + pair.flying > self._free - _FADED:
                raise TooManyAttempts(retry_after=1)
            paced = self._fails(record)
            delay = max(0.0, record.until - now) if paced else 0.0
            if delay > _PACE * _TURNS:
                raise TooManyAttempts(retry_after=delay)
            if record.flying >= _CROWD:
                if record.guesses > _FADED:
                    raise TooManyAttempts(retry_after=_PACE)
                raise LoginDelayed("too many users log in from one address at once")
            if paced:
                record.until = now + delay + _PACE
            pair.flying += 1
            record.flying += 1
            return Admission(delay, paced)

    def proceed(self, address: str) -> None:
        """Whether an attempt that was admitted, and not paced, may still be looked at now that its turn has come.

        Raises:
            TooManyAttempts: its address has failed too often meanwhile.
        """
        with self._lock:
            record = self._addresses.get(network(address))
            if record is not None and self._fails(record):
                raise TooManyAttempts(retry_after=max(_PACE, record.until - self._clock()))

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
            pair.fast_path += 1
            self._slow(pair, now)

    def succeeded(self, user: str, address: str) -> None:
        """End an attempt: the password was right. The failures of this user from there are forgotten."""
        with self._lock:
            pair, _ = self._landed(user, address, self._clock())
            pair.guesses = pair.fast_path = pair.until = 0.0

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

    def _fails(self, record: _Record) -> bool:
        """Whether an address has failed too often."""
        return record.guesses > self._free * _MANY - _FADED

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
        elif pair.guesses + pair.fast_path > self._free - _FADED:
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
