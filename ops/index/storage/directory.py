"""A directory of this machine as a storage."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ops.index.errors import StorageError
from ops.index.storage.files import StagingFolder, storage_error, sync_folder

_NOTHING = contextlib.nullcontext()


class DirectoryStorage:
    """A directory of this machine: a storage that is always up to date.

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
        self._sync = SharedRun(lambda: sync_folder(str(self._directory)))

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self._directory

    def check(self) -> None:
        """Nothing to do: no commit runs for long."""

    def reading(self) -> AbstractContextManager[None]:
        """Nothing to wait for: the directory never looks empty."""
        return _NOTHING

    def commit(self) -> None:
        """Make the names at the top of the directory durable; one sync serves all who call meanwhile.

        Raises:
            StorageError: they may not be.
        """
        try:
            self._sync()
        except OSError as error:
            raise storage_error("what was written could not be made durable", error) from error

    def reload(self) -> None:
        """Nothing to do: others' changes appear at once."""

    def stage(self, folder: Path | None) -> tuple[str, int]:  # noqa: ARG002
        """A new file where it can stay."""
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
        """Nothing to do: files are served from where they are."""

    def lock_file(self, name: str) -> str:
        """A file beside the one of that name."""
        return f"{self.directory}/{name}.lock"

    def disk(self) -> os.statvfs_result:
        """The disk's size and free space."""
        return os.statvfs(self._directory)

    def end(self) -> None:
        """Nothing to do: there is nothing to wait for."""


@dataclass(slots=True)
class _Round:
    done: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


class SharedRun:
    """An action whose callers share runs: each gets one that began after it called, and none runs needlessly.

    Parameters:
        action: its errors are raised in every caller of that run.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._next: _Round | None = None

    def __call__(self) -> None:
        """Run the action once more, and wait for it."""
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
