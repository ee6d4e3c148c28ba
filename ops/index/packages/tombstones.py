"""Tombstones of removed files, whose names never get other bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from urllib.parse import quote

from ops.index.storage.files import INDEX_FOLDER, StagingFolder, sync_folder, write_all


class Tombstones:
    """The digest of each removed file by the key of its name: a line in one of 256 files.

    A file for each would be too many for a Volume: an hourly smoke test removes 17,000 a year. Nothing is cached:
    callers hold a lock, so the disk is up to date. All methods are called inside ``Storage.reading``.

    Parameters:
        directory: of packages.
        staging: on the same file system.
    """

    def __init__(self, directory: Path, staging: StagingFolder) -> None:
        self._folder = f"{directory}/{INDEX_FOLDER}/removed"
        self._staging = staging

    def get(self, key: str) -> str | None:
        """The SHA-256, in hexadecimal, of the removed file with this name in any spelling; None if there is none.

        The caller holds the lock on the name.

        Raises:
            OSError: it cannot be read.
        """
        for line in self._read(_file_of(key)).splitlines():
            sha256, _, buried = line.partition(" ")
            if buried == key:
                return sha256
        # The first version had a file for each, and a full disk still does.
        return self._read(quote(key, safe="+!")).strip() or None

    @staticmethod
    def lock_name(key: str) -> str:
        """The lock that the caller of :meth:`put` holds, besides that on the name, until the change is committed."""
        return f"removed/{_file_of(key)}"

    def put(self, key: str, sha256: str) -> None:
        """Add a tombstone, durably.

        Raises:
            OSError: it was not added.
        """
        before, line = self._read(_file_of(key)), f"{sha256} {key}\n"
        if line not in before.splitlines(keepends=True):
            content = (before + line).encode("utf-8", "surrogateescape")
            self._staging.replace(f"{self._folder}/{_file_of(key)}", content, durable=True)

    def put_in_place_of(self, path: str, key: str, sha256: str) -> None:
        """Turn a file into its own tombstone, on a full disk.

        It is renamed first and overwritten then, so that its name stays taken after a kill in between. A client that is
        downloading the file gets an error.

        Raises:
            OSError: nothing has changed, except perhaps that the file is gone. Links are refused: others may share
                their bytes.
        """
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.makedirs(self._folder, exist_ok=True)  # noqa: PTH103
        grave = f"{self._folder}/{quote(key, safe='+!')}"
        os.rename(path, grave)  # noqa: PTH104
        descriptor = os.open(grave, os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_all(descriptor, sha256.encode())
            os.ftruncate(descriptor, len(sha256))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(self._folder)

    def _read(self, name: str) -> str:
        try:
            with open(f"{self._folder}/{name}", "rb") as file:
                return file.read().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return ""


def _file_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:2]
