"""Files that only grow, one a day: what the audit log is written to."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import weakref
from dataclasses import dataclass

from ops.index.storage.files import FULL, remove, sync_folder
from ops.index.storage.reserve import Reserve
from ops.index.storage.shared_run import SharedRun
from ops.index.storage.storage import Storage

_NAME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\..+\.jsonl")
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Open:
    """A file that is held open: which, and how."""

    path: str
    descriptor: int


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file of a journal, by whatever server.

    Parameters:
        name: begins with its day.
        size: bytes.
    """

    name: str
    size: int

    @property
    def day(self) -> str:
        """Such as ``2026-01-31``."""
        return self.name[:10]


class AuditFiles:
    """Appends to the files of one server, so that no two servers of a Volume ever write the same file.

    On this machine the day's file stays open; on a shared storage it must not, and is opened for each write. When the
    disk is full, lines go where room was held back for them.

    Parameters:
        storage: the volume that the folder lies on.
        folder: below its directory; made when the first line is written.
        name: of the server, in the names of its files.
    """

    def __init__(self, storage: Storage, folder: str, name: str) -> None:
        self._storage = storage
        self._folder = f"{storage.directory}/{folder}"
        self._name = name
        self._lock = threading.Lock()  # held while a commit is waited for
        self._files: list[_Open] = []  # all that are open: today's, and others until they are durable
        self._today: _Open | None = None
        self._over = False
        self._new = False
        self._sync = SharedRun(self._sync_files)
        self._reserve = Reserve(storage, f"{folder}.reserve")
        self._scarce = False
        weakref.finalize(self, _close_all, self._files)

    def append(self, day: str, content: bytes, *, reserved: bool = True) -> None:
        """Add whole lines to a day's file: all of them or nothing.

        Parameters:
            day: such as ``2026-01-31``, which begins the file's name.
            content: the lines.
            reserved: whether they may take the room that was held back.

        Raises:
            OSError: nothing was added.
        """
        path = f"{self._folder}/{day}.{self._name}.jsonl"
        with self._lock, self._storage.reading():
            while True:
                try:
                    self._append(path, content)
                except OSError as error:
                    if not reserved or error.errno not in FULL or not self._reserve.spend():
                        raise
                    self._scarce = True
                else:
                    break

    def hold_back(self) -> None:
        """Hold room back on the disk for lines to come, as far as there is any. Never raises."""
        self._reserve.fill()

    def files(self) -> list[LogFile]:
        """The files of all servers in the folder, the oldest first.

        Raises:
            OSError: it cannot be told.
        """
        found = []
        with self._storage.reading(), contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):  # another server has removed it just now
                        found.append(LogFile(entry.name, entry.stat(follow_symlinks=False).st_size))
        return sorted(found, key=lambda file: file.name)

    def remove(self, name: str) -> None:
        """Remove one of the files; it may be gone already.

        Raises:
            OSError: it stays.
        """
        with self._storage.reading():
            remove(f"{self._folder}/{name}")

    def sync(self) -> None:
        """Make all lines durable that were added before; those who ask together share the work.

        On a shared storage it does nothing: the next commit does it.

        Raises:
            OSError: they are not known to be.
        """
        if not self._storage.shared:
            self._sync()
            if self._scarce:
                self._scarce = False
                self._reserve.fill()

    def close(self) -> None:
        """Make the lines durable, and let go of the files. More may be written later.

        Raises:
            OSError: they are not known to be durable.
        """
        self._over = True
        self.sync()

    def _append(self, path: str, content: bytes) -> None:
        if self._storage.shared:
            descriptor = self._opened(path)
            try:
                _append(descriptor, content, os.fstat(descriptor))
            finally:
                os.close(descriptor)
        else:
            descriptor, status = self._held_open(path)
            _append(descriptor, content, status)

    def _held_open(self, path: str) -> tuple[int, os.stat_result]:
        """The file that is held open for today, and how it is now."""
        today = self._today
        if today is not None and today.path == path:
            status = os.fstat(today.descriptor)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(status, os.stat(path)):  # noqa: PTH116 - else somebody has removed it
                    return today.descriptor, status
        today = self._today = _Open(path, self._opened(path))
        self._files.append(today)
        self._over = False
        return today.descriptor, os.fstat(today.descriptor)

    def _opened(self, path: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, _FLAGS)
        os.makedirs(self._folder, exist_ok=True)  # noqa: PTH103
        self._new = True
        return os.open(path, _FLAGS | os.O_CREAT, 0o600)

    def _sync_files(self) -> None:
        with self._lock:
            files, new = list(self._files), self._new
            self._new = False
            if self._over:
                self._today = None
            over = [file for file in files if file is not self._today]  # nothing is added to these any more
        try:
            for file in files:
                os.fsync(file.descriptor)
            if new:
                sync_folder(self._folder)
        except OSError:
            self._new = self._new or new
            raise
        with self._lock:
            for file in over:
                self._files.remove(file)
                os.close(file.descriptor)


def _append(descriptor: int, content: bytes, before: os.stat_result) -> None:
    if os.write(descriptor, content) < len(content):  # a full disk: no line may be torn
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, before.st_size)
        raise OSError(errno.ENOSPC, "the disk is full")


def _close_all(files: list[_Open]) -> None:
    """For a journal that nobody holds any more."""
    for file in files:
        os.close(file.descriptor)
