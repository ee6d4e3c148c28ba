"""A mounted Volume as a storage: changed by others only when reloaded, durable only when committed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from ops.index.errors import StorageBusy, StorageError
from ops.index.storage.bounded_run import BoundedRun
from ops.index.storage.file_cache import FileCache, copy_bytes
from ops.index.storage.files import Workbench, remove, write_all
from ops.index.storage.phase_lock import PhaseLock
from ops.index.storage.waiting import at_once, seconds_left

COMMIT_SECONDS: Final = 40.0
"""How long whoever changes something waits for its commit. Modal answers a client in our place after 150 s, of which a
claim, a reload and a lock may have taken 60."""

RELOAD_SECONDS: Final = 20.0
"""How long a reload is waited for, and how long a change waits for the commits of others."""

LAST_SECONDS: Final = 10.0
"""How long commits and reloads may take once the server stops: Modal ends a container 30 s after it was told to."""

SLICE_BYTES = 16 * 1024**2
"""How much of a file is copied at a time; between two slices, commits and reloads get their turn."""


class GuardedStorage(ABC):
    """A directory in which nothing may be open during a commit or reload, such as a mounted Volume.

    Readers share the directory; a commit or reload has it alone, and neither side starves.
    Callers of ``commit`` that come while one runs share the next one, and likewise for ``reload``.

    Commits and reloads run in threads of their own, since nobody knows when they end: callers wait for so long only.
    Once one takes longer, all who need the directory are refused at once, until it has ended.

    A subclass says how to commit and reload. Neither is called while a thread is inside ``reading()``.

    Parameters:
        directory: where the Volume is mounted.
        cache_directory: where detached copies go: this server's own disk. None for the system's temporary directory.
        cache_bytes: how much the copies may take while nobody reads them.
        commit_seconds: how long callers wait for a commit.
        reload_seconds: how long they wait for a reload, and to read where nothing else is said.
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
        self.workbench = Workbench(self._directory, locked=False)
        self._guard = PhaseLock()
        self._generation = 0
        self._patience = reload_seconds
        self._commits = BoundedRun(
            self._exclusive_commit,
            name="commit",
            seconds=commit_seconds,
            overdue="the storage does not confirm what was written, so that it is not known to be kept",
        )
        self._reloads = BoundedRun(
            self._exclusive_reload,
            name="reload",
            seconds=reload_seconds,
            overdue="the storage does not show what others have changed",
        )
        self._copies = FileCache(cache_directory, cache_bytes)

    @property
    def directory(self) -> Path:
        """Where the Volume is mounted."""
        return self._directory

    @property
    def generation(self) -> int:
        """Grows with each reload and commit, also with one that failed: it may have happened all the same."""
        return self._generation

    @property
    def closed(self) -> bool:
        """Whether a commit or reload keeps readers out now."""
        return self._guard.closed

    def check(self) -> None:
        """Refuse a change that could not be kept.

        Raises:
            StorageBusy: a commit or reload has taken too long already, and goes on.
        """
        self._commits.check()
        self._reloads.check()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold while any file of the directory is open, read or written.

        Raises:
            StorageBusy: a commit or reload does not end in time.
        """
        sharing = self._guard.sharing(seconds_left(max(0.0, self._patience - self._guard.closed_for())))
        try:
            sharing.__enter__()
        except TimeoutError:
            raise StorageBusy("the storage is at work on a change and shows no files meanwhile") from None
        try:
            yield
        finally:
            sharing.__exit__(None, None, None)

    def commit(self) -> None:
        """Make everything written so far durable.

        Raises:
            StorageError: it is not known to be durable.
            StorageBusy: likewise, and the commit goes on.
        """
        self._refuse_inside()
        self._commits()

    def reload(self) -> None:
        """See what others have committed until now.

        Raises:
            StorageError: the view is the one from before.
            StorageBusy: it goes on.
        """
        self._refuse_inside()
        self._reloads()

    def end(self) -> None:
        """Let nobody wait for a commit or reload for longer than some seconds."""
        self._patience = min(self._patience, LAST_SECONDS)
        self._commits.end(LAST_SECONDS)
        self._reloads.end(LAST_SECONDS)

    @contextmanager
    def detached(self, path: Path) -> Iterator[Path]:
        """A copy on this server's own disk, kept for the next who asks; one copy is made however many ask at once."""
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
        """The copy that is there, if it is one of the file as it is; while that cannot be told, of it as it was."""
        version = None
        try:
            with at_once(), self.reading():
                version = _version(os.stat(path))  # noqa: PTH116
        except StorageBusy:
            pass
        return self._copies.held(str(path), version)

    def adopt(self, path: Path, source: str) -> None:
        """Have a copy of a file, by a second name of *source* if both are on one disk."""
        with contextlib.suppress(OSError):  # it is copied when it is asked for
            status = os.stat(path)  # noqa: PTH116
            self._copies.add(str(path), _version(status), status.st_size, source)

    def lock_file(self, name: str) -> str:  # noqa: ARG002
        """A file outside: one that is open on a Volume would make its reload fail."""
        key = hashlib.sha256(os.fsencode(self.directory.resolve())).hexdigest()[:16]
        return f"{tempfile.gettempdir()}/pypi-runbook-{key}.lock"

    def disk(self) -> os.statvfs_result | None:
        """None: nobody can tell how full a Volume is."""
        return None

    def stage(self, folder: Path | None) -> tuple[str, int]:
        """A new file on this server's own disk."""
        descriptor, path = tempfile.mkstemp(prefix="pypi-index-upload-", dir=folder)
        return path, descriptor

    @contextmanager
    def near(self, path: str) -> Iterator[str]:
        """A copy on the Volume, removed in the end. One that stays, as the storage is busy, is swept away later."""
        copy = self.workbench.new()
        try:
            self._bring(path, copy)
            yield copy
        finally:
            with contextlib.suppress(OSError, StorageBusy), self.reading():
                remove(copy)

    @abstractmethod
    def _commit(self) -> None:
        """Commit; raise anything when it is not known to have worked."""

    @abstractmethod
    def _reload(self) -> None:
        """Reload; raise anything when it did not work."""

    def _refuse_inside(self) -> None:
        if self._guard.held:
            raise RuntimeError("a thread that reads the storage cannot commit or reload it: it would wait for itself")

    def _exclusive_commit(self) -> None:
        with self._guard.exclusive():
            try:
                self._commit()
            except Exception as error:
                raise StorageError(f"the storage did not confirm the commit: {_line(error)}; try again") from error
            finally:
                self._generation += 1

    def _exclusive_reload(self) -> None:
        with self._guard.exclusive():
            try:
                self._reload()
            except Exception as error:
                raise StorageError(f"the storage could not be reloaded: {_line(error)}; try again") from error
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
    """Equal ones: the file has not been written in between."""
    return status.st_size, status.st_mtime_ns


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
