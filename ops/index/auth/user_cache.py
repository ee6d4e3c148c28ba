"""The users as their files say, kept up with the files."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from ops.index.auth.passwords import cost
from ops.index.auth.users import Account, Signature, Users
from ops.index.config import Options
from ops.index.errors import StorageError
from ops.index.storage.storage import Storage

_PROMISED: Final = 4.0
"""Seconds after which a shared volume is reloaded before anybody else is let in, however seldom that is done otherwise:
with the reload itself, who was removed is out within five."""

_TRUSTED: Final = 300.0
"""Seconds for which users are believed that cannot be read again, see :attr:`UserCache.outdated`."""

_LOOK: Final = 0.05
"""Seconds between two looks at the files of this machine."""

_SETTLED: Final = 0.1
"""Seconds after which a file that was rewritten in place is taken to be whole: stock htpasswd does not replace it."""

_GAP: Final = 0.5
"""Seconds between two reloads that wrong logins may cause."""

_LOOKS: Final = 5
"""Attempts to read the files of a shared volume after a reload: one fails when they are replaced meanwhile."""

_BELIEVED: Final = 1.0
"""Seconds for which a file must have been gone: while a Volume is reloaded everything is."""

_log = logging.getLogger(__name__)


class UserCache:
    """All accounts in memory; a change of the files is noticed within moments, on a shared volume after a reload.

    Nothing is read before the first question.

    A volume that cannot be reloaded for a moment locks nobody out: the users of before stay for five minutes. After
    that nobody is let in until a reload works again, for among them may be one who was removed since.

    Parameters:
        credentials: the volume with the files; they may be missing.
        options: how often a shared volume is reloaded by whoever serves it, and the cost of new hashes.
        changed: called with the accounts after others were read.
        clock: seconds.
    """

    def __init__(
        self,
        credentials: Storage,
        options: Options,
        *,
        changed: Callable[[Mapping[str, Account]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = credentials
        self._users = Users(credentials, options)
        self._least_level = options.bcrypt_rounds
        self._changed = changed
        self._clock = clock
        self._interval = min(max(2 * options.refresh_seconds, _LOOK), _PROMISED) if credentials.shared else _LOOK
        self._loading = threading.Lock()
        self._reloading = threading.Lock()
        self._reloaded = float("-inf")
        self._seen = clock()
        self._next = float("-inf")
        self._generation = -1
        self._signature: Signature | None = None
        self._gone: float | None = None
        self._failing = False
        self.behind = False
        """Whether it could not be seen lately who was registered: a login that fails may still be right."""
        self.accounts: dict[str, Account] = {}
        """By user name."""
        self.level = options.bcrypt_rounds
        """The bcrypt cost that every refusal amounts to: no entry's is higher."""

    @property
    def outdated(self) -> bool:
        """Whether a shared volume could not be read for so long that its users are not to be believed any more."""
        return self._storage.shared and self._clock() > self._seen + _TRUSTED

    def current(self) -> bool:
        """Whether the accounts may be relied on now. On this machine it looks, if it is time; called very often."""
        now = self._clock()
        if now < self._next:
            return True
        if self._storage.shared:
            return False
        self._next = now + self._interval
        if self._loading.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._loading.release()
        return True

    def refresh(self) -> bool:
        """Read the files if they have changed. False when one of them is being written: look again in a moment.

        On a shared volume after a reload that worked.
        """
        with self._loading:
            looked = self._look()
            if looked:
                self._seen = self._clock()
                self._failing = False
            return looked

    def renew(self, moment: float | None = None) -> None:
        """See everything that was stored before *moment*, on a shared volume too. Blocks; for a thread.

        However many call it, a shared volume is reloaded twice a second at most.

        Parameters:
            moment: on the clock; now, if not given.
        """
        moment = self._clock() if moment is None else moment
        if not self._storage.shared:
            deadline = self._clock() + 2 * _SETTLED
            while not self.refresh() and self._clock() < deadline:
                time.sleep(_SETTLED / 4)
            return
        with self._reloading:
            first = self._generation < 0
            if not first:
                if self._reloaded > moment:
                    return
                time.sleep(max(0.0, self._reloaded + _GAP - self._clock()))
                self._reloaded = self._clock()
            try:
                if not first:  # what the server found when it started is new enough for the first request
                    self._storage.reload()
                self.behind = not any(self.refresh() for _ in range(_LOOKS))  # while this server changes them itself
            except StorageError as error:
                self._failed(error)
                self.behind = True
                if not (first or self.outdated):  # better the users of a moment ago than none
                    self._next = self._clock() + _BELIEVED

    def _look(self) -> bool:
        generation = self._storage.generation
        if self._storage.shared and generation == self._generation and self._gone is None:
            return True
        with self._storage.reading():
            signature = self._users.signature()
            if signature == self._signature:
                self._gone = None
            elif self._vanished(signature):
                return True
            elif self._unsettled(signature) or not self._load(signature):
                return False
        self._generation = generation
        if self._storage.shared:
            self._next = self._clock() + self._interval
        return True

    def _load(self, signature: Signature) -> bool:
        """Read the files, which had this signature. False when they could not be read, or changed meanwhile."""
        try:
            accounts = self._users.accounts()
        except OSError as error:
            self._failed(error)
            return False
        if self._users.signature() != signature:
            return False
        self._signature = signature
        self._gone = None
        self._failing = False
        if accounts != self.accounts:
            self.level = max([self._least_level, *(cost(account.digest) or 0 for account in accounts.values())])
            self.accounts = accounts
            self._changed(accounts)
        return True

    def _vanished(self, signature: Signature) -> bool:
        """Whether a file that was there is gone, and has not been for long enough to be believed."""
        if all(now is not None or before is None for now, before in zip(signature, self._signature or signature)):
            self._gone = None
            return False
        if self._gone is None:
            self._gone = self._clock()
        return self._clock() < self._gone + _BELIEVED

    def _unsettled(self, signature: Signature) -> bool:
        """Whether a file may be half written: changed a moment ago, and not by being replaced as a whole."""
        if self._signature is None or self._storage.shared:  # on a Volume a file appears as it was committed
            return False
        for now, before in zip(signature, self._signature):
            if now is None or now == before or (before is not None and before[0] != now[0]):
                continue
            # Renaming touches the inode after the last write; its number alone may be that of an older file.
            written_last = now[2] == now[3]
            if written_last and 0 <= time.time_ns() - now[2] < _SETTLED * 1e9:
                return True
        return False

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            _log.error("the users cannot be read, those from before stay for now: %s", error)
        self._failing = True
