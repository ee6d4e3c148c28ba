"""Tombstones of removed files, whose names never get other bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from urllib.parse import quote

from ops.index.storage.files import INDEX_FOLDER, Workbench, sync_folder, write_all


class Tombstones:
    """The digest of each removed file by the key of its name: a line in one of 256 files.

    A file for each would be too many, since a Volume has room for only so many: an hourly smoke test removes 17,000 a
    year. Nothing is kept in memory. Whoever asks or adds holds a claim, so that what is on the disk is what counts.
    All is called inside ``Storage.reading``.

    Parameters:
        directory: of packages.
        workbench: on the same file system.
    """

    def __init__(self, directory: Path, workbench: Workbench) -> None:
        self._folder = f"{directory}/{INDEX_FOLDER}/removed"
        self._workbench = workbench

    def get(self, key: str) -> str | None:
        """The SHA-256 in hexadecimal of the file that had this name, in whatever spelling, and was removed.

        The caller holds the claim on the name.

        Raises:
            OSError: it cannot be told.
        """
        for line in self._read(_file_of(key)).splitlines():
            sha256, _, buried = line.partition(" ")
            if buried == key:
                return sha256
        # The first version kept each in a file of its own, and so does a full disk.
        return self._read(quote(key, safe="+!")).strip() or None

    @staticmethod
    def claim(key: str) -> str:
        """What the caller of :meth:`put` holds a claim on, besides the name, until the change is committed."""
        return f"removed/{_file_of(key)}"

    def put(self, key: str, sha256: str) -> None:
        """Remember what a removed file was, durably.

        Raises:
            OSError: it is not remembered.
        """
        before, line = self._read(_file_of(key)), f"{sha256} {key}\n"
        if line not in before.splitlines(keepends=True):
            content = (before + line).encode("utf-8", "surrogateescape")
            self._workbench.replace(f"{self._folder}/{_file_of(key)}", content, durable=True)

    def put_in_place_of(self, path: str, key: str, sha256: str) -> None:
        """Remember what a removed file was where there is no room: the file itself becomes what is remembered.

        It gets another name first and other bytes then. Whoever is killed in between leaves a name that is taken. A
        client that is downloading the file gets an error.

        Raises:
            OSError: nothing has changed, or only that nobody finds the file any more. Links are refused: others may
                have their bytes as well.
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
