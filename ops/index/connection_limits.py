"""Limits on the connections of a server: bounded by file descriptors, in total and per address."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from typing import Protocol

from ops.index.auth.throttle import network
from ops.index.config import Options
from ops.index.startup import CannotStartError

KEPT_BACK = 128
"""Descriptors for everything but connections and downloads: libraries, logs, locks, staged uploads, child processes."""

FEWEST_CONNECTIONS = 16
"""Minimum for a server to start; one cold installer opens some 50 connections."""

_PER_CONNECTION = 2
"""The socket, and the file that is being downloaded over it."""

_UNLIMITED = 1_048_576
"""Used in place of an infinite limit, or one beyond what systems support."""

_WARN_EVERY = 60.0
"""Seconds between two warnings that the limit was reached: a flood must not fill the log."""

_logger = logging.getLogger(__name__)


class LimitedConnection(Protocol):
    """A connection as the limits see it."""

    @property
    def address(self) -> str:
        """The peer's IP address; empty if unknown."""

    @property
    def logged_in(self) -> bool:
        """True once a request on it had valid credentials."""

    @property
    def busy(self) -> bool:
        """True while a request is being handled."""

    @property
    def since(self) -> float:
        """Time of its last use, in seconds on any clock shared by all connections."""

    def end(self) -> None:
        """Close it at once."""


class ConnectionLimits:
    """Makes room for new connections by closing the least important ones.

    When there are too many, the oldest that has not logged in is closed, preferably one without a request in progress:
    that may be a login. If all have logged in, the one that has been idle longest is closed.

    IPv6 addresses count by /64 network, which usually belongs to one client.

    Parameters:
        total: the most connections at once.
        per_address: the most from one address.
        exempt: true for addresses exempt from *per_address*, such as a proxy with many clients.
        clock: seconds.
    """

    def __init__(
        self,
        total: int,
        per_address: int,
        *,
        exempt: Callable[[str], bool] = lambda _: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._per_address = per_address
        self._exempt = exempt
        self._clock = clock
        self._all = _Group()
        self._networks: dict[str, _Group] = {}
        self._next_warning = float("-inf")

    def admit(self, connection: LimitedConnection) -> bool:
        """Count a new connection, and make room for it. False if it must be refused."""
        origin = network(connection.address)
        group = self._networks.get(origin)
        if group is None:
            group = self._networks[origin] = _Group()
        crowded = None
        if len(group) >= self._per_address and not self._exempt(connection.address):
            crowded = group
            self._warn(f"{self._per_address} connections come from {origin}", "max-connections-per-address")
        elif len(self._all) >= self._total:
            crowded = self._all
            self._warn(f"all {self._total} connections are taken", "max-connections")
        if crowded is not None:
            expendable = crowded.expendable()
            if expendable is None:
                return False
            self.release(expendable)
            expendable.end()
            self._networks[origin] = group  # the release may have removed it
        group.add(connection)
        self._all.add(connection)
        return True

    def release(self, connection: LimitedConnection) -> None:
        """Stop counting a connection; does nothing if it is not counted."""
        self._all.discard(connection)
        origin = network(connection.address)
        group = self._networks.get(origin)
        if group is not None:
            group.discard(connection)
            if not group:
                del self._networks[origin]

    def _warn(self, what: str, option: str) -> None:
        now = self._clock()
        if now >= self._next_warning:
            self._next_warning = now + _WARN_EVERY
            _logger.warning(
                "%s: each further one replaces the oldest that has not logged in. If these are your users, raise --%s",
                what,
                option,
            )


class _Group:
    """Connections in order of arrival; those that have logged in are filtered out only when needed."""

    def __init__(self) -> None:
        self._strangers: dict[LimitedConnection, None] = {}
        self._users: dict[LimitedConnection, None] = {}

    def __len__(self) -> int:
        return len(self._strangers) + len(self._users)

    def add(self, connection: LimitedConnection) -> None:
        self._strangers[connection] = None

    def discard(self, connection: LimitedConnection) -> None:
        self._strangers.pop(connection, None)
        self._users.pop(connection, None)

    def expendable(self) -> LimitedConnection | None:
        """The connection to close first; None if all belong to users with requests in progress."""
        waiting = working = None
        users = []
        for connection in self._strangers:
            if connection.logged_in:
                users.append(connection)
            elif not connection.busy:
                waiting = connection
                break
            elif working is None:
                working = connection
        for connection in users:
            del self._strangers[connection]
            self._users[connection] = None
        if waiting is not None or working is not None:
            return waiting or working
        return min((user for user in self._users if not user.busy), key=lambda user: user.since, default=None)


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, if possible, and return the limit in force.

    The usual soft limit of 1,024 is for programs that use ``select``; the hard one is the operator's.
    """
    if sys.platform == "win32":
        return _UNLIMITED
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # On macOS the hard limit may be infinite, and a soft limit above OPEN_MAX fails.
        for wanted in (hard, 10_240):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                break
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _UNLIMITED if soft == resource.RLIM_INFINITY else min(soft, _UNLIMITED)


def room_for_connections(descriptors: int) -> int:
    """The most connections for a number of descriptors; less than one if there are too few."""
    return (descriptors - KEPT_BACK) // _PER_CONNECTION


def needed_for(connections: int) -> int:
    """The descriptors for a number of connections."""
    return connections * _PER_CONNECTION + KEPT_BACK


def allowed_connections(total: int | None, per_address: int | None) -> tuple[int, int]:
    """The most connections in total and from one address, once the limit of open files has been raised.

    Parameters:
        total: set by the operator; None for the default, or for as many as fit.
        per_address: set by the operator; None for half of the total.

    Raises:
        CannotStartError: the limit of open files is too low, or the two contradict each other.
    """
    descriptors = raise_limit()
    room = room_for_connections(descriptors)
    wanted = total or min(Options.max_connections, max(room, FEWEST_CONNECTIONS))
    if wanted > room:
        needed = needed_for(total or Options.max_connections)
        remedy = f"raise its hard limit to {needed} (ulimit -Hn, or LimitNOFILE= of systemd)"
        if room >= FEWEST_CONNECTIONS:
            remedy += f", or use --max-connections {room} or less"
        raise CannotStartError(f"this process may open {descriptors} files, too few for {wanted} connections: {remedy}")
    if per_address is not None and per_address > wanted:
        raise CannotStartError(
            f"--max-connections-per-address {per_address} is more than the {wanted} connections in total: "
            "use less, or raise --max-connections"
        )
    return wanted, per_address or max(FEWEST_CONNECTIONS, wanted // 2)
