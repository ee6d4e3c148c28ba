"""Audit log: who did what, when and from where, in append-only JSON lines.

A change has its line before it is made, so that no server that is killed takes one with it. What became of it is told
when it is not what the line says: ``….undone`` when everything is as it was before, ``….unconfirmed`` when the change
is not known to be kept, and ``user.change_failed`` for users. A line without a counterpart, about a change that is not
there, is of a server that was killed between the two.

A refused login has its line within a second, unless it repeats: of the refusals of one user from one address within a
minute the first is written, and the rest is a number (``more``) in a line at the end of that minute. So is everything
about refusals beyond 60 lines a minute (``others``): who guesses fills no disk.

Files older than the option ``audit_days``, and the oldest of more than ``audit_bytes``, are removed by a server that
writes its first line of a day to the same folder. A line (``audit.expired``) names them before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from ops.index.auth.audit_files import AuditFiles
from ops.index.auth.retention import expired
from ops.index.config import Options
from ops.index.errors import StorageBusy
from ops.index.storage.storage import Storage

SERVER_FOLDER: Final = ".index/audit"
"""On the packages volume; stock pypiserver ignores folders that begin with a dot."""

ADMIN_FOLDER: Final = ".audit"
"""On the credentials volume."""

_REFUSALS: Final = frozenset({"login.refused", "login.throttled", "admin.refused", "admin.throttled"})
"""What anybody can cause as often as they like, and what is therefore summed up."""

_SECRET: Final = ("password", "authorization", "token", "secret", "hash")
_LONGEST: Final = 500

_WINDOW: Final = 60.0
"""Seconds for which the refusals of one user from one address become one line."""

_LINES: Final = 60
"""Lines about refusals in one window, whoever they are about: at most some 30 MB a day, however many guess."""

_WAITING: Final = 1000
"""Lines that wait in memory for room on the disk, or for a storage that takes none now."""

_log = logging.getLogger(__name__)


class Audit:
    """Notes events in a :class:`~ops.index.auth.audit_files.AuditFiles`.

    Recording never fails: when it cannot be written, that is logged once, and the request goes on. Room is held back
    for it, so that a full disk loses no line about a change; what does not even fit there is kept in memory until there
    is room, as long as it is no more than 1,000 lines.

    A change of packages or users is on the disk when :meth:`record` returns; on a shared storage the caller's next
    commit makes it durable. It blocks: call it from a thread. A refused login is written by a thread of its own, soon.

    Parameters:
        storage: the volume that the folder lies on.
        folder: below its directory, ``.index/audit`` or ``.audit``.
        options: has the server's name, ``audit_days`` and ``audit_bytes``.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        storage: Storage,
        folder: str = SERVER_FOLDER,
        *,
        options: Options | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._options = options or Options()
        name = self._options.instance
        # The random part keeps apart two containers that were given one name.
        self._journal = AuditFiles(storage, folder, f"{_plain(name) or os.getpid()}-{secrets.token_hex(3)}")
        self._clock = clock
        self._lock = threading.Lock()  # never held while a file is waited for
        self._failing: set[str] = set()
        self._refusals = _Refusals()
        self._writer: _Writer | None = None
        self._day = ""
        self._unwritten: list[bytes] = []

    def hold_back(self) -> None:
        """Hold room back on the disk for lines to come. Never raises."""
        self._journal.hold_back()

    def record(self, event: str, *, user: str, address: str, **details: object) -> None:
        """Note one event. Never raises.

        Parameters:
            event: such as ``upload``, ``yank``, ``user.created`` or ``login.refused``.
            user: who. For a login that was refused only a name that is known, see :func:`claimed`.
            address: from where.
            details: anything that JSON can say; never a secret.
        """
        self.note(event, user=user, address=address, **details)
        if event not in _REFUSALS:
            self.sync()

    def note(self, event: str, *, user: str, address: str, **details: object) -> None:
        """Note one event that is on the disk when the next :meth:`sync` returns. Never raises.

        The parameters are those of :meth:`record`.
        """
        now = self._clock()
        if event in _REFUSALS:
            with self._lock:
                self._refusals.add(now, event, user, address, details)
                self._write_soon()
        else:
            self._append([_line(now, event, user, address, details)])

    def sync(self) -> None:
        """Have all on the disk that was noted before. Never raises."""
        if self._unwritten:
            self._append([])
        with self._told("made durable"):
            self._journal.sync()

    def flush(self) -> None:
        """Write what is waiting."""
        with self._lock:
            lines = self._refusals.take(self._clock(), everything=True)
        self._append(lines, reserved=False)

    def close(self) -> None:
        """Write what is waiting, and stop."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.stop()
        self.flush()
        with self._told("made durable"):
            self._journal.close()

    def _write_soon(self) -> None:
        """Called with the lock."""
        if self._writer is None:
            with contextlib.suppress(RuntimeError):  # no thread can be had now: the next line asks again
                self._writer = _Writer(self._write)

    def _write(self) -> None:
        """What the last second left."""
        with self._lock:
            lines = self._refusals.take(self._clock())
        self._append(lines, reserved=False)

    def _append(self, lines: list[bytes], *, reserved: bool = True) -> None:
        with self._lock:
            waiting, self._unwritten = self._unwritten, []
        if not lines and not waiting:
            return
        if _log.isEnabledFor(logging.INFO):
            for line in lines:
                _log.info("%s", line.decode().rstrip())
        with self._told("written"):
            today = _moment(self._clock())[:10]
            try:
                self._journal.append(today, b"".join([*waiting, *lines]), reserved=reserved)
            except (OSError, StorageBusy) as error:
                with self._lock:
                    self._unwritten = [*waiting, *(lines if reserved else []), *self._unwritten][:_WAITING]
                    if isinstance(error, StorageBusy):  # by a commit that does not end: they are written when it has
                        self._write_soon()
                raise
            with self._lock:
                first, self._day = today != self._day, today
            if first:
                self._expire(today)

    def _expire(self, today: str) -> None:
        """Remove files that have been kept for long enough."""
        days, limit = self._options.audit_days, self._options.audit_bytes
        try:
            old = expired(self._journal.files(), today=today, days=days, limit=limit)
            if old:
                names = [file.name for file in old]
                self.record("audit.expired", user="", address="", files=names, days=days, bytes=limit)
            for file in old:
                self._journal.remove(file.name)
        except OSError as error:
            _log.warning("old files of the audit log stay: %s", error)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """A failure is told once, until the same works again."""
        try:
            yield
            self._failing.discard(what)
        except (OSError, StorageBusy) as error:
            if what not in self._failing:
                _log.error("the audit log cannot be %s, and its lines wait in memory, up to a number: %s", what, error)
            self._failing.add(what)


class _Writer:
    """A thread that writes once a second, until it is stopped.

    Parameters:
        write: what it calls.
    """

    def __init__(self, write: Callable[[], None]) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(write,), name="audit", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it; what it is writing is written."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self, write: Callable[[], None]) -> None:
        while not self._stopping.wait(1.0):
            write()


class _Refusals:
    """Refused logins, summed up: the first of a user from an address at once, the rest as a number."""

    def __init__(self) -> None:
        self._until = 0.0
        self._lines: list[bytes] = []
        self._written = 0
        self._counts: dict[tuple[str, str, str], int] = {}
        self._others = 0

    def add(self, now: float, event: str, user: str, address: str, details: dict[str, object]) -> None:
        if now >= self._until:
            self._close(now)
        key = (event, user, address)
        if key in self._counts:
            self._counts[key] += 1
        elif self._written < _LINES:
            self._counts[key] = 0
            self._written += 1
            self._lines.append(_line(now, event, user, address, details))
        else:
            self._others += 1

    def take(self, now: float, *, everything: bool = False) -> list[bytes]:
        if everything or now >= self._until:
            self._close(now)
        lines, self._lines = self._lines, []
        return lines

    def _close(self, now: float) -> None:
        """Sum up the window that ends, and begin the next."""
        for (event, user, address), count in self._counts.items():
            if count:
                self._lines.append(_line(now, event, user, address, {"more": count, "seconds": _WINDOW}))
        if self._others:
            self._lines.append(_line(now, "login.refused", "", "", {"others": self._others, "seconds": _WINDOW}))
        self._counts.clear()
        self._others = self._written = 0
        self._until = now + _WINDOW


def claimed(username: str) -> str:
    """A name that no user has, as the log may show it: somebody may have typed a password or a token there."""
    return f"{_shown(username[:2])}… (unknown, {len(username)} characters)" if username else ""


def _line(now: float, event: str, user: str, address: str, details: dict[str, object]) -> bytes:
    entry: dict[str, object] = {
        "time": _moment(now),
        "event": event,
        "user": _shown(user),
        "address": _shown(address),
    }
    for key, value in details.items():
        if value is None or isinstance(value, bool | int | float):
            entry[key] = value
        elif any(word in key.lower() for word in _SECRET):
            entry[key] = "********"
        elif isinstance(value, list | tuple | set | frozenset):
            entry[key] = [_shown(str(item)) for item in value]
        else:
            entry[key] = _shown(str(value))
    return json.dumps(entry).encode("ascii") + b"\n"


def _moment(now: float) -> str:
    """Seconds since the epoch in UTC (RFC 3339)."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _plain(name: str) -> str:
    return "".join(
        character if character.isascii() and (character.isalnum() or character in "-_") else "-" for character in name
    )[:40]
