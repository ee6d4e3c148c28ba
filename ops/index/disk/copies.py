"""Copies of files on the server's own disk, where they may be held open for as long as a client takes."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class _Copy:
    path: Path
    size: int
    users: int = 0
    ready: threading.Event = field(default_factory=threading.Event)
    failed: bool = False


class Copies:
    """A bounded directory of copies, the least recently used go first; none goes while it is used.

    Parameters:
        parent: where the directory is made when it is first needed; None for the system's temporary directory.
        limit: bytes that the copies may take while nobody uses them.
    """

    def __init__(self, parent: Path | None, limit: int) -> None:
        self._parent = parent
        self._limit = limit
        self._lock = threading.Lock()
        self._directory: Path | None = None
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        self._number = 0

    @contextmanager
    def use(self, key: str, size: int, make: Callable[[Path], None]) -> Iterator[Path]:
        """Hold a copy, made if need be; those who ask at once share one.

        Parameters:
            key: of what it is a copy.
            size: in bytes.
            make: writes the copy; what it raises, only who made it gets, and the next tries again.
        """
        copy = self._take(key, size, make)
        try:
            yield copy.path
        finally:
            with self._lock:
                copy.users -= 1
                self._shrink()

    def _take(self, key: str, size: int, make: Callable[[Path], None]) -> _Copy:
        while True:
            with self._lock:
                copy = self._copies.get(key)
                maker = copy is None
                if copy is None:
                    self._number += 1
                    copy = self._copies[key] = _Copy(self._home() / f"{self._number}", size)
                copy.users += 1
                self._copies.move_to_end(key)
                if maker:
                    self._shrink()
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
                del self._copies[key]
            copy.path.unlink(missing_ok=True)
            raise
        finally:
            copy.ready.set()

    def _shrink(self) -> None:
        total = sum(copy.size for copy in self._copies.values())
        for key, copy in list(self._copies.items()):
            if total <= self._limit:
                break
            if copy.users == 0:
                del self._copies[key]
                copy.path.unlink(missing_ok=True)
                total -= copy.size

    def _home(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="pypi-index-copies-", dir=self._parent))
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory


def copy_bytes(source: int, target: int, count: int, offset: int) -> int:
    """Copy up to *count* bytes inside the kernel where it can; the number that were copied, at least one."""
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
