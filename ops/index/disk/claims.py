"""Who may write a file name first, across every server of one directory or Volume."""

from __future__ import annotations

import os
import threading
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

from ops.index.disk.locking import is_locked, try_lock, unlock


class Claims(Protocol):
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


class MemoryClaims:
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


class FileClaims:
    """Claims among all processes of one machine, as locked files (``flock``).

    The kernel lets go of a lock when its holder ends, however it ends: a dead process holds nothing.

    Parameters:
        directory: where the files are; made when the first claim is taken.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._lock = threading.Lock()
        self._descriptors: dict[str, int] = {}

    def acquire(self, filename: str) -> bool:
        """Take the claim on *filename*; False when another thread or process has it.

        Raises:
            OSError: the directory cannot be written.
        """
        with self._lock:
            if filename in self._descriptors:
                return False
            self._descriptors[filename] = -1  # ours among threads; the file decides among processes
        descriptor = None
        try:
            descriptor = try_lock(self._path(filename))
        finally:
            with self._lock:
                if descriptor is None:
                    del self._descriptors[filename]
                else:
                    self._descriptors[filename] = descriptor
        return descriptor is not None

    def held(self) -> AbstractSet[str]:
        """All names that are claimed now. Files that dead processes left are swept away."""
        with self._lock:
            names = {name for name, descriptor in self._descriptors.items() if descriptor >= 0}
        try:
            entries = os.listdir(self._directory)  # noqa: PTH208 - on the way of every new file
        except OSError:
            return names
        for entry in entries:
            name = unquote(entry)
            if name not in names and is_locked(f"{self._directory}/{entry}"):
                names.add(name)
        return names

    def release(self, filename: str) -> None:
        """Give the claim back."""
        with self._lock:
            descriptor = self._descriptors.get(filename, -1)
            if descriptor >= 0:
                unlock(self._path(filename), descriptor)
                del self._descriptors[filename]

    def _path(self, filename: str) -> str:
        quoted = quote(filename, safe="+!")
        return f"{self._directory}/{quoted.replace('.', '%2E', 1) if quoted.startswith('.') else quoted}"
