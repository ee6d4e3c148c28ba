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
import errno
import json
import logging
import os
import re
import secrets
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from ops.index.config import Options
from ops.index.errors import StorageBusy
from ops.index.storage.directory import FULL, remove, sync_folder
from ops.index.storage.reserve import Reserve
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

    A change of packages or users is on the disk when :meth:`record` returns; on a shared storage, the caller's next
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
        """Write waiting lines, and make all durable, which on a Volume the next commit does. Never raises."""
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
        """In UTC, such as ``2026-01-31``."""
        return self.name[:10]


class AuditFiles:
    """Appends to the files of one server: on a Volume no two servers ever write the same file.

    On a local disk the day's file stays open; on a shared storage an open file would make reloads fail, so it is opened
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
        """Reserve disk space for lines to come, if there is any. Never raises."""
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
        """Make all lines durable that were appended before. On a shared storage the next commit does that.

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
    """Called when the AuditFiles are garbage."""
    for file in files:
        os.close(file.descriptor)
