"""Exclusive locks on file names, across all servers of one directory or Volume.

On one machine they are lock files (``flock``), which the kernel unlocks when their holder dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import threading
import weakref
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

UNLINKABLE = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
"""Errors of file systems without hard links."""

_ATTEMPTS = 20
"""Attempts to lock a file that keeps vanishing, or whose directory does."""


def try_lock(path: str) -> int | None:
    """Lock *path*, created if needed, until the returned descriptor is closed; None if another holds it.

    Raises:
        OSError: the file cannot be created.
    """
    for _ in range(_ATTEMPTS):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
            continue
        if lock_open_file(descriptor) and _is_at(descriptor, path):
            return descriptor
        held = _is_at(descriptor, path)
        os.close(descriptor)
        if held:
            return None
    return None


def is_locked(path: str) -> bool:
    """True if *path* is locked. If it is not, it is removed: its holder is dead.

    Raises:
        OSError: the check failed, for instance because too many files are open.
    """
    try:
        descriptor = _opened(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        if not lock_open_file(descriptor):
            return True
        if _is_at(descriptor, path):
            with contextlib.suppress(OSError):  # it stays in a read-only directory
                os.unlink(path)  # noqa: PTH108
        return False
    finally:
        os.close(descriptor)


def unlock(path: str, descriptor: int) -> None:
    """Remove the file, then unlock it: a process that opened it earlier finds it gone."""
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        pass
    finally:
        os.close(descriptor)


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def lock_open_file(descriptor: int) -> bool:
    """Lock an open file until it is closed; False if another holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # noqa: PTH116
    except FileNotFoundError:
        return False


class NameLocks(Protocol):
    """Exclusive locks on file names: at most one holder at a time among all servers.

    A reader that finds a new name on a Volume lists it only once its lock is released: a failed commit may have
    made the file visible without being acknowledged. Such a file is removed, and the removal committed, while the lock
    is still held (:mod:`ops.index.storage.transaction`).
    """

    def acquire(self, filename: str) -> bool:
        """Lock *filename*; False if another holds the lock. A dead holder loses it after a while."""

    def held(self) -> AbstractSet[str]:
        """All currently locked names, including this process's, in one request."""

    def release(self, filename: str) -> None:
        """Release a lock. Does nothing if it is not held."""


class FileNameLocks:
    """Locks among all processes of one machine, as hard links to a file that each process keeps locked (``flock``).

    The kernel releases a lock when its holder ends, however it ends. Without hard links each lock is a separate locked
    file, which costs more to create and delete.

    Parameters:
        directory: of the files; created when the first lock is taken.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._names: dict[str, int | None] = {}
        """Names that are locked or being locked, each with its own locked file if any."""
        self._taken: set[str] = set()
        self._own: str | None = None

    def acquire(self, filename: str) -> bool:
        """Lock *filename*; False if another thread or process holds the lock.

        Raises:
            OSError: the directory cannot be written, or another's lock cannot be checked.
        """
        with self._lock:
            if filename in self._names:
                return False
            self._names[filename] = None  # ours among threads; the file decides among processes
        taken = False
        try:
            taken = self._take(filename, self._path(filename))
        finally:
            with self._lock:
                if taken:
                    self._taken.add(filename)
                else:
                    del self._names[filename]
        return taken

    def held(self) -> AbstractSet[str]:
        """All currently locked names. Files of dead processes are removed.

        Raises:
            OSError: they cannot be read.
        """
        with self._lock:
            names = set(self._taken)
        try:
            entries = os.listdir(self._directory)  # noqa: PTH208 - runs for every new file
        except (FileNotFoundError, NotADirectoryError):
            return names
        for entry in entries:
            path = f"{self._directory}/{entry}"
            name = unquote(entry)
            if path != self._own and name not in names and _may_be_locked(path) and not entry.startswith("."):
                names.add(name)
        return names

    def release(self, filename: str) -> None:
        """Release a lock."""
        with self._lock:
            if filename not in self._taken:
                return
            self._taken.discard(filename)
            descriptor = self._names[filename]
        try:  # without the lock: held() waits for no disk
            if descriptor is None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path(filename))  # noqa: PTH108
            else:
                unlock(self._path(filename), descriptor)
        finally:
            with self._lock:
                del self._names[filename]

    def _take(self, filename: str, path: str) -> bool:
        for _ in range(_ATTEMPTS):
            own = self._own or self._make_own()
            try:
                os.link(own, path)
            except FileExistsError:
                if is_locked(path):
                    return False
            except FileNotFoundError:  # the directory was emptied
                self._own = None
            except OSError as error:
                if error.errno not in UNLINKABLE:
                    raise
                descriptor = try_lock(path)
                self._names[filename] = descriptor
                return descriptor is not None
            else:
                return True
        return False

    def _make_own(self) -> str:
        """The file that this process keeps locked for the lifetime of this object."""
        with self._making:
            if self._own is not None:
                return self._own
            for _ in range(_ATTEMPTS):
                path = f"{self._directory}/.{os.getpid()}-{secrets.token_hex(6)}"
                descriptor = try_lock(path)
                if descriptor is not None:  # else another process is checking whether its holder is dead
                    weakref.finalize(self, unlock, path, descriptor)
                    self._own = path
                    return path
            raise OSError(errno.EBUSY, "no file can be locked", self._directory)

    def _path(self, filename: str) -> str:
        quoted = quote(filename, safe="+!")
        return f"{self._directory}/{quoted.replace('.', '%2E', 1) if quoted.startswith('.') else quoted}"


def _may_be_locked(path: str) -> bool:
    """True if a lock may be alive: hiding a file a moment too long does less harm than listing it too early."""
    try:
        return is_locked(path)
    except OSError:
        return True
