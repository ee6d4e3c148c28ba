"""The facts of files of a shared storage, once more on the server's own disk: read while the storage cannot be."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from ops.index.packages.file_info import FileInfo, FileInfoStore
from ops.index.storage.files import Workbench


class NearFacts:
    """A copy of every sidecar that this server has read or written. Losing one costs a read.

    Parameters:
        parent: where the folder is made when it is first needed; None for the system's temporary directory.
    """

    def __init__(self, parent: Path | None) -> None:
        self._parent = parent
        self._lock = threading.Lock()
        self._store: FileInfoStore | None = None

    def read(self, path: str) -> FileInfo | None:
        """The facts of a file, as last found; None when they are not here."""
        return None if self._store is None else self._store.read(path)

    def metadata(self, path: str, *, unserved: bool = False) -> bytes | None:
        """The core metadata that is kept with them, see :meth:`FileInfoStore.metadata`."""
        return None if self._store is None else self._store.metadata(path, unserved=unserved)

    def write(self, path: str, file_info: FileInfo, metadata: bytes | None) -> None:
        """Keep facts, with the time of the file as the storage has it. A full disk is no failure."""
        with contextlib.suppress(OSError):
            self._opened().write(path, file_info, metadata)

    def forget(self, path: str) -> None:
        """Drop the facts of a file that is gone."""
        if self._store is not None:
            with contextlib.suppress(OSError):
                self._store.forget(path)

    def kept(self) -> Iterator[str]:
        """The paths of all files whose facts are here."""
        return iter(()) if self._store is None else self._store.kept()

    def _opened(self) -> FileInfoStore:
        with self._lock:
            if self._store is None:
                folder = tempfile.mkdtemp(prefix="pypi-index-near-", dir=self._parent)
                weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
                directory = Path(folder)
                self._store = FileInfoStore(directory, Workbench(directory, locked=False), scratch=directory)
            return self._store
