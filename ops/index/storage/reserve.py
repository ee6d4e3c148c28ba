"""Disk space reserved for changes that must work when the disk is full."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ops.index.storage.directory import FULL, remove, write_all
from ops.index.storage.storage import Storage

_FILES = 8
"""More than one: a full disk may lack space even for a new file's name."""

_FILE_BYTES = 128 * 1024
_SHARE = 512
"""A file has :data:`_FILE_BYTES`, but at most this fraction of a small disk."""

_BLOCK_BYTES = 4096


_log = logging.getLogger(__name__)


class Reserve:
    """Files of zeros that are removed when their space is needed, and rewritten when there is space.

    After a kill, the next change or start rewrites missing ones. A Volume has none, because its free space is unknown.
    Useless on a file system that compresses, or that frees the space of a removed file later.

    Parameters:
        storage: the volume.
        folder: below its directory, for this purpose only.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = f"{storage.directory}/{folder}"
        self._lock = threading.Lock()
        self._wanted = False
        self._told = False
        self._lent = 0

    def fill(self) -> None:
        """Write missing files, as far as there is space. Never raises."""
        self._wanted = True
        with self._lock:
            try:
                if not self._lent:
                    self._fill()
            except OSError as error:
                if error.errno in FULL and not self._told:
                    self._told = True
                    _log.warning(
                        "%s: the disk is so full that removals and changes of users may fail", self._storage.directory
                    )

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Free the space for the body, then reserve what is left of it, if there was any."""
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
        """Free one file until the next :meth:`fill`; False if there is none."""
        with self._lock:
            return self._release()

    def _release(self) -> bool:
        return any(_removed(path) for path in self._paths())

    def _fill(self) -> None:
        disk = self._storage.disk()
        if disk is None:
            return
        size = _file_bytes(disk)
        os.makedirs(self._folder, mode=0o700, exist_ok=True)  # noqa: PTH103
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


def _file_bytes(disk: os.statvfs_result) -> int:
    share = disk.f_blocks * disk.f_frsize // _SHARE // _BLOCK_BYTES * _BLOCK_BYTES
    return min(_FILE_BYTES, max(_BLOCK_BYTES, share))


def _write(path: str, size: int) -> None:
    """Write a file of zeros.

    Raises:
        OSError: it does not fit; the file is as large as possible.
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
