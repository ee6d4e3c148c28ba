"""Changes to a storage that happen completely or not at all.

Every change takes the same steps: lock the names → read others' changes → write the audit line → write → commit → show.
If one fails, the change is undone by its policy.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, auto
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from ops.index.errors import Busy, PackageIndexError, StorageBusy, StorageError
from ops.index.storage.directory import storage_error
from ops.index.storage.name_locks import NameLocks
from ops.index.storage.reserve import Reserve
from ops.index.storage.storage import Storage
from ops.index.storage.turns import between_turns

RETRY_SECONDS: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0)
"""Pause before each further attempt to undo a change and commit that."""

LAST_SECONDS: Final = 5.0
"""Seconds that a stopping server waits for changes being undone."""

_SHORTEST_WAIT: Final = 0.002
_LONGEST_WAIT: Final = 0.25

_log = logging.getLogger(__name__)


class Policy(Enum):
    """Ways to undo a change that fails."""

    TAKEN_BACK = auto()
    """Added files are removed, and stay locked and thus hidden until their removal is committed."""

    RESTORED = auto()
    """The earlier content is restored."""

    IRREVOCABLE = auto()
    """Removed files stay removed. The next commit includes that."""


class Entry(NamedTuple):
    """A line of the audit log."""

    event: str
    details: Mapping[str, object]


class AuditLog(Protocol):
    """The audit log as transactions use it: :class:`ops.index.auth.audit.Audit`. Its methods never raise."""

    def record(self, event: str, *, user: str, address: str, **details: object) -> None:
        """Write one line, durably; on a Volume the next commit makes it so."""

    def note(self, event: str, *, user: str, address: str, **details: object) -> None:
        """Write one line; the next commit makes it durable."""

    def hold_back(self) -> None:
        """Reserve disk space for future lines."""


class Transactions:
    """The changes of one storage.

    Parameters:
        storage: the one to change.
        name_locks: shared by all its servers.
        see_others: reads what others have committed.
        audit: gets a line before each change; on the same storage, to be committed with it.
        reserve: the folder of reserved disk space for changes other than additions, which must work on a full disk.
        lock_seconds: how long a change waits for another that holds its lock.
        rest_seconds: how long servers of a Volume may take to see a commit.
        busy: creates the error for a lock that is not released, from what was locked.
    """

    def __init__(
        self,
        storage: Storage,
        name_locks: NameLocks,
        *,
        see_others: Callable[[], None],
        audit: AuditLog | None,
        reserve: str,
        lock_seconds: float,
        rest_seconds: float = 0.0,
        busy: Callable[[str], PackageIndexError] = Busy,
    ) -> None:
        self.storage = storage
        self.audit = audit
        self.see_others = see_others
        self._name_locks = name_locks
        self._reserve = Reserve(storage, reserve)
        self._lock_seconds = lock_seconds
        self.at_once = not storage.shared
        """True if all servers see writes before they are committed."""
        self._rest_seconds = 0.0 if self.at_once else rest_seconds
        self._busy = busy
        self._running: set[Transaction] = set()
        self._undoing: set[threading.Thread] = set()
        self._closing = threading.Event()

    @property
    def alone(self) -> bool:
        """True if no more than one change is under way."""
        return len(self._running) <= 1

    def hold_back(self) -> None:
        """Reserve disk space for changes that must work on a full disk. Never raises."""
        self._reserve.fill()
        if self.audit is not None:
            self.audit.hold_back()

    def close(self) -> None:
        """Retry undoing failed changes for a few seconds, because the server is stopping."""
        self._closing.set()
        end = time.monotonic() + LAST_SECONDS
        for thread in list(self._undoing):
            thread.join(max(0.0, end - time.monotonic()))

    @contextmanager
    def begin(
        self,
        names: Mapping[str, str],
        policy: Policy,
        *,
        user: str = "",
        address: str = "",
        origin: Mapping[str, str] = MappingProxyType({}),
        confirm: Callable[[], None] | None = None,
    ) -> Iterator[Transaction]:
        """Lock names and read others' changes; the body refuses the change or makes it by :meth:`Transaction.change`.

        Parameters:
            names: to lock, each with its name in errors.
            policy: how the change is undone if it fails.
            user: who makes it, for the audit log.
            address: from where.
            origin: further details of the request for the audit log.
            confirm: called last, raises an error if the user may no longer make the change: it may have waited long.

        Raises:
            Busy: another change of the same name does not end.
            StorageError: nothing can be locked, or others' changes cannot be read.
            StorageBusy: an earlier commit does not end, so this change could not be committed.
        """
        self.storage.check()
        transaction = Transaction(self, policy, user, address, origin)
        with contextlib.nullcontext() if policy is Policy.TAKEN_BACK else self._reserve.lent():
            self._running.add(transaction)
            try:
                for key in sorted(names):  # in a fixed order, to avoid deadlocks
                    self._lock(key, names[key])
                    transaction.locked.append(key)
                self.see_others()
                if confirm is not None:
                    confirm()
                yield transaction
            finally:
                self._running.discard(transaction)
                self.unlock(transaction.locked)

    def _lock(self, key: str, what: str) -> None:
        deadline = time.monotonic() + self._lock_seconds
        wait = _SHORTEST_WAIT
        while not self._acquired(key):
            if time.monotonic() > deadline:
                raise self._busy(what)
            with between_turns():
                time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _acquired(self, key: str) -> bool:
        try:
            return self._name_locks.acquire(key)
        except PackageIndexError:
            raise
        except OSError as error:
            raise storage_error("the name could not be locked", error) from error
        except Exception as error:  # shared locks raise whatever their client library raises
            _log.exception("the lock on %s could not be taken", key)
            raise StorageError("the name could not be locked; try again") from error

    def unlock(self, keys: list[str]) -> None:
        """Release locks. One that cannot be released expires: the change has already succeeded or failed."""
        while keys:
            key = keys.pop()
            try:
                self._name_locks.release(key)
            except Exception:  # noqa: BLE001
                _log.exception("the lock on %s could not be released", key)

    def unlock_later(self, keys: list[str], policy: Policy) -> None:
        """Release the locks of an undone change, once others no longer see it."""
        if self._rest_seconds and policy is not Policy.RESTORED:
            held, keys[:] = list(keys), []
            self._in_background(lambda: self._unlock_seen(held, policy))

    def undo_later(self, keys: list[str], undo: Callable[[], bool], policy: Policy) -> None:
        """Retry an undo in the background, holding its locks meanwhile.

        Parameters:
            keys: the locks.
            undo: returns whether it worked.
            policy: added files stay locked as long as they exist; other locks are released in the end.
        """
        held, keys[:] = list(keys), []

        def work() -> None:
            attempt = 0
            while not self._closing.wait(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]):
                if self._blocked():  # by a commit that does not end, and would include the change
                    continue
                attempt += 1
                if undo():
                    self._unlock_seen(held, policy)
                    return
                if policy is not Policy.TAKEN_BACK and attempt == len(RETRY_SECONDS):
                    _log.error("a failed change is still not undone by a commit; the next commit must do it")
                    break
            if undo() or policy is not Policy.TAKEN_BACK:
                self.unlock(held)

        self._in_background(work)

    def _blocked(self) -> bool:
        try:
            self.storage.check()
        except StorageBusy:
            return True
        return False

    def _unlock_seen(self, keys: list[str], policy: Policy) -> None:
        """Keep the names locked until others, who may have seen the undone change, see that it is undone."""
        if policy is not Policy.RESTORED:
            self._closing.wait(self._rest_seconds)
        self.unlock(keys)

    def _in_background(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except Exception:  # noqa: BLE001 - nobody else hears of it
                _log.exception("a failed change could not be undone")
            finally:
                self._undoing.discard(thread)

        thread = threading.Thread(target=run, name="undo", daemon=True)
        self._undoing.add(thread)
        thread.start()


class Transaction:
    """One change whose names are locked.

    ``undo`` restores the earlier state; None while there is nothing to restore. ``user`` is the user in the
    audit log, and ``origin`` the further details there.
    """

    def __init__(
        self, transactions: Transactions, policy: Policy, user: str, address: str, origin: Mapping[str, str]
    ) -> None:
        self.undo: Callable[[], None] | None = None
        self.locked: list[str] = []
        self._transactions = transactions
        self._storage = transactions.storage
        self._audit = transactions.audit
        self._policy = policy
        self.user = user
        self._address = address
        self.origin = origin

    @contextmanager
    def change(
        self, what: str, entries: Iterable[Entry], *, failed: Callable[[str, str], Iterable[Entry]]
    ) -> Iterator[None]:
        """Write the audit lines, run the body, which writes the change, and commit it; undo it if that fails.

        Additions set :attr:`undo` in the body, once there is something to remove; other changes set it before.

        Parameters:
            what: begins the error, such as ``the upload could not be stored``.
            entries: for the audit log.
            failed: the audit lines of a failure, from ``undone`` or ``unconfirmed`` and the reason.

        Raises:
            StorageError: the change is undone, or left to the policy.
        """
        addition = self._policy is Policy.TAKEN_BACK
        for entry in entries:
            self._note(entry, durable=not addition)  # an addition commits its line with it
        if addition and self._transactions.alone:  # others share one commit, which takes less work
            self._storage.begin_commit()
        try:
            with writing(self._storage, what):
                yield
            self._storage.commit()
        except BaseException as error:
            self._fail(error, failed)
            raise

    def _fail(self, error: BaseException, failed: Callable[[str, str], Iterable[Entry]]) -> None:
        begun = self._policy is Policy.IRREVOCABLE or self.undo is not None
        undone = self._undone()
        if not isinstance(error, PackageIndexError):
            _log.error("a change failed and was undone", exc_info=error)
        reason = error.message if isinstance(error, PackageIndexError) else type(error).__name__
        for entry in failed("undone" if undone else "unconfirmed", reason):
            self._note(entry, durable=True)
        if not begun:
            return
        if undone and self._committed():
            self._transactions.unlock_later(self.locked, self._policy)
        else:
            self._transactions.undo_later(self.locked, self._undone_for_good, self._policy)

    def _undone_for_good(self) -> bool:
        return self._undone() and self._committed()

    def _undone(self) -> bool:
        if self.undo is None:
            return True
        try:
            with writing(self._storage, "the earlier state could not be restored"):
                self.undo()
        except StorageBusy:  # usually by the commit that did not end
            return False
        except StorageError as error:
            _log.warning("a change failed and cannot be undone yet: %s", error)
            return False
        return True

    def _committed(self) -> bool:
        """Commit. Others may have seen a failed commit anyway."""
        try:
            self._storage.commit()
        except StorageError:
            # On this machine an undo is effective at once. A crash may bring the whole change back, which is no worse
            # than a lost response.
            return self._transactions.at_once
        return True

    def _note(self, entry: Entry, *, durable: bool) -> None:
        if self._audit is not None:
            note = self._audit.record if durable else self._audit.note
            note(entry.event, user=self.user, address=self._address, **self.origin, **entry.details)


@contextmanager
def writing(storage: Storage, what: str) -> Iterator[None]:
    """Hold while files of the storage are written; converts OSError to StorageError.

    Parameters:
        storage: the storage.
        what: begins the error.
    """
    try:
        with storage.reading():
            yield
    except OSError as error:
        raise storage_error(what, error) from error
