"""What removed files were: their names never get other bytes."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from ops.index.disk.writing import Workbench
from ops.index.packages.marks import Marks

_LONGEST = 16 * 1024**2
"""Bytes of one file: some 150,000 names."""


class Tombstones:
    """The digest of each removed file by the key of its name.

    They lie in 256 files at most, however many there are, since a Volume has room for only so many files: an hourly
    smoke test removes 17,000 a year. Whoever adds one holds the claim on its file (:meth:`claim`), so that two servers
    that remove something at once do not overwrite each other's.

    Parameters:
        directory: of packages.
        workbench: on the same file system.
    """

    def __init__(self, directory: Path, workbench: Workbench) -> None:
        self._marks = Marks(directory, "removed", workbench, longest=_LONGEST)
        self._digests: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> str | None:
        """The SHA-256 in hexadecimal of the file that had this name, in whatever spelling, and was removed."""
        return self._digests.get(_file_of(key), {}).get(key)

    def look(self, *, thoroughly: bool = False) -> None:
        """Notice what others have removed."""
        with self._lock:
            for name in self._marks.look(thoroughly=thoroughly):
                self._read(name)

    @staticmethod
    def claim(key: str) -> str:
        """What has to be claimed while :meth:`put` is called, until that is committed."""
        return f"removed/{_file_of(key)}"

    def put(self, key: str, sha256: str) -> None:
        """Remember what a removed file was, durably.

        Raises:
            OSError: it is not remembered.
        """
        name, line = _file_of(key), f"{sha256} {key}\n"
        with self._lock:
            before = self._marks.fresh(name) or ""
            if line not in before.splitlines(keepends=True):
                self._marks.put(name, before + line)
                self._read(name)

    def _read(self, name: str) -> None:
        lines = (line.partition(" ") for line in (self._marks.get(name) or "").splitlines())
        self._digests[name] = {key: sha256 for sha256, _, key in lines if key}


def _file_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:2]
