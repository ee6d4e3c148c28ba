"""A cache of files on the server's own disk, where they may stay open as long as a client needs."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

Version = tuple[int, int]
"""The size of a file and its modification time in nanoseconds."""


@dataclass(slots=True, eq=False)
class _Copy:
    path: Path
    version: Version
    size: int
    users: int = 0
    ready: threading.Event = field(default_factory=threading.Event)
    failed: bool = False
    replaced: bool = False


class FileCache:
    """A bounded directory of copies: the least recently used are evicted first, and none while in use.

    Parameters:
        parent: of the directory, which is created on first use; None for the system's temporary directory.
        limit: total bytes of copies that are not in use.
    """

    def __init__(self, parent: Path | None, limit: int) -> None:
        self._parent = parent
        self._limit = limit
        self._lock = threading.Lock()
        self._directory: Path | None = None
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        self._total = 0
        self._number = 0

    @contextmanager
    def use(self, key: str, version: Version, size: int, make: Callable[[Path], None]) -> Iterator[Path]:
        """Hold a copy, created if needed; concurrent callers share one.

        Parameters:
            key: names the original.
            version: of the original.
            size: in bytes.
            make: writes the copy. Its errors are raised in the caller that ran it; the next caller tries again.
        """
        with self._used(self._take(key, version, size, make)) as path:
            yield path

    def held(self, key: str, version: Version | None) -> AbstractContextManager[Path] | None:
        """Hold an existing copy; None if there is none.

        Parameters:
            key: names the original.
            version: of the original; None for any.
        """
        with self._lock:
            copy = self._copies.get(key)
            if copy is None or not copy.ready.is_set() or version not in (None, copy.version):
                return None
            copy.users += 1
            self._copies.move_to_end(key)
        return self._used(copy)

    def add(self, key: str, version: Version, size: int, source: str) -> None:
        """Use a file on this disk as the copy, by a hard link.

        Raises:
            OSError: it cannot be linked.
        """
        with self._lock:
            copy = self._new(version, size)
            os.link(source, copy.path)
            copy.ready.set()
            self._put(key, copy)

    @contextmanager
    def _used(self, copy: _Copy) -> Iterator[Path]:
        """Hold a copy that already counts this user."""
        try:
            yield copy.path
        finally:
            with self._lock:
                copy.users -= 1
                if copy.users == 0 and copy.replaced:
                    copy.path.unlink(missing_ok=True)
                self._shrink()

    def _take(self, key: str, version: Version, size: int, make: Callable[[Path], None]) -> _Copy:
        while True:
            with self._lock:
                copy = self._copies.get(key)
                maker = copy is None or copy.version != version
                if copy is None or maker:
                    copy = self._new(version, size)
                    self._put(key, copy)
                copy.users += 1
                self._copies.move_to_end(key)
            if maker:
                self._make(key, copy, make)
                return copy
            copy.ready.wait()
            if not copy.failed:
                return copy

    def _make(self, key: str, copy: _Copy, make: Callable[[Path], None]) -> None:
        try:
            make(copy.path)
        except BaseException:
            copy.failed = True
            with self._lock:
                if self._copies.get(key) is copy:
                    self._drop(key)
            copy.path.unlink(missing_ok=True)
            raise
        finally:
            copy.ready.set()

    def _new(self, version: Version, size: int) -> _Copy:
        self._number += 1
        return _Copy(self._home() / f"{self._number}", version, size)

    def _put(self, key: str, copy: _Copy) -> None:
        """Add a copy, replacing an earlier version."""
        if key in self._copies:
            self._drop(key)
        self._copies[key] = copy
        self._total += copy.size
        copy.users += 1
        self._shrink()  # but not this one, which its creator will use
        copy.users -= 1

    def _drop(self, key: str) -> None:
        copy = self._copies.pop(key)
        copy.replaced = True
        self._total -= copy.size
        if copy.users == 0:
            copy.path.unlink(missing_ok=True)

    def _shrink(self) -> None:
        if self._total <= self._limit:
            return
        for key, copy in list(self._copies.items()):
            if self._total <= self._limit:
                break
            if copy.users == 0:
                self._drop(key)

    def _home(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="pypi-index-copies-", dir=self._parent))
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory


def copy_bytes(source: int, target: int, count: int, offset: int) -> int:
    """Copy up to *count* bytes, inside the kernel if it can; the number of bytes copied, at least one."""
    if hasattr(os, "sendfile"):
        with contextlib.suppress(OSError):
            sent = os.sendfile(target, source, offset, count)
            if sent:
                return sent
    piece = os.pread(source, min(count, 1024**2), offset)
    if not piece:
        raise FileNotFoundError("the file became shorter while it was copied")
    os.pwrite(target, piece, offset)
    os.lseek(target, offset + len(piece), os.SEEK_SET)
    return len(piece)
