"""Exclusive locks on file names, across all servers of one directory or Volume."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
import weakref
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

from ops.index.storage.file_locks import is_locked, try_lock, unlock
from ops.index.storage.files import UNLINKABLE

_ATTEMPTS = 20
"""How often a claim is tried for when its file, or the directory, vanishes in the same moment."""


class NameLocks(Protocol):
    """Exclusive claims on file names: at most one holder at a time among all servers.

    The order that makes an upload safe is: claim, reload, look whether the name exists, write, commit, release. A
    reader that finds a new name on the Volume shows it only when nobody holds its claim: a commit that failed half-way
    may have made the file visible without being acknowledged. Such a file is removed, and the removal committed, while
    the claim is still held.
    """

    def acquire(self, filename: str) -> bool:
        """Take the claim on *filename*. False when another holds it. A holder that died loses it after a while."""

    def held(self) -> AbstractSet[str]:
        """All names that anyone, also this process, holds a claim on now. One look, however many names there are."""

    def release(self, filename: str) -> None:
        """Give the claim back. One that is not held is left alone."""


class MemoryNameLocks:
    """Claims among the threads of one process, or among servers that a test runs in one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()

    def acquire(self, filename: str) -> bool:
        """Take the claim on *filename*; False when it is taken."""
        with self._lock:
            if filename in self._names:
                return False
            self._names.add(filename)
            return True

    def held(self) -> AbstractSet[str]:
        """All names that are claimed now."""
        with self._lock:
            return frozenset(self._names)

    def release(self, filename: str) -> None:
        """Give the claim back."""
        with self._lock:
            self._names.discard(filename)


class FileNameLocks:
    """Claims among all processes of one machine, as hard links to a file that its process keeps locked (``flock``).

    The kernel lets go of a lock when its holder ends, however it ends: a dead process holds nothing. A file of its own
    for each claim would do as well, and does where there are no hard links; to make and delete one costs more.

    Parameters:
        directory: where the files are; made when the first claim is taken.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._names: dict[str, int | None] = {}
        """What is held or being taken, and the locked file that it has for itself if it has one."""
        self._taken: set[str] = set()
        self._own: str | None = None

    def acquire(self, filename: str) -> bool:
        """Take the claim on *filename*; False when another thread or process has it.

        Raises:
            OSError: the directory cannot be written, or it cannot be told whether another's claim is alive.
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
        """All names that are claimed now. Files that dead processes left are swept away.

        Raises:
            OSError: it cannot be told.
        """
        with self._lock:
            names = set(self._taken)
        try:
            entries = os.listdir(self._directory)  # noqa: PTH208 - on the way of every new file
        except (FileNotFoundError, NotADirectoryError):
            return names
        for entry in entries:
            path = f"{self._directory}/{entry}"
            name = unquote(entry)
            if path != self._own and name not in names and _may_be_locked(path) and not entry.startswith("."):
                names.add(name)
        return names

    def release(self, filename: str) -> None:
        """Give the claim back."""
        with self._lock:
            if filename not in self._taken:
                return
            self._taken.discard(filename)
            descriptor = self._names[filename]
        try:  # without the lock: those who only look wait for no disk
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
            except FileNotFoundError:  # somebody has emptied the directory
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
        """The file that this process keeps locked. The descriptor is closed with it, and the file removed."""
        with self._making:
            if self._own is not None:
                return self._own
            for _ in range(_ATTEMPTS):
                path = f"{self._directory}/.{os.getpid()}-{secrets.token_hex(6)}"
                descriptor = try_lock(path)
                if descriptor is not None:  # else somebody who looks for dead ones looks at it just now
                    weakref.finalize(self, unlock, path, descriptor)
                    self._own = path
                    return path
            raise OSError(errno.EBUSY, "no file can be locked", self._directory)

    def _path(self, filename: str) -> str:
        quoted = quote(filename, safe="+!")
        return f"{self._directory}/{quoted.replace('.', '%2E', 1) if quoted.startswith('.') else quoted}"


def _may_be_locked(path: str) -> bool:
    """Whether a claim may be alive: a file that stays hidden a moment longer does less harm than one shown early."""
    try:
        return is_locked(path)
    except OSError:
        return True
