"""The facts of every file: kept, or computed when they are missing or hold no longer."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.index.errors import StorageBusy
from ops.index.packages.distribution import look_into
from ops.index.packages.file_info import LATEST, FileInfo, FileInfoStore
from ops.index.packages.filenames import parse
from ops.index.packages.near_facts import NearFacts
from ops.index.storage.files import Workbench
from ops.index.storage.storage import Storage
from ops.index.storage.waiting import at_once, seconds_left

_PIECE = 1024**2
_LOCKS = 64
_GLANCE = 0.05
"""Seconds that also those wait for each other who do not wait for the storage."""

_log = logging.getLogger(__name__)


class FileInfoCache:
    """Never reads a file twice that has not changed.

    Parameters:
        storage: the volume of packages.
        workbench: on the same file system.
        scratch: where sidecars go when the volume cannot be written; None for the system's temporary directory.
    """

    def __init__(self, storage: Storage, workbench: Workbench, *, scratch: Path | None) -> None:
        self._storage = storage
        self._directory = str(storage.directory)
        self._store = FileInfoStore(storage.directory, workbench, scratch=scratch)
        self._failing = False
        self._near = NearFacts(scratch) if storage.shared else None
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def of(self, path: str) -> tuple[FileInfo, int]:
        """The facts of a file, from its sidecar while they hold, else computed and, if it can be, kept; and when it
        was written.

        On a shared storage they are also kept on this server's own disk, and told from there while the storage cannot
        be read.

        Raises:
            OSError: the file cannot be read.
            StorageBusy: it cannot be read now, and its facts are not known here.
        """
        near = self._near_facts(path)
        if near is not None:
            return near, near.mtime_ns
        with self._computing(path):
            with self._storage.reading():
                status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116 - many at once
                file_info = self._store.read(path)
                metadata = self._store.metadata(path, unserved=True) if file_info is not None and self._near else None
            if file_info is None or not file_info.hold_for(status):
                file_info, metadata = self._compute(path, status)
            if self._near is not None:
                self._near.write(path, file_info.at(status.st_mtime_ns), metadata)
            return file_info, status.st_mtime_ns

    @contextmanager
    def _computing(self, path: str) -> Iterator[None]:
        """Around what one thread at a time does for a file. Who holds this may have to wait for the storage."""
        lock = self._locks[hash(path) % _LOCKS]
        if not lock.acquire(timeout=max(_GLANCE, seconds_left(threading.TIMEOUT_MAX))):
            raise StorageBusy("what is to be said of a file is being found out")
        try:
            yield
        finally:
            lock.release()

    def known(self, path: str) -> FileInfo | None:
        """What was last found of a file of a shared storage, without a look at it; None when that is nothing."""
        return None if self._near is None else self._near.read(path)

    def _near_facts(self, path: str) -> FileInfo | None:
        """What is kept on this server's own disk, if it holds, or while that cannot be told."""
        file_info = self.known(path)
        if file_info is None:
            return None
        try:
            with at_once(), self._storage.reading():
                status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116 - many at once
        except StorageBusy:
            return file_info
        return file_info if (status.st_size, status.st_mtime_ns) == (file_info.size, file_info.mtime_ns) else None

    def metadata(self, path: str, *, unserved: bool = False) -> bytes | None:
        """The core metadata that is served beside a file, if there is any.

        Parameters:
            path: of the file.
            unserved: also what is kept for people only.

        Raises:
            OSError: the file cannot be read.
            StorageBusy: it cannot be read now, and its metadata is not known here.
        """
        file_info = self.of(path)[0]
        if file_info.metadata_sha256 is None and not (unserved and file_info.metadata_size):
            return None
        near = None if self._near is None else self._near.metadata(path, unserved=unserved)
        if near is not None:
            return near
        with self._storage.reading():
            found = self._store.metadata(path, unserved=unserved)
            status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116 - many at once
        if found is None:  # the sidecar is damaged, or could not be kept
            file_info, found = self._compute(path, status)
            if file_info.metadata_sha256 is None and not unserved:
                return None
        return found

    def keep(self, path: str, file_info: FileInfo, metadata: bytes | None) -> None:
        """Keep the facts of a file whose bytes are known. Called inside ``Storage.reading``."""
        self._store.write(path, file_info, metadata)
        if self._near is not None:
            self._near.write(path, file_info, metadata)

    def forget(self, path: str) -> None:
        """Drop the facts of a file that is gone. Called inside ``Storage.reading``."""
        self._store.forget(path)
        if self._near is not None:
            self._near.forget(path)

    def missing(self, paths: Iterable[str]) -> set[str]:
        """Those of the paths that have no facts yet; of a shared storage those whose facts are not at hand."""
        missing = set(paths)
        if self._near is not None:
            return missing.difference(self._near.kept())
        with self._storage.reading():
            for path in self._store.kept():  # one by one: there may be as many as files
                missing.discard(path)
        return missing

    def _compute(self, path: str, status: os.stat_result) -> tuple[FileInfo, bytes | None]:
        name = parse(path.rpartition("/")[2])
        assert name is not None  # noqa: S101 - only what has a name is listed
        digest = hashlib.sha256()
        with self._storage.detached(Path(self._directory, path)) as copy, copy.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
            contents = look_into(file, name)
        metadata, served = contents.metadata, contents.served
        file_info = FileInfo(
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            sha256=digest.hexdigest(),
            version=name.version,
            upload_time=min(max(status.st_mtime_ns / 1e9, 0.0), LATEST),
            requires_python=contents.requires_python,
            metadata_sha256=None if served is None else hashlib.sha256(served).hexdigest(),
            metadata_size=len(metadata or b""),
        )
        try:
            with self._storage.reading():
                self._store.write(path, file_info, metadata)
        except OSError as error:  # they hold all the same, and are computed again the next time
            if not self._failing:  # where nothing can be written, no file's can
                _log.warning("the facts of %s cannot be kept, nor, until that is mended, of others: %s", path, error)
            self._failing = True
        else:
            self._failing = False
        return file_info, metadata
