"""File info: computed once, and stored in a sidecar next to the packages.

A lost sidecar is computed again from the file alone, except who uploaded the file, and when.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ops.index.errors import StorageBusy
from ops.index.packages.attestations import Provenances
from ops.index.packages.core_metadata import Contents
from ops.index.packages.filenames import Name, parse
from ops.index.packages.models import File
from ops.index.packages.sidecars import FileInfo, Sidecars
from ops.index.storage.directory import INDEX_FOLDER, StagingFolder
from ops.index.storage.storage import Storage
from ops.index.storage.waiting import seconds_left, without_waiting

_SMALL = 1024**2
"""Files up to this size are read once, into memory."""

_SHORT = 64 * 1024
"""Metadata up to this size may be read on an event loop."""

_LOCKS = 64
_GLANCE = 0.05
"""Minimum seconds to wait for another thread that computes the same info."""

_log = logging.getLogger(__name__)


class KnownInfo(NamedTuple):
    """The info of a file, and its state on the disk.

    Parameters:
        file_info: the info.
        mtime_ns: when the file was last written, in nanoseconds since the epoch.
        recorded_ns: when its sidecar was last changed (``ctime``); 0 if unknown.
    """

    file_info: FileInfo
    mtime_ns: int
    recorded_ns: int = 0


class NotRecordedError(LookupError):
    """A file has no valid sidecar."""


class FileInfoStore:
    """The info of every file: read from its sidecar, or computed if that is missing or stale.

    Shared storage is unreadable at times, so a copy of each sidecar is kept on this server's own disk.

    Parameters:
        storage: the volume of packages.
        staging: on the same file system.
        scratch: parent of temporary folders; None for the system's temporary directory.

    Attributes:
        provenances: the attestations of files.
    """

    def __init__(self, storage: Storage, staging: StagingFolder, *, scratch: Path | None) -> None:
        self._storage = storage
        self._directory = str(storage.directory)
        self._sidecars = Sidecars(storage.directory, staging, scratch=scratch)
        self._copies = Sidecars(None, None, scratch=scratch) if storage.shared else None
        self.provenances = Provenances(storage.directory, staging)
        self._failing = False
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def of(self, path: str) -> KnownInfo:
        """The info of a file.

        Raises:
            OSError: the file cannot be read.
            StorageBusy: the storage cannot be read now, and there is no copy of the sidecar.
        """
        if self._copies is None:  # this machine's files need no copies
            with contextlib.suppress(NotRecordedError):
                return self.recorded(path)
        copy = self._valid_copy(path)
        if copy is not None:
            return KnownInfo(copy, copy.mtime_ns)
        with self._computing(path):
            with self._storage.reading():
                status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116 - many at once
                file_info = self._sidecars.read(path)
                metadata = self._sidecars.metadata(path, unserved=True) if file_info and self._copies else None
            if file_info is None or not file_info.is_valid_for(status):
                file_info, metadata = self._compute(path, status, file_info)
            self._copy(path, file_info.at(status.st_mtime_ns), metadata)
            return KnownInfo(file_info, status.st_mtime_ns)

    def recorded(self, path: str) -> KnownInfo:
        """The info of a local file, from its sidecar: that takes microseconds.

        Raises:
            OSError: the file cannot be read.
            NotRecordedError: the info must be computed.
        """
        status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116 - many at once
        found = self._sidecars.dated(path)
        if found is None or not found[0].is_valid_for(status):
            raise NotRecordedError(path)
        return KnownInfo(found[0], status.st_mtime_ns, found[1])

    def recorded_metadata(self, path: str) -> bytes | None:
        """The metadata in the sidecar of a local file; None if there is none, or more than fits into 64 KiB.

        Raises:
            OSError, NotRecordedError: as from :meth:`recorded`.
        """
        file_info = self.recorded(path).file_info
        return self._sidecars.metadata(path) if file_info.metadata_size <= _SHORT else None

    def written(self, paths: Iterable[str]) -> list[int]:
        """The size of each local file, when it was last written, and when its sidecar was last changed.

        Both in nanoseconds since the epoch. No program can set the time of a change: a copy of the folder has others.

        Raises:
            OSError: one of them is missing.
        """
        found: list[int] = []
        stat = os.stat
        files, sidecars = f"{self._directory}/", f"{self._directory}/{INDEX_FOLDER}/facts/"
        for path in paths:
            status = stat(files + path)
            found += (status.st_size, status.st_mtime_ns, stat(sidecars + path).st_ctime_ns)
        return found

    def known(self, path: str) -> FileInfo | None:
        """The last known info of a file on shared storage, without reading the file; None if unknown."""
        return None if self._copies is None else self._copies.read(path)

    def unchanged(self, files: Sequence[File]) -> list[bool | None]:
        """Compare files with the disk.

        Returns:
            For each file, whether its size and time are unchanged; None if it is gone. While shared storage cannot be
            read, True for all.
        """
        existing = self.existing([file.path for file in files])
        if existing is None:
            return [True] * len(files)
        now = {path: (size, mtime_ns) for path, size, mtime_ns in existing}
        return [now[file.path] == (file.size, file.mtime_ns) if file.path in now else None for file in files]

    def existing(self, paths: Iterable[str]) -> list[tuple[str, int, int]] | None:
        """Path, size and modification time of each file that exists; None while shared storage cannot be read."""
        found = []
        try:
            with without_waiting(), self._storage.reading():
                for path in paths:
                    try:
                        status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116 - many at once
                    except OSError:
                        continue
                    found.append((path, status.st_size, status.st_mtime_ns))
        except StorageBusy:
            return None
        return found

    def metadata(self, path: str, *, unserved: bool = False) -> bytes | None:
        """The core metadata served next to a file; None if there is none.

        Parameters:
            path: of the file.
            unserved: also return metadata shown only to people.

        Raises:
            OSError: the file cannot be read.
            StorageBusy: the storage cannot be read now, and there is no copy of the sidecar.
        """
        file_info = self.of(path)[0]
        if file_info.metadata_sha256 is None and not (unserved and file_info.metadata_size):
            return None
        copy = None if self._copies is None else self._copies.metadata(path, unserved=unserved)
        if copy is not None:
            return copy
        with self._storage.reading():
            found = self._sidecars.metadata(path, unserved=unserved)
            status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116 - many at once
        if found is None:  # the sidecar is damaged, or could not be written
            file_info, found = self._compute(path, status, file_info)
            if file_info.metadata_sha256 is None and not unserved:
                return None
        return found

    def keep(
        self,
        path: str,
        name: Name,
        contents: Contents,
        *,
        sha256: str,
        uploader: str = "",
        run: str = "",
        provenance: str = "",
    ) -> None:
        """Store the info of an upload that has its final name but is not listed yet. Called inside ``Storage.reading``.

        Parameters:
            path: of the file.
            name: parsed from its file name.
            contents: read from it.
            sha256: hexadecimal.
            uploader: the user.
            run: the URL of a CI run, or empty.
            provenance: digest of its provenance, or empty.
        """
        status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116
        file_info = FileInfo.of(
            name,
            contents,
            status,
            sha256=sha256,
            upload_time=time.time(),
            uploader=uploader,
            run=run,
            provenance=provenance,
        )
        self._sidecars.write(path, file_info, contents.metadata)
        self._copy(path, file_info, contents.metadata)

    def forget(self, path: str) -> None:
        """Remove the info of a removed file. Called inside ``Storage.reading``."""
        self._sidecars.forget(path)
        if self._copies is not None:
            with contextlib.suppress(OSError):
                self._copies.forget(path)

    def missing(self, paths: Iterable[str]) -> Iterator[str]:
        """The paths without a sidecar; on shared storage those without a copy of it."""
        sidecars = self._copies or self._sidecars
        return (path for path in paths if path not in sidecars)

    @contextlib.contextmanager
    def _computing(self, path: str) -> Iterator[None]:
        """Hold while working on a file, one thread at a time. The holder may wait for the storage."""
        lock = self._locks[hash(path) % _LOCKS]
        if not lock.acquire(timeout=max(_GLANCE, seconds_left(threading.TIMEOUT_MAX))):
            raise StorageBusy("another thread is reading the same file")
        try:
            yield
        finally:
            lock.release()

    def _valid_copy(self, path: str) -> FileInfo | None:
        """The copy of a sidecar if it is valid, or if that cannot be checked now.

        Raises:
            OSError: the file is gone.
        """
        copy = self.known(path)
        if copy is None:
            return None
        try:
            with without_waiting(), self._storage.reading():
                status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116 - many at once
        except StorageBusy:
            return copy
        return copy if (status.st_size, status.st_mtime_ns) == (copy.size, copy.mtime_ns) else None

    def _copy(self, path: str, file_info: FileInfo, metadata: bytes | None) -> None:
        if self._copies is not None:
            with contextlib.suppress(OSError):  # without it, only slower
                self._copies.write(path, file_info, metadata)

    def _compute(self, path: str, status: os.stat_result, before: FileInfo | None) -> tuple[FileInfo, bytes | None]:
        """Compute and store the info of a file.

        Parameters:
            path: of the file.
            status: of the file.
            before: its last stored info, if any.
        """
        from ops.index.packages.inspection import look_into  # imports archive readers, which startup does not need

        name = parse(path.rpartition("/")[2])
        assert name is not None  # noqa: S101 - every listed file has a name
        with self._storage.detached(Path(self._directory, path)) as copy, open(copy, "rb") as file:
            if status.st_size <= _SMALL:  # like nearly all files
                content = file.read()
                sha256 = hashlib.sha256(content).hexdigest()
                contents = look_into(io.BytesIO(content), name)
            else:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                contents = look_into(file, name)
        with self._storage.reading():
            provenance = self.provenances.digest(path)
        # A copy of the same bytes, such as a restored file, keeps the time of the upload.
        upload_time = before.upload_time if before and before.sha256 == sha256 else status.st_mtime_ns / 1e9
        file_info = FileInfo.of(name, contents, status, sha256=sha256, upload_time=upload_time, provenance=provenance)
        try:
            with self._storage.reading():
                self._sidecars.write(path, file_info, contents.metadata)
        except OSError as error:
            if not self._failing:  # if nothing can be written, one line is enough
                _log.warning("the info of %s cannot be stored and will be computed again each time: %s", path, error)
            self._failing = True
        else:
            self._failing = False
        return file_info, contents.metadata
