"""A mounted Volume as storage: others' changes appear only on reload, our own are durable only after commit."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from ops.index.errors import StorageBusy, StorageError
from ops.index.storage.bounded_run import BoundedRun
from ops.index.storage.directory import StagingFolder, remove, write_all
from ops.index.storage.file_cache import FileCache, copy_bytes
from ops.index.storage.waiting import seconds_left, without_waiting

COMMIT_SECONDS: Final = 40.0
"""The longest wait of a change for its commit. Modal's proxy times out after 150 s, of which a lock and a reload may
have taken 60."""

RELOAD_SECONDS: Final = 20.0
"""The longest wait for a reload, and of a reader for commits."""

LAST_SECONDS: Final = 10.0
"""The longest wait for commits and reloads while the server is stopping: Modal kills a container after 30 s."""

SLICE_BYTES = 16 * 1024**2
"""Bytes of a file copied at a time; commits and reloads run between two slices."""


class GuardedStorage(ABC):
    """A directory in which nothing may be open during a commit or reload, such as a mounted Volume.

    Readers share the directory; a commit or reload excludes them, and neither side starves. Callers of ``commit`` that
    arrive while one runs share the next one, and likewise for ``reload``. Both may hang, so they run in their own
    threads: while one is overdue, everything that needs the directory is refused at once.

    A subclass implements both. Neither is called while a thread is inside ``reading()``.

    Parameters:
        directory: where the Volume is mounted.
        cache_directory: for detached copies, on this server's own disk; None for the system's temporary directory.
        cache_bytes: total size of the copies not in use.
        commit_seconds: the longest wait for a commit.
        reload_seconds: the longest wait for a reload, and the default of readers.
    """

    shared = True

    def __init__(
        self,
        directory: Path | str,
        *,
        cache_directory: Path | None = None,
        cache_bytes: int = 8 * 1024**3,
        commit_seconds: float = COMMIT_SECONDS,
        reload_seconds: float = RELOAD_SECONDS,
    ) -> None:
        self._directory = Path(directory)
        self.staging = StagingFolder(self._directory, locked=False)
        self._guard = PhaseLock()
        self._generation = 0
        self._wait_seconds = reload_seconds
        self._before: list[Callable[[], None]] = []
        self._commits = BoundedRun(
            lambda: self._alone(self._commit, "did not confirm the commit"),
            name="commit",
            seconds=commit_seconds,
            overdue="the storage does not confirm the change, which may be lost",
        )
        self._reloads = BoundedRun(
            lambda: self._alone(self._reload, "could not be reloaded"),
            name="reload",
            seconds=reload_seconds,
            overdue="the storage does not show others' changes",
        )
        self._copies = FileCache(cache_directory, cache_bytes)

    @property
    def directory(self) -> Path:
        """Mount point of the Volume."""
        return self._directory

    @property
    def generation(self) -> int:
        """Counts reloads and commits, even failed ones, which may have happened anyway."""
        return self._generation

    @property
    def closed(self) -> bool:
        """True if a commit or reload blocks readers now."""
        return self._guard.closed

    def check(self) -> None:
        """Refuse a change that could not be committed.

        Raises:
            StorageBusy: a commit or reload is overdue.
        """
        self._commits.check()
        self._reloads.check()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold while any file of the directory is open, read or written.

        Raises:
            StorageBusy: a commit or reload does not end in time.
        """
        sharing = self._guard.sharing(seconds_left(max(0.0, self._wait_seconds - self._guard.closed_for())))
        try:
            sharing.__enter__()
        except TimeoutError:
            raise StorageBusy("the storage is unavailable while a change is committed") from None
        try:
            yield
        finally:
            sharing.__exit__(None, None, None)

    def turn(self) -> AbstractContextManager[None]:
        """Do nothing: most of a change's time is spent waiting for others."""
        return contextlib.nullcontext()

    def before_commit(self, action: Callable[[], None]) -> None:
        """Register *action* to be called before each commit."""
        self._before.append(action)

    def begin_commit(self) -> None:  # noqa: B027 - a default, not an abstract method
        """Do nothing: a commit does everything."""

    def commit(self) -> None:
        """Make everything written so far durable.

        Raises:
            StorageError: it may not be durable.
            StorageBusy: likewise, and the commit is still running.
        """
        self._refuse_inside()
        for action in self._before:
            action()
        self._commits()

    def reload(self) -> None:
        """Read what others have committed so far.

        Raises:
            StorageError: the view is unchanged.
            StorageBusy: likewise, and the reload is still running.
        """
        self._refuse_inside()
        self._reloads()

    def end(self) -> None:
        """Limit waits for commits and reloads to some seconds."""
        self._wait_seconds = min(self._wait_seconds, LAST_SECONDS)
        self._commits.end(LAST_SECONDS)
        self._reloads.end(LAST_SECONDS)

    @contextmanager
    def detached(self, path: Path) -> Iterator[Path]:
        """A cached copy on this server's own disk; concurrent callers share one."""
        copied = self.copied(path)
        if copied is not None:
            with copied as copy:
                yield copy
            return
        with self.reading():
            status = os.stat(path)  # noqa: PTH116
        with self._copies.use(
            str(path), _version(status), status.st_size, lambda target: self._copy(path, status, target)
        ) as copy:
            yield copy

    def copied(self, path: Path) -> AbstractContextManager[Path] | None:
        """The cached copy if it is current, or if the Volume cannot be read now."""
        version = None
        try:
            with without_waiting(), self.reading():
                version = _version(os.stat(path))  # noqa: PTH116
        except StorageBusy:
            pass
        return self._copies.held(str(path), version)

    def adopt(self, path: Path, source: str) -> None:
        """Cache a hard link to *source*, if both are on one disk."""
        with contextlib.suppress(OSError):  # it is copied on request
            status = os.stat(path)  # noqa: PTH116
            self._copies.add(str(path), _version(status), status.st_size, source)

    def lock_file(self, name: str) -> str:  # noqa: ARG002
        """A file outside the Volume: an open file on it would make reloads fail."""
        key = hashlib.sha256(os.fsencode(self.directory.resolve())).hexdigest()[:16]
        return f"{tempfile.gettempdir()}/pypi-runbook-{key}.lock"

    def disk(self) -> os.statvfs_result | None:
        """None: a Volume's free space is unknown."""
        return None

    def stage(self, folder: Path | None) -> tuple[str, int]:
        """A new file on this server's own disk."""
        descriptor, path = tempfile.mkstemp(prefix="pypi-index-upload-", dir=folder)
        return path, descriptor

    @contextmanager
    def near(self, path: str) -> Iterator[str]:
        """A copy on the Volume, removed at the end. If the storage is busy it stays, and is removed later."""
        copy = self.staging.new()
        try:
            self._bring(path, copy)
            yield copy
        finally:
            with contextlib.suppress(OSError, StorageBusy), self.reading():
                remove(copy)

    @abstractmethod
    def _commit(self) -> None:
        """Commit; raise any exception if it may have failed."""

    @abstractmethod
    def _reload(self) -> None:
        """Reload; raise any exception if it failed."""

    def _refuse_inside(self) -> None:
        if self._guard.held:
            raise RuntimeError("a thread that reads the storage cannot commit or reload it: that would deadlock")

    def _alone(self, action: Callable[[], None], failed: str) -> None:
        """Commit or reload without readers.

        Raises:
            StorageError: from any error of *action*.
        """
        with self._guard.exclusive():
            try:
                action()
            except Exception as error:
                raise StorageError(f"the storage {failed}: {_line(error)}; try again") from error
            finally:
                self._generation += 1

    def _bring(self, path: str, copy: str) -> None:
        with open(path, "rb") as source:
            first = True
            while piece := source.read(SLICE_BYTES):
                with self.reading():
                    os.makedirs(os.path.dirname(copy), exist_ok=True)  # noqa: PTH103, PTH120
                    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (os.O_EXCL if first else 0)
                    descriptor = os.open(copy, flags, 0o644)
                    try:
                        write_all(descriptor, piece)
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
                    first = False

    def _copy(self, path: Path, status: os.stat_result, target: Path) -> None:
        done = 0
        with target.open("wb") as out:
            while done < status.st_size:
                with self.reading(), path.open("rb") as source:
                    now = os.fstat(source.fileno())
                    if (now.st_size, now.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
                        raise FileNotFoundError(f"{path} was replaced while it was copied")
                    source.seek(done)
                    done += copy_bytes(source.fileno(), out.fileno(), SLICE_BYTES, done)


def _version(status: os.stat_result) -> tuple[int, int]:
    """A value that changes when the file is written."""
    return status.st_size, status.st_mtime_ns


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


class PhaseLock:
    """Shared and exclusive access, in phases.

    A waiting writer precedes later readers; the readers that waited for it precede the next writer. A thread
    may acquire the shared lock again while it holds it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._blocked = 0
        self._waiting = 0
        self._writing = False
        self._phase = 0
        self._closed_since: float | None = None
        self._mine = threading.local()

    @property
    def held(self) -> bool:
        """True if this thread holds the shared lock."""
        return bool(getattr(self._mine, "depth", 0))

    @property
    def closed(self) -> bool:
        """True if a new reader has to wait."""
        return self._writing or self._waiting > 0

    def closed_for(self) -> float:
        """Seconds that readers have been waiting; 0.0 if they need not."""
        since = self._closed_since
        return 0.0 if since is None else time.monotonic() - since

    @contextmanager
    def sharing(self, seconds: float) -> Iterator[None]:
        """Acquire the shared lock.

        Parameters:
            seconds: the longest wait for a writer; 0.0 for none.

        Raises:
            TimeoutError: the writer does not end in time.
        """
        depth = getattr(self._mine, "depth", 0)
        if depth == 0:
            self._enter(seconds)
        self._mine.depth = depth + 1
        try:
            yield
        finally:
            self._mine.depth = depth
            if depth == 0:
                with self._changed:
                    self._readers -= 1
                    if not self._readers:
                        self._changed.notify_all()

    def _enter(self, seconds: float) -> None:
        with self._changed:
            if not self.closed:
                self._readers += 1
                return
            if seconds <= 0:
                raise TimeoutError
            phase = self._phase
            self._blocked += 1
            if not self._changed.wait_for(lambda: self._phase != phase, seconds):  # else the writer counted us in
                self._blocked -= 1
                raise TimeoutError

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Acquire the exclusive lock, after waiting for readers and other writers."""
        with self._changed:
            self._waiting += 1
            self._closed_since = self._closed_since or time.monotonic()
            self._changed.wait_for(lambda: not (self._writing or self._readers))
            self._waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._phase += 1
                self._readers += self._blocked
                self._blocked = 0
                # The next writer excludes later readers again.
                self._closed_since = time.monotonic() if self._waiting else None
                self._changed.notify_all()
