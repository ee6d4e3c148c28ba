"""In-memory copy of all users and tokens, kept current with the files."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from ops.index.auth.passwords import defect, refusal_cost
from ops.index.auth.token_file import Token
from ops.index.auth.trust import Trust
from ops.index.auth.users import Account, Signature, Users
from ops.index.config import Options
from ops.index.errors import StorageBusy, StorageError
from ops.index.storage.storage import Storage
from ops.index.storage.waiting import waiting_until

_MAX_AGE: Final = 4.0
"""Seconds from the start of a reload of a shared volume until logins need another one: a removed user is out within
five, if it takes less than one."""

_MAX_UNREADABLE: Final = 300.0
"""Seconds for which cached users are trusted while a shared volume cannot be reloaded."""

_CHECK_EVERY: Final = 0.05
"""Seconds between two checks of local files."""

_SETTLE: Final = 0.1
"""Seconds after which a file rewritten in place, as by stock htpasswd, is considered complete."""

_LOOK_SECONDS: Final = 0.5
"""Longest wait for a reload of a shared volume to end. A hanging one must not block known users."""

_RELOAD_INTERVAL: Final = 0.5
"""Seconds between two reloads caused by wrong logins."""

_ATTEMPTS: Final = 5
"""Attempts to read the files of a shared volume after a reload: an attempt fails if they are replaced meanwhile."""

_GONE: Final = 1.0
"""Seconds for which a file must be missing to count as removed: during a reload of a Volume all are missing."""

_log = logging.getLogger(__name__)


class UserCache:
    """All accounts in memory. Notices changes of the files within moments, on a shared volume after a reload.

    Nothing is read before the first use.

    A volume that cannot be reloaded locks no one out at first: the cached users stay valid for five minutes. After that
    all logins are refused until a reload works again, because a cached user may have been removed.

    Parameters:
        credentials: the volume with the files, which may be missing.
        options: how often the server reloads a shared volume, and the cost of new hashes.
        changed: called after a change was read, and after a token has expired.
        clock: seconds.
        wall_clock: seconds since the epoch, by which tokens expire.
    """

    def __init__(
        self,
        credentials: Storage,
        options: Options,
        *,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = credentials
        self._users = Users(credentials, options)
        self._least_level = options.bcrypt_rounds
        self._changed = changed
        self._clock = clock
        self._wall_clock = wall_clock
        self._reloads = credentials.shared
        self._interval = _CHECK_EVERY
        if self._reloads:
            self._interval = min(max(2 * options.refresh_seconds, _CHECK_EVERY), _MAX_AGE)
        self._loading = threading.Lock()
        self._reloading = threading.Lock()
        self._reloaded = float("-inf")
        self._viewed = float("-inf")  # when the last reload that worked began
        self._seen = clock()
        self._next = float("-inf")
        self._generation = -1
        self._signature: Signature | None = None
        self._gone: float | None = None
        self._failing = False
        self.behind = False
        """True if the last refresh failed: a user who is not cached may have been registered since."""
        self.accounts: dict[str, Account] = {}
        """By user name."""
        self.trust = Trust()
        """The trusted jobs."""
        self._stored_tokens: list[Token] = []
        self._tokens: dict[str, Account] = {}
        self._next_expiry = float("inf")
        self.level = options.bcrypt_rounds
        """The bcrypt cost of every refusal: the highest of all entries."""

    def token(self, sha256: str) -> Account | None:
        """The account of a token that has not expired: its owner, with the rights that both have; None if unknown."""
        return self._tokens.get(sha256)

    @property
    def outdated(self) -> bool:
        """True if a shared volume could not be reloaded for too long to trust the cached users."""
        return self._reloads and self._clock() > self._seen + _MAX_UNREADABLE

    def current(self) -> bool:
        """True if the accounts are recent enough. Checks local files occasionally. Called for every request."""
        now = self._clock()
        if now < self._next:
            return True
        if self._reloads:
            return False
        self._next = now + self._interval
        self._look(0.0)
        return True

    def caught_up(self) -> bool:
        """Read all changes up to now. On a shared volume only to its last reload; False if the accounts are stale."""
        if self._reloads:
            self._look(_LOOK_SECONDS)
            return self.current()
        self.renew()
        return True

    def refresh(self) -> bool:
        """Read the files if they have changed, on a shared volume after a successful reload.

        False if one of them is being written: try again in a moment.
        """
        with self._loading:
            read = self._check()
            if read:
                self._seen = self._clock()
                self._failing = False
            return read

    def renew(self, moment: float | None = None) -> None:
        """Read all changes made before *moment*, reloading a shared volume. Blocks; call it from a thread.

        A shared volume is reloaded at most twice a second, however many threads call this. It is also reloaded the
        first time: the server's view is as old as its start.

        Parameters:
            moment: on the clock; None for now.
        """
        moment = self._clock() if moment is None else moment
        if not self._reloads:
            deadline = self._clock() + 2 * _SETTLE
            while not self.refresh() and self._clock() < deadline:
                time.sleep(_SETTLE / 4)
            return
        with self._reloading:
            if self._reloaded > moment:
                return
            time.sleep(max(0.0, self._reloaded + _RELOAD_INTERVAL - self._clock()))
            self._reloaded = self._clock()
            try:
                self._storage.reload()
                self._viewed = self._reloaded
                self.behind = not any(self.refresh() for _ in range(_ATTEMPTS))  # replaced by this server meanwhile
            except StorageError as error:
                self._failed(error)
                self.behind = True
                with self._loading:
                    self._expire_tokens()
                if self._generation < 0:
                    with contextlib.suppress(StorageError):
                        self.refresh()
                if not self.outdated:  # stale users are better than none
                    self._next = self._clock() + _GONE

    def poll(self) -> None:
        """Read the files if they have changed, after reloading a shared volume. Waits for no file being written."""
        if self._reloads:
            self.renew()
        else:
            self.refresh()

    def _look(self, seconds: float) -> None:
        """Read the files if they have changed, waiting for other threads and the storage this long at most."""
        if self._loading.acquire(timeout=seconds):
            try:
                with waiting_until(time.monotonic() + seconds), contextlib.suppress(StorageBusy):
                    self._check()
            finally:
                self._loading.release()

    def _expire_tokens(self) -> None:
        if self._wall_clock() >= self._next_expiry:
            self._replace_tokens()
            self._changed()

    def _check(self) -> bool:
        self._expire_tokens()
        generation = self._storage.generation
        if self._reloads and generation == self._generation and self._gone is None:
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
        self._next = max(self._next, (self._viewed if self._reloads else self._clock()) + self._interval)
        return True

    def _load(self, signature: Signature) -> bool:
        """Read the files, which had this signature. False if they could not be read, or have changed meanwhile."""
        try:
            accounts, tokens, trust_file = self._users.logins()
        except OSError as error:
            self._failed(error)
            return False
        if self._users.signature() != signature:
            return False
        self._signature = signature
        self._gone = None
        self._failing = False
        trust = Trust.read(trust_file)
        if (accounts, tokens, trust) != (self.accounts, self._stored_tokens, self.trust):
            self.level = refusal_cost((account.digest for account in accounts.values()), self._least_level)
            self.accounts = accounts
            self._stored_tokens = tokens
            self.trust = trust
            self._replace_tokens()
            self._changed()
        return True

    def _replace_tokens(self) -> None:
        """Recompute the accounts of all tokens. Tokens of removed or locked users have none."""
        now = self._wall_clock()
        valid = [token for token in self._stored_tokens if token.expires > now]
        usable = {name: account for name, account in self.accounts.items() if defect(account.digest) is None}
        self._next_expiry = min((token.expires for token in valid), default=float("inf"))
        self._tokens = {
            token.sha256: Account(token.sha256, token.identity(usable[token.owner].identity))
            for token in valid
            if token.owner in usable
        }

    def _vanished(self, signature: Signature) -> bool:
        """True if a known file is missing, but not yet for long enough to count as removed."""
        if all(now is not None or before is None for now, before in zip(signature, self._signature or signature)):
            self._gone = None
            return False
        if self._gone is None:
            self._gone = self._clock()
        return self._clock() < self._gone + _GONE

    def _unsettled(self, signature: Signature) -> bool:
        """True if a file may be incomplete: changed a moment ago, and not by being replaced."""
        if self._signature is None or self._reloads:  # on a Volume a file appears complete
            return False
        for now, before in zip(signature, self._signature):
            if now is None or now == before or (before is not None and before[0] != now[0]):
                continue
            # Renaming changes the inode's ctime after the last write; its number may be reused.
            written_last = now[2] == now[3]
            if written_last and 0 <= time.time_ns() - now[2] < _SETTLE * 1e9:
                return True
        return False

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            _log.error("the users cannot be read, and the cached ones stay valid for now: %s", error)
        self._failing = True
