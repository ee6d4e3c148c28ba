"""Room on a disk that is held back for changes which must work when the disk is full."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ops.index.storage.files import FULL, remove, write_all
from ops.index.storage.storage import Storage

_FILES = 8
"""More than one, as a disk may also have no room for the name of a new file."""

_FILE_BYTES = 128 * 1024
_SHARE = 512
"""Each file has so many bytes, or that part of a disk for which this is less."""

_BLOCK_BYTES = 4096


_log = logging.getLogger(__name__)


class Reserve:
    """Files of zeros that are removed when their room is needed, and written again when there is room.

    Whoever is killed meanwhile leaves nothing to mend: the next change, or the next start, writes what is missing. On a
    shared storage there is none, as nobody can tell how full that is. Nor does it help on a file system that
    compresses, or that frees the room of a file some time after its removal.

    Parameters:
        storage: the volume.
        folder: below its directory, of this reserve alone.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._directory = str(storage.directory)
        self._folder = f"{self._directory}/{folder}"
        self._absent = storage.shared
        self._lock = threading.Lock()
        self._wanted = False
        self._told = False
        self._lent = 0

    def fill(self) -> None:
        """Write what is missing, as far as there is room. Never raises."""
        if self._absent:
            return
        self._wanted = True
        with self._lock:
            try:
                if not self._lent:
                    self._fill()
            except OSError as error:
                if error.errno in FULL and not self._told:
                    self._told = True
                    _log.warning("%s: the disk is so full that removals and changes of users may fail", self._directory)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Give the room to what is done inside, and take back what is left of it, if there was any."""
        if self._absent:
            yield
            return
        with self._lock:
            self._lent += 1
            while self._release():
                self._wanted = True
        try:
            yield
        finally:
            with self._lock, contextlib.suppress(OSError):
                self._lent -= 1
                if self._wanted and not self._lent:
                    self._fill()

    def spend(self) -> bool:
        """Give up one file for good, until :meth:`fill`; False when there is none."""
        if self._absent:
            return False
        with self._lock:
            return self._release()

    def _release(self) -> bool:
        return any(_removed(path) for path in self._paths())

    def _fill(self) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)  # noqa: PTH103
        size = _file_bytes(self._folder)
        for path in self._paths():
            if not os.path.exists(path):  # noqa: PTH110
                _write(path, size)

    def _paths(self) -> list[str]:
        return [f"{self._folder}/{number}" for number in range(_FILES)]


def _removed(path: str) -> bool:
    try:
        return remove(path)
    except OSError:
        return False


def _file_bytes(folder: str) -> int:
    disk = os.statvfs(folder)
    share = disk.f_blocks * disk.f_frsize // _SHARE // _BLOCK_BYTES * _BLOCK_BYTES
    return min(_FILE_BYTES, max(_BLOCK_BYTES, share))


def _write(path: str, size: int) -> None:
    """Write a file of so many bytes.

    Raises:
        OSError: not all of it fits; it is as large as it can be.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:  # another server did it
        return
    try:
        done, piece = 0, size
        while done < size:
            piece = min(piece, size - done)
            try:
                write_all(descriptor, bytes(piece))
            except OSError as error:
                os.ftruncate(descriptor, done)
                os.lseek(descriptor, done, os.SEEK_SET)
                piece //= 2
                if error.errno not in FULL or piece < _BLOCK_BYTES:
                    raise
            else:
                done += piece
    finally:
        os.close(descriptor)
