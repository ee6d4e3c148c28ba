"""A local directory as storage, and atomic writes of its files."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ops.index.errors import StorageError, StorageFull, StorageReadOnly
from ops.index.storage.name_locks import UNLINKABLE, is_locked, try_lock
from ops.index.storage.turns import Turns, between_turns

_NOTHING = contextlib.nullcontext()


class DirectoryStorage:
    """A local directory: storage that is always up to date.

    Parameters:
        directory: created if it does not exist.
    """

    shared = False
    closed = False
    generation = 0

    def __init__(self, directory: Path | str) -> None:
        self._directory = Path(directory).resolve()
        self._directory.mkdir(parents=True, exist_ok=True)
        self.staging = StagingFolder(self._directory, locked=True)
        self._turns = Turns()
        self._before: list[Callable[[], None]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._begun: Future[None] | None = None
        self._sync = SharedRun(lambda: sync_folder(str(self._directory)))

    @property
    def directory(self) -> Path:
        """Folder of the files."""
        return self._directory

    def check(self) -> None:
        """Do nothing: no commit takes long."""

    def reading(self) -> AbstractContextManager[None]:
        """Return at once: the directory never looks empty."""
        return _NOTHING

    def turn(self) -> AbstractContextManager[None]:
        """Let threads take turns, except while one waits for the disk."""
        return self._turns.turn()

    def before_commit(self, action: Callable[[], None]) -> None:
        """Register *action* to be called by each commit."""
        self._before.append(action)

    def begin_commit(self) -> None:
        """Do the work before a commit in another thread, while the caller makes its own files durable."""
        if self._before and (self._begun is None or self._begun.done()):
            with contextlib.suppress(RuntimeError):  # no thread can be started: the commit does everything
                self._begun = self._thread.submit(self._prepare)

    def commit(self) -> None:
        """Make the names at the top of the directory durable; one sync serves all concurrent callers.

        The work before a commit is done for later callers while the names of earlier ones are synced.

        Raises:
            StorageError: they may not be.
        """
        try:
            with between_turns():
                self._prepare()
                self._sync()
        except OSError as error:
            raise storage_error("the change could not be made durable", error) from error

    def _prepare(self) -> None:
        for action in self._before:
            action()

    def reload(self) -> None:
        """Do nothing: others' changes appear at once."""

    def stage(self, folder: Path | None) -> tuple[str, int]:  # noqa: ARG002
        """A new file on the same file system."""
        return self.staging.create()

    def near(self, path: str) -> AbstractContextManager[str]:
        """*path* itself."""
        return contextlib.nullcontext(path)

    @contextmanager
    def detached(self, path: Path) -> Iterator[Path]:
        """*path* itself."""
        yield path

    def copied(self, path: Path) -> AbstractContextManager[Path]:
        """*path* itself."""
        return contextlib.nullcontext(path)

    def adopt(self, path: Path, source: str) -> None:
        """Do nothing: files are served in place."""

    def lock_file(self, name: str) -> str:
        """A file next to the one of that name."""
        return f"{self.directory}/{name}.lock"

    def disk(self) -> os.statvfs_result:
        """The disk's size and free space."""
        return os.statvfs(self._directory)

    def end(self) -> None:
        """Do nothing: there is nothing to wait for."""


@dataclass(slots=True)
class _Round:
    done: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


class SharedRun:
    """An action whose callers share runs: each gets one that began after its call, and none runs needlessly.

    Parameters:
        action: its errors are raised in every caller of that run.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._next: _Round | None = None

    def __call__(self) -> None:
        """Run the action again, and wait for it."""
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
                self._next = None  # later callers need a later run
            try:
                self._action()
            except BaseException as error:
                this.error = error if isinstance(error, Exception) else StorageError("the server is stopping")
                raise
            finally:
                this.done.set()


INDEX_FOLDER = ".index"
"""The index's own folder in a directory of packages; stock pypiserver ignores it."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

_FORGOTTEN_SECONDS = 24 * 3600.0


class StagingFolder:
    """A folder for unfinished files, on their final file system.

    Parameters:
        directory: of the storage; the folder in it is created on first use.
        locked: keep a lock file there, to distinguish files of killed processes from those being written. Not on a
            Volume, where no file may stay open.
    """

    def __init__(self, directory: Path, *, locked: bool) -> None:
        self.folder = f"{directory}/{INDEX_FOLDER}/staging"
        self._token = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._numbers = itertools.count()
        self._locked = locked
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def new(self) -> str:
        """An unused path in the folder."""
        if self._locked and self._descriptor is None:
            self._hold()
        return f"{self.folder}/{self._token}-{next(self._numbers)}"

    def create(self) -> tuple[str, int]:
        """A new empty file, and a descriptor to write and read it.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self.new()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return path, os.open(path, flags, 0o644)
        except FileNotFoundError:
            os.makedirs(self.folder, exist_ok=True)  # noqa: PTH103
            return path, os.open(path, flags, 0o644)

    def sweep(self) -> None:
        """Remove the files of killed processes."""
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            alive: dict[str, bool] = {}
            for entry in list(entries):
                with contextlib.suppress(OSError):
                    token = entry.name.rpartition("-")[0]
                    if not self._locked or not token:
                        old = time.time() - entry.stat(follow_symlinks=False).st_mtime > _FORGOTTEN_SECONDS
                    elif token not in alive:
                        old = not alive.setdefault(token, is_locked(f"{self.folder}/{token}-lock"))
                    else:
                        old = not alive[token]
                    if old and token != self._token:
                        remove(entry.path)

    def _hold(self) -> None:
        with self._lock:
            if self._descriptor is None:
                self._descriptor = try_lock(f"{self.folder}/{self._token}-lock")
                if self._descriptor is not None:
                    weakref.finalize(self, os.close, self._descriptor)

    def replace(self, path: str, *pieces: bytes, durable: bool = False) -> None:
        """Replace *path* atomically.

        Raises:
            OSError: nothing has changed.
        """
        scratch, descriptor = self.create()
        try:
            try:
                write_all(descriptor, *pieces)
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            try:
                os.rename(scratch, path)  # noqa: PTH104
            except FileNotFoundError:
                make_folder(os.path.dirname(path), durable=durable)  # noqa: PTH120
                os.rename(scratch, path)  # noqa: PTH104
        except BaseException:
            remove(scratch)
            raise
        if durable:
            sync_folder(os.path.dirname(path))  # noqa: PTH120


def write_all(descriptor: int, *pieces: bytes | bytearray | memoryview) -> None:
    """Write all bytes, in as many system calls as needed."""
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]


def place(scratch: str, path: str) -> None:
    """Give a finished file its name, unless that is taken. The caller removes the temporary name.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        os.link(scratch, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in UNLINKABLE:
            raise
        # Without hard links, the lock on the name excludes other servers.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "it exists", path) from None
        os.rename(scratch, path)  # noqa: PTH104


def remove(path: str) -> bool:
    """Remove a file; False if there was none."""
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return False
    return True


def make_folder(path: str, mode: int = 0o777, *, durable: bool = False) -> None:
    """Create a folder and its missing parents, unless it exists.

    Parameters:
        path: of the folder.
        mode: of the folder, but not of its parents.
        durable: also sync the folders that get a new name, else a crash may lose what is in it.
    """
    if os.path.isdir(path):  # noqa: PTH112
        return
    parent = os.path.dirname(path) or "."  # noqa: PTH120
    make_folder(parent, durable=durable)
    with contextlib.suppress(FileExistsError):  # created by another process just now
        os.mkdir(path, mode)  # noqa: PTH102
    if durable:
        sync_folder(parent)


def sync_folder(path: str) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(what: str, error: OSError) -> StorageError:
    """An OSError as an error for clients.

    Parameters:
        what: begins the message.
        error: of the file system.
    """
    if error.errno in FULL:
        return StorageFull(f"{what}: there is no space left; ask the index's operator for more")
    if error.errno in READ_ONLY:
        return StorageReadOnly(
            f"{what}: the server cannot write its directory ({error.strerror}); ask the index's operator, who can "
            "change its owner or mode, or how it is mounted"
        )
    return StorageError(f"{what}: {error.strerror or type(error).__name__}; try again, or ask the index's operator")
