"""Small values with an expiry, which all servers of an index see at once.

Unlike files of a volume they need no commit and no reload, and servers that may not write credentials can write them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

from ops.index.storage.directory import make_folder, sync_folder

_SWEEP_SECONDS: Final = 60.0


class SharedEntries(Protocol):
    """Values by key. Every method blocks, and raises its storage's errors."""

    def add(self, key: str, value: str, *, until: float) -> bool:
        """Store a value unless the key exists: exactly one of all callers gets True.

        Parameters:
            key: up to 150 characters.
            value: text.
            until: seconds since the epoch; the entry may be removed after that, and is never returned.
        """

    def put(self, key: str, value: str, *, until: float) -> None:
        """Store a value, replacing any other."""

    def get(self, key: str) -> str | None:
        """The value; None if there is none, or it has expired."""

    def remove(self, key: str) -> bool:
        """Remove an entry. False if there was none."""


class FolderEntries:
    """Entries as files of a folder, for all servers of one machine.

    Parameters:
        folder: created with the first entry; only this user can read it.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        self._swept = float("-inf")

    def add(self, key: str, value: str, *, until: float) -> bool:
        """Store a value unless the key exists."""
        self._sweep()
        try:
            descriptor = os.open(self._path(key), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return False
        try:
            _write(descriptor, value, until, durable=True)
            sync_folder(str(self._folder))
        except BaseException:  # not stored, so another attempt must not find it
            self.remove(key)
            raise
        return True

    def put(self, key: str, value: str, *, until: float) -> None:
        """Store a value, replacing any other."""
        self._sweep()
        path = self._path(key)
        draft = f"{path}.{secrets.token_hex(4)}.new"
        _write(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), value, until)
        os.replace(draft, path)  # noqa: PTH105

    def get(self, key: str) -> str | None:
        """The value; None if there is none, or it has expired."""
        try:
            end, _, value = Path(self._path(key)).read_text("utf-8").partition("\n")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return value if end and json.loads(end) > self._clock() else None

    def remove(self, key: str) -> bool:
        """Remove an entry."""
        try:
            os.unlink(self._path(key))  # noqa: PTH108
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _path(self, key: str) -> str:
        return f"{self._folder}/{quote(key, safe='')}"

    def _sweep(self) -> None:
        """Create the folder, and occasionally remove expired entries."""
        now = self._clock()
        if now < self._swept + _SWEEP_SECONDS:
            return
        self._swept = now
        make_folder(str(self._folder), 0o700, durable=True)
        for entry in os.scandir(self._folder):
            with contextlib.suppress(OSError):
                # An entry that is being written gets its expiry in a moment.
                if entry.stat().st_mtime < now - _SWEEP_SECONDS:
                    os.unlink(entry.path)  # noqa: PTH108


def _write(descriptor: int, value: str, until: float, *, durable: bool = False) -> None:
    """Write an entry with its expiry as modification time, so that sweeping opens no file."""
    try:
        os.write(descriptor, f"{json.dumps(until)}\n{value}".encode())
        os.utime(descriptor, (until, until))
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
