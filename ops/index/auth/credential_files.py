"""The files of the credentials volume, and the one way in which they are changed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ops.index.errors import StorageError, StorageFull
from ops.index.storage.files import storage_error, sync_folder
from ops.index.storage.name_locks import NameLocks
from ops.index.storage.reserve import Reserve
from ops.index.storage.storage import Storage

PASSWORDS = ".htpasswd"
GROUPS = ".htgroup"
_RESERVE = ".reserve"

_PATIENCE = 20.0
"""Seconds to wait for another server that is changing the files; far longer than a change takes."""

_log = logging.getLogger(__name__)


class Step(NamedTuple):
    """The replacement of one file; None where there is no file."""

    name: str
    before: bytes | None
    after: bytes | None

    def back(self) -> Step:
        """The step that undoes this one."""
        return Step(self.name, before=self.after, after=self.before)


class Draft:
    """The files as they are while nobody else can change them, and what they shall become.

    Files are written in the order in which they are set, one more than once if it is set more than once: the caller
    decides what a reader may see in between. A change that is undone goes the same way back.
    """

    def __init__(self, before: dict[str, bytes | None]) -> None:
        self._now = dict(before)
        self.steps: list[Step] = []

    def __getitem__(self, name: str) -> bytes:
        return self._now[name] or b""

    def __setitem__(self, name: str, content: bytes) -> None:
        if content != self[name]:
            self.steps.append(Step(name, before=self._now[name], after=content))
            self._now[name] = content


class CredentialFiles:
    """Reads and replaces ``.htpasswd`` and ``.htgroup``.

    A reader finds the file from before or the file from after, never a part: a new file is written beside it, synced
    and renamed over it. Writers take turns: on one machine by a lock on a file of its own (a lock on the file itself
    would be on what is about to be replaced), across the servers of a Volume, which has no locks, by a claim.

    Parameters:
        storage: the credentials volume.
        claims: what all writers of a shared volume have in common. Without it one process at a time may write.
    """

    def __init__(self, storage: Storage, name_locks: NameLocks | None = None) -> None:
        self._storage = storage
        self._name_locks = name_locks
        self._reserve = Reserve(storage, _RESERVE)

    @property
    def storage(self) -> Storage:
        """The credentials volume."""
        return self._storage

    def hold_back(self) -> None:
        """Hold room back on the disk, so that users can be changed when it is full. Never raises."""
        self._reserve.fill()

    def read(self, name: str) -> bytes | None:
        """The content of one file, or None when it is not there.

        Raises:
            OSError: it is there and cannot be read.
        """
        with self._storage.reading():
            try:
                return (self._storage.directory / name).read_bytes()
            except FileNotFoundError:
                return None

    @contextmanager
    def change(
        self, *, noted: Callable[[], None] = lambda: None, failed: Callable[[StorageError], None] = lambda _: None
    ) -> Iterator[Draft]:
        """Change the files while no other writer can, on what the last one left; durable when it returns.

        Parameters:
            noted: called right before the files are written, so that no change is there without what it writes, which
                is committed with them if it is on the same volume.
            failed: called when that did not work, before the files from before are committed, likewise.

        Raises:
            StorageError: the change is not known to be durable; the files are as they were.
        """
        with self._reserve.lent(), self._turn():
            if self._storage.shared:
                self._storage.reload()
            try:
                draft = Draft({name: self.read(name) for name in (PASSWORDS, GROUPS)})
            except OSError as error:
                raise StorageError(f"the credentials could not be read: {error.strerror or error}") from error
            yield draft
            if not draft.steps:
                return
            try:
                noted()
                self._write(draft.steps)
                self._storage.commit()
            except (OSError, StorageError) as error:
                told = error if isinstance(error, StorageError) else _unwritten(error)
                failed(told)
                self._undo(draft.steps)
                raise told from error

    def _write(self, steps: Sequence[Step]) -> None:
        """Replace the files. All contents are on the disk before the first takes its name: a full disk is met while
        nothing has changed.
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
            sync_folder(str(directory))

    def _undo(self, steps: Sequence[Step]) -> None:
        """Put back what was there. A commit that failed may have been seen all the same: commit again, if it goes."""
        try:
            self._write(self._way_back(steps))
            self._storage.commit()
        except (OSError, StorageError) as error:
            _log.error("a change of the credentials failed, and so did undoing it: %s", error)

    def _way_back(self, steps: Sequence[Step]) -> list[Step]:
        """The steps back from wherever a failure left the files; none that changes nothing."""
        now = {step.name: self.read(step.name) for step in steps}
        back: list[Step] = []
        for step in reversed(steps):
            if now[step.name] != step.before:
                back.append(step.back())
                now[step.name] = step.before
        return back

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock():
            name_locks = self._name_locks if self._storage.shared else None
            if name_locks is None:
                yield
                return
            _wait_for(lambda: name_locks.acquire(PASSWORDS))
            try:
                yield
            finally:
                name_locks.release(PASSWORDS)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        directory = self._storage.directory
        if self._storage.shared:
            # An open file on a Volume would make its reload fail, so the lock lies outside of it.
            key = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
            path = Path(tempfile.gettempdir()) / f"pypi-runbook-{key}.lock"
        else:
            path = directory / f"{PASSWORDS}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error("the credentials cannot be changed", error) from error
        try:
            _wait_for(lambda: _locked(descriptor))
            yield
        finally:
            os.close(descriptor)


def _unwritten(error: OSError) -> StorageError:
    told = f"the credentials could not be written: {error.strerror or error}; nothing has changed"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull(f"{told}. Make room on their disk, for instance by removing files, and try again")
    return StorageError(told)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for(turn: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not turn():
        if time.monotonic() > deadline:
            raise StorageError("somebody else has been changing the users for too long: try again in a minute")
        time.sleep(0.01)


def _clear_abandoned(path: Path) -> None:
    """Remove the new files that a writer left beside *path* when it died; who holds the lock is the only writer."""
    for abandoned in path.parent.glob(f"{path.name}.*.new"):
        abandoned.unlink(missing_ok=True)


def _prepared(path: Path, content: bytes) -> Path:
    """A file beside *path* with the new content, on the disk, with the mode and, where allowed, the owner of the old.

    A first file can be read by its owner only.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".new", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, status.st_uid, status.st_gid)
                os.fchmod(descriptor, status.st_mode & 0o777)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return Path(temporary)
