"""Changes of a storage that happen as a whole or not at all.

Every change takes the same steps: lock the names → see what others did → write the audit line → write → commit → show.
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

RETRY_SECONDS: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0)
"""Before each further attempt to undo a change and commit that."""

LAST_SECONDS: Final = 5.0
"""Seconds that a stopping server waits for changes that are being undone."""

_SHORTEST_WAIT: Final = 0.002
_LONGEST_WAIT: Final = 0.25

_log = logging.getLogger(__name__)


class Policy(Enum):
    """Ways to undo a change that fails."""

    TAKEN_BACK = auto()
    """Added files are removed, and stay locked, and so hidden, until their removal is committed."""

    RESTORED = auto()
    """The earlier content is written again."""

    IRREVOCABLE = auto()
    """Removed files stay removed. The next commit includes that."""


class Entry(NamedTuple):
    """A line of the audit log."""

    event: str
    details: Mapping[str, object]


class AuditLog(Protocol):
    """The audit log as transactions use it: :class:`ops.index.auth.audit.Audit`. Nothing of it raises."""

    def record(self, event: str, *, user: str, address: str, **details: object) -> None:
        """Write one line, durably; on a Volume the next commit makes it so."""

    def note(self, event: str, *, user: str, address: str, **details: object) -> None:
        """Write one line; the next commit makes it durable."""

    def hold_back(self) -> None:
        """Set disk space aside for lines to come."""


class Transactions:
    """The changes of one storage.

    Parameters:
        storage: what is changed.
        name_locks: shared by all its servers.
        see_others: shows here what others have committed.
        audit: gets a line for each change before it is made; on the same storage, to be committed with it.
        reserve: the folder of disk space for changes other than additions, which must work on a full disk.
        lock_seconds: how long a change waits for another that holds its lock.
        rest_seconds: how long servers of a Volume may take to see a commit.
        busy: the error for a lock that is not released, from what was locked.
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
        """Whether what is written is in effect for all servers before it is committed."""
        self._rest_seconds = 0.0 if self.at_once else rest_seconds
        self._busy = busy
        self._undoing: set[threading.Thread] = set()
        self._closing = threading.Event()

    def hold_back(self) -> None:
        """Set disk space aside for changes that must work on a full disk. Never raises."""
        self._reserve.fill()
        if self.audit is not None:
            self.audit.hold_back()

    def close(self) -> None:
        """Try once more to undo what failed, for a few seconds: the server stops."""
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
    ) -> Iterator[Transaction]:
        """Lock names and see what others did; the body refuses the change, or makes it with :meth:`Transaction.change`.

        Parameters:
            names: to lock, each with what an error calls it.
            policy: how the change is undone if it fails.
            user: who makes it, for the audit log.
            address: from where.
            origin: what else the audit log says of the request.

        Raises:
            Busy: another change of the same name does not end.
            StorageError: nothing can be locked, or others' changes cannot be seen.
            StorageBusy: an earlier commit does not end, so this change could not be committed.
        """
        self.storage.check()
        transaction = Transaction(self, policy, user, address, origin)
        with contextlib.nullcontext() if policy is Policy.TAKEN_BACK else self._reserve.lent():
            try:
                for key in sorted(names):  # in one order, so that no two changes wait for each other
                    self._lock(key, names[key])
                    transaction.locked.append(key)
                self.see_others()
                yield transaction
            finally:
                self.unlock(transaction.locked)

    def _lock(self, key: str, what: str) -> None:
        deadline = time.monotonic() + self._lock_seconds
        wait = _SHORTEST_WAIT
        while not self._acquired(key):
            if time.monotonic() > deadline:
                raise self._busy(what)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _acquired(self, key: str) -> bool:
        try:
            return self._name_locks.acquire(key)
        except PackageIndexError:
            raise
        except OSError as error:
            raise storage_error("the name could not be locked", error) from error
        except Exception as error:  # locks across servers raise whatever their client library raises
            _log.exception("the lock on %s could not be taken", key)
            raise StorageError("the name could not be locked; try again") from error

    def unlock(self, keys: list[str]) -> None:
        """Release locks. One that cannot be released expires: the change has succeeded or failed already."""
        while keys:
            key = keys.pop()
            try:
                self._name_locks.release(key)
            except Exception:  # noqa: BLE001
                _log.exception("the lock on %s could not be released", key)

    def unlock_later(self, keys: list[str], policy: Policy) -> None:
        """Release the locks of a change that was undone, once others no longer see it."""
        if self._rest_seconds and policy is not Policy.RESTORED:
            held, keys[:] = list(keys), []
            self._in_background(lambda: self._unlock_seen(held, policy))

    def undo_later(self, keys: list[str], undo: Callable[[], bool], policy: Policy) -> None:
        """Retry an undo in the background, and keep its locks meanwhile.

        Parameters:
            keys: the locks.
            undo: whether it worked.
            policy: what was added is kept locked for as long as it is there; other locks are released in the end.
        """
        held, keys[:] = list(keys), []

        def work() -> None:
            attempt = 0
            while not self._closing.wait(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]):
                if self._blocked():  # by a commit that does not end: it would take the change along
                    continue
                attempt += 1
                if undo():
                    self._unlock_seen(held, policy)
                    return
                if policy is not Policy.TAKEN_BACK and attempt == len(RETRY_SECONDS):
                    _log.error("a change that failed is still not undone by a commit; the next commit has to do it")
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
        """Others may have seen what was undone: until they see that, they find its names locked."""
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

    ``undo`` puts back what was there before; None as long as there is nothing to put back. ``user`` is the one whom the
    audit log names, and ``origin`` what else it says of the request.
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
        """Write the audit lines, hold while the body writes the change, and commit it; undo it if that fails.

        Additions set :attr:`undo` in the body, once there is something to remove; what is restored is set before.

        Parameters:
            what: begins the error, such as ``the upload could not be kept``.
            entries: for the audit log.
            failed: the audit lines of a failure, from ``undone`` or ``unconfirmed`` and the reason.

        Raises:
            StorageError: the change is undone, or in the hands of the policy.
        """
        addition = self._policy is Policy.TAKEN_BACK
        for entry in entries:
            self._note(entry, durable=not addition)  # an addition commits its line with it
        if addition:
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
            with writing(self._storage, "what was there before could not be put back"):
                self.undo()
        except StorageBusy:  # by the commit that did not end, as a rule
            return False
        except StorageError as error:
            _log.warning("a change failed and cannot be undone yet: %s", error)
            return False
        return True

    def _committed(self) -> bool:
        """Commit: a commit that failed may have been seen by others all the same."""
        try:
            self._storage.commit()
        except StorageError:
            # On this machine what is undone is in effect at once. A crash may bring it back, whole: no more than a
            # response that was lost.
            return self._transactions.at_once
        return True

    def _note(self, entry: Entry, *, durable: bool) -> None:
        if self._audit is not None:
            note = self._audit.record if durable else self._audit.note
            note(entry.event, user=self.user, address=self._address, **self.origin, **entry.details)


@contextmanager
def writing(storage: Storage, what: str) -> Iterator[None]:
    """Hold while files of the storage are written; an OSError becomes a StorageError.

    Parameters:
        storage: the storage.
        what: begins the error.
    """
    try:
        with storage.reading():
            yield
    except OSError as error:
        raise storage_error(what, error) from error
