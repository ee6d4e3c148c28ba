"""A directory that may be a Volume: changed by others only when reloaded, kept only when committed."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

from ops.index.errors import StorageBusy, StorageError
from ops.index.storage.file_cache import FileCache, copy_bytes
from ops.index.storage.phase_lock import PhaseLock
from ops.index.storage.shared_run import BoundedRun
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


class Storage(Protocol):
    """One directory, with the moments at which it changes.

    On this machine a directory is what it is: ``commit`` and ``reload`` do nothing. On a Modal Volume the process sees
    a snapshot and its own writes; what others committed appears after ``reload``, what it wrote stays only after
    ``commit``, and while either runs the directory looks empty. The index is written against the stricter of the two.
    """

    @property
    def directory(self) -> Path:
        """Where the files are."""

    @property
    def shared(self) -> bool:
        """Whether other servers write here and their writes appear only after ``reload``."""

    @property
    def generation(self) -> int:
        """A number that grows with each reload and commit; while it stays, others' changes cannot have appeared."""

    @property
    def closed(self) -> bool:
        """Whether a commit or reload keeps readers out now."""

    def check(self) -> None:
        """Refuse a change that could not be kept.

        Raises:
            StorageBusy: an earlier commit or reload has taken too long already, and goes on.
        """

    def reading(self) -> AbstractContextManager[None]:
        """Hold while any file of the directory is open, read or written: commits and reloads wait until it is let go.

        A thread that holds it may take it again, but may not commit or reload. Never held while talking to a client.

        Raises:
            StorageBusy: a commit or reload takes longer than is waited for (see :mod:`ops.index.storage.waiting`).
        """

    def commit(self) -> None:
        """Make everything written so far durable and visible to others' next reload. Blocks; several callers may share
        one commit, as long as it began after the last of them called.

        Raises:
            StorageError: it is not known to be durable. It may have become visible to others all the same.
            StorageBusy: likewise, and the commit goes on.
        """

    def reload(self) -> None:
        """See what others have committed until now. Blocks; several callers may share one reload that began after the
        last of them called.

        Raises:
            StorageError: the view is the one from before.
        """

    def detached(self, path: Path) -> AbstractContextManager[Path]:
        """A path with the same bytes that may be held open for as long as a client takes.

        On this machine *path* itself; on a Volume a copy on the container's own disk. Blocks while it copies.

        Raises:
            FileNotFoundError: there is no such file, or it was replaced while it was copied.
            StorageBusy: it cannot be copied now.
        """

    def copied(self, path: Path) -> AbstractContextManager[Path] | None:
        """The same if it takes no copying and no waiting; else None. What is returned must be entered."""

    def adopt(self, path: Path, source: str) -> None:
        """Have the bytes of *path*, which was written just now, at hand for :meth:`detached` without copying them.

        Parameters:
            path: the file. Called inside :meth:`reading`.
            source: a file on this server's own disk with the same bytes, which stays as it is.
        """

    def end(self) -> None:
        """The server stops: nobody waits for a commit or reload for longer than some seconds from now on."""


class DirectoryStorage:
    """A directory of this machine.

    Parameters:
        directory: made when it does not exist.
    """

    shared = False
    closed = False
    generation = 0

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory).resolve()
        self._directory.mkdir(parents=True, exist_ok=True)

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self._directory

    def check(self) -> None:
        """Nothing to do: nothing is waited for."""

    def reading(self) -> AbstractContextManager[None]:
        """Nothing to wait for: the directory never looks other than it is."""
        return _NOTHING

    def commit(self) -> None:
        """Nothing to do: whoever writes has called fsync."""

    def reload(self) -> None:
        """Nothing to do: others' changes are there at once."""

    @contextmanager
    def detached(self, path: Path) -> Iterator[Path]:
        """*path* itself."""
        yield path

    def copied(self, path: Path) -> AbstractContextManager[Path]:
        """*path* itself."""
        return contextlib.nullcontext(path)

    def adopt(self, path: Path, source: str) -> None:
        """Nothing to do: files are served from where they are."""

    def end(self) -> None:
        """Nothing to do: there is nothing to wait for."""


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
        shared = self._guard.shared(seconds_left(max(0.0, self._patience - self._guard.closed_for())))
        try:
            shared.__enter__()
        except TimeoutError:
            raise StorageBusy("the storage is at work on a change and shows no files meanwhile") from None
        try:
            yield
        finally:
            shared.__exit__(None, None, None)

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


_NOTHING = contextlib.nullcontext()
