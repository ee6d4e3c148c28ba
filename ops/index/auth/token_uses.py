"""The last use of each token, recorded by the servers and read by the admin application."""

from __future__ import annotations

import logging
import time
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
        self._written: BoundedDict[str, float] = BoundedDict(10_000)
        self._unwritten: dict[str, tuple[Identity, str, float]] = {}
        self._next = clock() + _EVERY

    def due(self) -> bool:
        """True once an hour, when cached logins must be looked up again to be recorded."""
        if self._clock() < self._next:
            return False
        self._next = self._clock() + _EVERY
        return True

    def note(self, identity: Identity, address: str) -> None:
        """Record a use in memory, for :meth:`write`."""
        self._unwritten[identity.token] = identity, address, self._clock()

    def write(self) -> None:
        """Write the recorded uses, except of tokens written within half an hour. Blocks; never raises."""
        for token_id in list(self._unwritten):
            use = self._unwritten.pop(token_id, None)
            if use is None:  # written by another thread
                continue
            identity, address, moment = use
            if moment < self._written.get(token_id, 0.0) + _EVERY / 2:
                continue
            self._written[token_id] = moment
            if self._audit is not None:
                self._audit.note("token.used", user=identity.username, address=address, id=identity.token)
            try:
                self._entries.put(_key(identity.token), str(moment), until=moment + _KEPT)
            except Exception as error:  # noqa: BLE001 - whatever the client library of shared storage raises
                _log.warning("the use of a token could not be recorded: %s", error)

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
