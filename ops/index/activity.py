"""Counts of downloads, and last uses by users, in one JSON Lines file per day and server.

A line is one count of one hour, in UTC; the counts of several lines add up::

    {"hour": "2026-01-31T14", "file": "a-1.0.whl", "user": "alice", "address": "192.0.2.1", "client": "pip", "count": 3}
    {"hour": "2026-01-31T14", "user": "alice"}

The second kind says that a user sent requests. A killed server loses the last minute and, on a Volume, what was not
committed yet, at most an hour.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Final, NamedTuple

from ops.index.auth.audit_files import AuditFiles, expired
from ops.index.config import Options
from ops.index.errors import StorageBusy, StorageError
from ops.index.storage.storage import Storage

FOLDER: Final = ".index/activity"
"""On the packages volume."""

_HOUR: Final = 3600
_WRITE_SECONDS: Final = 60.0
_MOST_ROWS: Final = 100_000
"""Rows in memory, some 250 bytes each. Beyond that, downloads are counted without user and address, and beyond
twice that, without the file."""

_LIMIT_BYTES: Final = 512 * 1024**2
"""Size of all files together."""

_LONGEST: Final = 500

CLIENTS: Final = frozenset(
    {"pip", "uv", "poetry", "pdm", "hatch", "twine", "pipenv", "pex", "conda", "bandersnatch", "curl", "wget"}
)
"""Families of clients; ``browser`` and ``other`` besides."""

_PRODUCT: Final = re.compile(r"[A-Za-z][A-Za-z-]*")

_log = logging.getLogger(__name__)


class Subject(NamedTuple):
    """Subject of a count.

    Parameters:
        hour: since the epoch.
        file: path below the directory of packages; empty for a row about a user only.
        user: who downloaded it.
        address: of the client.
        client: its family, see :func:`client_family`.
    """

    hour: int
    file: str
    user: str
    address: str
    client: str


class Activity:
    """Counts downloads and users in memory, and writes them once a minute.

    Parameters:
        storage: the volume of packages.
        options: the server's name, and ``audit_days`` for which the files are kept.
        active_users: returns the users who sent a request since the last call.
        clock: seconds since the epoch.

    Attributes:
        downloads: by client family, since the start.
    """

    def __init__(
        self,
        storage: Storage,
        options: Options,
        *,
        active_users: Callable[[], Collection[str]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._days = options.audit_days
        self._active_users = active_users
        self._clock = clock
        self._files = AuditFiles(storage, FOLDER, f"{options.instance or os.getpid()}-{secrets.token_hex(3)}")
        self._lock = threading.Lock()
        self._counts: dict[Subject, int] = {}
        self._families: dict[bytes, str] = {}
        self._noted: set[Subject] = set()
        self._next_write = clock() + _WRITE_SECONDS
        self._next_commit = clock() + _HOUR
        self._day = ""
        self.downloads: Counter[str] = Counter()

    def count(self, path: str, *, user: str, address: str, agent: bytes) -> None:
        """Count a download. Takes microseconds.

        Parameters:
            path: of the file, below the directory of packages.
            user: who downloads it.
            address: of the client.
            agent: the User-Agent header.
        """
        client = self._families.get(agent)
        if client is None:
            if len(self._families) >= _LONGEST:
                self._families.clear()
            client = self._families[agent] = client_family(agent.decode("latin-1"))
        row = Subject(int(self._clock()) // _HOUR, path, user, address, client)
        with self._lock:
            self.downloads[client] += 1
            counts = self._counts
            if row not in counts and len(counts) >= _MOST_ROWS:
                row = row._replace(user="", address="")
                if row not in counts and len(counts) >= 2 * _MOST_ROWS:
                    row = row._replace(file="")
            counts[row] = counts.get(row, 0) + 1

    def write(self) -> None:
        """Write what was counted, if a minute has passed, and commit it, if an hour has. Blocks.

        Raises:
            StorageError: the counts are kept for the next attempt.
        """
        now = self._clock()
        if now < self._next_write:
            return
        self._next_write = now + _WRITE_SECONDS
        self._write(now)
        if now >= self._next_commit:
            self._next_commit = now + _HOUR
            self._storage.commit()

    def close(self) -> None:
        """Write what was counted. The caller commits.

        Raises:
            StorageError: the counts are lost.
        """
        self._write(self._clock())
        with contextlib.suppress(OSError):
            self._files.close()

    def _write(self, now: float) -> None:
        hour = int(now) // _HOUR
        users = {Subject(hour, "", user, "", "") for user in self._active_users()} - self._noted
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts and not users:
            return
        today = _hour(hour)[:10]
        lines = b"".join(_line(row, count) for row, count in [*((row, 0) for row in sorted(users)), *counts.items()])
        try:
            self._files.append(today, lines, reserved=False)
            self._files.sync()
        except (OSError, StorageBusy) as error:
            with self._lock:
                for row, count in counts.items():
                    self._counts[row] = self._counts.get(row, 0) + count
            raise StorageError(f"the download counts cannot be written now: {error}") from error
        self._noted = {row for row in self._noted if row.hour == hour} | users
        if today != self._day:
            self._day = today
            with contextlib.suppress(OSError):
                for file in expired(self._files.files(), today=today, days=self._days, limit=_LIMIT_BYTES):
                    self._files.remove(file.name)


def client_family(agent: str) -> str:
    """The family of a client, by its User-Agent header (RFC 9110, section 10.1.5): one of CLIENTS, or ``browser``, or
    ``other``.
    """
    product = _PRODUCT.match(agent)
    name = product[0].lower() if product else ""
    return "browser" if name == "mozilla" else name if name in CLIENTS else "other"


def _line(row: Subject, count: int) -> bytes:
    named = {"file": row.file, "user": row.user, "address": row.address, "client": row.client}
    line = {"hour": _hour(row.hour)} | {key: value[:_LONGEST] for key, value in named.items() if value}
    return json.dumps(line | ({"count": count} if count else {})).encode("ascii") + b"\n"


def _hour(hour: int) -> str:
    """An hour in UTC, such as ``2026-01-31T14``."""
    return datetime.fromtimestamp(hour * _HOUR, UTC).strftime("%Y-%m-%dT%H")
