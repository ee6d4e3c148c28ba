"""The files of the credentials volume, and the one way to change them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from ops.index.errors import StorageError, StorageFull
from ops.index.storage.directory import FULL, storage_error, write_all
from ops.index.storage.name_locks import NameLocks, try_lock
from ops.index.storage.storage import Storage
from ops.index.storage.transaction import AuditLog, Entry, Policy, Transactions

PASSWORDS: Final = ".htpasswd"
GROUPS: Final = ".htgroup"
TOKENS: Final = ".tokens"
TRUST: Final = ".trust"
INVITATIONS: Final = ".invitations"

LOCK_SECONDS = 20.0
"""Seconds that a change waits for another one; far longer than a change takes."""

_BUSY: Final = "another change of the users is taking too long: try again in a minute"


class FileChange(NamedTuple):
    """The replacement of one file; None for no file."""

    name: str
    before: bytes | None
    after: bytes | None

    def back(self) -> FileChange:
        """The step that undoes this one."""
        return FileChange(self.name, before=self.after, after=self.before)


class Draft:
    """The locked files, and their new contents.

    Files are written in the order in which they are set, repeatedly if they are set repeatedly: the caller decides
    what a reader may see in between. An undo goes back in reverse order.

    ``entry`` is the line for the audit log, ``user`` its subject.
    """

    def __init__(self, user: str, before: dict[str, bytes | None]) -> None:
        self.entry: Entry | None = None
        self.user = user
        self.steps: list[FileChange] = []
        self._now = dict(before)

    def __getitem__(self, name: str) -> bytes:
        return self._now[name] or b""

    def __setitem__(self, name: str, content: bytes) -> None:
        if content != self[name]:
            self.steps.append(FileChange(name, before=self._now[name], after=content))
            self._now[name] = content


class CredentialFiles:
    """Reads and replaces ``.htpasswd``, ``.htgroup``, ``.tokens``, ``.trust`` and ``.invitations``.

    A reader sees a complete file, old or new: the new one is written next to it, synced, and renamed over it.

    Parameters:
        storage: the credentials volume.
        name_locks: shared by all writers of a Volume. Without them, only processes of one machine may write.
        audit: on the same volume.
    """

    def __init__(self, storage: Storage, name_locks: NameLocks | None = None, *, audit: AuditLog | None = None) -> None:
        self._storage = storage
        self._transactions = Transactions(
            storage,
            CredentialLocks(storage, name_locks),
            see_others=storage.reload,
            audit=audit,
            reserve=".reserve",
            lock_seconds=LOCK_SECONDS,
            busy=lambda _: StorageError(_BUSY),
        )

    def hold_back(self) -> None:
        """Reserve disk space, so that users can be changed on a full disk. Never raises."""
        self._transactions.hold_back()

    def read(self, name: str) -> bytes | None:
        """The content of one file; None if it does not exist.

        Raises:
            OSError: it cannot be read.
        """
        with self._storage.reading():
            try:
                return (self._storage.directory / name).read_bytes()
            except FileNotFoundError:
                return None

    @contextmanager
    def change(
        self, username: str, *, actor: str = "", address: str = "", confirm: Callable[[], None] | None = None
    ) -> Iterator[Draft]:
        """Change the files in one transaction; the change is durable on return.

        Parameters:
            username: whose entry is changed, for the audit log.
            actor: who changes it.
            address: from where.
            confirm: raises an error if that user may no longer do so.

        Raises:
            StorageError: the files are as they were before.
        """
        with self._transactions.begin(
            {PASSWORDS: PASSWORDS}, Policy.RESTORED, user=username, address=address, confirm=confirm
        ) as transaction:
            try:
                draft = Draft(
                    username, {name: self.read(name) for name in (PASSWORDS, GROUPS, TOKENS, TRUST, INVITATIONS)}
                )
            except OSError as error:
                raise StorageError(f"the credentials could not be read: {error.strerror or error}") from error
            yield draft
            if not draft.steps:
                return

            def failed(_: str, why: str) -> list[Entry]:
                return [Entry("user.change_failed", {"actor": actor, "reason": why})]

            transaction.user = draft.user
            transaction.undo = lambda: self._write(self._way_back(draft.steps))
            entries = [] if draft.entry is None else [draft.entry]
            with transaction.change("the credentials could not be written", entries, failed=failed):
                try:
                    self._write(draft.steps)
                except OSError as error:
                    raise _unwritten(error) from error

    def _write(self, steps: Sequence[FileChange]) -> None:
        """Replace the files. All contents are on disk before the first is renamed, so that a full disk shows
        before anything has changed.
        """
        directory = self._storage.directory
        with self._storage.reading(), contextlib.ExitStack() as leftovers:
            for name in {step.name for step in steps}:
                _clear_abandoned(directory / name)
            prepared: list[Path | None] = []
            for step in steps:
                prepared.append(None if step.after is None else _prepared(directory / step.name, step.after))
                if prepared[-1] is not None:
                    leftovers.callback(prepared[-1].unlink, missing_ok=True)
            for step, new in zip(steps, prepared, strict=True):
                if new is not None:
                    new.replace(directory / step.name)
                else:
                    (directory / step.name).unlink(missing_ok=True)

    def _way_back(self, steps: Sequence[FileChange]) -> list[FileChange]:
        """The steps that undo a failed change, however far it got."""
        now = {step.name: self.read(step.name) for step in steps}
        back: list[FileChange] = []
        for step in reversed(steps):
            if now[step.name] != step.before:
                back.append(step.back())
                now[step.name] = step.before
        return back


class CredentialLocks:
    """The lock on the credential files: a locked file on one machine, and a name across the servers of a Volume.

    The locked file is not one of those that are replaced, and is never removed.

    Parameters:
        storage: the credentials volume.
        name_locks: shared by all its servers; None for one machine.
    """

    def __init__(self, storage: Storage, name_locks: NameLocks | None) -> None:
        self._storage = storage
        self._name_locks = name_locks
        self._descriptors: dict[str, int] = {}

    def acquire(self, filename: str) -> bool:
        """Lock the files; False if another thread, process or server holds the lock.

        Raises:
            StorageError: the locked file cannot be created.
        """
        try:
            descriptor = try_lock(self._storage.lock_file(filename))
        except OSError as error:
            raise storage_error("the credentials cannot be changed", error) from error
        if descriptor is None:
            return False
        taken = False
        try:
            taken = self._name_locks is None or self._name_locks.acquire(filename)
        finally:
            if taken:
                self._descriptors[filename] = descriptor
            else:
                os.close(descriptor)
        return taken

    def held(self) -> AbstractSet[str]:
        """The names that this process has locked."""
        return frozenset(self._descriptors)

    def release(self, filename: str) -> None:
        """Unlock the files."""
        descriptor = self._descriptors.pop(filename)
        try:
            if self._name_locks is not None:
                self._name_locks.release(filename)
        finally:
            os.close(descriptor)


def _unwritten(error: OSError) -> StorageError:
    message = f"the credentials could not be written: {error.strerror or error}; nothing has changed"
    if error.errno in FULL:
        return StorageFull(f"{message}. Free some space on their disk, for instance by removing files, and try again")
    return StorageError(message)


def _clear_abandoned(path: Path) -> None:
    """Remove new files that a killed writer left next to *path*; the holder of the lock is the only writer."""
    for abandoned in path.parent.glob(f"{path.name}.*.new"):
        abandoned.unlink(missing_ok=True)


def _prepared(path: Path, content: bytes) -> Path:
    """A synced file next to *path* with the new content, the old file's mode and, if allowed, its owner.

    Without an old file, only its owner can read it.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".new", dir=path.parent)
    try:
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, status.st_uid, status.st_gid)
            os.fchmod(descriptor, status.st_mode & 0o777)
        write_all(descriptor, content)
        os.fsync(descriptor)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return Path(temporary)
