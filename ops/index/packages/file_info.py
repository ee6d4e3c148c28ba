"""File info: computed once, and stored in sidecars next to the packages, in ``.index/facts``.

A sidecar is one line of JSON, then the core metadata byte for byte. It is valid while the file has the size and
time recorded in it. A lost sidecar is computed again from the file alone, except who uploaded the file, and when.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ops.index.errors import StorageBusy
from ops.index.packages.attestations import Provenances
from ops.index.packages.core_metadata import Contents
from ops.index.packages.filenames import Name, parse
from ops.index.packages.models import File
from ops.index.storage.directory import INDEX_FOLDER, StagingFolder, remove
from ops.index.storage.storage import Storage
from ops.index.storage.waiting import seconds_left, without_waiting

LATEST = 253_402_300_799.0
"""The end of the year 9999, in seconds since the epoch: file systems can hold later times, ``datetime`` cannot."""

FORMAT = 1
"""Version of the sidecars."""

_FIRST_READ = 4096
_PIECE = 1024**2
_LOCKS = 64
_GLANCE = 0.05
"""Minimum seconds to wait for another thread that computes the same info."""

_raw_decode = json.JSONDecoder().raw_decode  # twice as fast as json.loads, which detects the encoding and skips spaces

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """The properties of a file that project pages show.

    Parameters:
        size: bytes.
        mtime_ns: last modification, in nanoseconds since the epoch.
        sha256: hexadecimal.
        version: of the release.
        upload_time: seconds since the epoch, from 0 to LATEST.
        requires_python: from the core metadata.
        metadata_sha256: digest of the core metadata; None if it is not served to installers.
        metadata_size: length in bytes of the stored core metadata, served or not.
        uploader: the user who uploaded it; empty if unknown. Unlike the rest, it cannot be computed again.
        run: the URL of the CI run that uploaded it; empty if none did.
        provenance: digest of its provenance (PEP 740); empty if it has none.
    """

    size: int
    mtime_ns: int
    sha256: str
    version: str
    upload_time: float
    requires_python: str | None = None
    metadata_sha256: str | None = None
    metadata_size: int = 0
    uploader: str = ""
    run: str = ""
    provenance: str = ""

    @classmethod
    def of(
        cls,
        name: Name,
        contents: Contents,
        status: os.stat_result,
        *,
        sha256: str,
        upload_time: float,
        uploader: str = "",
        run: str = "",
        provenance: str = "",
    ) -> FileInfo:
        """Combine a file's known properties with the contents read from it."""
        served = contents.metadata if contents.static else None
        return cls(
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            sha256=sha256,
            version=name.version,
            upload_time=min(max(upload_time, 0.0), LATEST),
            requires_python=contents.requires_python,
            metadata_sha256=None if served is None else hashlib.sha256(served).hexdigest(),
            metadata_size=len(contents.metadata or b""),
            uploader=uploader,
            run=run,
            provenance=provenance,
        )

    def at(self, mtime_ns: int) -> FileInfo:
        """The info of a copy with another modification time."""
        return self if mtime_ns == self.mtime_ns else replace(self, mtime_ns=mtime_ns)

    def is_valid_for(self, status: os.stat_result) -> bool:
        """True if the file has not been written since."""
        if status.st_size != self.size:
            return False
        # Storage with times in whole seconds truncates the rest.
        return status.st_mtime_ns in (self.mtime_ns, self.mtime_ns - self.mtime_ns % 10**9)


class KnownInfo(NamedTuple):
    """The info of a file, and its state on the disk.

    Parameters:
        file_info: the info.
        mtime_ns: when the file was last written, in nanoseconds since the epoch.
        recorded_ns: the same of its sidecar; 0 if unknown.
    """

    file_info: FileInfo
    mtime_ns: int
    recorded_ns: int = 0


class Sidecars:
    """A folder of sidecars, with a temporary one as a substitute if it cannot be written.

    Parameters:
        directory: of packages; None to use only the temporary folder.
        staging: on the same file system.
        scratch: parent of the temporary folder; None for the system's temporary directory.
    """

    def __init__(self, directory: Path | None, staging: StagingFolder | None, *, scratch: Path | None = None) -> None:
        self._staging = staging
        self._scratch = scratch
        self._lock = threading.Lock()
        self._folders = [] if directory is None else [f"{directory}/{INDEX_FOLDER}/facts"]
        self._temporary: Path | None = None
        self._numbers = itertools.count()

    def read(self, path: str) -> FileInfo | None:
        """The info of a file, valid or not; None without a readable sidecar."""
        found = self.dated(path)
        return None if found is None else found[0]

    def dated(self, path: str) -> tuple[FileInfo, int] | None:
        """The same, and when the sidecar was written, in nanoseconds since the epoch."""
        found = self._read(path)
        return None if found is None else (found[0], found[2])

    def metadata(self, path: str, *, unserved: bool = False) -> bytes | None:
        """The core metadata in a sidecar; None if there is none, or it is damaged.

        Parameters:
            path: of the file.
            unserved: also return metadata that installers cannot rely on.
        """
        found = self._read(path, whole=True)
        if found is None or (found[0].metadata_sha256 is None and not (unserved and found[0].metadata_size)):
            return None
        return found[1]

    def write(self, path: str, file_info: FileInfo, metadata: bytes | None) -> None:
        """Write the sidecar of a file. It need not be durable: it can be computed again.

        Raises:
            OSError: neither the directory nor the temporary folder can be written.
        """
        # Unlike dataclasses.asdict, this copies nothing: every upload runs it.
        fields = {name: getattr(file_info, name) for name in FileInfo.__slots__}
        content = b"".join((json.dumps({"format": FORMAT, **fields}).encode(), b"\n", metadata or b""))
        if self._staging is not None:
            with contextlib.suppress(OSError):
                self._staging.replace(f"{self._folders[0]}/{path}", content)
                return
        home = self._temporary_folder()
        target, scratch = home / "facts" / path, home / f"{next(self._numbers)}"
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content)
        scratch.replace(target)

    def forget(self, path: str) -> None:
        """Remove the sidecar of a removed file."""
        for folder in self._folders:
            remove(f"{folder}/{path}")

    def __contains__(self, path: str) -> bool:
        """True if a file has a sidecar, valid or not."""
        return any(os.path.lexists(f"{folder}/{path}") for folder in self._folders)

    def _read(self, path: str, *, whole: bool = False) -> tuple[FileInfo, bytes, int] | None:
        for folder in self._folders:
            try:
                start, mtime_ns = _content(f"{folder}/{path}", whole=whole)
            except OSError:
                continue
            file_info = _parse(start)
            if file_info is None:
                continue
            metadata = start.partition(b"\n")[2]
            if whole and not _is_whole(metadata, file_info):
                continue
            return file_info, metadata, mtime_ns
        return None

    def _temporary_folder(self) -> Path:
        with self._lock:
            if self._temporary is None:
                self._temporary = Path(tempfile.mkdtemp(prefix="pypi-index-facts-", dir=self._scratch))
                weakref.finalize(self, shutil.rmtree, self._temporary, ignore_errors=True)
                self._folders.append(f"{self._temporary}/facts")
            return self._temporary


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
            status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116 - many at once
            found = self._sidecars.dated(path)
            if found is not None and found[0].is_valid_for(status):
                return KnownInfo(found[0], status.st_mtime_ns, found[1])
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

    def written(self, paths: Iterable[str]) -> list[int]:
        """The size of each local file, and when it and its sidecar were last written, in nanoseconds since the epoch.

        Raises:
            OSError: one of them is missing.
        """
        found: list[int] = []
        stat = os.stat
        files, sidecars = f"{self._directory}/", f"{self._directory}/{INDEX_FOLDER}/facts/"
        for path in paths:
            status = stat(files + path)
            found += (status.st_size, status.st_mtime_ns, stat(sidecars + path).st_mtime_ns)
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
            if status.st_size <= _PIECE:  # like nearly all files: read once
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


def _content(path: str, *, whole: bool) -> tuple[bytes, int]:
    """A sidecar, or at least its first line, and when it was written. Project pages read one per file.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, _FIRST_READ)
        if len(content) == _FIRST_READ and (whole or b"\n" not in content):
            while piece := os.read(descriptor, _PIECE):
                content += piece
        return content, os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def _is_whole(metadata: bytes, file_info: FileInfo) -> bool:
    if file_info.metadata_sha256 is None:
        return len(metadata) == file_info.metadata_size
    return hashlib.sha256(metadata).hexdigest() == file_info.metadata_sha256


def _parse(content: bytes) -> FileInfo | None:
    try:
        line = content.partition(b"\n")[0].decode()
        fields, end = _raw_decode(line)
        if end != len(line) or fields.pop("format") != FORMAT:
            return None
        file_info = FileInfo(**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    # Written out for speed: long pages run this for each of their files.
    whole = (
        isinstance(file_info.size, int)
        and isinstance(file_info.mtime_ns, int)
        and isinstance(file_info.metadata_size, int)
        and isinstance(file_info.sha256, str)
        and isinstance(file_info.uploader, str)
        and isinstance(file_info.run, str)
        and isinstance(file_info.provenance, str)
        and isinstance(file_info.upload_time, int | float)
        and 0 <= file_info.upload_time <= LATEST
    )
    return file_info if whole else None
