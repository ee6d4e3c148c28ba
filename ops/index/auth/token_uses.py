"""The last use of each token, recorded by the servers and read by the admin application."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ops.index.auth.audit import Audit
from ops.index.auth.roles import Identity
from ops.index.bounded_dict import BoundedDict
from ops.index.storage.shared_entries import SharedEntries

_EVERY: Final = 3600.0
"""Seconds between two records of one token by one server."""

_KEPT: Final = 400 * 86400.0
"""Seconds for which a use is remembered: longer than the lifetime of any token."""

_MOST: Final = 10_000
"""Uses in memory, also while shared storage does not respond; the oldest ones are forgotten."""

_log = logging.getLogger(__name__)


class TokenUses:
    """Records uses, once an hour for each token and server, also in the audit log.

    Servers cannot write credentials, so uses are entries that all servers share. They are written in the background:
    many first logins at once must take no longer than many pages.

    Parameters:
        entries: shared with the admin application.
        audit: gets a line ``token.used``; None for reading only.
        clock: seconds since the epoch.
    """

    def __init__(
        self, entries: SharedEntries, audit: Audit | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._entries = entries
        self._audit = audit
        self._clock = clock
        self._written: BoundedDict[str, float] = BoundedDict(_MOST)
        self._unwritten: deque[tuple[Identity, str, float]] = deque(maxlen=_MOST)
        self._next = clock() + _EVERY

    def due(self) -> bool:
        """True once an hour, when cached logins must be looked up again to be recorded."""
        if self._clock() < self._next:
            return False
        self._next = self._clock() + _EVERY
        return True

    def note(self, identity: Identity, address: str) -> None:
        """Record a use in memory, for :meth:`write`."""
        self._unwritten.append((identity, address, self._clock()))

    def write(self) -> set[str]:
        """Write the recorded uses, except of tokens written within half an hour. Blocks; never raises.

        Returns:
            The names of their owners.
        """
        owners = set()
        while self._unwritten:
            try:
                identity, address, moment = self._unwritten.popleft()
            except IndexError:  # written by another thread
                break
            owners.add(identity.username)
            if moment < self._written.get(identity.token, 0.0) + _EVERY / 2:
                continue
            self._written[identity.token] = moment
            if self._audit is not None:
                self._audit.note("token.used", user=identity.username, address=address, id=identity.token)
            try:
                self._entries.put(_key(identity.token), str(moment), until=moment + _KEPT)
            except Exception as error:  # noqa: BLE001 - whatever the client library of shared storage raises
                _log.warning("the use of a token could not be recorded: %s", error)
        return owners

    def last(self, token_id: str) -> float | None:
        """Seconds since the epoch of the last recorded use; None if unknown. Blocks; never raises."""
        try:
            value = self._entries.get(_key(token_id))
            return None if value is None else float(value)
        except Exception as error:  # noqa: BLE001 - likewise
            _log.warning("the use of a token could not be read: %s", error)
            return None


def _key(token_id: str) -> str:
    return f"used-{token_id}"
