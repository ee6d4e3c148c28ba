"""A directory that may be a Volume: changed by others only when reloaded, kept only when committed."""

from __future__ import annotations

import contextlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ops.index.disk.copies import Copies, copy_bytes
from ops.index.errors import StorageError

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

    def reading(self) -> AbstractContextManager[None]:
        """Hold while any file of the directory is open, read or written: commits and reloads wait until it is let go.

        A thread that holds it may take it again, but may not commit or reload. Never held while talking to a client.
        """

    def commit(self) -> None:
        """Make everything written so far durable and visible to others' next reload. Blocks; several callers may share
        one commit, as long as it began after the last of them called.

        Raises:
            StorageError: it is not known to be durable. It may have become visible to others all the same.
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
        """


class DirectoryStorage:
    """A directory of this machine.

    Parameters:
        directory: made when it does not exist.
    """

    shared = False
    generation = 0

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory).resolve()
        self._directory.mkdir(parents=True, exist_ok=True)

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self._directory

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


class GuardedStorage(ABC):
    """A directory in which nothing may be open during a commit or reload, such as a mounted Volume.

    Readers share the directory; a commit or reload has it alone. One that waits goes before readers that come later,
    so that reads cannot starve it; readers that waited for it go before the next one, so that it cannot starve them.
    Callers of ``commit`` that come while one runs share the next one, and likewise for ``reload``.

    A subclass says how to commit and reload. Neither is called while a thread is inside ``reading()``.

    Parameters:
        directory: where the Volume is mounted.
        cache_directory: where detached copies go: this server's own disk. None for the system's temporary directory.
        cache_bytes: how much the copies may take while nobody reads them.
    """

    shared = True

    def __init__(
        self, directory: Path | str, *, cache_directory: Path | None = None, cache_bytes: int = 8 * 1024**3
    ) -> None:
        self._directory = Path(directory)
        self._guard = _PhaseLock()
        self._generation = 0
        self._commits = SharedRun(self._exclusive_commit)
        self._reloads = SharedRun(self._exclusive_reload)
        self._copies = Copies(cache_directory, cache_bytes)

    @property
    def directory(self) -> Path:
        """Where the Volume is mounted."""
        return self._directory

    @property
    def generation(self) -> int:
        """Grows with each reload and commit, also with one that failed: it may have happened all the same."""
        return self._generation

    def reading(self) -> AbstractContextManager[None]:
        """Hold while any file of the directory is open, read or written."""
        return self._guard.shared()

    def commit(self) -> None:
        """Make everything written so far durable.

        Raises:
            StorageError: it is not known to be durable.
        """
        self._guard.refuse_inside()
        self._commits()

    def reload(self) -> None:
        """See what others have committed until now.

        Raises:
            StorageError: the view is the one from before.
        """
        self._guard.refuse_inside()
        self._reloads()

    @contextmanager
    def detached(self, path: Path) -> Iterator[Path]:
        """A copy on this server's own disk, kept for the next who asks; one copy is made however many ask at once."""
        with self.reading():
            status = os.stat(path)  # noqa: PTH116
        key = f"{path}\0{status.st_size}\0{status.st_mtime_ns}"
        with self._copies.use(key, status.st_size, lambda target: self._copy(path, status, target)) as copy:
            yield copy

    @abstractmethod
    def _commit(self) -> None:
        """Commit; raise anything when it is not known to have worked."""

    @abstractmethod
    def _reload(self) -> None:
        """Reload; raise anything when it did not work."""

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


class SharedRun:
    """An action whose callers share runs: each gets one that began after it called, and no more run than are needed.

    Parameters:
        action: what to do; what it raises, each caller of that run gets.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._next: _Round | None = None

    def __call__(self) -> None:
        """Have it done once more, and wait for it."""
        with self._lock:
            leads = self._next is None
            this = self._next = self._next or _Round()
        if not leads:
            this.done.wait()
            if this.error is not None:
                raise this.error.with_traceback(None)
            return
        with self._turn:
            with self._lock:
                self._next = None  # whoever calls from now on needs a later run
            try:
                self._action()
            except BaseException as error:
                this.error = error if isinstance(error, Exception) else StorageError("the server is stopping")
                raise
            finally:
                this.done.set()


@dataclass(slots=True)
class _Round:
    done: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


class _PhaseLock:
    """Shared and exclusive, in turns: neither side starves (a phase-fair lock)."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._blocked = 0
        self._waiting = 0
        self._writing = False
        self._phase = 0
        self._mine = threading.local()

    @contextmanager
    def shared(self) -> Iterator[None]:
        depth = getattr(self._mine, "depth", 0)
        if depth == 0:
            self._enter()
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

    def _enter(self) -> None:
        with self._changed:
            if not (self._writing or self._waiting):
                self._readers += 1
                return
            phase = self._phase
            self._blocked += 1
            self._changed.wait_for(lambda: self._phase != phase)  # the writer that leaves has counted us in

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
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
                self._changed.notify_all()

    def refuse_inside(self) -> None:
        if getattr(self._mine, "depth", 0):
            raise RuntimeError("a thread that reads the storage cannot commit or reload it: it would wait for itself")


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


_NOTHING = contextlib.nullcontext()
