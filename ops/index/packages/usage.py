"""Disk usage, by project and in total, with reservations for uploads in progress."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable

from ops.index.storage.storage import Storage

_BATCH = 256
"""Number of files measured at a time, while a commit or reload of a shared storage waits."""


class Usage:
    """The bytes used by the listed files. Each file is measured once, before the next decision about a quota.

    A signature counts with its file. Sidecars and all else in ``.index``, tombstones and the audit log do not count.

    Parameters:
        storage: the volume of packages.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._directory = str(storage.directory)
        self._lock = threading.Lock()  # never held while waiting for a disk: event loops take it
        self._sizes: dict[str, tuple[str, int]] = {}
        self._unmeasured: dict[str, tuple[str, object]] = {}
        self._stored: Counter[str] = Counter()
        self._reserved: Counter[str] = Counter()
        self._stored_total = 0
        self._reserved_total = 0
        self.largest = 0
        """Size in bytes of the largest file since the start."""

    def appeared(self, path: str, project: str) -> None:
        """Start counting a file."""
        with self._lock:
            if path not in self._sizes:
                self._unmeasured[path] = (project, object())

    def changed(self, paths: Iterable[str]) -> None:
        """Measure files again that were written in place, or got a signature."""
        with self._lock:
            for path in paths:
                if path in self._sizes:
                    self._unmeasured[path] = (self._sizes[path][0], object())

    def vanished(self, path: str) -> None:
        """Stop counting a file."""
        with self._lock:
            self._unmeasured.pop(path, None)
            self._set(path, None, 0)

    def measure(self) -> None:
        """Measure new files, in some microseconds each. Called outside of ``Storage.reading``."""
        while self._unmeasured:
            with self._lock:
                batch = list(self._unmeasured.items())[:_BATCH]
            with self._storage.reading():
                sizes = [self._size(path) for path, _ in batch]
            with self._lock:
                for (path, entry), size in zip(batch, sizes, strict=True):
                    if self._unmeasured.get(path) is entry:
                        del self._unmeasured[path]
                        self._set(path, entry[0], size)

    def reserve(self, project: str, size: int, check: Callable[[int, int], None] = lambda *_: None) -> None:
        """Reserve bytes for an upload in progress; a negative number releases them.

        Parameters:
            project: normalized (PEP 503).
            size: bytes to reserve in addition to earlier reservations.
            check: called with the bytes used so far by the project and in total, while nobody else can reserve any. An
                exception that it raises prevents the reservation.
        """
        with self._lock:
            check(self._stored[project] + self._reserved[project], self._stored_total + self._reserved_total)
            self._reserve(project, size)

    def settle(self, path: str, project: str, size: int, reserved: int) -> None:
        """Turn a reservation into a file in one step."""
        with self._lock:
            self._reserve(project, -reserved)
            self._unmeasured.pop(path, None)
            self._set(path, project, size)

    def _reserve(self, project: str, size: int) -> None:
        self._reserved[project] += size
        self._reserved_total += size
        if not self._reserved[project]:
            del self._reserved[project]

    def _set(self, path: str, project: str | None, size: int) -> None:
        before = self._sizes.pop(path, None)
        if before is not None:
            self._stored[before[0]] -= before[1]
            self._stored_total -= before[1]
            if not self._stored[before[0]]:
                del self._stored[before[0]]
        if project is not None:
            self._sizes[path] = (project, size)
            self._stored[project] += size
            self._stored_total += size
            self.largest = max(self.largest, size)

    def _size(self, path: str) -> int:
        size = 0
        for name in (path, f"{path}.asc"):
            with contextlib.suppress(OSError):
                status = os.stat(f"{self._directory}/{name}")  # noqa: PTH116 - many at once
                size += status.st_size if stat.S_ISREG(status.st_mode) else 0
        return size
