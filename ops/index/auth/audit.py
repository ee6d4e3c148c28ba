"""Audit log: who did what, when and from where, in append-only JSON lines.

The line of a change is written before the change is made: a server killed in between leaves a line without a change,
never a change without a line. A second line follows if the change is not kept: ``….undone`` if everything is as
before, ``….unconfirmed`` if the change may or may not be durable, ``user.change_failed`` for users.

A refused login is written within a second. Of the refusals of one user, address and reason within a minute only the
first is written; a line at the end of that minute counts the rest (``more``). Refusals beyond 60
lines a minute are counted together (``others``), so that guessing does not fill the disk.

A server that writes its first line of a day removes files older than the option ``audit_days``, and the oldest ones
beyond ``audit_bytes``. A line written before (``audit.expired``) names them.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from ops.index.auth.audit_files import AuditFiles, expired
from ops.index.config import Options
from ops.index.errors import StorageBusy
from ops.index.storage.storage import Storage

SERVER_FOLDER: Final = ".index/audit"
"""On the packages volume. Stock pypiserver ignores folders that begin with a dot."""

ADMIN_FOLDER: Final = ".audit"
"""On the credentials volume."""

_REFUSALS: Final = frozenset({"oidc.refused", "login.refused", "login.throttled", "admin.refused", "admin.throttled"})
"""Events that anyone can cause at will, and which are therefore summarized."""

_SECRET: Final = re.compile("password|authorization|token|secret|hash", re.IGNORECASE)
_MAX_LENGTH: Final = 500

_WINDOW: Final = 60.0
"""Seconds over which the refusals of one user, address and reason are summarized."""

_MAX_LINES: Final = 60
"""Lines about refusals in one window, for all users and addresses: at most some 30 MB a day."""

_MAX_UNWRITTEN: Final = 1000
"""Lines that wait in memory while the disk is full or the storage is busy."""

_log = logging.getLogger(__name__)


class Audit:
    """Records events in the audit log.

    Recording never raises: if a line cannot be written, that is logged once, and the request goes on. Disk space is
    reserved for lines about changes; if even that is used up, up to 1,000 lines wait in memory until there is room.

    A change of packages or users is on the disk when :meth:`record` returns; on shared storage, the caller's next
    commit makes it durable. It blocks: call it from a thread. Refused logins are written by a thread of their own.

    Parameters:
        storage: the volume with the log.
        folder: below its directory, ``.index/audit`` or ``.audit``.
        options: the server's name, ``audit_days`` and ``audit_bytes``.
        clock: seconds since the epoch.

    Attributes:
        counts: how often each event happened since the start.
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
        # The random part distinguishes containers that were given the same name.
        self._files = AuditFiles(storage, folder, f"{_safe(name) or os.getpid()}-{secrets.token_hex(3)}")
        self._clock = clock
        self._lock = threading.Lock()  # never held during I/O
        self._failing: set[str] = set()
        self._refusals = _Refusals()
        self._writer: _Writer | None = None
        self._day = ""
        self._unwritten: list[bytes] = []
        self.counts: Counter[str] = Counter()
        storage.before_commit(self.sync)

    def hold_back(self) -> None:
        """Reserve disk space for lines to come. Never raises."""
        self._files.hold_back()

    def record(self, event: str, *, user: str, address: str, **details: object) -> None:
        """Record one event, durably unless it is a refusal. Never raises.

        Parameters:
            event: such as ``upload``, ``yank``, ``user.created`` or ``login.refused``.
            user: who caused it. Mask unknown names first, see :func:`masked_name`.
            address: of the client.
            details: values for JSON; never a secret.
        """
        self.note(event, user=user, address=address, **details)
        if event not in _REFUSALS:
            self.sync()

    def note(self, event: str, *, user: str, address: str, **details: object) -> None:
        """Record one event, durably once the storage is committed. Never raises.

        The parameters are those of :meth:`record`.
        """
        now = self._clock()
        with self._lock:
            self.counts[event] += 1
        if event in _REFUSALS:
            with self._lock:
                self._refusals.add(now, event, user, address, details)
                self._write_soon()
        else:
            self._append([_line(now, event, user, address, details)])

    def sync(self) -> None:
        """Write waiting lines, and make all lines durable; on a Volume the next commit does that. Never raises."""
        if self._unwritten:
            self._append([])
        with self._failures_logged("made durable"):
            self._files.sync()

    def flush(self) -> None:
        """Write all waiting lines."""
        with self._lock:
            lines = self._refusals.take(self._clock(), everything=True)
        self._append(lines, reserved=False)

    def close(self) -> None:
        """Write all waiting lines, and stop the thread."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.stop()
        self.flush()
        with self._failures_logged("made durable"):
            self._files.close()

    def _write_soon(self) -> None:
        """Start the thread, with the lock held."""
        if self._writer is None:
            with contextlib.suppress(RuntimeError):  # no new thread now: the next line tries again
                self._writer = _Writer(self._write)

    def _write(self) -> None:
        """Write the refusals of the last second."""
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
        with self._failures_logged("written"):
            today = _timestamp(self._clock())[:10]
            try:
                self._files.append(today, b"".join([*waiting, *lines]), reserved=reserved)
            except (OSError, StorageBusy) as error:
                with self._lock:
                    self._unwritten = [*waiting, *(lines if reserved else []), *self._unwritten][:_MAX_UNWRITTEN]
                    if isinstance(error, StorageBusy):  # the thread writes them after the commit
                        self._write_soon()
                raise
            with self._lock:
                first, self._day = today != self._day, today
            if first:
                self._expire(today)

    def _expire(self, today: str) -> None:
        """Remove expired files."""
        days, limit = self._options.audit_days, self._options.audit_bytes
        try:
            old = expired(self._files.files(), today=today, days=days, limit=limit)
            if old:
                names = [file.name for file in old]
                self.record("audit.expired", user="", address="", files=names, days=days, bytes=limit)
            for file in old:
                self._files.remove(file.name)
        except OSError as error:
            _log.warning("expired files of the audit log could not be removed: %s", error)

    @contextmanager
    def _failures_logged(self, what: str) -> Iterator[None]:
        """Log a failure instead of raising it, once until it works again."""
        try:
            yield
            self._failing.discard(what)
        except (OSError, StorageBusy) as error:
            if what not in self._failing:
                _log.error("the audit log cannot be %s; up to %d lines wait in memory: %s", what, _MAX_UNWRITTEN, error)
            self._failing.add(what)


class _Writer:
    """Thread that calls *write* once a second, until stopped."""

    def __init__(self, write: Callable[[], None]) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(write,), name="audit", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop it, after a call in progress."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self, write: Callable[[], None]) -> None:
        while not self._stopping.wait(1.0):
            write()


class _Refusals:
    """Summary of refused logins: the first of each user, address and reason as a line, the rest as a count."""

    def __init__(self) -> None:
        self._until = 0.0
        self._lines: list[bytes] = []
        self._written = 0
        self._counts: dict[tuple[str, str, str, str], int] = {}
        self._others = 0

    def add(self, now: float, event: str, user: str, address: str, details: dict[str, object]) -> None:
        if now >= self._until:
            self._close(now)
        key = (event, user, address, str(details.get("why", "")))
        if key in self._counts:
            self._counts[key] += 1
        elif self._written < _MAX_LINES:
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
        """Write the counts of the window that has ended, and begin the next."""
        for (event, user, address, why), count in self._counts.items():
            if count:
                reason = {"why": why} if why else {}
                self._lines.append(_line(now, event, user, address, {**reason, "more": count, "seconds": _WINDOW}))
        if self._others:
            self._lines.append(_line(now, "login.refused", "", "", {"others": self._others, "seconds": _WINDOW}))
        self._counts.clear()
        self._others = self._written = 0
        self._until = now + _WINDOW


def masked_name(username: str) -> str:
    """A name that no user has, masked for the log: people type passwords and tokens into that field."""
    return f"{_shortened(username[:2])}… (unknown, {len(username)} characters)" if username else ""


def _line(now: float, event: str, user: str, address: str, details: dict[str, object]) -> bytes:
    entry: dict[str, object] = {
        "time": _timestamp(now),
        "event": event,
        "user": _shortened(user),
        "address": _shortened(address),
    }
    for key, value in details.items():
        if value is None or isinstance(value, bool | int | float):
            entry[key] = value
        elif _SECRET.search(key) is not None:
            entry[key] = "********"
        elif isinstance(value, list | tuple | set | frozenset):
            entry[key] = [_shortened(str(item)) for item in value]
        else:
            entry[key] = _shortened(str(value))
    return json.dumps(entry).encode("ascii") + b"\n"


def _timestamp(now: float) -> str:
    """Seconds since the epoch, as UTC (RFC 3339)."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_LENGTH else text[:_MAX_LENGTH] + "…"


def _safe(name: str) -> str:
    return "".join(
        character if character.isascii() and (character.isalnum() or character in "-_") else "-" for character in name
    )[:40]
