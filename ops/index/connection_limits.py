"""Limits on the connections that a server holds, in total and from one address."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable
from typing import Protocol

_WARN_EVERY = 60.0
"""Seconds between two warnings that the limit was reached: a flood must not fill the log."""

_logger = logging.getLogger(__name__)


class Held(Protocol):
    """A connection, as the limits see it."""

    @property
    def address(self) -> str:
        """The peer's IP address; empty if it is not known."""

    @property
    def logged_in(self) -> bool:
        """Whether a request on it came with credentials that were right. Never becomes false again."""

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""

    @property
    def since(self) -> float:
        """When it was last used, in seconds on any clock that all connections share."""

    def end(self) -> None:
        """Close it at once."""


class ConnectionLimits:
    """Makes room for new connections by closing the ones that matter least.

    When there are too many, the oldest that has not logged in is closed, preferably one without a request that is
    being answered: that may be a login. If all have logged in, the one that has been idle for longest is closed.

    An IPv6 address counts by its /64 network, which one client has to itself.

    Parameters:
        total: the most connections at once.
        per_address: the most from one address.
        exempt: whether *per_address* does not apply to an address, as to a proxy that connects for many clients.
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

    def admit(self, connection: Held) -> bool:
        """Count a new connection, and make room for it. False if there is none: it must be refused."""
        network = _network(connection.address)
        group = self._networks.get(network)
        if group is None:
            group = self._networks[network] = _Group()
        crowded = None
        if len(group) >= self._per_address and not self._exempt(connection.address):
            crowded = group
            self._warn(f"{self._per_address} connections come from {network}", "max-connections-per-address")
        elif len(self._all) >= self._total:
            crowded = self._all
            self._warn(f"all {self._total} connections are taken", "max-connections")
        if crowded is not None:
            expendable = crowded.expendable()
            if expendable is None:
                return False
            self.release(expendable)
            expendable.end()
            self._networks[network] = group  # the release may have emptied it
        group.add(connection)
        self._all.add(connection)
        return True

    def release(self, connection: Held) -> None:
        """Count a connection no longer. One that is not counted is ignored."""
        self._all.discard(connection)
        network = _network(connection.address)
        group = self._networks.get(network)
        if group is not None:
            group.discard(connection)
            if not group:
                del self._networks[network]

    def _warn(self, what: str, option: str) -> None:
        now = self._clock()
        if now >= self._next_warning:
            self._next_warning = now + _WARN_EVERY
            _logger.warning(
                "%s: for each further one the oldest that has not logged in is closed. If these are your users, raise "
                "--%s",
                what,
                option,
            )


class _Group:
    """Connections in the order in which they came; those that have logged in are sorted out when that matters."""

    def __init__(self) -> None:
        self._strangers: dict[Held, None] = {}
        self._users: dict[Held, None] = {}

    def __len__(self) -> int:
        return len(self._strangers) + len(self._users)

    def add(self, connection: Held) -> None:
        self._strangers[connection] = None

    def discard(self, connection: Held) -> None:
        self._strangers.pop(connection, None)
        self._users.pop(connection, None)

    def expendable(self) -> Held | None:
        """The connection to close first; None if all belong to users whose requests are being answered."""
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


def _network(address: str) -> str:
    """What connections are counted by: an IPv4 address, or the /64 network of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
