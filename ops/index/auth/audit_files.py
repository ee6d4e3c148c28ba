"""Files of an append-only log: one per day and server, below a folder of a volume."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from ops.index.storage.directory import FULL, remove, sync_folder
from ops.index.storage.reserve import Reserve
from ops.index.storage.storage import Storage

_NAME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\..+\.jsonl")
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _DayFile:
    """An open file."""

    path: str
    descriptor: int


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file of the log, of any server.

    Parameters:
        name: begins with the day.
        size: bytes.
    """

    name: str
    size: int

    @property
    def day(self) -> str:
        """The day in UTC, such as ``2026-01-31``."""
        return self.name[:10]


class AuditFiles:
    """Appends to the files of one server: on a Volume no two servers ever write the same file.

    On a local disk the day's file stays open; on shared storage an open file would make reloads fail, so it is opened
    for each write. On a full disk, lines use the space reserved for them.

    Parameters:
        storage: the volume with the log.
        folder: below its directory; created with the first line.
        name: of the server, part of the file names.
    """

    def __init__(self, storage: Storage, folder: str, name: str) -> None:
        self._storage = storage
        self._folder = f"{storage.directory}/{folder}"
        self._name = name
        self._lock = threading.Lock()  # held while waiting for a commit
        self._files: list[_DayFile] = []  # open: today's, and earlier ones until they are durable
        self._today: _DayFile | None = None
        self._closing = False
        self._new = False
        self._unsynced = False
        self._syncing = threading.Lock()
        self._reserve = Reserve(storage, f"{folder}.reserve")
        self._scarce = False
        weakref.finalize(self, _close_all, self._files)

    def append(self, day: str, content: bytes, *, reserved: bool = True) -> None:
        """Append whole lines to a day's file: all of them or none.

        Parameters:
            day: such as ``2026-01-31``.
            content: the lines.
            reserved: True if they may use the reserved space.

        Raises:
            OSError: nothing was appended.
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
        """Reserve disk space for future lines, if there is any. Never raises."""
        self._reserve.fill()

    def files(self) -> list[LogFile]:
        """List the files of all servers, the oldest first.

        Raises:
            OSError: the folder cannot be read.
        """
        found = []
        with self._storage.reading(), contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):  # removed by another server meanwhile
                        found.append(LogFile(entry.name, entry.stat(follow_symlinks=False).st_size))
        return sorted(found, key=lambda file: file.name)

    def remove(self, name: str) -> None:
        """Remove one of the files, if it is there.

        Raises:
            OSError: it cannot be removed.
        """
        with self._storage.reading():
            remove(f"{self._folder}/{name}")

    def sync(self) -> None:
        """Make all appended lines durable. On shared storage the next commit does that.

        Raises:
            OSError: they may not be durable.
        """
        with self._syncing:
            if self._unsynced or self._closing:
                self._sync_files()
        if self._scarce:
            self._scarce = False
            self._reserve.fill()

    def close(self) -> None:
        """Make all lines durable, and close the files. More lines may follow later.

        Raises:
            OSError: they may not be durable.
        """
        self._closing = True
        self.sync()

    def _append(self, path: str, content: bytes) -> None:
        if self._storage.shared:
            descriptor = self._open(path)
            try:
                _append(descriptor, content, os.fstat(descriptor))
            finally:
                os.close(descriptor)
        else:
            descriptor, status = self._today_open(path)
            _append(descriptor, content, status)
            self._unsynced = True

    def _today_open(self, path: str) -> tuple[int, os.stat_result]:
        """Descriptor and status of today's file, opened if needed."""
        today = self._today
        if today is not None and today.path == path:
            status = os.fstat(today.descriptor)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(status, os.stat(path)):  # noqa: PTH116 - else it was removed or replaced
                    return today.descriptor, status
        today = self._today = _DayFile(path, self._open(path))
        self._files.append(today)
        self._closing = False
        return today.descriptor, os.fstat(today.descriptor)

    def _open(self, path: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, _FLAGS)
        os.makedirs(self._folder, exist_ok=True)  # noqa: PTH103
        self._new = True
        return os.open(path, _FLAGS | os.O_CREAT, 0o600)

    def _sync_files(self) -> None:
        with self._lock:
            files, new = list(self._files), self._new
            self._new = self._unsynced = False
            if self._closing:
                self._today = None
            complete = [file for file in files if file is not self._today]
        try:
            for file in files:
                os.fsync(file.descriptor)
            if files and new:
                sync_folder(self._folder)
        except OSError:
            self._new, self._unsynced = self._new or new, True
            raise
        with self._lock:
            for file in complete:
                self._files.remove(file)
                os.close(file.descriptor)


def expired(files: Iterable[LogFile], *, today: str, days: int, limit: int) -> list[LogFile]:
    """Select the files to remove, the oldest first.

    Never one of today or yesterday: a server whose clock is behind may still be writing it.

    Parameters:
        files: of all servers, the oldest first.
        today: in UTC, such as ``2026-01-31``.
        days: for which files are kept, before today; 0 for forever.
        limit: bytes of all files together; 0 for no limit.
    """
    files = list(files)
    now = date.fromisoformat(today)
    yesterday, first = (now - timedelta(days=1)).isoformat(), ""
    if days:
        first = (now - timedelta(days=min(days, now.toordinal() - 1))).isoformat()
    size = sum(file.size for file in files)
    found = []
    for file in files:
        if file.day >= yesterday or not (file.day < first or (limit and size > limit)):
            break
        found.append(file)
        size -= file.size
    return found


def _append(descriptor: int, content: bytes, before: os.stat_result) -> None:
    if os.write(descriptor, content) < len(content):  # the disk is full: leave no partial line
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, before.st_size)
        raise OSError(errno.ENOSPC, "the disk is full")


def _close_all(files: list[_DayFile]) -> None:
    """Close all files when the AuditFiles object is garbage."""
    for file in files:
        os.close(file.descriptor)
